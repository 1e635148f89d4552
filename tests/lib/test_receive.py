from scripted import Broker, frame, h, text

from umqtt_lite import OutboxFull


def started(**options):
    broker = Broker(**options)
    broker.start()
    broker.take()
    return broker


def both_ways(check):
    """Run a check with input in one piece and byte by byte."""
    for slowly in (False, True):
        broker = started()
        check(broker, broker.send_slowly if slowly else broker.send)
        broker.close()


def test_qos_0():
    def check(broker, send):
        send(h("30 04 00 01 74 78"))
        broker.await_event("message", b"t", b"x", False)
        broker.expect_nothing(20)

    both_ways(check)


def test_qos_1():
    def check(broker, send):
        send(h("32 06 00 01 74 12 34 78"))
        broker.expect(h("40 02 12 34"))
        send(h("3a 06 00 01 74 12 34 78"))
        broker.expect(h("40 02 12 34"))
        assert broker.take() == [("message", b"t", b"x", False)] * 2

    both_ways(check)


def test_qos_2():
    def check(broker, send):
        send(h("34 06 00 01 74 00 09 78"))
        broker.expect(h("50 02 00 09"))
        # not before PUBREL is the identifier free for another message
        send(h("3c 06 00 01 74 00 09 78"))
        broker.expect(h("50 02 00 09"))
        send(h("62 02 00 09"))
        broker.expect(h("70 02 00 09"))
        assert broker.take() == [("message", b"t", b"x", False)]
        send(h("34 06 00 01 74 00 09 79"))
        broker.expect(h("50 02 00 09"))
        assert broker.take() == [("message", b"t", b"y", False)]

    both_ways(check)


def test_unknown_pubrel():
    def check(broker, send):
        send(h("62 02 00 07"))
        broker.expect(h("70 02 00 07"))
        assert broker.take() == []

    both_ways(check)


def test_retain():
    broker = started()
    broker.send(h("31 04 00 01 74 78 33 06 00 01 74 00 01 78"))
    broker.expect(h("40 02 00 01"))
    assert broker.take() == [("message", b"t", b"x", True)] * 2
    broker.close()


def test_empty_payload():
    def check(broker, send):
        send(h("30 03 00 01 74 32 05 00 01 74 00 01"))
        broker.expect(h("40 02 00 01"))
        assert broker.take() == [("message", b"t", b"", False)] * 2

    both_ways(check)


def test_utf_8_topic():
    topic = "ü/€/😀"
    broker = started()
    broker.send(frame(0x30, text(topic), b"x"))
    broker.await_event("message", topic.encode(), b"x", False)
    broker.close()


def test_shapes_one_after_the_other():
    def check(broker, send):
        for n in (1, 5, 60, 64, 65, 120, 200, 3, 3):
            payload = bytes(range(n))
            send(frame(0x30, text("topic/%d" % n), payload))
            broker.await_event("message", b"topic/%d" % n, payload, False)
            assert len(broker.take()) == 1

    both_ways(check)


def test_many_in_one_piece():
    broker = started()
    broker.send(b"".join(frame(0x32, text("t"), bytes((0, i)), b"x") for i in range(1, 41)))
    broker.expect(b"".join(bytes((0x40, 2, 0, i)) for i in range(1, 41)))
    assert len(broker.take()) == 40
    broker.close()


def test_largest_that_fits():
    broker = started(inbox=128)
    payload = bytes(125)
    broker.send(frame(0x30, text("t"), payload))
    broker.await_event("message", b"t", payload, False)
    payload = bytes(123)
    broker.send(frame(0x32, text("t"), b"\0\1", payload))
    broker.expect(h("40 02 00 01"))
    assert broker.take()[-1] == ("message", b"t", payload, False)
    broker.close()


def check_skip(broker, send, size):
    skips = []
    broker.client.on_skip = lambda topic, size: skips.append((bytes(topic), size))
    payload = bytes(size)
    send(frame(0x30, text("big"), payload))
    send(frame(0x32, text("big"), b"\x12\x34", payload))
    broker.expect(h("40 02 12 34"))
    send(frame(0x34, text("big"), b"\x12\x35", payload))
    broker.expect(h("50 02 12 35"))
    send(frame(0x3C, text("big"), b"\x12\x35", payload))
    broker.expect(h("50 02 12 35"))
    send(h("62 02 12 35"))
    broker.expect(h("70 02 12 35"))
    # what follows is whole
    send(h("30 04 00 01 74 78"))
    broker.await_event("message", b"t", b"x", False)
    assert len(broker.take()) == 1
    assert len(skips) == 3 and skips[0][0] == b"big", skips
    assert broker.client.connected
    broker.close()


def test_larger_than_the_inbox():
    for size in (124, 126, 127, 128, 200, 5000):
        check_skip_ways(size)


def check_skip_ways(size):
    broker = started(inbox=128)
    check_skip(broker, broker.send, size)
    if size < 1000:
        broker = started(inbox=128)
        check_skip(broker, broker.send_slowly, size)


def test_topic_larger_than_the_inbox():
    skips = []
    broker = started(inbox=64)
    broker.client.on_skip = lambda topic, size: skips.append(bytes(topic))
    broker.send(frame(0x32, text("long/" * 40), b"\x12\x34", b"x"))
    broker.expect(h("40 02 12 34"))
    assert len(skips) == 1 and ("long/" * 40).encode().startswith(skips[0])
    broker.close()


def test_publish_from_a_handler():
    broker = started()

    def answer(topic, payload, retain):
        broker.client.publish("answer", payload, qos=1)

    broker.client.on_message = answer
    broker.send(h("32 06 00 01 74 00 01 78"))
    broker.until(lambda: broker.pull() and len(broker.received) >= 17, "PUBACK and answer")
    answer = frame(0x32, text("answer"), b"\0\1x")
    assert broker.received in (answer + h("40 02 00 01"), h("40 02 00 01") + answer)
    broker.close()


def test_disconnect_from_a_handler():
    broker = started()
    broker.client.on_message = lambda topic, payload, retain: broker.client.disconnect()
    broker.send(h("30 04 00 01 74 78"))
    broker.expect(h("e0 00"))
    broker.expect_close()
    broker.close()


def test_a_handler_that_raises():
    broker = started()

    def fail(topic, payload, retain):
        raise RuntimeError("handler")

    broker.client.on_message = fail
    broker.conn.send(h("32 06 00 01 74 00 01 78"))
    try:
        broker.run(500)
        raise AssertionError("the exception does not leave poll()")
    except RuntimeError:
        pass
    # neither acknowledged nor in the way of what follows
    broker.client.on_message = broker.handler("message")
    broker.send(h("32 06 00 01 74 00 02 79"))
    broker.expect(h("40 02 00 02"))
    broker.expect_nothing()
    assert broker.take() == [("message", b"t", b"y", False)]
    broker.close()


def test_full_outbox_does_not_stop_the_inbox():
    broker = started(outbox=64)
    accepted = b""
    try:
        while True:
            pid = broker.client.publish("t", b"x", qos=1)
            accepted += frame(0x32, text("t"), bytes((0, pid)), b"x")
    except OutboxFull:
        pass
    broker.expect(accepted)
    for i in range(1, 21):
        broker.send(frame(0x32, text("in"), bytes((1, i)), b"x"))
    broker.expect(b"".join(bytes((0x40, 2, 1, i)) for i in range(1, 21)))
    assert len(broker.take()) == 20
    broker.close()


def test_qos_2_in_a_session_of_an_earlier_life():
    """The first CONNACK of a device that was reset says that the session is present."""
    broker = Broker(clean_session=False)
    broker.start(h("20 02 01 00"))
    broker.send(h("62 02 00 07"))
    broker.expect(h("70 02 00 07"))
    broker.send(h("34 06 00 01 74 00 09 78"))
    broker.expect(h("50 02 00 09"))
    assert ("message", b"t", b"x", False) in broker.take()
    broker.close()


def test_more_at_qos_2_than_can_be_remembered():
    """Those beyond come again on the next connection, in order, none twice, none left out."""

    def publish(pids, first=0x34):
        broker.send(b"".join(frame(first, text("t"), bytes((0, i)), bytes((i,))) for i in pids))

    def received():
        return [event[2][0] for event in broker.take() if event[0] == "message"]

    broker = Broker(clean_session=False)
    broker.start()
    publish(range(1, 41))
    broker.expect(b"".join(bytes((0x50, 2, 0, i)) for i in range(1, 33)))
    for i in range(1, 32):
        broker.send(bytes((0x62, 2, 0, i)))
        broker.expect(bytes((0x70, 2, 0, i)))
    publish([41])  # it has to stay behind those
    broker.expect_nothing(20)
    broker.send(h("62 02 00 20"))
    broker.expect_close()
    broker.start(h("20 02 01 00"))
    broker.send(h("62 02 00 20"))
    publish(range(33, 41), 0x3C)
    publish([41])
    broker.expect(h("70 02 00 20") + b"".join(bytes((0x50, 2, 0, i)) for i in range(33, 42)))
    assert received() == list(range(1, 42))
    broker.close()


def test_end_while_a_packet_waits_for_room():
    """Nothing but the failing write tells of it, as nothing can be read."""
    broker = Broker(outbox=64, keepalive=0, retry=0)
    broker.start()
    broker.client.publish("t", b"x" * 42, qos=1)
    broker.packet()
    broker.conn.send(h("32 06 00 01 74 00 01 78") * 9)
    broker.drop()
    broker.until(lambda: not broker.client.connected, "the end of the connection")
    broker.close()


def test_qos_2_once_over_connections():
    """A PUBLISH that comes again on the next connection of a session is acknowledged only."""
    broker = Broker(clean_session=False)
    broker.start()
    for _ in range(2):
        broker.send(h("34 06 00 01 74 00 09 78"))
        broker.expect(h("50 02 00 09"))
        broker.drop()
        broker.until(lambda: not broker.client.connected, "disconnected")
        broker.client._backoff = 1
        broker.start(h("20 02 01 00"))
    assert broker.take().count(("message", b"t", b"x", False)) == 1
    broker.drop()
    broker.until(lambda: not broker.client.connected, "disconnected")
    broker.start()  # a new session
    broker.send(h("34 06 00 01 74 00 09 78"))
    broker.expect(h("50 02 00 09"))
    assert broker.take().count(("message", b"t", b"x", False)) == 1
    broker.close()
