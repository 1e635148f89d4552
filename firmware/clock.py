"""Clock: the time from NTP, by MicroPython's own ntptime.

The clock is set while time() is past 2024: a board's begins in 2000 or 2021 when it is powered on.
The desk's is right from the beginning, and its port has no ntptime: nothing is asked there.

Intervals go by ticks, here and everywhere: a step of the clock, to any side, moves no deadline.
"""

from time import gmtime, ticks_add, ticks_diff, ticks_ms, time

from micropython import const

_AGAIN = const(4 * 3600000)  # ms between two syncs
_FIRST = const(15000)  # ms after a failure; SNTP allows no less (RFC 4330, 10)
_LONGEST = const(3600000)  # ms: of the back-off, and between two polls
_SET = const(1704067200)  # s: 2024-01-01
_REFUSED = const(2085978496)  # s: 2036-02-07 06:28:16, what a time stamp of 0 comes out as
_EPOCH = 946684800 if gmtime(0)[0] == 2000 else 0  # s from 1970 to the port's epoch


class Clock:
    """Keeps the RTC right, as a part of the loop.

    board    settime(s since 1970)
    host     an NTP server, by name or address; None or False: none is asked
    link     has `up`: while it is False nothing is tried. The Link, or the client
    ticks    ticks_ms, or a test's own

    A sync blocks until the server answers, at most 1 s, and before that for the look-up of a name:
    with lwIP 7 s for each name server that does not answer. An address needs none. The next one is
    due in 4 h; after a failure in 15 s, then 30 s, and so on to 1 h.
    """

    error = None  # of the last sync, if it failed
    syncs = 0  # that succeeded

    _backoff = _FIRST

    def __init__(self, board, host, link=None, ticks=ticks_ms):
        self._board = board
        self._host = host
        self.link = link
        self._ticks = ticks
        self._due = ticks()

    def poll(self, now) -> int:
        """Ask the server if it is time. Returns the ms until there is something to do."""
        left = ticks_diff(self._due, now)
        if left <= 0:
            self._due = now  # however long there is no link: the ticks wrap
            left = _LONGEST
            if self._host and self.link.up:
                left = self._sync()
                self.later(left)
        return min(left, _LONGEST)

    def later(self, ms):
        """Put off the next sync: it is due in `ms`."""
        self._due = ticks_add(self._ticks(), ms)

    def time(self):
        """Seconds since 1970 (UTC), an int. None while the clock was never set."""
        t = int(time()) + _EPOCH
        return t if t > _SET else None

    def stamp(self, ticks):
        """The time() at which ticks_ms() was `ticks`, up to 2**29 ms ago (6.2 days).

        By the clock as it is now: what was read before the first sync gets its right time after
        it. None while the clock was never set, or if that is longer ago.
        """
        t = self.time()
        age = ticks_diff(self._ticks(), ticks)
        return t and age >= 0 and t - age // 1000 or None

    def _sync(self):
        # ms until the next
        try:
            import ntptime  # type: ignore[import-not-found]
        except ImportError:
            return _LONGEST
        ntptime.host = self._host
        ntptime.timeout = 1
        try:
            t = ntptime.time() + _EPOCH
            if t <= _SET or t == _REFUSED:
                raise OSError("NTP server has no time")
            self._board.settime(t)
        except Exception as e:  # a reply that is too short is a ValueError
            if not self.error:
                print("ntp:", repr(e))
            self.error = e
            left = self._backoff
            self._backoff = min(2 * left, _LONGEST)
            return left
        self.error = None
        self.syncs += 1
        self._backoff = _FIRST
        return _AGAIN
