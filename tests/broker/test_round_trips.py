"""Messages through real brokers, at every QoS and in both directions."""

import itertools
import json

import pytest

QOS = pytest.mark.parametrize("qos", [0, 1, 2])


@pytest.fixture
def agent(device, broker, topic):
    """Starts and connects devices that do as they are told."""
    # iotcore takes no / in a client identifier
    names = (f"{topic}-{i}".replace("/", "-") for i in itertools.count())

    def connect(**options):
        started = device("agent.py", next(names), broker.port, json.dumps(options))
        started.wait("connect", False)
        return started

    return connect


@QOS
def test_out(agent, peer, broker, topic, qos):
    watch = peer(broker.port)
    watch.subscribe(topic, qos)
    payloads = [f"{i}: {'ü' * i}" for i in range(20)]
    sender = agent()
    for payload in payloads:
        sender.tell("publish", topic, payload, False, qos)
    sender.wait("publish", count=len(payloads))
    identifiers = [0] * 20 if qos == 0 else list(range(1, 21))
    assert sender.events("publish") == [[i] for i in identifiers]
    expected = [(topic, payload.encode(), qos, False) for payload in payloads]
    assert watch.wait(len(payloads)) == expected
    if qos:
        sender.wait("ack", count=len(payloads))
        assert sender.events("ack") == [[i] for i in identifiers]
    sender.tell("disconnect")
    sender.wait("disconnect", "None")
    assert watch.messages == expected


@QOS
def test_in(agent, peer, broker, topic, qos):
    receiver = agent()
    receiver.tell("handle", topic + "/+", "mine", qos)
    receiver.tell("subscribe", topic + "/other/#", qos)
    until_subscribed(receiver, peer(broker.port), topic)
    source = peer(broker.port)
    payloads = [f"{i}: {'ü' * i}" for i in range(20)]
    for payload in payloads:
        source.publish(topic + "/a", payload, qos)
        source.publish(topic + "/other/b", payload, qos)
    receiver.wait("mine", topic + "/a", payloads[-1])
    receiver.wait("message", topic + "/other/b", payloads[-1])
    mine = [event for event in receiver.events("mine") if event[0] == topic + "/a"]
    assert mine == [[topic + "/a", payload, False] for payload in payloads]
    assert receiver.events("message") == [
        [topic + "/other/b", payload, False] for payload in payloads
    ]


def until_subscribed(receiver, source, topic):
    """A retained message comes as soon as the subscription stands."""
    source.publish(topic + "/here", "here", 1, retain=True)
    receiver.wait("mine", topic + "/here", "here")
    source.publish(topic + "/here", "", 1, retain=True)


def test_retained(agent, peer, broker, topic):
    sender = agent()
    sender.tell("publish", topic, "kept", True, 1)
    sender.wait("ack", 1)
    late = peer(broker.port)
    late.subscribe(topic, 1)
    assert late.wait(1) == [(topic, b"kept", 1, True)]
    receiver = agent()
    receiver.tell("subscribe", topic)
    receiver.wait("message", topic, "kept", True)
    sender.tell("publish", topic, "", True, 1)
    sender.wait("ack", 2)


def test_will(agent, peer, broker, topic):
    watch = peer(broker.port)
    watch.subscribe(topic, 1)
    victim = agent(will=[topic, "gone", True, 1], keepalive=5)
    victim.stop()
    assert watch.wait(1) == [(topic, b"gone", 1, False)]


def test_no_will_after_disconnect(agent, peer, broker, topic):
    watch = peer(broker.port)
    watch.subscribe(topic)
    sender = agent(will=[topic, "gone", False, 1])
    sender.tell("publish", topic, "last", False, 1)
    sender.tell("disconnect")
    sender.wait("disconnect", "None")
    peer(broker.port).publish(topic, "after", 1)
    assert [message[1] for message in watch.wait(2)] == [b"last", b"after"]


def test_stays_connected(agent, topic):
    """Three keep alive periods of silence, which the pings bridge."""
    sleeper = agent(keepalive=1)
    with pytest.raises(AssertionError):
        sleeper.log.wait(lambda entries: len(entries) > 1, timeout=3)
    sleeper.tell("publish", topic, "awake", False, 1)
    sleeper.wait("ack", 1)
    assert sleeper.events("connect") == [[False]]


def test_unsubscribe(agent, peer, broker, topic):
    receiver = agent()
    receiver.tell("handle", topic + "/+", "mine", 1)
    source = peer(broker.port)
    until_subscribed(receiver, source, topic)
    receiver.tell("handle", topic + "/on/+", "mine", 1)
    receiver.tell("unsubscribe", topic + "/+")
    receiver.wait("unsubscribe")
    until_subscribed(receiver, source, topic + "/on")
    source.publish(topic + "/off", "x", 1)
    source.publish(topic + "/on/last", "x", 1)
    receiver.wait("mine", topic + "/on/last")
    assert [topic + "/off", "x", False] not in receiver.events("mine")
