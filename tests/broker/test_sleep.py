"""A device that is reset with messages in flight goes on with its snapshot in a new process."""

from collections import Counter

import pytest
from proxy import Proxy, split

WRITTEN = [f"{qos} {i}" for qos in (2, 1) for i in range(3)]
UNWRITTEN = ["1 unwritten", "2 unwritten"]


@pytest.fixture
def link(own_broker):
    link = Proxy(own_broker.port)
    yield link
    link.stop()


def publishes(link, number):
    """The PUBLISH packets of a connection from the device, as (first byte, payload)."""
    data = b"".join(piece for n, way, piece in link.trace if (n, way) == (number, "up"))
    packets, rest = split(data)
    assert not rest
    found = []
    for packet in packets:
        if packet[0] >> 4 == 3:
            at = 4 + packet[3] + 2  # identifier; short enough for one byte of length
            found.append((packet[0], packet[at:].decode()))
    return found


def sleep(device, link, subscriber, topic, memory):
    """Run a device until it is cut off with everything in flight; the broker has it all."""
    subscriber.subscribe(topic)
    first = device("sleeper.py", "sleep", link.port, topic, memory)
    first.wait("deaf")
    link.call(link.heard.clear)
    first.tell("go on")
    first.wait("asleep")
    # Those of QoS 1 were written last, and go on at once. What the broker has not read when the
    # device ends may be lost.
    subscriber.wait(3)
    assert [payload for _, payload in publishes(link, 0)] == WRITTEN
    assert not first.events("ack")
    first.stop()


def check_delivered(messages):
    count = Counter(payload.decode() for _, payload, _, _ in messages)
    assert set(count) == {*WRITTEN, *UNWRITTEN}
    assert all(n == 1 or payload[0] == "1" for payload, n in count.items()), count


@pytest.mark.parametrize("own_broker", ["mosquitto"], indirect=True)
def test_same_session(device, peer, own_broker, link, topic, tmp_path):
    subscriber = peer(own_broker.port)
    memory = tmp_path / "rtc"
    sleep(device, link, subscriber, topic, memory)
    subscriber.publish(topic + "/in", "while asleep", 2)
    link.call(link.heard.set)

    second = device("sleeper.py", "wake", link.port, topic, memory)
    second.wait("done")
    assert second.events("begin") == [[8, "None"]]
    assert second.events("connect") == [[True]]
    second.wait("message", "while asleep")
    assert sorted(second.events("ack")) == [[n] for n in range(2, 10)]  # 1: SUBSCRIBE
    expected = [(0x3A if p[0] == "1" else 0x3C, p) for p in WRITTEN]
    expected += [(0x32, "1 unwritten"), (0x34, "2 unwritten")]
    assert publishes(link, link.connections - 1) == expected
    check_delivered(subscriber.wait(11))  # QoS 1 twice, where it was written before


@pytest.mark.parametrize("own_broker", ["mosquitto"], indirect=True)
def test_damaged(device, peer, own_broker, link, topic, tmp_path):
    memory = tmp_path / "rtc"
    sleep(device, link, peer(own_broker.port), topic, memory)
    link.call(link.heard.set)
    damaged = bytearray(memory.read_bytes())
    damaged[20] ^= 4
    memory.write_bytes(damaged)
    second = device("sleeper.py", "wake", link.port, topic, memory)
    second.wait("done")
    assert second.events("begin") == [[0, "checksum"]]
    second.wait("connect", True)
    assert not publishes(link, link.connections - 1)
