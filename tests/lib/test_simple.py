# umqtt.simple's calls, which block: the broker's part is taken while the client waits.

from scripted import CONNACK, frame, h, listen, now, since, text

from umqtt_lite import simple

HEAP = "512k"
CONNECT = h("10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 63")


class Peer:
    """What the broker does: bytes to be sent, (">", data), or expected, ("<", data)."""

    def __init__(self, *steps, **options):
        self.listener, port = listen()
        self.conn = None
        self.received = b""
        self.steps = [("<", CONNECT), (">", CONNACK)] + list(steps)
        self.got = []
        self.client = simple.MQTTClient("c", "127.0.0.1", port, **options)
        self.client.set_callback(lambda topic, msg: self.got.append((topic, msg)))
        self.begin = now()
        wait = simple.client.MQTTClient.wait

        def pump(client, ms):
            self.pump()
            assert since(now(), self.begin) < 5000, (self.steps, self.received)
            wait(client, min(ms, 5))

        simple._Client.wait = pump

    def pump(self):
        try:
            if not self.conn:
                self.conn = self.listener.accept()[0]
                self.conn.setblocking(False)
            self.received += self.conn.recv(2048)
        except OSError:
            pass  # nothing yet
        while self.steps:
            way, data = self.steps[0]
            if way == "<":
                n = len(data)
                assert data.startswith(self.received[:n]), (data, self.received)
                if len(self.received) < n:
                    break
                self.received = self.received[n:]
            elif way == ">":
                self.conn.send(data)
            else:
                self.conn.close()
            self.steps.pop(0)

    def end(self):
        while self.steps:
            self.pump()
            assert since(now(), self.begin) < 5000, (self.steps, self.received)
        assert not self.received, self.received
        if self.conn:
            self.conn.close()
        self.listener.close()


def message(first, payload=b"x", pid=b""):
    return frame(first, text("t"), pid, payload)


def fails(call, *args, error=OSError):
    try:
        call(*args)
    except error as e:
        return e.args
    raise AssertionError("no " + repr(error))


def test_publish_at_qos_0_takes_no_message():
    p = Peer((">", message(0x30)), ("<", message(0x31, b"out")))
    assert not p.client.connect()
    p.client.publish("t", "out", True)
    p.pump()
    assert not p.got
    assert p.client.wait_msg() == 0x30
    assert p.got == [(b"t", b"x")]
    assert p.client.check_msg() is None
    p.end()


def test_publish_waits_for_puback_and_takes_no_message_behind_it():
    one = message(0x32, b"out", b"\0\1")
    p = Peer(("<", one), (">", h("40 02 00 01") + message(0x30)))
    p.client.connect()
    p.client.publish(b"t", b"out", qos=1)
    assert not p.got
    p.client.wait_msg()
    assert len(p.got) == 1
    p.end()


def test_lost_puback():
    one = message(0x32, b"out", b"\0\1")
    p = Peer(("<", one), ("<", b"\x3a" + one[1:]), (">", h("40 02 00 01")))
    p.client.connect(timeout=1)
    p.client.publish(b"t", b"out", qos=1)
    p.end()


def test_silence_ends_publish():
    one = message(0x32, b"out", b"\0\1")
    p = Peer(("<", one), ("<", (b"\x3a" + one[1:]) * 3))
    p.client.connect(timeout=1)
    assert "no acknowledgement" in fails(p.client.publish, b"t", b"out", False, 1)[1]
    assert fails(p.client.publish, b"t", b"out")[0] == -1
    p.end()


def test_close_ends_wait_msg():
    p = Peer(("close", None))
    p.client.connect()
    assert fails(p.client.wait_msg)[0] == -1
    assert fails(p.client.check_msg)[0] == -1
    p.end()


def test_missing_pingresp():
    p = Peer(("<", h("c0 00")))
    p.steps[0] = ("<", h("10 0d 00 04 4d 51 54 54 04 02 00 01 00 01 63"))
    p.client.keepalive = 1
    p.client.connect()
    assert "PINGRESP" in fails(p.client.wait_msg)[1]
    p.end()


def test_ping():
    p = Peer(("<", h("c0 00")), (">", h("d0 00")))
    p.client.connect()
    p.client.ping()
    assert p.client.wait_msg() is None
    p.end()


def test_refused():
    p = Peer()
    p.steps[1] = (">", h("20 02 00 05"))
    assert fails(p.client.connect, error=simple.MQTTException) == (5,)
    p.end()
    p = Peer(("<", h("82 06 00 01 00 01 74 01")), (">", h("90 03 00 01 80")))
    p.client.connect()
    assert fails(p.client.subscribe, b"t", 1, error=simple.MQTTException) == (128,)
    p.end()


def test_large_both_ways():
    large = b"y" * 10000
    p = Peer(("<", message(0x32, large, b"\0\1")), (">", h("40 02 00 01") + message(0x30, large)))
    p.client.connect()
    p.client.publish(b"t", large, qos=1)
    p.client.wait_msg()
    assert p.got == [(b"t", large)]
    p.end()


def test_callback_publishes():
    p = Peer(
        (">", message(0x32, b"a", b"\0\7") + message(0x32, b"b", b"\0\x08")),
        ("<", message(0x32, b"re", b"\0\1")),
        (">", h("40 02 00 01")),
        ("<", h("40 02 00 07")),
        ("<", message(0x32, b"re", b"\0\2")),
        (">", h("40 02 00 02")),
        ("<", h("40 02 00 08")),
    )

    def answer(topic, msg):
        p.got.append(msg)
        p.client.publish(b"t", b"re", qos=1)
        p.got.append("done")

    p.client.set_callback(answer)
    p.client.connect()
    while len(p.got) < 4:
        p.client.wait_msg()
    assert p.got == [b"a", "done", b"b", "done"]
    p.end()


def test_callback_raises():
    p = Peer((">", message(0x32, b"a", b"\0\7")))

    def bad(topic, msg):
        raise ValueError(msg)

    p.client.set_callback(bad)
    p.client.connect()
    assert fails(p.client.wait_msg, error=ValueError) == (b"a",)
    p.client.check_msg()
    p.pump()
    p.end()  # no PUBACK
