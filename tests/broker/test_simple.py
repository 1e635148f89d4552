"""Programs in the style of umqtt.simple's examples, against real brokers."""

import os
import signal

import pytest
from secure import Authority, Secure


def work(watch, lamp, topic):
    """Have the lamp switched, and look at what it says."""
    watch.wait(1)
    for order in "on", "toggle", "toggle", "off":
        watch.publish(topic + "/set", order, 1)
    states = [payload for _, payload, _, _ in watch.wait(5)]
    assert states == [b"ready", b"on", b"off", b"on", b"off"]
    lamp.wait("lamp", count=4)  # it is printed before, and may be read later
    assert lamp.events("lamp") == [[True], [False], [True], [False]]


@pytest.mark.parametrize("way", ["wait", "check"])
def test_lamp(device, peer, broker, topic, way):
    watch = peer(broker.port)
    watch.subscribe(topic + "/state", 1)
    lamp = device("lamp.py", "simple", way, topic.replace("/", "-"), broker.port, topic)
    work(watch, lamp, topic)


# CPython has no ssl.wrap_socket(), which ssl=True needs
@pytest.mark.parametrize(
    "ssl, runtime", [("true", "micropython"), ("context", "micropython"), ("context", "cpython")]
)
def test_ssl(device, peer, tmp_path, topic, ssl):
    broker = Secure(tmp_path, Authority("any").issue("localhost")).start()
    try:
        watch = peer(broker.port)
        watch.subscribe(topic + "/state", 1)
        work(watch, device("lamp.py", ssl, "wait", "lamp", broker.secure, topic), topic)
    finally:
        broker.kill()


@pytest.mark.parametrize("session", ["kept", "lost"])
def test_robust_over_a_restart(device, peer, own_broker, topic, session):
    lamp = device("lamp.py", "robust", "wait", "lamp", own_broker.port, topic)
    watch = peer(own_broker.port)
    watch.subscribe(topic + "/state", 1)
    watch.wait(1)
    own_broker.kill()
    if session == "lost":
        for stored in own_broker.folder.glob("*.db"):
            stored.unlink()
    own_broker.start()
    watch = peer(own_broker.port)
    # retained, as the lamp may subscribe again after it
    watch.publish(topic + "/set", "on", 1, retain=True)
    lamp.wait("lamp", True)


@pytest.mark.parametrize("qos", [1, 2])
def test_robust_publish_in_flight_over_a_restart(device, peer, own_broker, topic, qos):
    lamp = device("lamp.py", "robust", "press", "lamp", own_broker.port, topic)
    lamp.tell("before", qos)
    lamp.wait("published", "before")
    os.kill(own_broker.process.pid, signal.SIGSTOP)
    lamp.tell("in flight", qos)
    lamp.wait("pressed", count=2)
    own_broker.kill()
    own_broker.start()
    watch = peer(own_broker.port)
    watch.subscribe(topic + "/button", 2)
    lamp.wait("published", "in flight")
    # retained, as it may arrive before the watch has subscribed
    watch.log.wait(lambda messages: "in flight" in [m[1].decode() for m in messages])
