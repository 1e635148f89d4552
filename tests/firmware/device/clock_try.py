# The clock on two ports' epochs, with a stand-in for ntptime and for the time itself.

import sys
import time as real

MASK = (1 << 30) - 1
T0 = 1790000000  # s since 1970, in 2026
HOUR = 3600000


class Port:
    """Stands for the module time; what its clock shows was never set, until settime()."""

    def __init__(self, epoch):
        self.gmtime = lambda s: (2000 if epoch else 1970,)
        self.epoch = epoch
        self.ms = MASK - 5000  # the ticks wrap soon
        self.offset = 0  # s: what the clock is ahead of the uptime

    def ticks_ms(self):
        return self.ms & MASK

    def ticks_add(self, ticks, ms):
        return ticks + ms & MASK

    def ticks_diff(self, later, earlier):
        return (later - earlier + (1 << 29) & MASK) - (1 << 29)

    def time(self):
        return self.ms // 1000 + self.offset

    def settime(self, seconds):
        self.offset = seconds - self.epoch - self.ms // 1000


class NTP:
    """Stands for the module ntptime. Answers in turn what `replies` has: seconds, or an error."""

    def __init__(self, port):
        self.port = port
        self.host = self.timeout = None
        self.asked = []  # ms
        self.waits = []  # ms between two
        self.replies = []

    def time(self):
        assert (self.host, self.timeout) == ("ntp.example", 1)
        if self.asked:
            self.waits.append(self.port.ms - self.asked[-1])
        self.asked.append(self.port.ms)
        reply = self.replies.pop(0) if self.replies else T0
        if isinstance(reply, Exception):
            raise reply
        return reply - self.port.epoch


class Link:
    up = True


def world(epoch=946684800, host="ntp.example", ntp=True):
    port = Port(epoch)
    server = NTP(port)
    for name, module in (("time", port), ("ntptime", server if ntp else None), ("clock", None)):
        sys.modules.pop(name, None)
        if module:
            sys.modules[name] = module
    try:
        from clock import Clock
    finally:
        sys.modules["time"] = real
    return Clock(port, host, Link()), port, server


def run(clock, port, ms):
    """Let time pass from deadline to deadline; the number of polls."""
    end = port.ms + ms
    polls = 0
    while True:
        left = clock.poll(port.ticks_ms())
        polls += 1
        assert 0 < left <= HOUR, left
        if port.ms + left > end:
            port.ms = end
            return polls
        port.ms += left


def test_it_is_set_at_once_on_each_epoch():
    for epoch in (0, 946684800):
        clock, port, server = world(epoch)
        assert clock.time() is None
        clock.poll(port.ticks_ms())
        assert clock.time() == T0 and clock.syncs == 1
        port.ms += 5000
        assert clock.time() == T0 + 5


def test_every_four_hours():
    clock, port, server = world()
    polls = run(clock, port, 24 * HOUR)
    assert server.waits == [4 * HOUR] * 6
    assert polls <= 26, polls


def test_not_without_a_link():
    clock, port, server = world()
    clock.link.up = False
    run(clock, port, 20 * 24 * HOUR)  # longer than ticks can tell
    assert not server.asked
    clock.link.up = True
    clock.poll(port.ticks_ms())
    assert len(server.asked) == 1 and clock.time() == T0


def test_it_backs_off():
    clock, port, server = world()
    server.replies = [OSError(110)] * 12
    run(clock, port, 8 * HOUR)
    assert server.waits[:12] == [15000 << i for i in range(8)] + [HOUR] * 4, server.waits
    assert clock.error is None and clock.syncs == 1
    server.replies = [OSError(110)]
    run(clock, port, 5 * HOUR)
    assert server.waits[-1] == 15000  # from the beginning again


def test_bad_replies_set_nothing():
    bad = [
        OSError(-2),
        ValueError("buffer too small"),  # a reply that is too short
        IndexError(),  # a name without an address
        MemoryError(),
        2085978496,  # a transmit time of 0, as in a kiss-o'-death
        1000000000,
    ]
    clock, port, server = world()
    for reply in bad:
        server.replies = [reply]
        clock.poll(port.ticks_ms())
        assert clock.time() is None and clock.syncs == 0 and clock.error, reply
        port.ms += HOUR
    clock.poll(port.ticks_ms())
    assert clock.time() == T0 and clock.error is None


def test_the_desk_has_no_ntptime():
    clock, port, server = world(0, ntp=False)
    port.settime(T0)
    run(clock, port, 24 * HOUR)
    assert clock.time() == T0 + 24 * 3600 and clock.error is None and clock.syncs == 0


def test_no_host():
    for host in (None, False):
        clock, port, server = world(host=host)
        run(clock, port, 24 * HOUR)
        assert not server.asked and clock.time() is None


def test_readings_from_before_the_first_sync():
    clock, port, server = world()
    server.replies = [OSError(110)] * 3
    taken = []
    for _ in range(10):
        taken.append(port.ticks_ms())
        assert clock.stamp(taken[-1]) is None
        port.ms += 10000
    run(clock, port, 200000)
    assert clock.syncs == 1
    now = clock.time()
    # 300 s have passed since the first
    assert [now - clock.stamp(t) for t in taken] == [300 - 10 * i for i in range(10)]


def test_stamps_as_far_as_ticks_tell():
    clock, port, server = world()
    run(clock, port, 1000)
    t = port.ticks_ms()
    was = clock.time()
    port.ms += (1 << 29) - 1000
    assert abs(clock.stamp(t) - was) <= 1  # both are whole seconds
    port.ms += 2000
    assert clock.stamp(t) is None


def test_a_step_of_the_clock_moves_no_deadline():
    for step in (-86400, 86400, -3 * 365 * 86400):
        clock, port, server = world()
        run(clock, port, HOUR)
        old = port.ticks_ms()
        port.ms += HOUR // 2
        port.offset += step
        polls = run(clock, port, 3 * HOUR)
        assert server.asked[-1] - server.asked[0] == 4 * HOUR
        assert polls < 6
        assert clock.time() - clock.stamp(old) == 3.5 * 3600


def test_a_sync_can_be_put_off():
    clock, port, server = world()
    port.ms += 5000
    clock.later(HOUR)
    run(clock, port, HOUR - 1)
    assert not server.asked
    run(clock, port, 1)
    assert len(server.asked) == 1
