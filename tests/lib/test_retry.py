# What is sent again, when, and with what flags.

from scripted import Broker, h, now, since

from umqtt_lite import ConnectionLost


def started(connack="20 02 00 00", **options):
    broker = Broker(**options)
    broker.start(h(connack))
    broker.take()
    return broker


def test_oldest_alone_with_dup():
    broker = started(retry=1)
    begin = now()
    broker.client.publish("t", "x", qos=1)
    broker.client.publish("t", "y", qos=2)
    broker.expect(h("32 06 00 01 74 00 01 78 34 06 00 01 74 00 02 79"))
    broker.expect(h("3a 06 00 01 74 00 01 78"))
    assert 950 < since(now(), begin) < 1500
    broker.send(h("40 02 00 01"))
    broker.expect(h("3c 06 00 01 74 00 02 79"))
    broker.send(h("50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02"))
    broker.await_event("ack", 2)
    broker.expect_nothing(1200)
    assert broker.client.pending == 0
    broker.close()


def test_given_up_after_the_last():
    broker = started(retry=1, retries=1)
    broker.client.publish("t", "x", qos=1)
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.expect(h("3a 06 00 01 74 00 01 78"))
    broker.expect_close()
    assert isinstance(broker.client.error, ConnectionLost)
    broker.start()
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.close()


def in_flight(broker):
    """QoS 1, 2 and 2 in flight, the last with its PUBREC; QoS 0 lost on the way."""
    for qos in (1, 2, 2):
        broker.client.publish("t", "x", qos=qos)
    broker.expect(h("32 06 00 01 74 00 01 78 34 06 00 01 74 00 02 78 34 06 00 01 74 00 03 78"))
    broker.send(h("50 02 00 03"))
    broker.expect(h("62 02 00 03"))
    broker.drop()
    broker.until(lambda: not broker.client.connected, "disconnected")
    assert broker.client.pending == 3


def test_resent_with_dup_in_the_same_session():
    broker = started(clean_session=False)
    in_flight(broker)
    broker.start(h("20 02 01 00"))
    broker.expect(h("62 02 00 03 3a 06 00 01 74 00 01 78 3c 06 00 01 74 00 02 78"))
    broker.send(h("70 02 00 03 40 02 00 01 50 02 00 02"))
    broker.expect(h("62 02 00 02"))
    broker.send(h("70 02 00 02"))
    broker.await_event("ack", 2)
    assert broker.client.pending == 0
    broker.close()


def balk(broker, times):
    """Connections that end on PUBREL."""
    for _ in range(times):
        broker.client._backoff = 1
        broker.start(h("20 02 01 00"))
        broker.expect(h("62 02 00 03 3a 06 00 01 74 00 01 78 3c 06 00 01 74 00 02 78"))
        broker.drop()
        broker.until(lambda: not broker.client.connected, "disconnected")


def test_broker_that_forgot_its_pubrec():
    """It says that the session is present, and closes the connection on PUBREL."""
    broker = started(clean_session=False)
    in_flight(broker)
    balk(broker, 15)
    broker.start(h("20 02 01 00"))
    broker.expect(h("3c 06 00 01 74 00 03 78 3a 06 00 01 74 00 01 78 3c 06 00 01 74 00 02 78"))
    broker.send(h("50 02 00 03"))
    broker.expect(h("62 02 00 03"))
    broker.send(h("70 02 00 03"))
    broker.await_event("ack", 3)
    broker.close()


def test_bad_link_is_no_forgetful_broker():
    """Exactly once is not given up because some connections in a row end after PUBREL."""
    broker = started(clean_session=False)
    in_flight(broker)
    balk(broker, 14)
    broker.client._backoff = 1
    broker.start(h("20 02 01 00"))
    broker.expect(h("62 02 00 03"))
    broker.close()


def check_new_session(**options):
    broker = started(**options)
    in_flight(broker)
    broker.start()
    broker.expect(h("32 06 00 01 74 00 01 78 34 06 00 01 74 00 02 78 34 06 00 01 74 00 03 78"))
    broker.expect_nothing()
    broker.close()


def test_published_anew_in_a_clean_session():
    check_new_session(clean_session=True)


def test_published_anew_where_the_session_is_lost():
    check_new_session(clean_session=False)


def test_accepted_while_disconnected():
    broker = Broker()
    assert broker.client.publish("t", "x", qos=1) == 1
    broker.client.publish("t", "y")
    broker.start()
    broker.expect(h("32 06 00 01 74 00 01 78 30 04 00 01 74 79"))
    broker.close()


def test_nothing_before_connack():
    broker = Broker()
    broker.client.publish("t", "x", qos=1)
    broker.accept()
    broker.packet()
    broker.expect_nothing()
    broker.close()


def test_acknowledgement_from_before_is_a_stray():
    broker = started(clean_session=False)
    broker.client.publish("t", "x", qos=1)
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.drop()
    broker.start(h("20 02 01 00"))
    broker.expect(h("3a 06 00 01 74 00 01 78"))
    broker.send(h("40 02 00 01 40 02 00 01"))
    broker.await_event("ack", 1)
    broker.expect_nothing()
    broker.close()


def test_no_dup_where_the_broker_has_not_seen_it():
    """In the same session, beside one that it may have seen."""
    broker = started(clean_session=False)
    broker.client.publish("t", "x", qos=1)
    broker.expect(h("32 06 00 01 74 00 01 78"))
    broker.drop()
    broker.until(lambda: not broker.client.connected, "disconnected")
    broker.client.publish("t", "y", qos=1)
    broker.client.publish("t", "z", qos=2)
    broker.start(h("20 02 01 00"))
    broker.expect(h("3a 06 00 01 74 00 01 78 32 06 00 01 74 00 02 79 34 06 00 01 74 00 03 7a"))
    broker.close()
