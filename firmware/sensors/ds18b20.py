"""DS18B20: temperature over one-wire, by MicroPython's own drivers `onewire` and `ds18x20`.

Each step blocks for up to 15 ms, and a search for the probes for 15 ms each. A probe without a
supply of its own (parasite power) does not work. Figures: Maxim's data sheet 19-7487.
"""

from binascii import hexlify, unhexlify

from . import SensorError, within

VALUES = {"temperature": ("°C", "temperature")}
KEYS = {
    "pin": (..., "onewire"),
    "rom": (None, "text 16 16", "hex, as an error of this sensor lists them"),
    "stuck": (0, (0, "number 1 86400 seconds")),
}


class Sensor:
    """The probe with `rom`, 16 hex digits, on the bus at `pin`; without `rom`: the only one."""

    def __init__(self, board, options):
        import ds18x20

        self._bus = board.onewire(options["pin"])
        self._driver = ds18x20.DS18X20(self._bus)
        self._last = 0
        rom = options.get("rom")
        if rom:
            self._rom = bytearray(unhexlify(rom))
            return
        self._look()
        found = self._driver.scan()
        if not found:
            raise SensorError("absent", "no probe on the bus, something else")
        if len(found) > 1:
            names = ", ".join([hexlify(rom).decode() for rom in found])
            raise SensorError("several", "set rom to one of " + names)
        self._rom = found[0]

    def _look(self):
        if not self._bus.reset():
            raise SensorError("absent", "nothing on the bus: wiring, pull-up?")
        if not self._bus.readbit():  # a search would take seconds
            raise SensorError("short", "the bus is held low")

    def start(self):
        self._look()
        bus = self._bus
        bus.select_rom(self._rom)  # convert_temp() would disturb the others
        bus.writebyte(0x44)  # Convert T
        return 750  # for 12 bits

    def read(self):
        driver = self._driver
        try:
            t = driver.read_temp(self._rom)
        except OSError:
            raise
        except Exception:  # the drivers' own
            self._look()
            if min(driver.buf) == 255:
                raise SensorError("absent", "no probe with this rom answers")
            raise SensorError("CRC", "long wire, weak pull-up?")
        if not max(driver.buf):  # its CRC is right
            raise SensorError("short", "the bus is held low")
        if t == 85 and self._last < 75:
            raise SensorError("reset", "85 °C is what it has after power-on: supply?")
        self._last = within("temperature", t, -55, 125)
        return {"temperature": t}
