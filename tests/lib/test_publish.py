from array import array

from scripted import Broker, frame, h, text

from umqtt_lite import OutboxFull

HEAP = "320k"


def started(**options):
    broker = Broker(**options)
    broker.start()
    broker.take()
    return broker


def test_qos_0():
    broker = started()
    assert broker.client.publish("t", "x") == 0
    broker.expect(h("30 04 00 01 74 78"))
    broker.expect_nothing()
    assert broker.client.pending == 0
    assert broker.take() == []
    broker.close()


def test_qos_1():
    broker = started()
    assert broker.client.publish("t", "x", qos=1) == 1
    assert broker.client.pending == 1
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.expect_nothing()
    broker.send(h("40 02 00 01"))
    broker.await_event("ack", 1)
    assert broker.client.pending == 0
    broker.expect_nothing()
    broker.close()


def test_qos_2():
    broker = started()
    assert broker.client.publish("t", "x", qos=2) == 1
    broker.expect(h("34 06 00 01 74 00 01 78"))
    broker.send(h("50 02 00 01"))
    broker.expect(h("62 02 00 01"))
    broker.expect_nothing()
    assert broker.take() == [] and broker.client.pending == 1
    broker.send(h("70 02 00 01"))
    broker.await_event("ack", 1)
    assert broker.client.pending == 0
    broker.expect_nothing()
    broker.close()


def test_retain():
    broker = started()
    broker.client.publish("t", "x", True)
    broker.expect(h("31 04 00 01 74 78"))
    broker.client.publish("t", "x", True, 1)
    broker.expect(h("33 06 00 01 74 00 01 78"))
    broker.client.publish("t", "x", retain=True, qos=2)
    broker.expect(h("35 06 00 01 74 00 02 78"))
    broker.close()


def test_types():
    broker = started()
    for payload in (b"\xc3\xa9", "é", bytearray(b"\xc3\xa9"), memoryview(b"\xc3\xa9")):
        for topic in (b"\xc3\xbc", "ü"):
            broker.client.publish(topic, payload)
            broker.expect(h("30 06 00 02 c3 bc c3 a9"))
    broker.client.publish("t", b"")
    broker.expect(h("30 03 00 01 74"))
    broker.close()


def test_remaining_lengths():
    broker = started(outbox=20000)
    for size in (124, 125, 16380, 16381):
        payload = bytes(size)
        broker.client.publish("t", payload)
        broker.expect(frame(0x30, text("t"), payload))
    broker.close()


def test_one_write_carries_many():
    broker = started()
    for i in range(3):
        assert broker.client.publish("t", str(i), qos=i) == (0, 1, 2)[i]
    broker.expect(h("30 04 00 01 74 30 32 06 00 01 74 00 01 31 34 06 00 01 74 00 02 32"))
    broker.close()


def test_not_allowed():
    broker = started()
    for topic in ("", "a/+", "#", "a\x00b", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"x" * 65536):
        try:
            broker.client.publish(topic, "x")
        except ValueError:
            continue
        raise AssertionError("accepted topic %r" % topic[:10])
    for qos in (3, -1):
        try:
            broker.client.publish("t", "x", qos=qos)
        except ValueError:
            continue
        raise AssertionError("accepted QoS %d" % qos)
    for words in (
        (memoryview(array("H", [97])), "x"),
        ("t", memoryview(array("H", [97]))),
        (1, "x"),
    ):
        try:
            broker.client.publish(*words)
        except TypeError:
            continue
        raise AssertionError("accepted %r" % (words,))
    broker.expect_nothing()
    assert broker.client.pending == 0
    broker.close()


def test_outbox_full():
    broker = started(outbox=128)
    accepted = 0
    try:
        while True:
            broker.client.publish("t", b"x" * 20, qos=1)
            accepted += 1
    except OutboxFull:
        pass
    assert accepted > 2
    for pid in range(1, accepted + 1):
        broker.expect(frame(0x32, text("t"), pid.to_bytes(2, "big"), b"x" * 20))
    broker.send(h("40 02 00 01"))
    broker.await_event("ack", 1)
    # the refused message took no identifier
    assert broker.client.publish("t", b"x" * 20, qos=1) == accepted + 1
    broker.expect(frame(0x32, text("t"), (accepted + 1).to_bytes(2, "big"), b"x" * 20))
    broker.close()


def test_can_never_fit():
    broker = started(outbox=128)
    try:
        broker.client.publish("t", bytes(128))
    except OutboxFull:
        raise AssertionError("OutboxFull promises that there will be room")
    except ValueError:
        broker.close()
        return
    raise AssertionError("accepted")


def test_acknowledged_in_any_order():
    broker = started()
    for qos in (1, 2, 1):
        broker.client.publish("t", "x", qos=qos)
    for first, pid in (0x32, 1), (0x34, 2), (0x32, 3):
        broker.expect(frame(first, text("t"), bytes((0, pid)), b"x"))
    broker.send(h("40 02 00 03 50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02 40 02 00 01"))
    broker.await_event("ack", 1)
    assert broker.take() == [("ack", 3), ("ack", 2), ("ack", 1)]
    assert broker.client.pending == 0
    broker.close()


def test_stray_acknowledgements():
    broker = started()
    broker.client.publish("t", "x", qos=1)
    broker.client.publish("t", "x", qos=2)
    broker.expect(h("32 06 00 01 74 00 01 78 34 06 00 01 74 00 02 78"))
    # unknown ones, and those of the wrong kind
    broker.send(h("40 02 00 07 70 02 00 07 90 03 00 07 00 b0 02 00 07"))
    broker.send(h("40 02 00 02 70 02 00 02 70 02 00 01"))
    broker.expect_nothing()
    assert broker.take() == [] and broker.client.pending == 2
    broker.send(h("50 02 00 07"))
    broker.expect(h("62 02 00 07"))
    # and repeated ones
    broker.send(h("40 02 00 01 40 02 00 01 50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02 70 02 00 02"))
    broker.await_event("ack", 2)
    broker.expect_nothing()
    assert broker.take() == [("ack", 1), ("ack", 2)]
    broker.close()


def test_acknowledgements_byte_by_byte():
    broker = started()
    broker.client.publish("t", "x", qos=2)
    broker.expect(h("34 06 00 01 74 00 01 78"))
    broker.send_slowly(h("50 02 00 01"))
    broker.expect(h("62 02 00 01"))
    broker.send_slowly(h("70 02 00 01"))
    broker.await_event("ack", 1)
    broker.close()


def test_identifiers_wrap_and_skip():
    broker = started()
    held = broker.client.publish("t", "x", qos=1)
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.client._id = 65533
    got = []
    for pid in (65534, 65535, 2):
        got.append(broker.client.publish("t", "x", qos=1))
        broker.expect(frame(0x32, text("t"), pid.to_bytes(2, "big"), b"x"))
    assert held == 1 and got == [65534, 65535, 2], got
    broker.close()
