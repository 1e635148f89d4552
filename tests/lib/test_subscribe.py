from scripted import CONNACK, Broker, frame, h, text

from umqtt_lite import ProtocolError, Refused

HEAP = "320k"  # for a filter that is too long


def started(**options):
    broker = Broker(**options)
    broker.start()
    broker.take()
    return broker


def acknowledge(broker, *codes):
    """Expect a SUBSCRIBE and grant it; returns its filters, as [(filter, qos), ...]."""
    packet = broker.packet()
    assert packet[0] == 0x82 and packet[1] < 128
    i, filters = 4, []
    while i < len(packet):
        end = i + 2 + (packet[i] << 8 | packet[i + 1])
        filters.append((packet[i + 2 : end].decode(), packet[end]))
        i = end + 1
    broker.send(frame(0x90, packet[2:4], bytes(codes or [qos for _, qos in filters])))
    return filters


def test_one():
    broker = started()
    broker.client.subscribe("a/+")
    broker.expect(h("82 08 00 01 00 03 61 2f 2b 00"))
    broker.send(h("90 03 00 01 00"))
    broker.expect_nothing()
    assert broker.take() == []
    broker.close()


def test_several_in_one_packet():
    broker = Broker()
    broker.client.subscribe("a", qos=0)
    broker.client.subscribe(b"b", qos=1)
    broker.client.subscribe("ü", qos=2)
    broker.start()
    broker.expect(h("82 0f 00 01 00 01 61 00 00 01 62 01 00 02 c3 bc 02"))
    broker.send_slowly(h("90 05 00 01 00 01 02"))
    broker.expect_nothing()
    broker.close()


def test_as_many_as_fit():
    broker = Broker(outbox=128)
    wanted = ["some/topic/%d/#" % i for i in range(20)]
    for topic_filter in wanted:
        broker.client.subscribe(topic_filter)
    broker.start()
    got = []
    while len(got) < len(wanted):
        filters = acknowledge(broker)
        assert len(filters) > 1 or len(got) == len(wanted) - 1
        got += [topic_filter for topic_filter, _ in filters]
    assert got == wanted
    broker.expect_nothing()
    broker.close()


def test_same_filter_replaces():
    broker = started()
    broker.client.subscribe("a", broker.handler("old"))
    assert acknowledge(broker) == [("a", 0)]
    broker.client.subscribe("a", broker.handler("new"), 1)
    assert acknowledge(broker) == [("a", 1)]
    broker.send(h("30 04 00 01 61 78"))
    broker.await_event("new", b"a", b"x", False)
    assert len(broker.take()) == 1
    broker.close()


def test_unsubscribe():
    broker = started()
    broker.client.subscribe("a", broker.handler("a"))
    acknowledge(broker)
    broker.client.unsubscribe("a")
    broker.expect(h("a2 05 00 02 00 01 61"))
    broker.send(h("b0 02 00 02"))
    broker.send(h("30 04 00 01 61 78"))
    broker.await_event("message", b"a", b"x", False)
    broker.drop()
    broker.start()
    broker.expect_nothing()
    broker.close()


def test_unsubscribe_while_disconnected():
    for connack, expected in ("20 02 01 00", "a2 05 00 02 00 01 61"), ("20 02 00 00", ""):
        broker = started(clean_session=False)
        broker.client.subscribe("a")
        acknowledge(broker)
        broker.run(20)
        broker.drop()
        broker.until(lambda b=broker: not b.client.connected, "disconnected")
        broker.client.unsubscribe("a")
        broker.start(h(connack))
        broker.expect(h(expected))
        broker.expect_nothing()
        broker.close()


def test_suback_of_another_length():
    broker = started(reconnect=False)
    broker.client.subscribe("a")
    broker.client.subscribe("b")
    broker.packet()
    broker.send(h("90 03 00 01 00"))
    broker.expect_close()
    assert isinstance(broker.client.error, ProtocolError)
    broker.close()


def test_refused():
    broker = started()
    refused = []
    broker.client.on_refused = refused.append
    broker.client.subscribe("a")
    broker.client.subscribe("secret/#")
    broker.client.subscribe("b")
    assert acknowledge(broker, 0, 0x80, 0) == [("a", 0), ("secret/#", 0), ("b", 0)]
    broker.until(lambda: refused, "on_refused")
    assert isinstance(refused[0], Refused)
    assert refused[0].args[1:] == (b"secret/#",) and "secret/#" in str(refused[0])
    assert broker.client.error is refused[0]
    broker.expect_nothing()
    assert broker.take() == []
    broker.close()


def test_again_for_a_new_session():
    broker = Broker(clean_session=False)
    broker.client.subscribe("a")
    broker.start()
    assert acknowledge(broker) == [("a", 0)]
    broker.expect_nothing(20)
    broker.drop()
    broker.start(h("20 02 01 00"))
    broker.expect_nothing()
    broker.drop()
    broker.start(CONNACK)
    assert acknowledge(broker) == [("a", 0)]
    broker.close()


def test_again_where_no_answer_came():
    broker = Broker(clean_session=False)
    broker.client.subscribe("a")
    broker.start()
    broker.packet()
    broker.drop()
    broker.start(h("20 02 01 00"))
    assert acknowledge(broker) == [("a", 0)]
    broker.close()


def test_not_allowed():
    broker = started()
    for topic_filter in ("", "a#", "a/#/b", "a+", "+a/b", "a\x00", b"\xff", b"x" * 65536):
        try:
            broker.client.subscribe(topic_filter)
        except ValueError:
            continue
        raise AssertionError("accepted %r" % topic_filter[:10])
    try:
        broker.client.subscribe("a", None, 3)
        raise AssertionError("accepted QoS 3")
    except ValueError:
        pass
    broker.expect_nothing()
    broker.close()


def test_each_handler_gets_its_own():
    filters = "a", "a/+", "a/#", "+/b", "#", "+", "/+", "$SYS/#", "a/+/c"
    cases = (
        ("a", "a", "a/#", "#", "+"),
        ("a/b", "a/+", "a/#", "+/b", "#"),
        ("a/b/c", "a/#", "#", "a/+/c"),
        ("a/", "a/+", "a/#", "#"),
        ("a//c", "a/#", "#", "a/+/c"),
        ("/b", "+/b", "#", "/+"),
        ("$SYS/b", "$SYS/#"),
        ("$SYS", "$SYS/#"),
        ("A", "#", "+"),
        ("ab", "#", "+"),
    )
    broker = Broker()
    for topic_filter in filters:
        broker.client.subscribe(topic_filter, broker.handler(topic_filter))
    broker.start()
    acknowledge(broker)
    broker.take()
    for topic, *expected in cases:
        broker.send(frame(0x30, text(topic), b"x"))
        broker.until(lambda e=expected: len(broker.events) >= len(e), topic)
        broker.expect_nothing(5)
        got = [event[0] for event in broker.take()]
        assert sorted(got) == sorted(expected), (topic, got)
    broker.send(frame(0x30, text("$other"), b"x"))
    broker.await_event("message", b"$other", b"x", False)
    broker.close()


def test_without_a_handler():
    broker = started()
    broker.client.subscribe("a/#")
    broker.client.subscribe("a/b", broker.handler("own"))
    acknowledge(broker)
    broker.send(frame(0x30, text("a/b"), b"x") + frame(0x30, text("a/c"), b"y"))
    broker.await_event("message", b"a/c", b"y", False)
    assert ("own", b"a/b", b"x", False) in broker.events
    broker.close()
