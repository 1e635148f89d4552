"""What was accepted arrives, although links are cut and brokers killed meanwhile."""

import json
import random
import signal

import pytest
from brokers import Mosquitto
from proxy import Proxy

COUNT = 300


@pytest.fixture
def mosquitto(tmp_path):
    """The broker that keeps its sessions on disk."""
    broker = Mosquitto(tmp_path)
    yield broker.start()
    broker.kill()


@pytest.fixture
def bad_link():
    """Starts proxies that cut connections."""
    proxies = []

    def link(port, cuts):
        proxies.append(Proxy(port, cuts))
        return proxies[-1]

    yield link
    for proxy in proxies:
        proxy.stop()


def numbers(watch):
    """All that has arrived, once the last one has: what is acknowledged cannot be behind it."""
    last = b"%d" % (COUNT - 1)
    watch.log.wait(lambda entries: any(entry[1] == last for entry in entries))
    return [int(payload) for _, payload, _, _ in watch.messages]


def flood(device, watch, broker, topic, qos, how):
    """A device publishes COUNT messages and its broker is killed twice; what arrived."""
    sender = device("flood.py", broker.port, topic, qos, COUNT)
    for _ in range(2):
        watch.wait(len(watch.messages) + 20)
        broker.kill(how)
        broker.start()
    sender.wait("done")
    return numbers(watch)


def test_qos_1_at_least_once_in_order(device, peer, mosquitto, topic):
    watch = peer(mosquitto.port, "watch", clean_session=False)
    watch.subscribe(topic, 1)
    received = flood(device, watch, mosquitto, topic, 1, signal.SIGKILL)
    assert list(dict.fromkeys(received)) == list(range(COUNT))


def test_qos_2_exactly_once(device, peer, mosquitto, topic):
    # SIGTERM: killed harder, the broker forgets what it did last, and nobody could make it good.
    watch = peer(mosquitto.port, "watch", clean_session=False)
    watch.subscribe(topic, 2)
    received = flood(device, watch, mosquitto, topic, 2, signal.SIGTERM)
    assert received == list(range(COUNT))


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_out_over_a_bad_link(device, peer, broker, bad_link, topic, qos, seed):
    watch = peer(broker.port)
    watch.subscribe(topic, qos)
    rng = random.Random(seed)
    link = bad_link(broker.port, [rng.randrange(40, 1500) for _ in range(15)])
    device("flood.py", link.port, topic, qos, COUNT).wait("done")
    received = numbers(watch)
    assert link.connections > 5
    if qos == 1:
        received = list(dict.fromkeys(received))
    assert received == list(range(COUNT))


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_in_over_a_bad_link(device, peer, broker, bad_link, topic, qos, seed):
    rng = random.Random(seed)
    link = bad_link(broker.port, [rng.randrange(200, 1500) for _ in range(15)])
    source = peer(broker.port)
    source.publish(topic, "-1", qos, retain=True)
    receiver = device("drink.py", link.port, topic, qos)
    receiver.wait("got", -1)  # the session knows the subscription
    for i in range(COUNT):
        source.publish(topic, str(i), qos)
    receiver.wait("got", COUNT - 1)
    received = [event[0] for event in receiver.events("got") if event[0] >= 0]
    assert link.connections > 5
    if qos == 1:
        received = list(dict.fromkeys(received))
    assert received == list(range(COUNT))


def test_reconnects_and_subscribes_again(device, peer, own_broker, topic):
    agent = device("agent.py", "agent", own_broker.port, json.dumps({}))
    agent.tell("subscribe", topic, 1)
    agent.wait("connect", False)
    own_broker.kill()
    agent.wait("disconnect")
    agent.tell("publish", topic + "/out", "written meanwhile", False, 1)
    own_broker.start()
    agent.wait("connect", False, count=2)
    agent.wait("ack")
    peer(own_broker.port).publish(topic, "kept", 1, retain=True)
    agent.wait("message", topic, "kept")
