from scripted import Broker, frame, h, now, since

from umqtt_lite import ConnectionLost

PINGREQ, PINGRESP = h("c0 00"), h("d0 00")


def started(**options):
    broker = Broker(**options)
    broker.start()
    broker.take()
    return broker


def test_ping_after_silence():
    broker = started(keepalive=1)
    begin = now()
    for _ in range(2):
        broker.expect(PINGREQ)
        assert since(now(), begin) <= 1050
        broker.send(PINGRESP)
        begin = now()
    assert broker.client.connected
    broker.close()


def test_dead_peer_is_found():
    broker = started(keepalive=1)
    begin = now()
    broker.expect(PINGREQ)
    broker.expect_close()
    assert since(now(), begin) <= 1600
    assert isinstance(broker.client.error, ConnectionLost)
    broker.start()
    broker.close()


def test_ping_although_messages_come():
    # The broker must hear from us as well.
    broker = started(keepalive=1)
    begin = now()
    while since(now(), begin) < 1200 and not broker.received:
        broker.send(h("30 04 00 01 74 78"))
        broker.run(20)
        assert broker.pull()
    assert broker.received == PINGREQ
    broker.close()


def test_ping_although_messages_go():
    # A peer that says nothing may be dead.
    broker = started(keepalive=1)
    begin = now()
    while since(now(), begin) < 1200 and not broker.received.endswith(PINGREQ):
        broker.received = b""
        broker.client.publish("t", "x")
        broker.run(20)
        assert broker.pull()
    assert broker.received.endswith(PINGREQ)
    broker.close()


def test_off():
    broker = started(keepalive=0)
    broker.expect_nothing(1700)
    broker.close()


def test_unasked_pingresp():
    broker = started()
    broker.send_slowly(PINGRESP)
    broker.expect_nothing()
    broker.close()


def test_ping_again_while_a_large_message_comes():
    """PINGRESP waits behind it, and the broker must hear from us all the same."""
    broker = started(keepalive=1, inbox=64)
    broker.send(h("30 d3 86 03 00 01 74"))
    for _ in range(50000 // 10):
        broker.send(bytes(10))
        broker.run(5)
        broker.pull()
        if len(broker.received) == 3 * len(PINGREQ):
            break
    assert broker.received == 3 * PINGREQ, broker.received
    assert not broker.client.error
    broker.close()


def test_ping_in_a_flood():
    """The client finds something to read whenever it looks."""
    broker = started(keepalive=1)
    broker.client.on_message = None
    data = 50 * frame(0x30, b"\0\1t", bytes(20))
    n = 0
    begin = now()
    while len(broker.received) < 2 * len(PINGREQ):
        while sent := broker._send(data[n % len(data) :]):
            n += sent
        broker.client.poll()
        broker.pull()
        assert since(now(), begin) < 5000, "no PINGREQ"
    assert broker.received == 2 * PINGREQ and not broker.client.error
    broker.close()
