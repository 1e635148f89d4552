# The deep-sleep cycle without a broker, in a time of its own.

import json
from time import ticks_diff

from cycle import App, Asleep, Board, Clock, Reading

from power import Cycle

SLEEP = {"sleep": {"seconds": 900, "awake": 30}}
T0 = 1790000000  # s since 1970, in 2026


class Wake:
    """One wake of a device that has no link, from `since` on."""

    def __init__(self, board, clock=None, woke=True, since=1000, sleep=SLEEP, port=1):
        self.board = board
        self.since = self.ms = since
        self.clock = Clock(clock)
        self.cycle = Cycle(sleep, board, self.clock, woke, since, lambda: self.ms)
        self.app = App("test/", port, self.cycle)
        self.app.client.link = False
        self.app.client.disconnect = lambda ms: None  # some tests pretend a connection

    def read(self, *values):
        for value in values:
            self.cycle.reading("air", {"value": value})
            self.cycle._read.clear()  # as if it were of another sensor

    def poll(self, ms=0):
        self.ms += ms
        return self.cycle.poll(self.ms)

    def sleep(self, seconds=30):
        """Let so much time pass, to the end of the wake: what deepsleep() was asked for."""
        self.ms += seconds * 1000
        try:
            self.cycle.poll(self.ms)
        except Asleep as e:
            return e.args[0]

    def kept(self):
        return [(t, json.loads(values)["value"]) for t, _, values in self.cycle._records]


def test_the_limit_holds():
    wake = Wake(Board())
    polls = 0
    try:
        while True:
            left = wake.poll()
            assert 0 < left <= 30000
            wake.ms += left
            polls += 1
    except Asleep as e:
        assert e.args[0] == 870000
    assert ticks_diff(wake.ms, wake.since) == 30000 and polls < 5


def test_it_gives_up_after_three_connections():
    """But not before every sensor was read."""
    for read in (3, 5):
        wake = Wake(Board())  # nobody listens on port 1
        client = wake.app.client
        client.link = True
        client._backoff = 1
        failed = []
        client.on_disconnect = failed.append
        sensor = Reading("air", 1, wake.cycle.reading)
        wake.app.sensors.append(sensor)
        try:
            while len(failed) < 9:
                client.poll()
                if len(failed) == read:
                    sensor.poll(0)
                wake.poll()
                client.wait(9)
        except Asleep:
            pass
        assert len(failed) == read, failed


def test_a_connection_ends_the_row_of_failures():
    wake = Wake(Board())
    client = wake.app.client
    for i in range(10):
        client.error = OSError(i)
        client.up = i % 3 == 2
        wake.poll()


def connected():
    """A wake with a connection on which nothing is left to be done."""
    wake = Wake(Board())
    client = wake.app.client
    client.up = True
    client._rx = wake.ms
    client._subs.due = False
    return wake, client


def asleep(wake, ms):
    """Whether it sleeps when so many ms have passed."""
    try:
        wake.poll(ms)
    except Asleep:
        return True


def test_it_sleeps_when_nothing_came_for_250_ms():
    wake, client = connected()
    assert wake.poll() == 250
    assert wake.poll(249) == 1
    client._rx = wake.ms
    assert wake.poll(200) == 50
    assert asleep(wake, 50)


def test_what_keeps_it_awake():
    for what in ("out", "spool", "message", "SUBSCRIBE", "SUBACK", "sensor"):
        wake, client = connected()
        app = wake.app
        if what == "out":
            app.out.append(1)
        elif what == "spool":
            app.spool = [1]
        elif what == "message":
            client.publish("t", "x", False, 1)
        elif what == "SUBSCRIBE":
            client._subs.due = True
        elif what == "SUBACK":
            client._asked[1] = []
        else:
            app.sensors.append(Reading("air", 1, wake.cycle.reading))
        assert not asleep(wake, 1000), what


def test_the_next_wake_is_counted_from_the_last():
    """From wake to wake it is 900 s, however long it was awake."""
    for seconds in (30, 31, 45, 899, 900, 901, 2000):
        wake = Wake(Board())
        ms = wake.sleep(seconds)
        assert 0 < ms <= 900000 and (seconds * 1000 + ms) % 900000 == 0, (seconds, ms)


def test_every_sensor_is_read_once():
    """Unless it is to stay awake, or is awake for a whole period."""
    wake = Wake(Board(), sleep={"sleep": {"seconds": 10, "awake": 60}})
    sensors = [Reading("ab"[i], i, wake.cycle.reading, 1000) for i in range(2)]

    def run(seconds):
        del wake.cycle._records[:]
        for _ in range(seconds):
            for sensor in sensors:
                sensor.poll(wake.ms)
            wake.poll(1000)
        return sorted(name for _, name, _ in wake.cycle._records)

    assert run(9) == [b"a", b"b"]
    run(2)
    assert run(8) == [] and run(10) == [b"a", b"b"]
    wake.cycle.stay(20000)
    assert run(9) == [b"a"] * 9 + [b"b"] * 9


def test_a_spool_takes_the_readings():
    wake = Wake(Board())
    taken = []
    wake.app.spool = ()  # it is empty, but it is there
    wake.app.reading = lambda *reading: taken.append(reading)
    wake.read(5)
    assert taken == [("air", {"value": 5})] and not wake.kept()


def test_stay():
    wake = Wake(Board())
    wake.app.client.up = True  # as if there were a connection
    wake.cycle.stay(20 * 60000)
    for _ in range(19 * 60):
        assert wake.poll(1000) <= 60000
    wake.app.client.up = False
    for _ in range(29):
        wake.poll(1000)
    # the connection was there until 19 min
    assert wake.sleep(1) == (30 * 60 - 19 * 60 - 30) * 1000

    wake = Wake(Board())
    wake.app.client.up = True
    wake.cycle.stay(20 * 60000)
    wake.cycle.stay(5000)  # shortens nothing
    for _ in range(20 * 60 + 28):
        wake.poll(1000)
    assert asleep(wake, 1000)


def test_an_end_that_takes_its_time():
    """Then it is the wake after the next."""
    board = Board()
    wake = Wake(board)
    wake.read(0)

    def disconnect(ms):
        wake.ms += 1000000

    wake.app.client.disconnect = disconnect
    assert wake.sleep() == 1800000 - 1030000
    wake = Wake(board)
    assert wake.cycle._now() - wake.kept()[0][0] == 1800


def test_without_a_clock_the_age_is_kept():
    board = Board()
    for i in range(5):
        wake = Wake(board, woke=i > 0, since=i * 777)
        wake.read(i)
        wake.poll(10000)
        wake.sleep(20)
    wake = Wake(board)
    wake.ms += 5000
    wake.read(5)
    now = wake.cycle._now()
    assert [(now - t, v) for t, v in wake.kept()] == [(4505 - 900 * i, i) for i in range(5)] + [
        (0, 5)
    ], wake.kept()
    assert board.set is None
    # and turns into a time as soon as the clock is set
    wake.clock.now = T0
    wake.poll()
    assert wake.kept() == [(T0 - 4505 + 900 * i, i) for i in range(5)] + [(T0, 5)], wake.kept()


def test_after_a_reset_the_age_is_unknown():
    board = Board()
    wake = Wake(board, woke=False)
    wake.read(0)
    wake.sleep()
    wake = Wake(board, T0)
    wake.read(1)
    wake.sleep()
    wake = Wake(board, woke=False)
    assert [t for t, _ in wake.kept()] == [T0 - 900, T0]
    board.memory = b""
    wake = Wake(board, woke=False)
    wake.read(0)
    wake.sleep()
    wake = Wake(board, woke=False)
    wake.clock.now = T0
    wake.poll()
    assert wake.kept() == [(0, 0)]


def test_a_clock_that_does_not_outlast_the_sleep():
    board = Board()
    wake = Wake(board, T0)
    wake.sleep()
    assert board.set is None
    wake = Wake(board)  # it shows nothing
    assert board.set == T0 - 30 + 30 + 870
    board.set = None
    Wake(board, woke=False)  # after a reset, nobody knows how long it was
    assert board.set is None


def test_the_clock_is_asked_once_an_hour():
    board = Board()
    t = T0
    asked = []
    for i in range(12):
        wake = Wake(board, t, woke=i > 0)
        if wake.clock.put_off is None:
            wake.clock.syncs = 1
            asked.append(i)
        else:
            assert 0 < wake.clock.put_off <= 3600000
        t += 30
        wake.clock.now = t
        wake.sleep()
        t += 870
    # counted from the end of that wake
    assert asked == [0, 5, 10], asked


def test_the_memory_is_bounded_and_the_oldest_gives_way():
    board = Board()
    for i in range(100):
        wake = Wake(board, T0 + 900 * i)
        wake.read(i)
        wake.sleep()
        assert len(board.memory) <= 2048, len(board.memory)
    kept = wake.kept()
    assert kept == [(T0 + 900 * i, i) for i in range(100 - len(kept), 100)]
    assert len(board.memory) > 2000 and len(kept) > 80, len(kept)
    assert wake.cycle.dropped == 1


def test_it_is_bounded_while_awake():
    wake = Wake(Board())
    for i in range(1000):
        wake.read(i)
        assert len(wake.cycle._records) < 130
    assert wake.kept()[-1][1] == 999
    assert wake.cycle.dropped == 1000 - len(wake.kept())


def test_a_damaged_memory_is_not_used():
    board = Board()
    wake = Wake(board, T0)
    wake.read(1)
    wake.sleep()
    whole = board.memory
    assert Wake(board, T0).kept() == [(T0, 1)]
    bad = [whole[:i] for i in range(len(whole))]
    for i in range(len(whole)):
        bad.append(whole[:i] + bytes((whole[i] ^ 16,)) + whole[i + 1 :])
    for memory in bad:
        board.memory = memory
        wake = Wake(board, T0)
        assert wake.kept() == [] and wake.cycle.snapshot == b""


def test_a_memory_that_cannot_be_written():
    board = Board("/nowhere/memory")
    wake = Wake(board)
    called = []
    wake.cycle.on_sleep = lambda: called.append(1)
    assert wake.sleep() == 870000 and called
