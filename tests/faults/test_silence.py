"""A peer that goes silent is noticed within 1.5 keep alive periods, whatever the client does.

The device's clock goes faster, and so magnifies what this machine delays. The client means to
notice after 1.25 periods, by two deadlines, each of which it may see one gap between its polls
later. The device measures the longest gap, so the bound holds however busy the machine is.
"""

import contextlib
import json
import socket
import struct
import threading
from pathlib import Path

import pytest
from brokers import Mosquitto
from processes import Device, Peer
from proxy import Faults, Proxy
from tools.size import BUILD

SCRIPT = Path(__file__).parent / "device/silence.py"
SPEED = 40
KEEPALIVE = 20  # s: 0.5 s of real time
RETRIES = (0, 5)  # s; with 0 it is for the keep alive to notice
CONNACK = b"\x20\x02\x00\x00"
PATIENCE = 5  # s of real time: 10 periods


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield broker.start()
    broker.kill()


@contextlib.contextmanager
def silent(broker, cut):
    """A proxy whose first connection goes silent."""
    proxy = Proxy(broker.port, [Faults(cut, "silent")])
    try:
        yield proxy
    finally:
        proxy.stop()


@contextlib.contextmanager
def started(port, retry, qos=-1, subscribe=False, burst=1):
    """A device that publishes all the time, `burst` messages at once, if `qos`
    is not -1."""
    config = {
        "port": port,
        "name": "silence",
        "speed": SPEED,
        "keepalive": KEEPALIVE,
        "retry": retry,
        "qos": qos,
        "subscribe": subscribe,
        "burst": burst,
    }
    device = Device("micropython", SCRIPT, json.dumps(config), heap="64k", lib=BUILD)
    try:
        yield device
    finally:
        device.stop()


def check(device, retry, by_acknowledgement=False):
    """It notices in time. Returns that in keep alive periods, and whether a packet waited."""
    device.log.wait(lambda entries: None in entries, PATIENCE)
    assert device.events("noticed"), device.log.entries
    elapsed, gap, error, waiting = device.events("noticed")[0]
    assert elapsed <= 1500 * KEEPALIVE + 2 * gap, f"{elapsed} ms, with a gap of {gap} ms: {error}"
    if not (retry and by_acknowledgement):
        assert "no PINGRESP" in error
    return elapsed / 1000 / KEEPALIVE, waiting


CONNECT = 14 + len("silence")  # bytes
CUTS = {
    "down": {"down": len(CONNACK)},
    "up": {"up": CONNECT},
    "both": {"down": len(CONNACK), "up": CONNECT},
}


@pytest.mark.parametrize("direction", CUTS)
@pytest.mark.parametrize("retry", RETRIES)
def test_idle(broker, retry, direction):
    with silent(broker, CUTS[direction]) as proxy, started(proxy.port, retry) as device:
        assert check(device, retry)[0] >= 0.5


@pytest.mark.parametrize("cut", [{"down": 4}, {"up": 999}, {"down": 4, "up": 999}], ids=str)
@pytest.mark.parametrize("retry", RETRIES)
def test_publishing_at_qos_0(broker, retry, cut):
    with silent(broker, cut) as proxy, started(proxy.port, retry, qos=0) as device:
        check(device, retry)
        carried = sum(len(data) for _, direction, data in proxy.trace if direction == "up")
        assert carried >= 500


@pytest.mark.parametrize("cut", [{"down": 4 + 70}, {"up": 999}], ids=str)
@pytest.mark.parametrize("retry", RETRIES)
def test_publishing_at_qos_1(broker, retry, cut):
    with silent(broker, cut) as proxy, started(proxy.port, retry, qos=1) as device:
        check(device, retry, by_acknowledgement=True)
        device.wait("full")


@pytest.mark.parametrize("qos", [-1, 0])
@pytest.mark.parametrize("retry", RETRIES)
def test_in_the_middle_of_a_packet(broker, retry, qos):
    peer = Peer(broker.port)
    try:
        cut = {"down": len(CONNACK) + 5 + 30}  # SUBACK, a part of a PUBLISH
        with (
            silent(broker, cut) as proxy,
            started(proxy.port, retry, qos, subscribe=True) as device,
        ):
            device.wait("subscribed")
            peer.publish("silence/in", b"x" * 100)
            check(device, retry)
            device.wait("partial")
    finally:
        peer.stop()


class Deaf(threading.Thread):
    """A broker that accepts, and then neither reads nor writes; messages: but for these, written
    when it is told to."""

    def __init__(self, messages=b""):
        super().__init__()
        self.messages = messages
        self.now = threading.Event()
        self.over = threading.Event()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1)
        self.port = self.listener.getsockname()[1]

    def run(self):
        with self.listener, self.listener.accept()[0] as conn:
            assert len(conn.recv(CONNECT, socket.MSG_WAITALL)) == CONNECT
            conn.sendall(CONNACK)
            self.now.wait(PATIENCE)
            conn.sendall(self.messages)
            self.over.wait(PATIENCE)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.now.set()
        self.over.set()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass  # if nobody came
        self.join()


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("retry", RETRIES)
def test_peer_that_does_not_read(retry, qos):
    with Deaf() as deaf, started(deaf.port, retry, qos, burst=50) as device:
        check(device, retry, by_acknowledgement=True)
        device.wait("full")
        if not qos:
            device.wait("blocked")


@pytest.mark.parametrize("retry", RETRIES)
def test_packet_that_waits_for_room(retry):
    # Many: TCP may yet take some of the replies.
    messages = [b"\x32\x06\x00\x01t" + struct.pack(">H", n) + b"x" for n in range(1, 4001)]
    with Deaf(b"".join(messages)) as deaf, started(deaf.port, retry, qos=0, burst=50) as device:
        device.wait("blocked")
        deaf.now.set()
        assert check(device, retry)[1]
