"""umqtt_lite.aio in an event loop, against real brokers."""

import pytest
from proxy import Proxy

COUNT = 20


@pytest.mark.parametrize("case", ["publish", "large", "full", "cancelled", "idle"])
def test_case(case, device, broker, topic):
    aio = device("aio.py", case, broker.port, topic)
    aio.wait("done")
    assert aio.finish() == 0


def test_leaving_flushes_and_disconnects(device, peer, broker, topic):
    watch = peer(broker.port)
    watch.subscribe(topic + "/#")
    aio = device("aio.py", "leave", broker.port, topic)
    aio.wait("done")
    assert aio.finish() == 0
    watch.publish(topic + "/end", "", 1)
    watch.log.wait(lambda entries: any(topic.endswith("/end") for topic, *_ in entries))
    assert [message[0] for message in watch.messages] == [topic + "/last", topic + "/end"]


def test_reconnects_while_tasks_wait(device, peer, broker, topic):
    link = Proxy(broker.port)
    watch = peer(broker.port)
    watch.subscribe(topic)
    aio = device("aio.py", "reconnect", link.port, topic)
    aio.wait("cut")
    for i in range(2):
        watch.wait(10 * (i + 1))
        link.drop()
        aio.wait("again", count=i + 1)
    aio.wait("done")
    link.stop()
    sent = {f"{name} {i}".encode() for name in "abc" for i in range(COUNT)}
    watch.log.wait(lambda entries: {entry[1] for entry in entries} >= sent)
