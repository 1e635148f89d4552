"""DHT11 and DHT22 (AM2302): temperature and humidity, by MicroPython's own driver `dht`.

It blocks for some 0.3 s a reading, as the chip's protocol asks for. The chips want 1 s (DHT11) or
2 s (DHT22) between readings. Ranges: Aosong's data sheets.
"""

from . import SensorError, within

VALUES = {"temperature": ("°C", "temperature"), "humidity": ("%", "humidity")}
KEYS = {
    "pin": (..., "pin"),
    "model": ("DHT22", "one DHT11 DHT22"),
    "stuck": (0, (0, "number 1 86400 seconds")),
}


class Sensor:
    """A `model` "DHT11" or "DHT22" at `pin`."""

    def __init__(self, board, options):
        import dht

        self._small = options.get("model") == "DHT11"
        self._dht = (dht.DHT11 if self._small else dht.DHT22)(board.pin(options["pin"]))

    def start(self):
        return 0

    def read(self):
        d = self._dht
        try:
            d.measure()
        except OSError:
            raise
        except Exception:  # the driver's own for its checksum
            raise SensorError("CRC", "checksum: long or unshielded wire?")
        low, high = (-20, 60) if self._small else (-40, 80)
        return {
            "temperature": within("temperature", d.temperature(), low, high),
            # 0 % is what a line that is stuck sends, with a checksum that is right
            "humidity": within("humidity", d.humidity(), 1, 100),
        }
