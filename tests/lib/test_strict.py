# What a broker must not send ends the connection with a ProtocolError.

from scripted import Broker, frame, h, text

from umqtt_lite import ProtocolError

MALFORMED = (
    ("type 0", "00 00"),
    ("type 15", "f0 00"),
    ("CONNECT", "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63"),
    ("second CONNACK", "20 02 00 00"),
    ("SUBSCRIBE", "82 06 00 01 00 01 74 00"),
    ("UNSUBSCRIBE", "a2 05 00 01 00 01 74"),
    ("PINGREQ", "c0 00"),
    ("DISCONNECT", "e0 00"),
    ("PUBACK with flags", "42 02 00 01"),
    ("PUBREC with flags", "51 02 00 01"),
    ("PUBREL without flags", "60 02 00 01"),
    ("PUBREL with other flags", "63 02 00 01"),
    ("PUBCOMP with flags", "74 02 00 01"),
    ("SUBACK with flags", "92 03 00 01 00"),
    ("UNSUBACK with flags", "b2 02 00 01"),
    ("PINGRESP with flags", "d1 00"),
    ("long PUBACK", "40 03 00 01 00"),
    ("short PUBACK", "40 01 01"),
    ("empty PUBACK", "40 00"),
    ("long PUBREC", "50 03 00 01 00"),
    ("short PUBREC", "50 01 01"),
    ("long PUBREL", "62 03 00 01 00"),
    ("short PUBREL", "62 01 01"),
    ("long PUBCOMP", "70 03 00 01 00"),
    ("short PUBCOMP", "70 00"),
    ("long UNSUBACK", "b0 03 00 01 00"),
    ("short UNSUBACK", "b0 01 01"),
    ("SUBACK without codes", "90 02 00 01"),
    ("short SUBACK", "90 01 01"),
    ("SUBACK with code 3", "90 03 00 01 03"),
    ("long PINGRESP", "d0 01 00"),
    ("PUBACK of 0", "40 02 00 00"),
    ("PUBREC of 0", "50 02 00 00"),
    ("PUBREL of 0", "62 02 00 00"),
    ("PUBCOMP of 0", "70 02 00 00"),
    ("SUBACK of 0", "90 03 00 00 00"),
    ("UNSUBACK of 0", "b0 02 00 00"),
    ("QoS 1 PUBLISH of 0", "32 06 00 01 74 00 00 78"),
    ("QoS 2 PUBLISH of 0", "34 06 00 01 74 00 00 78"),
    ("QoS 3", "36 06 00 01 74 00 01 78"),
    ("QoS 3 with DUP and RETAIN", "3f 06 00 01 74 00 01 78"),
    ("DUP at QoS 0", "38 04 00 01 74 78"),
    ("remaining length of five bytes", "30 80 80 80 80 01"),
    ("remaining length without end", "30 ff ff ff ff ff"),
    ("the same, of an acknowledgement", "40 82 80 80 80 00 00 01"),
    ("PUBLISH without a topic", "30 00"),
    ("PUBLISH with half a topic length", "30 01 00"),
    ("PUBLISH with an empty topic", "30 03 00 00 78"),
    ("topic longer than its packet", "30 04 00 03 74 78"),
    ("topic much longer than its packet", "30 04 ff ff 74 78"),
    ("no room for the identifier", "32 03 00 01 74"),
    ("room for half the identifier", "32 04 00 01 74 00"),
    ("NUL in the topic", "30 06 00 03 61 00 62 78"),
    ("+ in the topic", "30 06 00 03 61 2f 2b 78"),
    ("# in the topic", "30 04 00 01 23 78"),
    ("UTF-8: stray continuation", "30 04 00 01 80 78"),
    ("UTF-8: cut short", "30 05 00 02 61 c3 78"),
    ("UTF-8: cut short by the next", "30 06 00 03 e2 82 61 78"),
    ("UTF-8: overlong NUL", "30 05 00 02 c0 80 78"),
    ("UTF-8: overlong slash", "30 06 00 03 e0 80 af 78"),
    ("UTF-8: overlong in four", "30 07 00 04 f0 80 80 af 78"),
    ("UTF-8: surrogate", "30 06 00 03 ed a0 80 78"),
    ("UTF-8: beyond Unicode", "30 07 00 04 f4 90 80 80 78"),
    ("UTF-8: no lead byte", "30 04 00 01 ff 78"),
)


def check(what, data, slowly):
    broker = Broker(reconnect=False)
    broker.start()
    broker.take()
    (broker.send_slowly if slowly else broker.send)(data)
    try:
        broker.expect_close()
    except AssertionError as error:
        raise AssertionError("%s: %s" % (what, error))
    events = broker.take()
    assert len(events) == 1 and events[0][0] == "disconnect", (what, events)
    assert isinstance(events[0][1], ProtocolError), (what, events)
    assert broker.client.error is events[0][1] and str(broker.client.error), what
    broker.close()


def test_malformed():
    for what, data in MALFORMED:
        check(what, h(data), False)


def test_malformed_byte_by_byte():
    for what, data in MALFORMED:
        check(what, h(data), True)


def test_malformed_after_something_good():
    for what, data in MALFORMED:
        broker = Broker(reconnect=False)
        broker.start()
        broker.take()
        broker.send(h("30 04 00 01 74 78 d0 00") + h(data))
        broker.until(lambda b=broker: len(b.events) > 1, what)
        kinds = [event[0] for event in broker.take()]
        assert kinds == ["message", "disconnect"], (what, kinds)
        broker.close()


def test_too_large_is_malformed_all_the_same():
    for what, data in (
        ("identifier 0", frame(0x32, text("t"), b"\0\0", bytes(200))),
        ("QoS 3", frame(0x36, text("t"), b"\0\1", bytes(200))),
        ("no topic", frame(0x32, b"\0\0", bytes(200))),
        ("a long topic", frame(0x32, b"\7\0", bytes(200))),
    ):
        broker = Broker(reconnect=False, inbox=64)
        broker.start()
        broker.send(data)
        broker.until(lambda b=broker: not b.client.connected, what)
        assert isinstance(broker.client.error, ProtocolError), what
        broker.close()


def test_good_utf_8():
    broker = Broker()
    broker.start()
    for topic in ("\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"):
        broker.send(frame(0x30, text(topic)))
        broker.await_event("message", topic.encode(), b"", False)
    broker.close()


def test_reconnects_after():
    broker = Broker()
    broker.start()
    broker.send(h("f0 00"))
    broker.expect_close()
    broker.start()
    broker.close()
