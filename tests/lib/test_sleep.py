# A client built with the snapshot of another goes on where that one left off.

from binascii import crc32

from scripted import Broker, frame, h, text

from umqtt_lite import MQTTError, OutboxFull, sleep

HEAP = "1m"
NEW = h("20 02 00 00")
KEPT = h("20 02 01 00")


class Sleeper(Broker):
    Client = sleep.MQTTClient


def woken(snapshot, connack=None, **options):
    options.setdefault("clean_session", False)
    broker = Sleeper(snapshot=snapshot, **options)
    if connack:
        assert broker.client.error is None, broker.client.error
        broker.start(connack)
        broker.take()
    return broker


def asleep(broker):
    """What a client leaves when it is reset."""
    snapshot = broker.client.snapshot()
    assert isinstance(snapshot, bytes)
    broker.close()
    return snapshot


def sealed(body, client_id=b"c"):
    return body + crc32(body, crc32(client_id)).to_bytes(4, "big")


def message(first, pid=None, payload=b"x"):
    return frame(first, text("t"), b"" if pid is None else pid.to_bytes(2, "big"), payload)


def full():
    """A snapshot with a message in each state, and QoS 2 identifiers 7 and 9 received."""
    broker = woken(b"", KEPT, outbox=256)
    client = broker.client
    broker.send(h("34 06 00 01 74 00 07 78 34 06 00 01 74 00 09 78"))
    broker.expect(h("50 02 00 07 50 02 00 09"))
    for qos in (1, 2, 2):
        client.publish("t", "x", qos=qos)
    broker.expect(message(0x32, 1) + message(0x34, 2) + message(0x34, 3))
    broker.send(h("50 02 00 03"))
    broker.expect(h("62 02 00 03"))
    for qos in (2, 0, 1):
        client.publish("t", "y", True, qos)
    return asleep(broker)


def test_layout():
    assert full() == sealed(
        h("a1 00 0005 02 0007 0009")
        + message(0x3A, 1)
        + message(0x3C, 2)
        + message(0x3E, 3)
        + message(0x35, 4, b"y")
        + message(0x31, None, b"y")
        + message(0x33, 5, b"y")
    )


def test_same_session():
    broker = woken(full(), KEPT)
    broker.expect(h("62 02 00 03") + message(0x3A, 1) + message(0x3C, 2))
    broker.expect(message(0x35, 4, b"y") + message(0x31, None, b"y") + message(0x33, 5, b"y"))
    broker.expect_nothing()
    assert broker.client.pending == 5  # all but QoS 0
    broker.send(h("40 02 00 01 50 02 00 02 70 02 00 03 50 02 00 04 40 02 00 05"))
    broker.expect(h("62 02 00 02 62 02 00 04"))
    broker.send(h("70 02 00 02 70 02 00 04"))
    broker.await_event("ack", 4)
    assert broker.take() == [("ack", n) for n in (1, 3, 5, 2, 4)]
    assert broker.client.pending == 0
    broker.close()


def test_new_session():
    broker = woken(full(), NEW)
    broker.expect(message(0x32, 1) + message(0x34, 2))
    broker.expect(message(0x34, 3) + message(0x35, 4, b"y"))
    broker.expect(message(0x31, None, b"y") + message(0x33, 5, b"y"))
    broker.expect_nothing()
    broker.close()


def test_lost_again_after_it():
    broker = woken(full(), KEPT)
    broker.expect(h("62 02 00 03") + message(0x3A, 1))
    broker.start(NEW)
    broker.expect(message(0x34, 3) + message(0x32, 1) + message(0x34, 2))
    broker.close()


def test_pending_and_statistics():
    broker = woken(full())
    client = broker.client
    assert client.pending == 6
    assert client.stats["sent"] == client.stats["acknowledged"] == 0
    client.publish("t", "z")
    assert client.pending == 7 and client.stats["sent"] == 1
    broker.start(KEPT)
    broker.send(h("40 02 00 01 40 02 00 05 50 02 00 02 50 02 00 04 70 02 00 02 70 02 00 03"))
    broker.send(h("70 02 00 04"))
    broker.await_event("ack", 4)
    assert client.pending == 0 and client.stats["sent"] == 1
    # and as ever after
    for _ in range(3):
        client.publish(b"t", b"x")
        assert client.pending == 1
        broker.until(lambda: not client.pending, "written")
    broker.close()


def test_empty():
    for snapshot in (None, b"", asleep(woken(b""))):
        broker = woken(snapshot, NEW)
        assert broker.client.pending == 0
        assert broker.client.publish("t", "x", qos=1) == 1
        broker.expect(message(0x32, 1))
        broker.close()


def test_any_bytes_type():
    for kind in (bytearray, memoryview):
        broker = woken(kind(full()))
        assert broker.client.error is None and broker.client.pending == 6
        broker.close()


def test_identifiers_go_on():
    broker = woken(b"", KEPT)
    broker.client._id = 65533
    for _ in range(2):
        broker.client.publish("t", "x", qos=1)
    broker.expect(message(0x32, 65534) + message(0x32, 65535))
    broker.send(h("40 02 ff fe"))
    broker.await_event("ack", 65534)
    snapshot = asleep(broker)
    broker = woken(snapshot, KEPT)
    assert broker.client.publish("t", "x", qos=1) == 1
    broker.client._id = 65534
    assert broker.client.publish("t", "x", qos=2) == 2
    broker.expect(message(0x3A, 65535) + message(0x32, 1) + message(0x34, 2))
    broker.close()


def test_received_once():
    broker = woken(full(), KEPT)
    broker.packet()
    while broker._whole():
        broker.packet()
    broker.send(h("3c 06 00 01 74 00 07 78 3c 06 00 01 74 00 08 78"))
    broker.await_event("message", b"t", b"x", False)
    broker.send(h("62 02 00 07 62 02 00 09 62 02 00 08"))
    broker.until(lambda: not any(broker.client._inbox.ids), "released")
    assert [e for e in broker.take() if e[0] == "message"] == [("message", b"t", b"x", False)]
    broker.send(h("34 06 00 01 74 00 07 79"))  # another one
    broker.await_event("message", b"t", b"y", False)
    broker.close()


def test_received_in_a_session_that_is_lost():
    broker = woken(full(), NEW)
    broker.send(h("34 06 00 01 74 00 07 78"))
    broker.await_event("message", b"t", b"x", False)
    broker.close()


def test_acknowledgements_and_subscriptions_are_left_out():
    broker = woken(b"", KEPT)
    client = broker.client
    client.subscribe("s")
    client.publish("t", "x", qos=1)
    broker.send(h("32 06 00 01 74 00 07 79"))
    client._tick()
    client._add(0xC0, 0)  # and what else may wait
    snapshot = asleep(broker)
    assert snapshot[5:-4].endswith(message(0x32, 1)) or snapshot[5:-4].endswith(message(0x3A, 1))
    assert len(snapshot) == 9 + len(message(0x32, 1)), snapshot
    broker.close()


def test_template_goes_on():
    """Between QoS 0 messages of one length, which have a way of their own."""
    broker = woken(b"", NEW)
    client = broker.client
    topic = b"t"
    for i, payload in enumerate((b"a", b"b", b"c", b"d")):
        client.publish(topic, payload)
        if i % 2:
            snapshot = client.snapshot()
            assert snapshot[5:-4] == message(0x30, None, payload)
            assert client.pending == 1
            again = woken(snapshot, KEPT)
            again.expect(message(0x30, None, payload))
            again.expect_nothing()
            again.close()
        broker.expect(message(0x30, None, payload))
        assert client.pending == 0
        assert client.snapshot()[5:-4] == b"" and client.pending == 0
    assert client.stats["sent"] == 4
    broker.close()


class Slow:
    """A stream that takes so many bytes, and no more for now."""

    def __init__(self, stream, room):
        self.stream = stream
        self.sock = getattr(stream, "sock", stream)
        self.close = stream.close
        self.room = room

    def write(self, buf, offset, n):
        n = min(n, self.room, len(buf) - offset)
        self.room -= n
        return self.stream.write(buf, offset, n) if n else None


def test_half_written():
    for qos in (0, 1, 2):
        broker = woken(b"", KEPT, outbox=4000)
        client = broker.client
        client._io = slow = Slow(client._io, 11)
        client.publish("t", "x", qos=1)
        client.publish("t", b"y" * 99, qos=qos)
        client.poll()
        assert 0 < client._pos < len(client._out)
        snapshot = client.snapshot()
        pid = None if not qos else 2
        rest = message(0x30 | 2 * qos, pid, b"y" * 99)
        assert snapshot[5:-4] == message(0x3A, 1) + rest
        # the client goes on within the packet
        slow.room = 9999
        broker.expect(message(0x32, 1) + rest)
        broker.expect_nothing()
        broker.close()
        broker = woken(snapshot, KEPT)
        broker.expect(message(0x3A, 1) + rest)
        broker.expect_nothing()
        broker.close()


def test_does_not_disturb():
    """In each state of a conversation, again and again."""
    broker = woken(b"")
    client = broker.client

    def look():
        one = client.snapshot()
        pending = client.pending
        assert client.snapshot() == one and client.pending == pending
        again = Sleeper.Client("c", "127.0.0.1", 1, snapshot=one)
        assert again.error is None and again.pending == pending, again.error
        assert again.snapshot() == one

    step = broker.step

    def looking():
        look()
        step()
        look()

    broker.step = looking
    for qos in (1, 0, 2):
        client.publish("t", "x", qos=qos)
    broker.start(KEPT)
    broker.expect(message(0x32, 1) + message(0x30) + message(0x34, 2))
    broker.send(h("50 02 00 02 34 06 00 01 74 00 07 78"))
    broker.expect(h("62 02 00 02 50 02 00 07"))
    broker.start(KEPT)
    broker.expect(h("62 02 00 02") + message(0x3A, 1))
    client.publish("t", "y", qos=1)
    broker.expect(message(0x32, 3, b"y"))
    broker.start(NEW)
    broker.expect(message(0x34, 2) + message(0x32, 1) + message(0x32, 3, b"y"))
    broker.send(h("40 02 00 01 40 02 00 03 50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02"))
    broker.await_event("ack", 2)
    assert client.pending == 0 and client.stats["connects"] == 3
    broker.close()


def check_refused(snapshot, why, **options):
    client = Sleeper.Client("c", "127.0.0.1", 1, snapshot=snapshot, **options)
    error = client.error
    assert isinstance(error, sleep.BadSnapshot) and isinstance(error, MQTTError), snapshot
    assert error.args[0] in why, (error, snapshot)
    fresh = sleep.MQTTClient("c", "127.0.0.1", 1, **options)
    assert client.snapshot() == fresh.snapshot() and client.pending == 0
    assert client.publish("t", "x", qos=1) == 1 and client.pending == 1


def check_works(snapshot):
    broker = woken(snapshot)
    assert isinstance(broker.client.error, sleep.BadSnapshot)
    broker.start(KEPT)
    assert broker.client.publish("t", "x", qos=1) == 1
    broker.expect(message(0x32, 1))
    broker.send(h("34 06 00 01 74 00 07 78"))
    broker.expect(h("50 02 00 07"))
    broker.expect_nothing()
    broker.close()


def test_every_byte_flipped():
    good = full()
    for i in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            bad = bytearray(good)
            bad[i] ^= flip
            check_refused(bytes(bad), ("version",) if i == 0 else ("checksum",))
    check_works(bytes(bad))


def test_every_truncation():
    good = full()
    for i in range(1, len(good)):
        check_refused(good[:i], ("checksum",))
        check_refused(good[i:], ("checksum", "version"))
    for more in (b"\0", b"\0\0\0\0", good):
        check_refused(good + more, ("checksum",))
    check_works(good[:9])


def random(seed):
    while True:
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield seed >> 16 & 255


def test_random_bytes():
    rng = random(1)
    for size in range(1, 150):
        noise = bytes([next(rng) for _ in range(size)])
        check_refused(noise, ("checksum", "version"))
        check_refused(b"\xa1" + noise, ("checksum",))


def test_random_content():
    """With the right checksum: refused, or taken by a client that can go on."""
    rng = random(2)
    good = full()[:-4]
    taken = refused = 0
    for i in range(1500):
        body = bytearray(good)
        for _ in range(1 + next(rng) % 3):
            body[1 + next(rng) % (len(body) - 1)] = next(rng)
        snapshot = sealed(bytes(body[: 1 + next(rng) % len(body)] if i % 4 == 0 else body))
        client = sleep.MQTTClient("c", "127.0.0.1", 1, snapshot=snapshot)
        if client.error:
            refused += 1
            check_refused(snapshot, ("content",))
            continue
        taken += 1
        assert client.snapshot() == snapshot
        count = client.pending
        pid = client.publish("t", "x", qos=1)
        assert 0 < pid < 65536 and client.pending == count + 1
        client._resume(i & 1)
        assert client.pending == count + 1
    assert taken > 100 and refused > 500, (taken, refused)


def test_malformed_content():
    start = h("a1 00 0005 00")
    good = message(0x32, 1)
    for bad in (
        h("40 02 00 01"),
        h("82 06 00 01 00 01 74 00"),
        message(0x36, 0),
        message(0x32, 0),
        message(0x38),
        good + good,
        good + message(0x34, 1),
        good[:-2],
        good + b"\x32",
        h("30 03 00 02 74"),
        h("32 04 00 01 74 00"),
        h("32 03 00 01 74") + good,  # its identifier would be the next packet's
        h("30 02 00 00"),
        h("30 03 00 01 2b"),
        h("30 03 00 01 ff"),
        h("30 01 00"),
        h("30 00"),
        h("30 83 80 80 80 00 00 01 74"),
        h("30 ff ff ff 7f"),
        b"\x30" + b"\xff" * 500,
    ):
        check_refused(sealed(start + bad), ("content",))
    for ids in ("01", "02 0007", "ff", "02 0007 0007", "01 0000"):
        check_refused(sealed(start[:-1] + h(ids)), ("content",))
    for short in range(1, 5):
        check_refused(sealed(start[:short]), ("content", "checksum"))


def test_other_client():
    snapshot = full()
    client = sleep.MQTTClient("d", "127.0.0.1", 1, snapshot=snapshot)
    assert client.error.args == ("checksum",) and client.pending == 0
    client = sleep.MQTTClient(b"c", "127.0.0.1", 1, snapshot=snapshot)
    assert not client.error and client.pending == 6


def test_other_version():
    check_refused(sealed(b"\xa2" + full()[1:-4]), ("version",))


def test_smaller_outbox():
    broker = woken(b"", outbox=128)
    for _ in range(4):
        broker.client.publish("t", b"x" * 20, qos=1)
    snapshot = asleep(broker)
    size = len(snapshot) - 9
    check_refused(snapshot, ("outbox",), outbox=size + 11)
    client = Sleeper.Client("c", "127.0.0.1", 1, snapshot=snapshot, outbox=size + 12)
    assert not client.error and client.pending == 4
    try:
        client.publish("t", "x")
    except OutboxFull:
        return
    raise AssertionError("accepted")


def test_size():
    """All that can be in it, for the largest outbox that always fits."""
    for outbox, payloads in (1984, (0, 1, 50, 100, 120, 1000)), (1024, (0, 9, 119)):
        for size in payloads:
            client = Sleeper.Client("c", "127.0.0.1", 1, outbox=outbox)
            client._inbox.ids = list(range(1, 33))
            used = 0
            for more in (size, 3, 2, 1, 0):
                try:
                    while True:
                        client.publish("t", bytes(more), qos=2)
                        used += len(message(0x34, 1, bytes(more)))
                except OutboxFull:
                    pass
            snapshot = client.snapshot()
            assert len(snapshot) == used + 73 <= outbox + 64
            assert len(snapshot) > outbox + 50
            client = Sleeper.Client("c", "127.0.0.1", 1, outbox=outbox, snapshot=snapshot)
            assert not client.error and client.snapshot() == snapshot


def test_balking_broker_over_sleeps():
    """Each sleep counts as a connection that ended after PUBRELs."""
    snapshot = full()
    for n in range(1, 16):
        client = sleep.MQTTClient("c", "127.0.0.1", 1, snapshot=snapshot)
        assert client._resume(True) == h("62 02 00 03")
        snapshot = client.snapshot()
        assert snapshot[1] == n
    client = sleep.MQTTClient("c", "127.0.0.1", 1, snapshot=snapshot)
    assert not client._resume(True)
    assert client.snapshot()[1] == 0
