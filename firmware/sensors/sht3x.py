"""SHT30, SHT31, SHT35: temperature and humidity over I2C.

Sections are those of Sensirion's data sheet SHT3x-DIS, version 5.
"""

from . import SensorError, within

VALUES = {"temperature": ("°C", "temperature"), "humidity": ("%", "humidity")}
KEYS = {
    "i2c": (..., "i2c"),
    "address": (0x44, "address"),
    "stuck": (0, (0, "number 1 86400 seconds")),
}


def crc(data):
    """The CRC-8 of section 4.12: polynomial 0x31, from 0xFF on. 0 over data with its CRC."""
    c = 0xFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c <<= 1
            if c > 0xFF:
                c ^= 0x131
    return c


def temperature(raw):
    """0.01 °C, section 4.13."""
    return (17500 * raw + 32767) // 65535 - 4500


def humidity(raw):
    """0.01 %, section 4.13."""
    return (10000 * raw + 32767) // 65535


class Sensor:
    """A chip at `address` on the bus `i2c`."""

    def __init__(self, board, options):
        self._i2c = board.i2c(options["i2c"])
        self._address = options.get("address", 0x44)

    def start(self):
        # section 4.3: single shot, high repeatability, no clock stretching
        self._i2c.writeto(self._address, b"\x24\x00")
        return 16  # section 2.2, table 4: at most 15.5 ms

    def read(self):
        d = self._i2c.readfrom(self._address, 6)
        if crc(d[:3]) or crc(d[3:]):
            raise SensorError("CRC", "long wire, weak pull-ups?")
        t = temperature(d[0] << 8 | d[1]) / 100
        h = humidity(d[3] << 8 | d[4]) / 100
        return {
            "temperature": within("temperature", t, -40, 125),
            "humidity": within("humidity", h, 0, 100),
        }
