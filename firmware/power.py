"""Cycle: wake, read, connect, publish, take what waits, sleep; and the memory that outlasts it.

    memory: | 1 | wake | synced | n | snapshot of the client, n bytes | records | CRC-32 |
    record: | time | n | k | name of the sensor, n bytes | values as JSON, k bytes |

    wake    the time of the next one; synced, of the last sync of the clock: 4 bytes, as `time`
    time    4 bytes: s since 1970, or, below 2**30, from the first wake without a clock on;
            0: unknown
    n, k    2 bytes; the version has 1, the CRC 4

Numbers are big-endian. A reading is a record until the broker is connected. Then it moves to the
client's outbox, and with that, if it is not acknowledged in time, into the snapshot. What does not
fit is dropped, the oldest record first. The memory is left alone until the next sleep: a device
that is reset while it is awake delivers again what it had from there.
"""

import json
from binascii import crc32
from struct import pack, unpack_from
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from umqtt_lite import OutboxFull

_VERSION = const(1)
_HEAD = const(">BIIH")
_BODY = const(11)  # bytes of it
_RECORD = const(">IHH")
_MORE = const(8)  # bytes of it
_MEMORY = const(2048)  # bytes: the RTC memory of an ESP32
_REAL = const(1 << 30)  # s: a time below has another beginning
_QUIET = const(250)  # ms without a packet: nothing waits at the broker
_FLUSH = const(250)  # ms for what is to be written at the end
_CONVERSION = const(2000)  # ms that a reading may take
_TRIES = const(3)  # connections that fail, then it sleeps
_SYNC = const(3600)  # s between two syncs of the clock, which is inexact asleep
_LONGEST = const(60000)  # ms

_NO = const((b"", b"0", b"false", b"off"))


class Cycle:
    """The deep-sleep cycle, as the last part of an App's loop.

    settings   "sleep": {"seconds": from wake to wake, "awake": at most}, in s
    board      load(), save(data), deepsleep(ms), settime(s)
    clock      the Clock
    woke       it is the wake that the memory tells of: from deep sleep, and not from a crash
    since      ticks_ms() at the wake
    ticks      ticks_ms, or a test's own

    Readings publish to reading(). `snapshot` is for the client of umqtt_lite.sleep, whose outbox
    may have up to 1,900 bytes. With a Spool, App has the usual client, and only times are kept.

    It sleeps once every sensor was read, everything is acknowledged, and nothing came for 250 ms;
    or after three connections that failed; and always at the end of "awake". While the topic
    `awake` has a retained message (not 0, false or off), or after stay(), it stays awake, and
    "awake" runs from the end of the last connection. The next wake is counted from the last.
    """

    snapshot = b""
    dropped = 0  # readings, for want of room
    on_sleep = None  # called before it sleeps: crash.well

    _app = _error = None
    _synced = 0
    _tries = 0
    _stay = False  # by the topic
    _until = None  # by stay(): ticks

    def __init__(self, settings, board, clock, woke, since, ticks=ticks_ms):
        self._period = int(settings["sleep"]["seconds"] * 1000)
        self._awake = int(settings["sleep"]["awake"] * 1000)
        self._board = board
        self._clock = clock
        self._ticks = ticks
        self._since = self._last = since  # the limit counts from _last
        self._records = []  # [time, name, values]
        self._read = set()  # names, in this period
        self._wake = 1  # the time at _since
        self._load(board.load(), woke)

    def attach(self, app):
        """Begin, with an App that has its client and its sensors. Uses app.client, base, sensors,
        out, spool, and with that reading()."""
        self._app = app
        self._error = app.client.error
        app.client.subscribe(app.base + "awake", self._on_awake)

    def stay(self, ms):
        """Stay awake for so long, if the connection does not end."""
        n = ticks_add(self._ticks(), ms)
        if self._until is None or ticks_diff(n, self._until) > 0:
            self._until = n

    def again(self, name: str):
        """Have another reading of a sensor published in this wake."""
        self._read.discard(name)
        self.stay(_CONVERSION)

    def reading(self, name: str, values: dict):
        """Keep a reading, the first of its sensor in this wake, or any while it is to stay awake,
        and publish it when there is a connection.

        With its "time", if the clock is set by then; else with its "age" in s, if it is from an
        earlier wake and that is known. Where App has a spool, it has the reading.
        """
        if name in self._read and not self._staying():
            return
        self._read.add(name)
        if self._app.spool is not None:
            return self._app.reading(name, values)
        self._records.append([self._now(), name.encode(), json.dumps(values).encode()])
        self._fit(_MEMORY)

    def poll(self, now) -> int:
        """Publish what can be, and sleep if it is time. Returns the ms until there is more."""
        app = self._app
        client = app.client
        self._now()
        while ticks_diff(now, self._since) >= self._period:
            self._since = ticks_add(self._since, self._period)
            self._wake += self._period // 1000
            self._read.clear()
        if self._until is not None and ticks_diff(self._until, now) <= 0:
            self._until = None
        if client.up:
            self._tries = 0
            if self._staying():
                self._last = now
            self._feed()
        elif client.error is not self._error:
            self._error = client.error
            self._tries += 1

        left = self._awake - ticks_diff(now, self._last)
        if left > 0 and not self._staying():
            left = min(left, self._done(now))
        if left <= 0:
            self._sleep()
        return min(left, _LONGEST)

    def _staying(self):
        return self._stay or self._until is not None

    def _done(self, now):
        # ms until it may be
        app = self._app
        client = app.client
        for sensor in app.sensors:
            if not (sensor.readings or sensor.errors):
                return _LONGEST
        if not client.up:
            return 0 if self._tries >= _TRIES else _LONGEST
        if app.out or app.spool or client.pending:  # there is something in them
            return _QUIET
        # SUBACK is waited for, as the retained `awake` comes with it
        if client._subs.due or client._asked:
            return _QUIET
        return _QUIET - ticks_diff(now, client._rx)

    def _now(self):
        # the time in s. Once the clock is set, what was read before gets its right one
        n = ticks_diff(self._ticks(), self._since) // 1000
        t = self._clock.time()
        if not t:
            return self._wake + n
        n = t - n
        if self._wake < _REAL:
            for r in self._records:
                if 0 < r[0] < _REAL:
                    r[0] += n - self._wake
        self._wake = n
        return t

    def _feed(self):
        # move records to the outbox, as far as there is room
        app = self._app
        while self._records:
            t, name, values = self._records[0]
            if t >= _REAL:
                values = b'%s, "time": %d}' % (values[:-1], t)
            elif 0 < t < self._wake:
                values = b'%s, "age": %d}' % (values[:-1], self._now() - t)
            try:
                app.client.publish(app.base.encode() + name, values, False, 1)
            except OutboxFull:
                break
            except ValueError:  # larger than the outbox
                self.dropped += 1
            self._records.pop(0)

    def _fit(self, room):
        # drop the oldest until the rest takes no more than `room` bytes
        for r in self._records:
            room -= _MORE + len(r[1]) + len(r[2])
        while room < 0:
            r = self._records.pop(0)
            room += _MORE + len(r[1]) + len(r[2])
            self.dropped += 1

    def _sleep(self):
        app = self._app
        client = app.client
        client.disconnect(_FLUSH)
        if app.spool is not None:
            try:
                app.spool.sync()
            except OSError as e:
                print("spool:", repr(e))
        if self.on_sleep:
            self.on_sleep()
        n = self._now()
        if self._clock.syncs:
            self._synced = n
        ms = self._period - ticks_diff(self._ticks(), self._since)
        while ms <= 0:  # what was done here took so long
            ms += self._period
            self._wake += self._period // 1000
        snapshot = client.snapshot() if hasattr(client, "snapshot") else b""
        self._fit(_MEMORY - _BODY - 4 - len(snapshot))
        n = self._wake + self._period // 1000
        s = bytearray(pack(_HEAD, _VERSION, n, self._synced, len(snapshot)))
        s.extend(snapshot)
        for t, name, values in self._records:
            s.extend(pack(_RECORD, t, len(name), len(values)))
            s.extend(name)
            s.extend(values)
        s.extend(pack(">I", crc32(s)))
        try:
            self._board.save(s)
        except OSError as e:
            print("memory:", repr(e))
        self._board.deepsleep(ms)

    def _load(self, s, woke):
        if len(s) < _BODY + 4 or s[0] != _VERSION or pack(">I", crc32(s[:-4])) != s[-4:]:
            return
        _, wake, synced, n = unpack_from(_HEAD, s)
        i = _BODY + n
        self.snapshot = bytes(s[_BODY:i])
        while i < len(s) - 4:
            t, n, k = unpack_from(_RECORD, s, i)
            i += _MORE + n
            if t < _REAL and not woke:
                t = 0  # from when, nobody knows
            self._records.append([t, bytes(s[i - n : i]), bytes(s[i : i + k])])
            i += k
        if not woke:
            return
        self._wake = wake
        if wake >= _REAL and not self._clock.time():
            # a board whose clock does not outlast its sleep
            self._board.settime(wake + ticks_diff(self._ticks(), self._since) // 1000)
        n = self._now() - synced
        if 0 <= n < _SYNC and synced >= _REAL:
            self._synced = synced
            self._clock.later((_SYNC - n) * 1000)

    def _on_awake(self, topic, payload, retain):
        self._stay = bytes(payload) not in _NO
