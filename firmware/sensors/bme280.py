"""BME280: temperature, humidity and pressure over I2C.

Sections are those of Bosch's data sheet BST-BME280-DS002, revision 1.6. Forced mode with one
sample of each, as section 3.5.1 recommends for the weather; the chip sleeps in between.
"""

from struct import unpack

from . import SensorError, within

VALUES = {
    "temperature": ("°C", "temperature"),
    "humidity": ("%", "humidity"),
    "pressure": ("hPa", "atmospheric_pressure"),
}
KEYS = {
    "i2c": (..., "i2c"),
    "address": (0x76, "address"),
    "stuck": (0, (0, "number 1 86400 seconds")),
}


def t_fine(raw, t):
    """The temperature, 5120 to the °C; `t`: dig_T1 to T3. Section 4.2.3."""
    a = ((raw >> 3) - (t[0] << 1)) * t[1] >> 11
    b = (raw >> 4) - t[0]
    return a + ((b * b >> 12) * t[2] >> 14)


def temperature(f):
    """0.01 °C, of t_fine. Section 4.2.3."""
    return f * 5 + 128 >> 8


def pressure(raw, f, p):
    """1/256 Pa; `p`: dig_P1 to P9. Section 4.2.3, with integers beyond 32 bits."""
    a = f - 128000
    b = a * a * p[5] + (a * p[4] << 17) + (p[3] << 35)
    a = (a * a * p[2] >> 8) + (a * p[1] << 12)
    a = ((1 << 47) + a) * p[0] >> 33
    q = ((1048576 - raw << 31) - b) * 3125 // a
    a = p[8] * (q >> 13) * (q >> 13) >> 25
    b = p[7] * q >> 19
    return (q + a + b >> 8) + (p[6] << 4)


def humidity(raw, f, h):
    """1/1024 %; `h`: dig_H1 to H6. Section 4.2.3."""
    a = f - 76800
    b = (raw << 14) - (h[3] << 20) - h[4] * a + 16384 >> 15
    a = (a * h[5] >> 10) * ((a * h[2] >> 11) + 32768) >> 10
    a = b * ((a + 2097152) * h[1] + 8192 >> 14)
    b = a >> 15
    a -= (b * b >> 7) * h[0] >> 4
    return min(max(a, 0), 419430400) >> 12


class Sensor:
    """A chip at `address` on the bus `i2c`. OSError: it does not answer."""

    def __init__(self, board, options):
        self._i2c = i2c = board.i2c(options["i2c"])
        self._address = address = options.get("address", 0x76)
        id = i2c.readfrom_mem(address, 0xD0, 1)[0]
        if id != 0x60:
            known = {0x58: "a BMP280, which has no humidity", 0x61: "a BME680"}
            raise SensorError("wrong chip", known.get(id, "its id is 0x%02x, not 0x60" % id))
        # section 4.2.2: dig_T1 to P9, a reserved byte, dig_H1; the rest from 0xE1 on
        c = unpack("<HhhH8hBB", i2c.readfrom_mem(address, 0x88, 26))
        h2, h3, h4, n, h5, h6 = unpack("<hBbBbb", i2c.readfrom_mem(address, 0xE1, 7))
        self._t = c[:3]
        self._p = c[3:12]
        self._h = (c[13], h2, h3, h4 << 4 | n & 15, h5 << 4 | n >> 4, h6)
        if not (c[0] and c[3]):
            raise SensorError("calibration", "empty: a damaged chip, or a copy of one?")

    def start(self):
        # section 5.4: humidity first, which ctrl_meas makes valid and begins
        self._i2c.writeto_mem(self._address, 0xF2, b"\x01")
        self._i2c.writeto_mem(self._address, 0xF4, b"\x25")
        return 10  # section 9.1: at most 9.3 ms

    def read(self):
        d = self._i2c.readfrom_mem(self._address, 0xF7, 8)  # section 4: all in one
        p = d[0] << 12 | d[1] << 4 | d[2] >> 4
        t = d[3] << 12 | d[4] << 4 | d[5] >> 4
        h = d[6] << 8 | d[7]
        if t == 0x80000 or p == 0x80000 or h == 0x8000:
            raise SensorError("reset", "nothing was measured: supply?")
        f = t_fine(t, self._t)
        return {
            "temperature": within("temperature", temperature(f) / 100, -40, 85),
            "humidity": humidity(h, f, self._h) / 1024,
            "pressure": within("pressure", pressure(p, f, self._p) / 25600, 300, 1100),
        }
