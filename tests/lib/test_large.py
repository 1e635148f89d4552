import binascii
import gc
import io
import os
import random
import time

from scripted import CONNACK, Broker, frame, h, text

from umqtt_lite import OutboxFull, ProtocolError, sleep

HEAP = "512k"
SIZE = 300
KEPT = b"\x20\x02\x01\x00"  # session present


def started(**options):
    broker = Broker(inbox=64, **options)
    broker.pieces = []
    broker.start()
    subscribe(broker, "big/#", 2)
    broker.take()
    return broker


def subscribe(broker, topic_filter, qos):
    def take(topic, piece, offset, total, retain):
        broker.pieces.append((bytes(topic), offset, total, bytes(piece), retain))

    broker.client.subscribe(topic_filter, take, qos, pieces=True)
    packet = broker.packet()
    broker.send(b"\x90\x03" + packet[2:4] + bytes([qos]))


def restart(broker, connack=CONNACK):
    """Another connection, at once."""
    broker.client._backoff = 1
    broker.drop()
    broker.start(connack)


def together(pieces, topic=b"big/t", retain=False):
    """The payload of one message in pieces, each of which follows on the last."""
    payload = b""
    total = pieces[0][2]
    for piece in pieces:
        assert (piece[0], piece[1], piece[2], piece[4]) == (topic, len(payload), total, retain)
        payload += piece[3]
    assert len(payload) == total
    return payload


def message(qos, payload, topic="big/t", first=0x30, packet_id=9):
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    return frame(first + 2 * qos, text(topic), identifier, payload)


# In


def check_in(size, qos, send):
    payload = os.urandom(size)
    broker = started()
    send = getattr(broker, send)
    data = message(qos, payload, first=0x31)
    send(data[:-1])
    broker.expect_nothing(5)
    send(data[-1:])
    if qos:
        broker.expect(frame(0x30 + 0x10 * qos, b"\0\x09"))
    else:
        broker.until(lambda: broker.client.stats["received"], "the last piece")
    assert together(broker.pieces, retain=True) == payload
    assert len(broker.pieces) == -(-size // 55)
    send(h("30 04 00 01 74 78"))
    broker.await_event("message", b"t", b"x", False)
    assert broker.client.stats["received"] == 2 and not broker.client.stats["dropped"]
    broker.close()


def test_in_pieces():
    for qos in range(3):
        for size in (58, 109, 110, 111, SIZE):
            check_in(size, qos, "send")


def test_in_pieces_byte_by_byte():
    for qos in range(3):
        check_in(SIZE, qos, "send_slowly")


def test_small_in_one_piece():
    broker = started()
    for payload in (b"", b"x", bytes(55)):
        broker.send(message(1, payload))
        broker.expect(h("40 02 00 09"))
        assert broker.pieces.pop() == (b"big/t", 0, len(payload), payload, False)
    broker.close()


def test_qos_2_in_once():
    payload = os.urandom(SIZE)
    broker = started()
    broker.send(message(2, payload))
    broker.expect(h("50 02 00 09"))
    broker.send(message(2, payload, first=0x38))
    broker.expect(h("50 02 00 09"))
    assert together(broker.pieces) == payload
    broker.send(h("62 02 00 09"))
    broker.expect(h("70 02 00 09"))
    broker.send(message(2, payload))
    broker.expect(h("50 02 00 09"))
    assert len(broker.pieces) == 12
    broker.close()


def test_not_for_pieces():
    skips = []
    broker = started()
    broker.client.on_skip = lambda topic, size: skips.append((bytes(topic), size))
    broker.send(message(1, bytes(SIZE), "other"))
    broker.expect(h("40 02 00 09"))
    broker.send(message(2, bytes(SIZE), "big/" + 44 * "x"))  # leaves too little room
    broker.expect(h("50 02 00 09"))
    assert skips[0] == (b"other", SIZE) and skips[1][1] == SIZE
    assert not broker.pieces
    broker.client.unsubscribe("big/#")
    broker.packet()
    broker.send(message(1, bytes(SIZE)))
    broker.expect(h("40 02 00 09"))
    assert not broker.pieces and len(skips) == 3
    broker.close()


def test_large_by_its_topic_alone():
    broker = started()
    broker.send(message(1, bytes(SIZE)))
    broker.expect(h("40 02 00 09"))
    broker.pieces.clear()
    broker.send(message(1, b"", "big/" + 60 * "x"))
    broker.expect(h("40 02 00 09"))
    assert not broker.pieces and broker.client.stats["dropped"] == 1
    broker.close()


def test_malformed():
    for topic in (b"\0\0", text("big/+"), text(b"big/\xff")):
        broker = started()
        broker.send(frame(0x30, topic, bytes(SIZE)))
        broker.expect_close()
        assert isinstance(broker.client.error, ProtocolError) and not broker.pieces
        broker.close()


def test_several_handlers():
    broker = started()
    subscribe(broker, "+/t", 1)
    broker.send(message(1, bytes(SIZE)))
    broker.expect(h("40 02 00 09"))
    assert together(broker.pieces[::2]) == together(broker.pieces[1::2]) == bytes(SIZE)
    broker.close()


def test_handler_that_raises():
    for at in (0, 110, 275):  # the last piece is at 275
        for qos in (1, 2):
            check_raises(at, qos)


def check_raises(at, qos):
    broker = started(clean_session=False)
    client = broker.client
    pieces = []

    def take(topic, piece, offset, total, retain):
        pieces.append((bytes(topic), offset, total, bytes(piece), retain))
        if offset == at and len(pieces) == 1 + at // 55:
            raise RuntimeError("full")

    client.subscribe("big/#", take, qos, pieces=True)
    packet = broker.packet()
    broker.send(b"\x90\x03" + packet[2:4] + bytes([qos]))
    try:
        broker.send(message(qos, bytes(SIZE)))
        broker.run(20)
        raise AssertionError("no exception")
    except RuntimeError:
        pass
    broker.expect_nothing()  # no acknowledgement
    assert len(pieces) == 1 + at // 55
    broker.send(h("32 06 00 01 74 12 34 78"))
    broker.expect(h("40 02 12 34"))
    restart(broker, KEPT)
    broker.send(message(qos, bytes(SIZE), first=0x38))
    broker.expect(frame(0x30 + 0x10 * qos, b"\0\x09"))
    assert together(pieces[1 + at // 55 :]) == bytes(SIZE)
    broker.close()


def test_cut_in_the_middle():
    broker = started(clean_session=False)
    payload = os.urandom(SIZE)
    data = message(1, payload)
    for size in (5, 11, 66, 100, len(data) - 1):
        broker.send(data[:size])
        broker.run(5)
        restart(broker, KEPT)
    broker.pieces.clear()
    broker.send(data)
    broker.expect(h("40 02 00 09"))
    assert together(broker.pieces) == payload
    broker.close()


def test_publish_from_a_handler_of_pieces():
    broker = started(outbox=64)
    client = broker.client

    def take(topic, piece, offset, total, retain):
        try:
            client.publish("t", b"%d" % offset, qos=1)
        except OutboxFull:
            broker.events.append("full")

    client.subscribe("big/#", take, 1, pieces=True)
    packet = broker.packet()
    broker.send(b"\x90\x03" + packet[2:4] + b"\x01")
    broker.send(message(1, bytes(SIZE)))
    packets = []
    while not packets or packets[-1] != h("40 02 00 09"):
        packets.append(broker.packet())
    assert [packet[0] for packet in packets] == [0x32] * (len(packets) - 1) + [0x40]
    assert len(packets) == 6 and broker.events == ["full"]
    broker.close()


def test_acknowledgements_wait_behind_a_large_message():
    broker = started(retry=1, retries=0)
    broker.client.publish("t", "x", qos=1)
    packet = broker.packet()
    data = message(0, bytes(SIZE))
    for i in range(0, len(data), 10):
        broker.send(data[i : i + 10])
        broker.run(80)
    broker.send(b"\x40\x02" + packet[5:7])
    broker.await_event("ack", 2)
    assert broker.client.connected and broker.client.stats["connects"] == 1
    broker.close()


# A payload of any size that is not kept in memory; no two parts in a row are alike

TABLE = bytes(range(251)) * 12


def some(at, n):
    """At most `n` bytes of it, from an offset on."""
    at %= 251
    return TABLE[at : at + min(n, 2048)]


def crc_of(size):
    crc = at = 0
    while at < size:
        data = some(at, size - at)
        crc = binascii.crc32(data, crc)
        at += len(data)
    return crc


BORDERS = (127, 128, 16383, 16384, 2097151, 2097152)  # of the length of the remaining length


def check_length_in(remaining, qos, inbox=512):
    size = remaining - 5 - (2 if qos else 0)
    broker = Broker(inbox=inbox)
    broker.start()
    crc = come = 0

    def take(topic, piece, offset, total, retain):
        nonlocal crc, come
        assert (offset, total) == (come, size)
        come += len(piece)
        crc = binascii.crc32(piece, crc)

    broker.client.subscribe("big", take, 2, pieces=True)
    packet = broker.packet()
    broker.send(b"\x90\x03" + packet[2:4] + b"\2")
    broker.send(head(qos, size))
    at = 0
    while at < size:
        at += broker._send(some(at, size - at))
        broker.client.poll()
    if qos:
        broker.expect(frame(0x30 + 0x10 * qos, b"\0\x09"))
    broker.until(lambda: broker.client.stats["received"], "the last piece")
    assert come == size and crc == crc_of(size)
    broker.close()


def head(qos, size, packet_id=9):
    """What stands before the payload."""
    n = size + 5 + (2 if qos else 0)
    data = bytearray([0x30 + 2 * qos])
    while n > 127:
        data.append(n & 127 | 128)
        n >>= 7
    data.append(n)
    return bytes(data) + text("big") + (packet_id.to_bytes(2, "big") if qos else b"")


def test_length_in():
    for qos in range(3):
        for remaining in range(62, 70):
            check_length_in(remaining, qos, 64)
        for remaining in BORDERS[:4]:
            check_length_in(remaining, qos, 64)
    for remaining in BORDERS[4:]:
        check_length_in(remaining, 1)


def test_random_messages():
    """Whatever comes, the pieces of a message follow on each other, to its end."""
    random.seed(1)
    broker = started(outbox=128)
    client = broker.client
    expected = 0  # offset of the next piece, unless a message begins

    def take(topic, piece, offset, total, retain):
        nonlocal expected
        assert offset in (0, expected) and len(piece) <= 58
        expected = offset + len(piece)
        assert expected <= total and (piece or not total)

    client.subscribe("big/#", take, 2, pieces=True)
    for _ in range(40):
        data = b"".join(random_message() for _ in range(random.randrange(1, 20)))
        restart(broker)
        while data and broker.pull():
            n = random.choice((1, 3, 64, 200, 3000))
            data = data[broker._send(data[:n]) :]
            broker.received = b""
            broker.step()
        broker.run(2)
    assert client.stats["received"] > 30 and client.stats["dropped"] > 5
    broker.close()


def random_message():
    payload = os.urandom(random.choice((0, 1, 50, 60, 62, 64, 120, 121, 300, 1000)))
    topic = random.choice(("other", "big/" + "x" * random.choice((0, 5, 40, 44, 60, 100))))
    first = 0x30 | random.randrange(2) | 8 * random.randrange(2)
    data = bytearray(message(random.randrange(3), payload, topic, first, random.randrange(1, 40)))
    if not random.randrange(10):
        data[random.randrange(min(len(data), 12))] ^= 1 << random.randrange(8)
    return bytes(data)


def test_header_alone_allocates_nothing():
    """As long as no byte of the payload follows it."""
    broker = started()
    data = message(1, bytes(SIZE))
    broker.send(data[:-SIZE])
    used = getattr(gc, "mem_alloc", lambda: 0)  # nothing is to be learned from CPython
    broker.run(5)
    gc.collect()
    gc.disable()
    before = used()
    for _ in range(100):
        broker.client.poll()
    grown = used() - before
    gc.enable()
    assert grown < 100, "%d bytes" % grown
    broker.send(data[-SIZE:])
    broker.expect(h("40 02 00 09"))
    assert together(broker.pieces) == bytes(SIZE)
    broker.close()


def answer(broker):
    """Take the SUBSCRIBE or UNSUBSCRIBE that comes next, and answer it."""
    packet = broker.packet()
    broker.send(
        h("90 03") + packet[2:4] + b"\2" if packet[0] == 0x82 else h("b0 02") + packet[2:4]
    )


def check_handler(action, at):
    """A handler that does something to its client: the message comes to its end all the same."""
    broker = started()
    client = broker.client
    offsets = []

    def take(topic, piece, offset, total, retain):
        offsets.append(offset)
        if offset == at:
            action(client)

    client.subscribe("big/#", take, 2, pieces=True)
    answer(broker)
    broker.send(message(2, bytes(SIZE)))
    packets = []
    while h("50 02 00 09") not in packets:
        packets.append(broker.packet())
    assert offsets == list(range(0, SIZE, 55))
    assert client.stats["received"] == 1 and not client.stats["dropped"]
    broker.close()
    return packets


def test_handler_that_changes_its_client():
    for at in (0, 110, 275):
        packets = check_handler(lambda client: client.unsubscribe("big/#"), at)
        assert any(packet[0] == 0xA2 for packet in packets) or at == 275
        check_handler(lambda client: client.subscribe("big/#", print, 1), at)
        check_handler(lambda client: client.subscribe("big/#", print, 1, pieces=True), at)
        packets = check_handler(
            lambda client: client.publish_from("big", io.BytesIO(bytes(2000)), 2000, qos=1), at
        )
        sent = message(1, bytes(2000), "big", packet_id=3)
        assert sent in packets or at == 275


def check_disconnects(at):
    broker = started(clean_session=False)
    client = broker.client
    offsets = []

    def take(topic, piece, offset, total, retain):
        offsets.append(offset)
        if offset == at and len(offsets) == 1 + at // 55:
            client.disconnect()
            client.connect()

    client.subscribe("big/#", take, 1, pieces=True)
    answer(broker)
    data = message(1, bytes(SIZE))
    broker._send(data)
    broker.until(lambda: ("disconnect", None) in broker.events, "disconnect()")
    assert offsets == list(range(0, at + 1, 55))
    broker.start(KEPT)
    broker.send(data)
    broker.expect(h("40 02 00 09"))
    assert offsets[1 + at // 55 :] == list(range(0, SIZE, 55))
    assert client.stats["received"] == 1 + (at == 275)
    broker.close()


def test_handler_that_disconnects():
    for at in (0, 110, 275):
        check_disconnects(at)


def test_with_and_without_pieces():
    """The subscription without gets what fits the inbox; nothing counts as dropped."""
    broker = started()
    broker.client.subscribe("+/t", broker.handler("whole"), 1)
    answer(broker)
    for size in (SIZE, 50):
        broker.send(message(1, bytes(size)))
        broker.expect(h("40 02 00 09"))
    assert together(broker.pieces[:6]) == bytes(SIZE)
    assert together(broker.pieces[6:]) == bytes(50)
    assert broker.take() == [("whole", b"big/t", bytes(50), False)]
    assert broker.client.stats["received"] == 2 and not broker.client.stats["dropped"]
    broker.close()


def test_session_lost_in_the_middle():
    """The subscription is made again, and what comes begins anew."""
    for qos in (1, 2):
        broker = started(clean_session=False)
        broker.send(message(qos, bytes(SIZE))[:200])
        broker.until(lambda pieces=broker.pieces: pieces, "a piece")
        restart(broker)
        answer(broker)
        broker.pieces.clear()
        payload = os.urandom(SIZE)
        broker.send(message(qos, payload))
        broker.expect(frame(0x30 + 0x10 * qos, b"\0\x09"))
        assert together(broker.pieces) == payload
        broker.close()


def test_subscription_made_in_the_middle():
    """What nobody took from its begin is skipped to its end."""
    broker = Broker(inbox=64)
    broker.start()
    broker.pieces = []
    data = message(1, bytes(SIZE))
    broker.send(data[:200])
    broker.client.subscribe("big/#", lambda *piece: broker.pieces.append(piece), pieces=True)
    broker.packet()
    broker.send(data[200:])
    broker.expect(h("40 02 00 09"))
    assert not broker.pieces and broker.client.stats["dropped"] == 1
    broker.close()


# Out


class Zeros:
    """A source of any size that is not kept in memory."""

    def __init__(self, size, error=None):
        self.size = size
        self.error = error
        self.at = 0

    def tell(self):
        return self.at

    def seek(self, at):
        self.at = at

    def readinto(self, buf):
        n = min(len(buf), self.size - self.at)
        if not n and self.error:
            raise self.error
        buf[:n] = bytes(n)
        self.at += n
        return n


def test_out():
    for size in (0, 1, 120, 121, 128, 400, 20000):
        for qos in range(3):
            check_out(size, qos)


def check_out(size, qos):
    payload = os.urandom(size)
    source = io.BytesIO(b"skip" + payload)
    source.seek(4)
    broker = Broker(outbox=128)
    broker.start()
    broker.take()
    client = broker.client
    client.publish("t", "before", qos=1)
    n = client.publish_from("big", source, size, True, qos)
    client.publish("t", "after", qos=1)
    assert n == (2 if qos else 0) and client.pending == 3
    broker.expect(frame(0x32, text("t"), b"\0\1before"))
    broker.expect(frame(0x31 + 2 * qos, text("big"), b"\0\2" if qos else b"", payload))
    last = 3 if qos else 2
    broker.expect(frame(0x32, text("t"), bytes((0, last)), b"after"))
    for packet_id in {1, last}:
        broker.send(bytes((0x40, 2, 0, packet_id)))
    if qos == 1:
        broker.send(h("40 02 00 02"))
    elif qos:
        broker.send(h("50 02 00 02"))
        broker.expect(h("62 02 00 02"))
        broker.send(h("70 02 00 02"))
    broker.until(lambda: not client.pending, "nothing pending")
    assert len(broker.take()) == (3 if qos else 2)
    client.publish("t", "x")
    broker.expect(frame(0x30, text("t"), b"x"))
    broker.close()


class Some:
    """A source of some(), which gives `most` bytes at a time, and nothing now and then."""

    def __init__(self, most=1 << 30, idle=0):
        self.most = most
        self.idle = idle
        self.calls = self.at = 0

    def tell(self):
        return self.at

    def seek(self, at):
        self.at = at

    def readinto(self, buf):
        self.calls += 1
        if self.idle and self.calls % self.idle == 1:
            return None  # it would block
        data = some(self.at, min(len(buf), self.most))
        buf[: len(data)] = data
        self.at += len(data)
        return len(data)


def expect_some(broker, qos, size):
    broker.expect(head(qos, size, 1))
    crc = come = 0
    while come < size:
        broker.until(lambda: broker.pull() and broker.received, "more of it")
        data = broker.received[: size - come]
        broker.received = broker.received[len(data) :]
        crc = binascii.crc32(data, crc)
        come += len(data)
    assert crc == crc_of(size)


def check_length_out(remaining, qos, source):
    size = remaining - 5 - (2 if qos else 0)
    broker = Broker(outbox=128 if remaining < 20000 else 2048)
    broker.start()
    client = broker.client
    client.publish_from("big", source, size, qos=qos)
    expect_some(broker, qos, size)
    client.publish("t", "x")
    broker.expect(frame(0x30, text("t"), b"x"))
    assert client.connected and client.stats["connects"] == 1
    broker.close()


def test_length_out():
    for qos in range(3):
        for remaining in BORDERS[:4]:
            check_length_out(remaining, qos, Some())
    for remaining in BORDERS[4:]:
        check_length_out(remaining, 1, Some())


def test_sources():
    name = "build/source-" + binascii.hexlify(os.urandom(4)).decode()
    with open(name, "wb") as file:
        file.write(some(0, 1000))
    with open(name, "rb") as file:
        check_length_out(900, 1, file)
    os.remove(name)
    check_length_out(900, 1, io.BytesIO(some(0, 1000)))
    check_length_out(900, 1, Some(1))
    check_length_out(900, 1, Some(100, 2))
    check_length_out(900, 1, Some(7, 3))


def test_source_that_others_read_too():
    payload = os.urandom(1000)
    source = io.BytesIO(payload)
    broker = Broker(outbox=128)
    broker.start()
    broker.client.publish_from("big", source, 1000, qos=1)
    data = message(1, payload, "big", packet_id=1)
    while len(broker.received) < len(data):
        source.seek(500)
        broker.step()
        broker.pull()
    assert broker.received == data
    broker.close()


def test_full_outbox():
    for qos in range(3):
        broker = Broker(outbox=128)
        broker.start()
        client = broker.client
        while True:
            try:
                client.publish("t", bytes(20), qos=1)
            except OutboxFull:
                break
        sent = client.pending
        try:
            client.publish_from("big" * 10, io.BytesIO(b"x" * 500), 500, qos=qos)
            raise AssertionError("accepted")
        except OutboxFull:
            pass
        assert client.pending == sent and client.stats["refused"] == 2
        for i in range(sent):
            broker.packet()
            broker.send(bytes((0x40, 2, 0, i + 1)))
        broker.await_event("ack", sent)
        client.publish_from("big" * 10, io.BytesIO(b"x" * 500), 500, qos=qos)
        broker.expect(message(qos, b"x" * 500, "big" * 10, packet_id=client._id))
        broker.close()


def test_session_lost_in_the_middle_of_an_upload():
    for qos in range(3):
        size = 200000
        broker = Broker(clean_session=False, outbox=2048)
        broker.start(KEPT)
        narrow(broker)
        broker.client.publish_from("big", Some(), size, qos=qos)
        broker.expect(head(qos, size, 1) + some(0, 500))
        assert broker.client._new
        restart(broker)
        expect_some(broker, qos, size)
        broker.close()


def test_accepted_before_the_connection():
    broker = Broker(outbox=128)
    broker.client.publish_from("big", io.BytesIO(b"x" * 500), 500)
    broker.client.publish("t", "x")
    broker.start()
    broker.expect(frame(0x30, text("big"), b"x" * 500) + frame(0x30, text("t"), b"x"))
    broker.close()


def test_other_traffic_waits_behind_it():
    broker = Broker(outbox=128)
    broker.start()
    size = 3000000  # more than the system takes at once
    broker.client.publish_from("big", Zeros(size), size)
    broker.run(20)
    broker._send(h("32 06 00 01 74 12 34 78"))
    broker.await_event("message", b"t", b"x", False)
    packet = frame(0x30, text("big"), b"")
    left = size + 5 + len(packet) - 2
    while left:
        broker.until(lambda: broker.pull() and broker.received, "more of it")
        n = min(left, len(broker.received))
        broker.received = broker.received[n:]
        left -= n
    broker.expect(h("40 02 12 34"))
    broker.close()


def test_one_at_a_time():
    broker = Broker(outbox=128)
    broker.start()
    client = broker.client
    client.publish_from("big", io.BytesIO(b"abc"), 3, qos=1)
    for _ in range(2):
        try:
            client.publish_from("big", io.BytesIO(b"abc"), 3, qos=1)
            raise AssertionError("accepted")
        except OutboxFull:
            pass
        broker.run(5)
    broker.expect(frame(0x32, text("big"), b"\0\1abc"))
    broker.send(h("40 02 00 01"))
    broker.await_event("ack", 1)
    assert client.publish_from("big", io.BytesIO(b"abc"), 3, qos=1) == 2
    assert client.stats["refused"] == 2
    broker.close()


def test_refused_arguments():
    broker = Broker(outbox=128)
    client = broker.client
    for topic, size, qos, error in (
        ("t", -1, 0, ValueError),
        ("t", 1 << 28, 0, ValueError),
        ("t", 1, 3, ValueError),
        ("t/#", 1, 0, ValueError),
        ("t" * 200, 1, 0, ValueError),
        (5, 1, 0, TypeError),
    ):
        try:
            client.publish_from(topic, io.BytesIO(b"x"), size, qos=qos)
            raise AssertionError("accepted")
        except error:
            pass
    for source in (b"x", None):
        try:
            client.publish_from("t", source, 1)
            raise AssertionError("accepted")
        except AttributeError:
            pass
    try:
        client.subscribe("t", None, pieces=True)
        raise AssertionError("accepted")
    except TypeError:
        pass
    assert not client.pending
    broker.close()


def again(kept, qos):
    """A message was written, and the connection lost; what the next has to begin with."""
    payload = os.urandom(1000)
    broker = Broker(clean_session=not kept, outbox=128)
    broker.start()
    broker.client.publish_from("big", io.BytesIO(payload), 1000, qos=qos)
    broker.expect(message(qos, payload, "big", packet_id=1))
    restart(broker, KEPT if kept else CONNACK)
    return broker, message(qos, payload, "big", 0x38 if kept else 0x30, 1)


def test_again_from_the_start():
    for kept in (False, True):
        for qos in (1, 2):
            broker, expected = again(kept, qos)
            broker.expect(expected)
            broker.send(bytes((0x30 + 0x10 * qos, 2, 0, 1)))
            broker.run(5)
            broker.close()


def test_qos_2_from_its_step():
    broker, expected = again(True, 2)
    broker.expect(expected)
    broker.send(h("50 02 00 01"))
    broker.expect(h("62 02 00 01"))
    restart(broker, KEPT)
    broker.expect(h("62 02 00 01"))
    broker.expect_nothing()
    restart(broker)  # a broker that has lost the session
    broker.expect(bytes([expected[0] & ~8]) + expected[1:])
    broker.send(h("50 02 00 01"))
    broker.expect(h("62 02 00 01"))
    broker.send(h("70 02 00 01"))
    broker.await_event("ack", 1)
    assert not broker.client.pending
    broker.close()


def test_not_twice_on_one_connection():
    broker = Broker(outbox=128, retry=1, retries=1)
    broker.start()
    broker.client._backoff = 1
    broker.client.publish_from("big", io.BytesIO(b"x" * 500), 500, qos=1)
    broker.expect(message(1, b"x" * 500, "big", packet_id=1))
    broker.until(lambda: broker.client.error, "no acknowledgement")
    assert "no acknowledgement" in str(broker.client.error)
    broker.expect_close()
    broker.start()
    broker.expect(message(1, b"x" * 500, "big", packet_id=1))
    broker.close()


def check_source(source, size, said):
    broker = Broker(outbox=128)
    broker.start()
    client = broker.client
    client._backoff = 1
    client.publish_from("big", source, size, qos=1)
    client.publish("t", "x", qos=1)
    broker.until(lambda: client.error, "an error")
    assert "lost: source: " in str(client.error) and said in str(client.error), client.error
    data = b""
    while broker.pull():
        data = broker.received
    assert frame(0x32, text("t"), b"\0\2x") not in data
    broker.start()
    broker.expect(frame(0x32, text("t"), b"\0\2x"))
    broker.send(h("40 02 00 02"))
    broker.await_event("ack", 2)
    assert not client.pending and client.stats["connects"] == 2
    broker.close()


def test_source_that_fails():
    check_source(io.BytesIO(b"x" * 499), 500, "ends 1 bytes before its size")
    check_source(io.BytesIO(b""), 500, "ends 500 bytes before its size")
    check_source(Zeros(300, OSError(5)), 500, "5")
    check_source(Zeros(300, RuntimeError("camera")), 500, "camera")


def narrow(broker):
    """Let the system keep little of what the client writes."""
    io = broker.client._io
    getattr(io, "_sock", io).setsockopt(1, 7, 4096)  # SO_SNDBUF
    broker.conn.setsockopt(1, 8, 4096)  # SO_RCVBUF


def test_source_that_fails_while_a_packet_waits():
    broker = Broker(outbox=64)
    broker.start()
    narrow(broker)
    client = broker.client
    client.publish_from("big", Zeros(200000, RuntimeError("camera")), 300000)
    client.publish("t", bytes(30))
    broker.run(20)
    broker._send(b"".join(frame(0x32, text("t"), bytes((0, n))) for n in range(1, 30)))
    broker.run(20)
    assert client.connected and client._inbox.step == -1
    while broker.pull():
        broker.received = b""
        broker.step()
    assert "lost: source: camera" in str(client.error), client.error
    broker.close()


def test_disconnect_from_a_handler_while_the_source_fails():
    broker = Broker(outbox=128)
    broker.start()
    narrow(broker)
    client = broker.client
    client.on_message = lambda *message: client.disconnect()
    client.publish_from("big", Zeros(100000, RuntimeError("camera")), 200000)
    client.publish("t", "behind it")
    broker.run(20)

    def pull(buf):  # the broker reads on while disconnect() waits
        broker.pull()
        return read(buf)

    read = client._upload._read
    client._upload._read = pull
    client._config[4] = 1000  # timeout
    broker._send(h("30 03 00 01 74"))
    while broker.pull():
        broker.step()
        assert b"behind it" not in broker.received
        broker.received = b""
    assert not client.connected and client._upload._error
    broker.close()


class Slow:
    """A stream over another that takes `room` bytes more."""

    def __init__(self, stream):
        self._stream = stream
        self.room = 0
        self.close = stream.close
        self.sock = getattr(stream, "sock", stream)

    def write(self, buf, offset, n):
        n = self._stream.write(buf, offset, min(n, self.room)) if self.room else None
        self.room -= n or 0
        return n


def test_slow_link():
    """It takes some keep alive periods, in which neither PINGREQ nor acknowledgements come."""
    broker = Broker(outbox=512, keepalive=1, retry=1, retries=0)
    broker.start()
    client = broker.client
    client._io = link = Slow(client._io)
    size = 25000
    client.publish("t", "before", qos=1)
    client.publish_from("big", Zeros(size), size, qos=1)
    taken = 0
    while taken < size:
        link.room = 500
        client.poll()
        time.sleep(0.025)
        assert broker.pull(), client.error
        taken += len(broker.received)
        broker.received = b""
    link.room = 500
    broker.send(h("40 02 00 01 40 02 00 02"))
    broker.await_event("ack", 2)
    assert client.stats["connects"] == 1 and not client.error
    broker.close()


def test_not_in_a_snapshot():
    client = sleep.MQTTClient("c", "127.0.0.1")
    client.publish("t", "x", qos=1)
    client.publish_from("big", io.BytesIO(b"y" * 500), 500, qos=1)
    client.publish("t", "z", qos=2)
    woken = sleep.MQTTClient("c", "127.0.0.1", snapshot=client.snapshot())
    assert not woken.error and (client.pending, woken.pending) == (3, 2)
