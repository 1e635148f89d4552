# What poll() and wait() take, and what they count.

from scripted import Broker, h, now, since, text

from umqtt_lite import MQTTClient


def test_wait_ends_at_its_time():
    broker = Broker()
    broker.start()
    broker.run(20)
    begin = now()
    broker.client.wait(200)
    assert 190 <= since(now(), begin) < 400
    broker.close()


def test_wait_ends_with_a_message():
    broker = Broker()
    broker.start()
    broker.run(20)
    broker.conn.send(h("30 04 00 01 74 78"))
    begin = now()
    broker.client.wait(3000)
    assert since(now(), begin) < 100
    broker.client.poll()
    assert broker.events[-1] == ("message", b"t", b"x", False)
    broker.close()


def test_wait_ends_with_a_deadline():
    broker = Broker(keepalive=1)
    broker.start()
    broker.run(20)
    begin = now()
    broker.client.wait(5000)
    assert since(now(), begin) <= 1050
    broker.client.poll()
    broker.expect(h("c0 00"))
    broker.close()


def test_wait_of_a_client_that_is_stopped():
    broker = Broker()
    broker.start()
    broker.client.disconnect()
    begin = now()
    broker.client.wait(100)
    assert 90 <= since(now(), begin) < 300
    broker.close()


def check_quick(step):
    begin = now()
    step()
    assert since(now(), begin) < 50


def test_nothing_blocks_while_nobody_answers():
    broker = Broker()
    for _ in range(20):
        check_quick(broker.client.poll)
        check_quick(lambda: broker.client.publish("t", "x"))
    broker.start()
    for _ in range(20):
        check_quick(broker.client.poll)
    broker.close()


def test_nothing_blocks_while_nobody_reads():
    broker = Broker(outbox=8192, keepalive=0)
    broker.start()
    blocked = 0
    # until neither socket takes more and the outbox has no room either
    while blocked < 3:
        try:
            broker.client.publish("t", b"x" * 4000)
            blocked = 0
        except Exception as error:
            assert type(error).__name__ == "OutboxFull", error
            blocked += 1
        check_quick(broker.client.poll)
    assert broker.client.connected
    broker.close()


def test_stats():
    broker = Broker()
    broker.start()
    for qos in (0, 1, 2):
        broker.client.publish("t", "x", qos=qos)
    broker.expect(h("30 04 00 01 74 78 32 06 00 01 74 00 01 78 34 06 00 01 74 00 02 78"))
    broker.send(h("40 02 00 01 50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02 30 04 00 01 74 78"))
    broker.await_event("message", b"t", b"x", False)
    stats = broker.client.stats
    assert stats["sent"] == 3 and stats["acknowledged"] == 2, stats
    assert stats["received"] == 1 and stats["connects"] == 1, stats
    assert stats["retried"] == 0 and stats["dropped"] == 0, stats
    broker.close()


def test_second_server():
    first, second = Broker(), Broker()
    first.listener.close()
    servers = [("127.0.0.1", first.port), ("127.0.0.1", second.port)]
    second.client = MQTTClient("c", servers)
    second.accept()
    second.expect(h("10 0d 00 04 4d 51 54 54 04 02 00 3c") + text("c"))
    second.close()


def test_no_attempt_without_a_link():
    broker = Broker()
    broker.client.link = False
    broker.run(200)
    assert not broker._accept()
    broker.client.link = True
    broker.start()
    broker.close()


def test_connect_after_disconnect():
    broker = Broker(clean_session=False)
    broker.start()
    broker.client.publish("t", "x", qos=1)
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.client.disconnect()
    broker.expect(h("e0 00"))
    broker.run(50)
    assert not broker._accept()
    broker.client.connect()
    broker.start(h("20 02 01 00"))
    broker.expect(h("3a 06 00 01 74 00 01 78"))
    broker.close()


def test_back_off():
    # Connections that end at once: the attempts become rarer.
    broker = Broker()
    broker.listener.close()
    attempts = []
    broker.client.on_disconnect = lambda error: attempts.append(now())
    broker.run(4000)
    # with full jitter of 1, 2, 4 ... s: 2 to a few
    assert 1 <= len(attempts) <= 12, attempts
    broker.client.disconnect()
