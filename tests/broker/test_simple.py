"""Programs in the style of umqtt.simple's examples, against real brokers."""

import pytest


@pytest.mark.parametrize("way", ["wait", "check"])
def test_lamp(device, peer, broker, topic, way):
    watch = peer(broker.port)
    watch.subscribe(topic + "/state", 1)
    lamp = device("lamp.py", "simple", way, topic.replace("/", "-"), broker.port, topic)
    watch.wait(1)
    for order in "on", "toggle", "toggle", "off":
        watch.publish(topic + "/set", order, 1)
    states = [payload for _, payload, _, _ in watch.wait(5)]
    assert states == [b"ready", b"on", b"off", b"on", b"off"]
    assert lamp.events("lamp") == [[True], [False], [True], [False]]


def test_robust_over_a_restart(device, peer, own_broker, topic):
    lamp = device("lamp.py", "robust", "wait", "lamp", own_broker.port, topic)
    watch = peer(own_broker.port)
    watch.subscribe(topic + "/state", 1)
    watch.wait(1)
    own_broker.kill()
    own_broker.start()
    watch = peer(own_broker.port)
    # retained, as the lamp may subscribe again after it
    watch.publish(topic + "/set", "on", 1, retain=True)
    lamp.wait("lamp", True)
