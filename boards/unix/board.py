"""The desk: the unix port of MicroPython, with simulated sensors."""

import os
import random
import sys

getenv = os.getenv  # overrides in the configuration; None where a board has no environment

# Beside this file, or the one that UMQTT_CONFIG names.
CONFIG: str = getenv("UMQTT_CONFIG") or __file__[: __file__.rfind("/") + 1] + "config.json"

halt = sys.exit  # what a board does when main ends


class _Walk:
    """A value that wanders about `mean` and stays within `reach` of it."""

    def __init__(self, mean: float, reach: float, digits: int):
        self.mean = mean
        self.reach = reach
        self.digits = digits
        self.offset = random.uniform(-reach, reach) / 2

    def next(self) -> float:
        step = random.uniform(-self.reach, self.reach) / 20
        # The pull back equals the largest step at the edge: it cannot get out.
        self.offset = self.offset * 0.95 + step
        return round(self.mean + self.offset, self.digits)


class Environment:
    """A room: temperature in °C, humidity in %, pressure in hPa."""

    def __init__(self):
        self._temperature = _Walk(21.5, 4, 2)
        self._humidity = _Walk(45, 15, 1)
        self._pressure = _Walk(1013, 20, 1)

    def read(self) -> dict:
        """The values now, by name. A real sensor's may raise OSError."""
        return {
            "temperature": self._temperature.next(),
            "humidity": self._humidity.next(),
            "pressure": self._pressure.next(),
        }
