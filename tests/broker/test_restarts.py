"""What was accepted arrives, although brokers end meanwhile. See faults/ for worse."""

import json
import signal

import pytest
from brokers import Mosquitto

COUNT = 300


@pytest.fixture
def mosquitto(tmp_path):
    """The broker that keeps its sessions on disk."""
    broker = Mosquitto(tmp_path)
    yield broker.start()
    broker.kill()


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
