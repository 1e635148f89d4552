"""What was accepted arrives, although links are cut and brokers killed meanwhile."""

import json
import random
import signal

import pytest
from brokers import Mosquitto
from proxy import Proxy

COUNT = 300

# iotcore forgets QoS 2 handshakes with the connection: it closes the next one on their PUBREL
CASES = pytest.mark.parametrize(
    "broker, qos", [("iotcore", 1), ("mosquitto", 1), ("mosquitto", 2)], indirect=["broker"]
)


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


# The broker is ended by SIGTERM, with messages in flight: after SIGKILL it forgets some that it
# has acknowledged, and no client could make that good.


def test_qos_1_at_least_once_in_order(device, peer, mosquitto, topic):
    watch = peer(mosquitto.port, "watch", clean_session=False)
    watch.subscribe(topic, 1)
    sender = device("flood.py", mosquitto.port, topic, 1, COUNT)
    for i in range(3):
        sender.wait("ack", count=(i + 1) * COUNT // 5)
        mosquitto.kill(signal.SIGTERM)
        mosquitto.start()
    sender.wait("done")
    assert list(dict.fromkeys(numbers(watch))) == list(range(COUNT))


def test_qos_2_exactly_once(device, peer, mosquitto, topic):
    # The subscriber is away meanwhile: this broker repeats what was on its way to it.
    watch = peer(mosquitto.port, "watch", clean_session=False)
    watch.subscribe(topic, 2)
    watch.stop()
    sender = device("flood.py", mosquitto.port, topic, 2, COUNT)
    for i in range(3):
        sender.wait("ack", count=(i + 1) * COUNT // 5)
        mosquitto.kill(signal.SIGTERM)
        mosquitto.start()
    sender.wait("done")
    watch = peer(mosquitto.port, "watch", clean_session=False)
    assert numbers(watch) == list(range(COUNT))


@CASES
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


@CASES
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
