# A clock that goes faster, for MicroPython: call clock() before umqtt_lite is imported.
#
#     fast.clock(20)      # keep alive, retry, back-off... take a twentieth of their time
#
# Its ticks are 30 bits wide, as they are on a board, and wrap a minute of its own time after the
# start. What waits in real time, as wait() does, waits for a fraction of it.

import sys
import time

_BITS = 30
_MASK = (1 << _BITS) - 1
_HALF = 1 << _BITS - 1


class Clock:
    def __init__(self, times):
        self._times = times
        self._begin = time.ticks_ms()

    def ticks_ms(self):
        return time.ticks_diff(time.ticks_ms(), self._begin) * self._times - 60000 & _MASK

    def ticks_add(self, ticks, delta):
        if not -_HALF <= delta < _HALF:
            raise OverflowError("ticks interval")
        return ticks + delta & _MASK

    def ticks_diff(self, later, earlier):
        return (later - earlier + _HALF & _MASK) - _HALF


def clock(times):
    sys.modules["time"] = Clock(times)
