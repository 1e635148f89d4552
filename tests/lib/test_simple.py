# umqtt.simple's calls, which block: the broker's part is taken while the client waits.

from scripted import CONNACK, frame, h, listen, now, since, text

from umqtt_lite import robust, simple

HEAP = "512k"
CONNECT = h("10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 63")
WAIT = simple.client.MQTTClient.wait


class Peer:
    """What the broker does: (">", bytes to be sent), ("<", bytes expected), ("close", None)."""

    deaf = False  # it reads nothing
    blocked = 0  # times that the client has waited with something to be written

    def __init__(self, *steps, keepalive=0, patience=9999):
        self.listener, port = listen()
        self.listener.setsockopt(1, 8, 4096)  # SOL_SOCKET, SO_RCVBUF
        self.conn = None
        self.received = b""
        connect = CONNECT[:11] + bytes([keepalive]) + CONNECT[12:]
        self.steps = [("<", connect), (">", CONNACK)] + list(steps)
        self.got = []
        self.client = simple.MQTTClient("c", "127.0.0.1", port, keepalive=keepalive)
        self.client.set_callback(lambda topic, msg: self.got.append((topic, msg)))
        self.begin = now()

        def pump(client, ms):
            self.blocked += client._new
            if self.blocked > patience:
                self.deaf = False
            self.pump()
            assert since(now(), self.begin) < 5000, self.state()
            WAIT(client, min(ms, 5))

        simple.client.MQTTClient.wait = pump

    def pump(self):
        try:
            if not self.conn:
                self.conn = self.listener.accept()[0]
                self.conn.setblocking(False)
            if not self.deaf:
                self.received += self.conn.recv(4096)
        except OSError:
            pass  # nothing yet
        while self.steps:
            way, data = self.steps[0]
            if way == "<":
                n = len(data)
                assert data.startswith(self.received[:n]), self.state()
                if len(self.received) < n:
                    break
                self.received = self.received[n:]
            elif way == ">":
                self.conn.send(data)
            else:
                self.conn.close()
                self.conn = None
                self.steps.pop(0)
                return  # for the next one, when the client connects again
            self.steps.pop(0)

    def state(self):
        left = [(way, data[:20] if data else data) for way, data in self.steps[:9]]
        return "%r, received %r" % (left, self.received[:20])

    def end(self):
        while self.steps:
            self.pump()
            assert since(now(), self.begin) < 5000, self.state()
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
    p = Peer(("<", h("c0 00")), keepalive=1)
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
    assert fails(p.client.publish, "t", "x", error=simple.MQTTException) == (5,)
    assert not p.client._io._out
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


AGAIN = h("10 0d 00 04 4d 51 54 54 04 00 00 00 00 01 63"), h("20 02 01 00")


def test_qos_2_in_over_a_reconnect():
    p = Peer(
        (">", message(0x34, b"once", b"\0\7")),
        ("<", h("50 02 00 07")),
        ("close", None),
        ("<", AGAIN[0]),
        (">", AGAIN[1] + message(0x3C, b"once", b"\0\7")),
        ("<", h("50 02 00 07")),
        (">", h("62 02 00 07")),
        ("<", h("70 02 00 07")),
        (">", message(0x34, b"next", b"\0\7")),
        ("<", h("50 02 00 07")),
    )
    p.client.connect()
    assert p.client.wait_msg() == 0x34
    fails(p.client.wait_msg)
    assert p.client.connect(False)
    assert p.client.wait_msg() == 0x34
    assert p.got == [(b"t", b"once"), (b"t", b"next")]
    p.end()


def test_qos_2_out_over_a_reconnect():
    p = Peer(
        ("<", message(0x34, b"one", b"\0\1")),
        (">", h("50 02 00 01")),
        ("<", h("62 02 00 01")),
        (">", h("70 02 00 01")),
        ("<", message(0x34, b"two", b"\0\2")),
        (">", h("50 02 00 02")),
        ("<", h("62 02 00 02")),
        ("close", None),
        ("<", AGAIN[0]),
        (">", AGAIN[1]),
        # another identifier: the broker may still have the last one
        ("<", message(0x34, b"two", b"\0\3")),
        (">", h("50 02 00 03")),
        ("<", h("62 02 00 03")),
        (">", h("70 02 00 03")),
    )
    p.client.connect()
    p.client.publish("t", "one", qos=2)
    fails(p.client.publish, "t", "two", False, 2)
    p.client.connect(False)
    p.client.publish("t", "two", qos=2)
    p.end()


def test_identifier_wraps():
    ids = b"\xff\xff", b"\0\1"
    steps = [[("<", message(0x32, b"x", i)), (">", h("40 02") + i)] for i in ids]
    p = Peer(*steps[0] + steps[1])
    p.client.connect()
    p.client._io._id = 65534
    p.client.publish("t", "x", qos=1)
    p.client.publish("t", "x", qos=1)
    p.end()


def test_unsubscribe_where_a_subclass_subscribes_in_its_own_way():
    class Mine(simple.MQTTClient):
        def subscribe(self, topic):
            simple.MQTTClient.subscribe(self, topic, 1)

    p = Peer(
        ("<", h("82 06 00 01 00 01 74 01")),
        (">", h("90 03 00 01 01")),
        ("<", h("a2 05 00 02 00 01 74")),
        (">", h("b0 02 00 02")),
    )
    p.client = Mine("c", "127.0.0.1", p.client.port)
    p.client.connect()
    p.client.subscribe("t")
    p.client.unsubscribe("t")
    p.end()


def test_subscribe_takes_nothing_behind_its_suback():
    p = Peer(("<", h("82 06 00 01 00 01 74 00")), (">", h("90 03 00 01")))
    p.steps += [(">", b"\0" + message(0x31, b"kept") + message(0x30, b"new"))]
    p.client.connect()
    p.client.subscribe("t")
    assert not p.got
    assert p.client.wait_msg() == 0x31
    assert len(p.got) == 1
    assert p.client.check_msg() == 0x30
    p.end()


def test_check_msg_does_not_wait_for_the_rest():
    large = message(0x30, b"y" * 3000)
    p = Peer()
    p.client.connect()
    for part in large[:1], large[1:4], large[4:2000]:
        p.conn.send(part)
        assert p.client.check_msg() is None
    p.conn.send(large[2000:])
    assert p.client.check_msg() == 0x30
    assert p.got == [(b"t", b"y" * 3000)]
    p.end()


def test_publishing_only_needs_no_answer():
    # PINGREQ neither, although nothing is ever read
    p = Peer(keepalive=1)
    p.client.connect()
    while since(now(), p.begin) < 2000:
        p.steps = [("<", message(0x30))]
        p.client.publish("t", "x")
        while p.steps:
            p.pump()
        WAIT(p.client._io, 50)
    p.steps = [("<", h("c0 00")), (">", h("d0 00") + message(0x30)), ("<", h("c0 00"))]
    p.client.ping()
    p.pump()
    assert p.client.wait_msg() is None
    assert p.client.wait_msg() == 0x30
    p.client.ping()
    p.end()


def until_full(p):
    """Publish to a broker that does not read, so much that it does not fit into the window."""
    p.client.connect()
    sock = getattr(p.client.sock, "_sock", p.client.sock)
    sock.setsockopt(1, 7, 4096)  # SO_SNDBUF
    p.deaf = True
    while p.deaf:
        p.blocked = 0
        p.steps.append(("<", message(0x30, b"y" * 9999)))
        p.client.publish("t", b"y" * 9999)


def test_window_is_full():
    p = Peer(patience=20)
    until_full(p)
    p.client.publish("t", "x")
    p.steps.append(("<", message(0x30)))
    p.end()


def test_window_stays_full():
    p = Peer(keepalive=1)
    assert "PINGRESP" in fails(until_full, p)[1]
    p.steps = []
    p.end()


def test_callback_waits_for_a_message():
    p = Peer((">", message(0x32, b"a", b"\0\7") + message(0x30, b"b")), ("<", h("40 02 00 07")))

    def wait(topic, msg):
        p.got.append(msg)
        if msg == b"a":
            assert p.client.wait_msg() == 0x30
            p.got.append("done")

    p.client.set_callback(wait)
    p.client.connect()
    assert p.client.wait_msg() == 0x32
    assert p.got == [b"a", b"b", "done"]
    p.end()


def test_callback_disconnects():
    p = Peer((">", message(0x32, b"a", b"\0\7")), ("<", h("e0 00")))
    p.client.set_callback(lambda topic, msg: p.client.disconnect())
    p.client.connect()
    assert p.client.wait_msg() == 0x32
    assert fails(p.client.check_msg) == (-1, "closed")
    p.end()


def test_callback_connects_again_and_publish_fails():
    p = Peer(
        ("<", message(0x32, b"lost", b"\0\1")),
        (">", message(0x32, b"a", b"\0\7")),
        ("<", h("e0 00")),
        ("close", None),
        ("<", CONNECT),
        (">", CONNACK + message(0x32, b"b", b"\0\7")),
        ("<", h("40 02 00 07")),
    )

    def again(topic, msg):
        p.got.append(msg)
        if msg == b"a":
            p.client.connect()

    p.client.set_callback(again)
    p.client.connect()
    assert fails(p.client.publish, "t", "lost", False, 1) == (-1, "closed")
    assert p.client.wait_msg() == 0x32
    assert p.got == [b"a", b"b"]
    p.end()


def test_sock_made_blocking():
    p = Peer((">", message(0x30)))
    p.client.connect()
    p.client.wait_msg()
    p.client.sock.setblocking(True)
    assert p.client.check_msg() is None
    p.end()


def test_connect_packet():
    sent = (
        b"\0\4MQTT\4",
        b"\xee\0\0",  # a client without a name has a clean session only
        text(""),
        text("w"),
        text("gone"),
        text("user"),
        text(""),
    )
    p = Peer()
    p.steps[0] = ("<", frame(0x10, *sent))
    p.client.client_id = ""
    p.client.user = "user"
    p.client.pswd = b""
    p.client.set_last_will("w", "gone", True, 1)
    p.client.connect(False)
    p.end()


def test_robust_attempts():
    class Mine(robust.MQTTClient):
        DELAY = 0

        def log(self, in_reconnect, e):
            p.got.append((in_reconnect, e.args[0]))

    p = Peer(("close", None), ("<", AGAIN[0]), (">", h("20 02 00 00")), (">", message(0x30)))
    p.client = Mine("c", "127.0.0.1", p.client.port)
    p.client.set_callback(lambda topic, msg: p.got.append(msg))
    p.client.connect()
    assert p.client.check_msg(0) is None
    while p.steps:
        assert p.client.check_msg(1) is None
    p.client.wait_msg()
    assert p.got == [(False, -1), b"x"]
    p.end()


def test_failed_calls_leave_nothing_behind():
    p = Peer(("close", None))
    p.client.connect()
    fails(p.client.wait_msg)
    for _ in range(20):
        for qos in 0, 1, 2:
            assert fails(p.client.publish, "t", "lost", False, qos)[0] == -1
        assert fails(p.client.ping)[0] == -1
        assert fails(p.client.subscribe, "t")[0] == -1
    assert not p.client._io._out
    p.end()


def test_callback_does_not_mind_the_end():
    one = message(0x32, b"lost", b"\0\1")
    p = Peer(("<", one), (">", message(0x30)), ("close", None))

    def publish(topic, msg):
        fails(p.client.publish, "t", "more", False, 1)

    p.client.set_callback(publish)
    p.client.connect()
    assert fails(p.client.publish, "t", "lost", False, 1)[0] == -1
    p.end()
