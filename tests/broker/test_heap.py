"""The steady state allocates nothing, against real brokers."""

import pytest
from proxy import Proxy


@pytest.mark.parametrize("runtime", ["micropython"])
def test_under_heap_lock(device, peer, broker, topic):
    source, watch = peer(broker.port), peer(broker.port)
    watch.subscribe(topic + "/out", 1)
    source.publish(topic + "/in", "12345", 1, retain=True)
    link = Proxy(broker.port, [])
    try:
        locked = device("locked.py", link.port, topic)
        locked.wait("listening")
        for i in range(10):
            source.publish(topic + "/in", f"1234{i}", 1)
        locked.tell("go on")
        locked.wait("published")
        watch.wait(15)
        link.heard.clear()
        locked.tell("go on")
        watch.wait(21)  # 5 more, and one of them again
        link.heard.set()
        locked.wait("done")
    finally:
        link.stop()
    ((retried, connected, connects),) = locked.events("done")
    assert retried >= 1 and connected and connects == 1
