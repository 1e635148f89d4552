# The flash spool on a folder of the desk's file system.

import os
from array import array
from binascii import crc32

from scripted import Broker

from umqtt_lite import OutboxFull
from umqtt_lite import spool as module
from umqtt_lite.spool import Spool

HEAP = "1m"


class Station(Broker):
    """A broker with a spool before its client, in an empty folder."""

    def __init__(self, options=None, **spool):
        Broker.__init__(self, **(options or {}))
        self.folder = "build/spool-%s" % os.urandom(6).hex()
        for folder in ("build", self.folder):
            try:
                os.mkdir(folder)
            except OSError:
                pass
        self.options = spool
        self.spool = Spool(self.client, self.folder, **spool)
        self.most = 0  # bytes seen on flash

    def step(self):
        Broker.step(self)
        self.spool.poll()

    def send(self, data):
        Broker.send(self, data)
        self.spool.poll()

    def close(self):
        Broker.close(self)
        for name in self.files():
            os.remove(self.folder + "/" + name)
        os.rmdir(self.folder)

    def files(self):
        return sorted(os.listdir(self.folder))

    def segments(self):
        """Their names, the oldest first."""
        return [str(n) for n in sorted(int(name) for name in self.files()) if n >= 0]

    def used(self):
        return sum(os.stat(self.folder + "/" + name)[6] for name in self.files())

    def publish(self, *numbers, **options):
        for n in numbers:
            self.spool.publish("t", payload(n), **options)
            self.most = max(self.most, self.used())

    def restart(self, options=None):
        """As a reset of the device does: nothing is left but the folder."""
        Broker.close(self)
        Broker.__init__(self, **(options or {}))
        self.spool = Spool(self.client, self.folder, **self.options)

    def take(self):
        """The next PUBLISH as (packet identifier, number), QoS 1."""
        packet = self.packet()
        assert packet[0] == 0x32 and packet[2:5] == b"\x00\x01t", packet
        return packet[5] << 8 | packet[6], number(packet[7:])

    def acknowledge(self, pid):
        self.send(b"\x40\x02" + pid.to_bytes(2, "big"))

    def drain(self):
        """Everything that is delivered until the spool is empty, acknowledged one by one."""
        found = []
        while True:
            self.until(lambda: not len(self.spool) or self.pull() and self._whole(), "the rest")
            if not len(self.spool):
                assert not self.received
                return found
            pid, n = self.take()
            found.append(n)
            self.acknowledge(pid)

    def everything(self, options=None):
        """What a new device delivers."""
        self.restart(options)
        self.start()
        return self.drain()


def payload(n):
    return b"%d:" % n + bytes([n & 255]) * 40


def number(data):
    n = int(bytes(data).split(b":")[0])
    assert data == payload(n), data
    return n


def numbers(n):
    return list(range(n))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def raised(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error as e:
        return e
    raise AssertionError("no %s" % error)


# In good times


def stored(*numbers, **options):
    """A station with these messages on flash."""
    station = Station(**options)
    station.publish(*numbers)
    station.spool.sync()
    return station


def test_fed_in_order_without_flash():
    station = Station(buffer=512)
    station.start()
    for n in range(0, 60, 3):
        station.publish(n, n + 1, n + 2)
        for k in range(3):
            pid, found = station.take()
            assert found == n + k
            station.acknowledge(pid)
    station.until(lambda: not len(station.spool), "acknowledged")
    assert station.files() == []
    assert station.spool.skipped == station.spool.dropped == 0
    station.close()


def test_kept_until_acknowledged():
    station = Station()
    station.start()
    station.publish(0, 1)
    first = station.take()[0]
    second = station.take()[0]
    assert len(station.spool) > 80
    station.acknowledge(second)
    station.expect_nothing(10)
    assert len(station.spool) > 80
    station.acknowledge(first)
    assert len(station.spool) == 0
    station.close()


def test_not_fed_while_disconnected():
    station = Station()
    station.publish(0, 1)
    station.run(10)
    assert station.client.pending == 0
    station.start()
    assert station.drain() == [0, 1]
    station.close()


def test_room_of_what_is_written():
    """The outbox keeps a QoS 0 message until something else needs its room."""
    station = Station({"outbox": 256, "keepalive": 0})
    station.start()
    station.client.publish("u", bytes(220))
    station.expect(b"\x30\xdf\x01\x00\x01u" + bytes(220))
    station.publish(0)
    assert station.drain() == [0]
    station.close()


def test_qos_2_until_pubcomp():
    station = Station()
    station.start()
    station.spool.publish("t", payload(0), qos=2)
    packet = station.packet()
    assert packet[0] == 0x34
    pid = packet[5:7]
    station.send(b"\x50\x02" + pid)
    station.expect(b"\x62\x02" + pid)
    station.expect_nothing(10)
    assert len(station.spool)
    station.send(b"\x70\x02" + pid)
    station.until(lambda: not len(station.spool), "let go")
    station.close()


def test_hooks_stay_the_users():
    station = Station()
    station.start()
    station.publish(0)
    pid = station.take()[0]
    station.acknowledge(pid)
    station.await_event("ack", pid)
    # and messages that do not come from the spool
    station.publish(1)
    own = station.client.publish("u", "x", qos=1)
    station.until(lambda: station.pull() and len(station.received) > 50, "both")
    assert own != pid
    station.acknowledge(own)
    assert len(station.spool)
    station.received = b""
    station.acknowledge(3 if own == 2 else 2)
    assert len(station.spool) == 0
    station.close()


def test_leaves_refusals_uncounted():
    station = Station({"outbox": 128})
    station.publish(*range(10))
    station.start()
    assert station.drain() == numbers(10)
    assert station.client.stats["refused"] == 0
    station.close()


def test_what_is_given_over():
    station = Station()
    station.start()
    for topic in ("\xfc/x", b"\xc3\xbc/x"):
        for data in ("\xe9", b"\xc3\xa9", bytearray(b"\xc3\xa9"), memoryview(b"\xc3\xa9")):
            for retain in (False, True):
                station.spool.publish(topic, data, retain)
                first = b"\x33" if retain else b"\x32"
                packet = station.packet()
                assert packet[:7] == first + b"\x0a\x00\x04\xc3\xbc/x"[:6], packet
                assert packet[-2:] == b"\xc3\xa9", packet
                station.acknowledge(packet[-4] << 8 | packet[-3])
    station.spool.publish("t", b"")
    packet = station.packet()
    assert packet[:5] == b"\x32\x05\x00\x01t"
    station.acknowledge(packet[5] << 8 | packet[6])
    station.spool.publish("t", memoryview(array("H", [1, 2])))
    assert station.packet()[-4:] == b"\x01\x00\x02\x00"
    station.close()


def test_refused_at_once():
    station = Station({"outbox": 256}, buffer=300)
    publish = station.spool.publish
    for qos in (0, 3, -1):
        raised(ValueError, publish, "t", "x", qos=qos)
    for topic in ("", "a/+", "#"):
        raised(ValueError, publish, topic, "x")
    raised(TypeError, publish, "t", 5)
    raised(ValueError, publish, "t", bytes(235))  # for the outbox
    publish("t", bytes(234))
    station.client._size = 1000
    raised(ValueError, publish, "t", bytes(291))  # for the buffer
    publish("t", bytes(290))
    assert len(station.spool) == 244 + 300
    station.close()


def test_no_such_folder():
    station = Station()
    raised(OSError, Spool, station.client, station.folder + "/x/y")
    station.close()


# On flash


def test_written_when_the_buffer_is_full():
    station = Station(buffer=512)
    while not station.files():
        station.publish(0)
    station.publish(0)
    written = station.used()
    assert 512 - 60 < written <= 512
    assert len(station.spool) == written + 2 * 52
    station.close()


def test_fed_in_order_from_flash():
    station = Station(buffer=256)
    station.publish(*range(200))
    station.start()
    assert station.drain() == numbers(200)
    assert station.segments() == []
    assert station.spool.skipped == station.spool.dropped == 0
    station.close()


def test_fed_while_more_comes():
    station = Station(buffer=256)
    station.publish(*range(50))
    station.start()
    found = []
    for n in range(50, 200, 2):
        station.publish(n, n + 1)
        pid, k = station.take()
        found.append(k)
        station.acknowledge(pid)
    assert found + station.drain() == numbers(200)
    station.close()


def test_written_when_held():
    station = Station(hold=0)
    station.publish(0)
    station.until(station.files, "a file")
    assert station.used() == len(station.spool) > 0
    station.close()


def test_not_written_before_it_is_held():
    station = Station(hold=1000)
    station.publish(0)
    station.run(20)
    assert station.files() == []
    # half of it later, by a clock that anything may happen to: it has not waited that long yet
    station.spool._since -= 500
    station.spool.poll()
    assert station.files() == []
    station.publish(1)
    station.spool._since += 600
    station.spool.poll()
    assert station.used() == 2 * 52
    station.close()


def test_sync():
    station = stored(*range(5))
    assert station.used() == len(station.spool) == 5 * (9 + 43)
    files = station.files()
    station.spool.sync()
    assert station.files() == files
    assert station.everything() == numbers(5)
    station.close()


def test_sync_saves_what_is_acknowledged():
    station = stored(*range(5))
    station.start()
    for _ in range(2):
        station.acknowledge(station.take()[0])
    station.spool.sync()
    assert station.everything() == [2, 3, 4]
    station.close()


def test_acknowledged_is_removed():
    station = Station(size=4096)  # segments of 256 bytes
    station.publish(*range(40))
    station.spool.sync()
    segments = station.segments()
    assert len(segments) == 10
    station.start()
    for n in range(40):
        pid, found = station.take()
        assert found == n
        assert station.segments() == segments[n // 4 :]
        station.acknowledge(pid)
    assert station.segments() == []
    station.close()


def test_position_is_saved_from_time_to_time():
    station = stored(*range(100), size=1 << 20)
    station.start()
    for _ in range(70):
        station.acknowledge(station.take()[0])
    found = station.everything()
    assert 70 - 1024 // 52 <= found[0] <= 70 and found == numbers(100)[found[0] :], found[0]
    station.close()


def test_restart_in_flight():
    station = Station()
    station.start()
    station.publish(*range(5))
    station.take()
    station.spool.sync()  # part of it is in flight, or acknowledged, from RAM
    station.acknowledge(1)
    assert station.drain() == [1, 2, 3, 4]
    station.publish(5, 6)
    station.take()
    station.spool.sync()
    assert station.everything() == [5, 6]
    station.close()


def test_goes_on_after_restarts():
    station = Station(buffer=256)
    for n in range(0, 50, 5):
        station.publish(*range(n, n + 5))
        station.spool.sync()
        station.restart()
    assert len(station.segments()) == 1
    station.start()
    assert station.drain() == numbers(50)
    station.publish(*range(50, 60))
    station.spool.sync()
    assert station.everything() == numbers(60)[50:]
    station.close()


def test_unsynced_is_lost_and_no_more():
    station = stored(0, 1)
    station.publish(2)
    assert station.everything() == [0, 1]
    station.close()


def test_drops_the_oldest():
    station = stored(*range(200), size=4096)
    assert station.most <= 4096
    station.start()
    found = station.drain()
    assert found == numbers(200)[-len(found) :]
    assert 60 <= len(found) < 80
    assert station.spool.dropped == 200 - len(found)
    assert station.spool.skipped == 0
    station.close()


def test_drops_while_in_flight():
    """What is in flight is not counted as dropped: it is delivered."""
    station = stored(*range(8), size=4096)
    station.start()
    pids = [station.take()[0] for _ in range(6)]
    station.drop()
    station.until(lambda: not station.client.connected, "disconnected")
    fed = 8  # all of them fit into the outbox
    station.publish(*range(8, 200))
    station.spool.sync()
    station.start()
    found = station.drain()
    assert found[:fed] == numbers(fed) and len(pids) == 6
    assert found[fed:] == numbers(200)[fed - len(found) :]
    assert station.spool.dropped == 200 - len(found)
    station.close()


def test_refuses_when_full():
    station = Station(size=4096, drop=False)
    n = 0
    while n < 200:
        try:
            station.publish(n)
            n += 1
        except OutboxFull as e:
            assert isinstance(e.args[0], OSError)
            break
    assert 60 < n < 100 and station.most <= 4096
    raised(OSError, station.spool.sync)
    assert station.spool.error
    station.start()
    assert station.drain() == numbers(n)
    assert station.spool.dropped == 0
    station.publish(7)
    assert station.drain() == [7]
    station.close()


def test_bounded():
    """By its size and no less, however it is written."""
    for n in (1, 2):
        station = Station(size=2048)
        most = 0
        for _ in range(100):
            for _ in range(n):
                station.spool.publish("t", bytes(54))  # two records fill a segment
            station.spool.sync()
            most = max(most, station.used())
        assert most == 2048, most
        assert len(station.segments()) == 16
        station.close()


def test_damage_is_not_counted_as_dropped():
    for first, last in ((52, 104), (156, 208), (0, 208)):
        station = Station(size=4096)
        station.publish(*range(40))
        station.spool.sync()
        path = station.folder + "/" + station.segments()[0]
        good = read(path)
        write(path, good[:first] + bytes(last - first) + good[last:])
        station.restart()
        n = 40
        while station.files()[0] == "0":  # until it is dropped
            station.publish(n)
            n += 1
        assert station.spool.skipped == 1
        assert station.spool.dropped == 4 - (last - first) // 52
        station.start()
        assert station.drain() == numbers(n)[4:]
        station.close()


def test_a_dropped_segment_of_noise():
    station = Station(size=16384, buffer=128)  # read in pages of an eighth of a segment
    station.publish(*range(40))
    station.spool.sync()
    write(station.folder + "/" + station.segments()[0], bytes(1000))
    station.restart()
    while station.files()[0] == "0":
        station.spool.publish("t", bytes(100))
    assert station.spool.dropped == 0 and station.spool.skipped > 0
    station.close()


def test_smaller_outbox_after_restart():
    station = Station({"outbox": 512})
    for n in (1, 2):
        station.spool.publish("t", payload(n))
        station.spool.publish("t", bytes(300))
    station.spool.sync()
    assert station.everything({"outbox": 256}) == [1, 2]
    assert station.spool.skipped == 2
    assert station.client.stats["refused"] == 0
    station.close()


# Damage


def damaged(change, count=12, size=4096):
    """For each damage that change() yields to the first segment: what arrives after it."""
    station = stored(*range(count), size=size)
    names = station.files()
    good = [read(station.folder + "/" + name) for name in names]
    for data in change(good[0]):
        for name in station.files():
            os.remove(station.folder + "/" + name)
        for name, content in zip(names, good):
            write(station.folder + "/" + name, content)
        write(station.folder + "/" + names[0], data)
        yield station.everything(), station
        station.publish(1000)  # and it goes on
        station.spool.sync()
        assert station.everything() == [1000]
    station.close()


def test_every_byte_flipped():
    def flip(data):
        for i in range(len(data)):
            for bit in (1, 0x80) if i % 51 < 5 else (0x10,):
                yield data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :]

    i = 0
    for found, station in damaged(flip, 6):
        assert len(found) == 5 and found == sorted(found), (i, found)
        assert station.spool.skipped == 1, (i, station.spool.skipped)
        i += 1
    assert i > 4 * 51


def test_every_torn_tail():
    def tear(data):
        for i in range(len(data)):
            yield data[:i]

    i = 0
    for found, station in damaged(tear, 3):
        assert found == numbers(i // 52), (i, found)
        assert station.spool.skipped == (i % 52 > 0), (i, station.spool.skipped)
        i += 1


def test_new_messages_behind_a_torn_tail():
    station = stored(0, 1)
    path = station.folder + "/" + station.files()[0]
    write(path, read(path)[:-7])
    station.restart()
    station.publish(2, 3)
    station.spool.sync()
    assert station.everything() == [0, 2, 3]
    assert station.spool.skipped == 1
    station.close()


def test_a_segment_of_noise():
    station = stored(*range(200), size=65536)
    first, second = station.segments()[:2]
    write(
        station.folder + "/" + first,
        b"\xa0\x00\x20\x00\x01" * 700 + bytes(i * i % 251 for i in range(500)),
    )
    found = station.everything()
    assert found == numbers(200)[-len(found) :] and len(found) > 100
    assert 1 <= station.spool.skipped <= 4
    station.close()


def test_a_segment_ends_where_the_next_begins():
    """As after a write that failed, but was done."""
    station = stored(*range(8), size=4096)
    path = station.folder + "/" + station.segments()[0]
    record = b"\xa2\x00\x0a\x00\x01t"
    write(path, read(path) + record + crc32(record).to_bytes(4, "little"))
    assert station.everything() == numbers(8)
    assert station.spool.skipped == 0
    station.close()


def test_a_segment_that_is_gone():
    station = stored(*range(40), size=4096)
    os.remove(station.folder + "/" + station.segments()[3])
    assert station.everything() == [n for n in range(40) if n // 4 != 3]
    assert station.spool.skipped == 1
    station.close()


def test_a_record_within_a_damaged_record():
    """It is not searched for what only looks like a record."""
    station = Station()
    inner = b"\xa2\x00\x0b\x00\x01tx" + bytes(4)
    station.spool.publish("t", inner)
    station.publish(1)
    station.spool.sync()
    path = station.folder + "/" + station.files()[0]
    data = bytearray(read(path))
    data[2] ^= 1
    write(path, data)
    assert station.everything() == [1]
    assert station.spool.skipped == 1
    station.close()


def saved(station):
    """The name of the file whose name is the position."""
    return [name for name in station.files() if int(name) < 0][0]


def test_position_missing_or_stale():
    for name in (None, "-52"):
        station = Station(size=1 << 20)
        station.publish(*range(60))
        station.spool.sync()
        station.start()
        for _ in range(50):
            station.acknowledge(station.take()[0])
        station.spool.sync()
        os.remove(station.folder + "/" + saved(station))
        if name:
            write(station.folder + "/" + name, b"")
        assert station.everything() == numbers(60)[1 if name else 0 :]
        station.close()


def test_position_ahead_of_flash():
    """As after a crash of a file system that keeps no order."""
    station = stored(*range(3))
    write(station.folder + "/-9999", b"")
    write(station.folder + "/-52", b"")
    station.restart()
    station.publish(5, 6)
    station.spool.sync()
    assert station.everything() == [5, 6]
    station.close()


# A file system that fails


class Failing:
    """Stands for open(), and fails as long as `errors` tells it to."""

    def __init__(self):
        self.on = False
        self.partial = -1  # bytes that a write leaves

    def __call__(self, path, mode):
        if not self.on:
            return open(path, mode)
        if self.partial < 0 or "b" in mode[:2] and mode[0] == "r" and "+" not in mode:
            raise OSError(5, "EIO")
        return Torn(open(path, mode), self.partial)

    def __enter__(self):
        module.open = self
        return self

    def __exit__(self, *args):
        del module.open


class Torn:
    def __init__(self, f, n):
        self.f = f
        self.n = n
        self.seek = f.seek
        self.close = f.close

    def write(self, data):
        self.f.write(bytes(data[: self.n]))
        raise OSError(5, "EIO")

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def test_flash_cannot_be_written():
    station = Station({"outbox": 256}, buffer=512)
    with Failing() as flash:
        flash.on = True
        station.publish(*range(9))
        e = raised(OutboxFull, station.publish, 9)
        assert e.args[0] is station.spool.error and e.args[0].errno == 5
        raised(OSError, station.spool.sync)
        station.spool._hold = 0
        station.run(10)
        # from RAM it goes on
        station.start()
        assert station.drain() == numbers(9)
        station.drop()
        station.until(lambda: not station.client.connected, "disconnected")
        station.publish(*range(10, 19))
        raised(OutboxFull, station.publish, 19)
        flash.on = False
        station.publish(*range(19, 40))
        station.spool.sync()
        station.start()
        assert station.drain() == numbers(40)[10:]
    station.close()


def test_writes_that_are_torn():
    for n in (0, 3, 60, 200):
        station = Station(size=4096, buffer=256)
        station.publish(0, 1)
        station.spool.sync()
        with Failing() as flash:
            flash.partial = n
            station.publish(2, 3)
            flash.on = True
            raised(OSError, station.spool.sync)
            raised(OSError, station.spool.sync)
            flash.on = False
            station.publish(4, 5)
            station.spool.sync()
            flash.on = True
            station.publish(6, 7, 8)
            raised(OSError, station.spool.sync)  # into a new segment
            flash.on = False
            station.publish(9)
            station.spool.sync()
            for name in station.files():
                assert os.stat(station.folder + "/" + name)[6] <= 256
        assert station.everything() == numbers(10), n
        assert station.spool.skipped == 0
        station.close()


def test_flash_cannot_be_read():
    station = Station(size=4096)
    station.publish(*range(20))
    with Failing() as flash:
        flash.on = True
        station.start()
        found = station.drain()
        assert found == [16, 17, 18, 19], found
        assert station.spool.error.errno == 5 and station.spool.skipped >= 1
        flash.on = False
        station.publish(*range(20, 30))
        assert station.drain() == numbers(30)[20:]
    station.close()


def test_flash_that_will_not_let_go():
    """Nothing is lost or fed twice while segments cannot be removed."""
    station = stored(*range(10), size=4096)
    station.start()
    remove, module.os = module.os, Refusing()
    try:
        found = []
        while len(found) < 10:
            pid, n = station.take()
            found.append(n)
            station.acknowledge(pid)
        assert found == numbers(10) and station.spool.error
        assert len(station.segments()) == 3
    finally:
        module.os = remove
    station.until(lambda: not station.segments(), "removed")
    station.close()


class Refusing:
    def __getattr__(self, name):
        if name in ("remove", "rename"):
            raise OSError(5, "EIO")
        return getattr(os, name)


def test_a_poll_is_bounded():
    """It reads no more than a page of damage."""
    station = stored(*range(600), size=65536)
    for name in station.segments():
        write(station.folder + "/" + name, bytes(4000))
    station.start()
    polls = 0
    while station.spool._at < station.spool._segs[-1]:
        before = station.spool._at
        station.spool.poll()
        assert station.spool._at - before <= 2 * 2048
        polls += 1
    assert polls > 5
    station.close()
