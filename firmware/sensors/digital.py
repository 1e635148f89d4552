"""A digital input: a contact, a button, a motion detector. 1 or 0.

A change counts once it has lasted for `debounce`, and is then published at once. One that is over
before the loop comes round is missed: pulse counts those.
"""

import time

VALUES = {"state": (None, None)}
KEYS = {
    "pin": (..., "pin"),
    "pull": (None, "one up down"),
    "invert": (False, "bool"),
    "debounce": (50, "int 0 10000 ms"),
}


class Sensor:
    """`pin` with `pull`, "up" or "down"; `invert`: a low level is 1; `debounce` in ms."""

    def __init__(self, board, options):
        self._pin = board.pin(options["pin"], options.get("pull"))
        self._invert = options.get("invert", False)
        self._debounce = options.get("debounce", 50)
        self._level = self._pin.value()
        self._since = None  # when it left that level

    def start(self):
        return 0

    def poll(self, now):
        if self._pin.value() == self._level:
            self._since = None
        else:
            if self._since is None:
                self._since = now
            if not 0 <= time.ticks_diff(now, self._since) < self._debounce:
                self._level ^= 1
                self._since = None
                return 0
        return max(self._debounce // 2, 10)

    def read(self):
        return {"state": self._level ^ self._invert}
