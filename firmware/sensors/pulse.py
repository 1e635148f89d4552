"""A pulse counter: an energy or water meter, a rain gauge, an anemometer.

    count   pulses since the last reading
    total   pulses since the start
    rate    pulses per second between the last two readings; missing in the first

The scale of each value makes it litres, kWh or m/s.
"""

import time

VALUES = {"count": (None, None), "total": (None, None), "rate": ("1/s", None)}
KEYS = {"pin": (..., "pin")}


class Sensor:
    """Counts on `pin`, by board.pulses(), which may wrap at 2 ** 16, 2 ** 30 or 2 ** 32."""

    def __init__(self, board, options):
        self._pulses = board.pulses(options["pin"])
        self._last = self._pulses.value()
        self._total = 0
        self._at = None  # when it was read

    def start(self):
        return 0

    def poll(self, now):
        self._now = now
        return 60000

    def read(self):
        n = self._pulses.value()
        count = n - self._last
        if count < 0:
            count += 1 << (16 if self._last < 1 << 16 else 30 if self._last < 1 << 30 else 32)
        self._last = n
        self._total += count
        values = {"count": count, "total": self._total}
        if self._at is not None:
            ms = time.ticks_diff(self._now, self._at)
            if ms > 0:
                values["rate"] = count * 1000 / ms
        self._at = self._now
        return values
