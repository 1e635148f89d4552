from scripted import Broker, h, now, since

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
