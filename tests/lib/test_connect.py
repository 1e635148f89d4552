from scripted import CONNACK, Broker, frame, h, now, since, text

from umqtt_lite import ConnectionLost, ProtocolError, Refused
from umqtt_lite import client as module


def check_connect(flags_keepalive, *fields, **options):
    broker = Broker(**options)
    broker.accept()
    broker.expect(frame(0x10, h("00 04 4d 51 54 54 04"), h(flags_keepalive), *fields))
    broker.expect_nothing(20)
    broker.send(CONNACK)
    broker.await_event("connect", False)
    assert broker.client.connected
    broker.close()


def test_defaults():
    broker = Broker("c")
    broker.accept()
    broker.expect(h("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63"))
    broker.close()


def test_fields():
    check_connect("02 0000", text("c"), keepalive=0)
    check_connect("02 ffff", text("c"), keepalive=65535)
    check_connect("00 003c", text("c"), clean_session=False)
    check_connect("02 003c", text(""), client_id="")
    check_connect("02 003c", text("gerät"), client_id="gerät")
    check_connect("02 003c", text(b"raw"), client_id=b"raw")


def test_credentials():
    check_connect("82 003c", text("c"), text("u"), user="u")
    check_connect("c2 003c", text("c"), text("u"), text("p"), user="u", password="p")
    check_connect(
        "c2 003c", text("c"), text("ü"), text(b"\xff\x00"), user="ü", password=b"\xff\x00"
    )
    check_connect("c2 003c", text("c"), text(""), text(""), user="", password="")


def test_will():
    fields = text("c"), text("w"), text("gone")
    check_connect("06 003c", *fields, will=("w", "gone"))
    check_connect("0e 003c", *fields, will=(b"w", b"gone", False, 1))
    check_connect("16 003c", *fields, will=("w", "gone", False, 2))
    check_connect("26 003c", *fields, will=("w", "gone", True))
    check_connect("36 003c", *fields, will=("w", "gone", True, 2))
    check_connect("06 003c", text("c"), text("w"), text(""), will=("w", ""))


def test_everything_in_order():
    check_connect(
        "ec 000a",
        text("c"),
        text("w"),
        text("gone"),
        text("u"),
        text("p"),
        keepalive=10,
        clean_session=False,
        will=("w", "gone", True, 1),
        user="u",
        password="p",
    )


def test_long():
    payload = b"x" * 200
    check_connect("06 003c", text("c"), text("w"), text(payload), will=("w", payload))


def test_what_mqtt_does_not_allow():
    for options in (
        {"client_id": "", "clean_session": False},
        {"password": "p"},
        {"keepalive": -1},
        {"keepalive": 65536},
        {"will": ("w/#", "")},
        {"will": ("", "")},
        {"will": ("w", "", False, 3)},
    ):
        try:
            Broker(**options)
        except ValueError:
            continue
        raise AssertionError("accepted %r" % options)


def test_session_present():
    broker = Broker(clean_session=False)
    broker.start(h("20 02 01 00"))
    assert broker.take() == [("connect", True)]
    broker.close()


def test_connack_byte_by_byte():
    broker = Broker()
    broker.accept()
    broker.packet()
    broker.send_slowly(CONNACK)
    broker.await_event("connect", False)
    broker.close()


def refused(connack, kind):
    broker = Broker(reconnect=False)
    broker.accept()
    broker.packet()
    broker.send(connack)
    broker.expect_close()
    ((event, error),) = broker.take()
    assert event == "disconnect"
    assert isinstance(error, kind), repr(error)
    assert broker.client.error is error
    assert not broker.client.connected
    broker.close()
    return error


def test_refusals_have_names():
    seen = set()
    for code in range(1, 6):
        error = refused(bytes((0x20, 2, 0, code)), Refused)
        assert error.args[1] == code
        seen.add(str(error))
    assert len(seen) == 5, seen


def test_malformed_connack():
    for connack in (
        "20 02 00 06",
        "20 02 00 ff",
        "20 02 02 00",
        "20 02 80 00",
        "20 03 00 00 00",
        "20 01 00",
        "20 00",
        "21 02 00 00",
        "20 80 80 80 80 01",
    ):
        refused(h(connack), ProtocolError)


def test_first_packet_must_be_connack():
    for packet in ("d0 00", "30 03 00 01 74", "90 03 00 01 00", "40 02 00 01"):
        refused(h(packet), ProtocolError)


def test_alert_of_tls():
    error = refused(h("15 03 01 00 02 02 46"), ProtocolError)
    assert error.args == ("TLS expected", 21, 0), error


def test_second_connack():
    broker = Broker(reconnect=False)
    broker.start()
    broker.send(CONNACK)
    broker.expect_close()
    assert isinstance(broker.client.error, ProtocolError)
    broker.close()


def test_closed_before_connack():
    broker = Broker(reconnect=False)
    broker.accept()
    broker.packet()
    broker.drop()
    broker.until(lambda: broker.events, "on_disconnect")
    assert isinstance(broker.client.error, ConnectionLost)
    assert "CONNACK" in str(broker.client.error)
    broker.close()


def test_no_connack():
    broker = Broker(reconnect=False, timeout=1)
    broker.accept()
    broker.packet()
    broker.expect_close()
    assert isinstance(broker.client.error, ConnectionLost)
    broker.close()


def test_nobody_listens():
    broker = Broker(reconnect=False)
    broker.listener.close()
    broker.until(lambda: broker.events, "on_disconnect")
    assert isinstance(broker.client.error, ConnectionLost)


def test_disconnect():
    broker = Broker()
    broker.start()
    broker.take()
    broker.client.disconnect()
    broker.expect(h("e0 00"))
    broker.expect_close()
    assert broker.take() == [("disconnect", None)]
    assert not broker.client.connected
    broker.close()


def test_disconnect_flushes():
    broker = Broker()
    broker.start()
    broker.client.publish("t", "x")
    broker.client.disconnect()
    broker.expect(h("30 04 00 01 74 78 e0 00"))
    broker.expect_close()
    broker.close()


def test_disconnect_while_nothing_can_be_written():
    """It gives up in time; no DISCONNECT stands in the middle of a packet."""
    broker = Broker(outbox=4096, timeout=1)
    broker.start()
    packet = frame(0x30, text("t"), b"x" * 3000)
    begin = now()  # of a time in which nothing more could be written
    while since(now(), begin) < 300:
        if broker.client.pending == 0:
            broker.client.publish("t", b"x" * 3000)
            begin = now()
        broker.client.poll()
    begin = now()
    broker.client.disconnect()
    assert since(now(), begin) < 2000
    while broker.pull():
        while broker.received.startswith(packet):
            broker.received = broker.received[len(packet) :]
    assert packet.startswith(broker.received)
    broker.close()


class Clock:
    """The clock of a board that was on for days: its ticks have 30 bits."""

    def __init__(self):
        self.names = "ticks_ms", "ticks_add", "ticks_diff"
        self.real = [getattr(module, name) for name in self.names]
        self.days = 0

    def __enter__(self):
        for name in self.names:
            setattr(module, name, getattr(self, name))
        return self

    def __exit__(self, *error):
        for name, function in zip(self.names, self.real):
            setattr(module, name, function)

    def ticks_ms(self):
        return self.real[0]() + self.days * 86400000 & 0x3FFFFFFF

    def ticks_add(self, ticks, delta):
        return ticks + delta & 0x3FFFFFFF

    def ticks_diff(self, later, earlier):
        return (later - earlier + 0x20000000 & 0x3FFFFFFF) - 0x20000000


def test_no_link_for_days():
    for days in range(1, 20):
        with Clock() as clock:
            broker = Broker()
            broker.client.link = False
            for _ in range(days):
                clock.days += 1
                broker.step()
            broker.client.link = True
            broker.start()
            broker.close()


def test_stopped_for_days():
    with Clock() as clock:
        broker = Broker()
        broker.start()
        broker.client.disconnect()
        for _ in range(13):
            clock.days += 7
            broker.step()
            broker.client.connect()
            broker.start()
            broker.client.disconnect()
        broker.close()


def test_connected_for_days():
    with Clock() as clock:
        broker = Broker(keepalive=0)
        broker.start()
        for n in range(1, 4):
            for _ in range(7):
                clock.days += 1
                broker.step()
            broker.client.publish("t", "x", qos=1)
            broker.expect(h("32 06 00 01 74 00 0%d 78" % n))
            broker.expect_nothing(20)
            broker.send(h("40 02 00 0%d" % n))
            broker.await_event("ack", n)
        broker.drop()
        broker.start()
        broker.close()
