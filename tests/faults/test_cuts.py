"""One whole session, cut after every single byte in either direction; in TLS after every 7th, or
every 29th where the device has to find it out by itself."""

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ledger
import pytest
from brokers import Mosquitto
from processes import Device, Peer
from proxy import Faults, Proxy
from secure import PEM, Authority, Secure
from storm import SPEED
from tools.size import BUILD

SCRIPT = Path(__file__).parent / "device/session.py"
WORKERS = 6  # they mostly wait
CASES = [
    (broker, how, direction)
    for broker, how in (
        ("mosquitto", "close"),
        ("mosquitto", "reset"),
        ("mosquitto", "silent"),
        ("iotcore", "close"),
    )
    for direction in ("up", "down")
]


class Sessions:
    """Devices that go through sessions, each over a proxy of its own, and their peer."""

    def __init__(self, broker, port=None, more=()):
        self.port = port or broker.port
        self.more = more
        # iotcore forgets QoS 2 handshakes with the connection, and delivers QoS 0 as QoS 1
        self.levels, self.once = (3, (0, 2)) if isinstance(broker, Mosquitto) else (2, ())
        self.peer = Peer(broker.port)
        self.peer.subscribe("+/out", self.levels - 1)
        self.idle = queue.SimpleQueue()
        self.devices = [
            Device("micropython", SCRIPT, SPEED, heap="64k", lib=BUILD) for _ in range(WORKERS)
        ]
        for device in self.devices:
            self.idle.put(device)
        self.pool = ThreadPoolExecutor(WORKERS)

    def run(self, name, faults=()):
        """A session with an exact ledger. Returns the bytes in each direction."""
        device = self.idle.get()
        proxy = Proxy(self.port, faults)
        try:
            device.tell(proxy.port, name, self.levels, *self.more)
            device.wait("listening", name)
            for qos in range(self.levels):
                self.peer.publish(f"{name}/in", ledger.payload(qos, 0), qos)
            device.wait("done", name)
            sent = [1] * self.levels
            self.peer.log.wait(lambda _: ledger.complete(sent, self.arrived(name)))
            ledger.check(sent, self.arrived(name), self.once)
            got = [tuple(event[1:]) for event in device.events("got") if event[0] == name]
            ledger.check(sent, got, self.once)
            return {
                way: sum(len(data) for _, direction, data in proxy.trace if direction == way)
                for way in ("up", "down")
            }
        except AssertionError as error:
            error.add_note(f"{faults}\n{proxy.trace}")
            raise
        finally:
            proxy.stop()
            self.idle.put(device)

    def arrived(self, name):
        topic = f"{name}/out"
        return [ledger.entry(message[1]) for message in self.peer.messages if message[0] == topic]

    def stop(self):
        self.pool.shutdown(cancel_futures=True)
        for device in self.devices:
            device.stop()
        self.peer.stop()


@pytest.fixture(scope="module")
def sessions(broker):
    sessions = Sessions(broker)
    yield sessions
    sessions.stop()


@pytest.fixture(scope="module")
def secure_sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority("ours")
    (folder / "ca").write_bytes(authority.certificate.public_bytes(PEM))
    broker = Secure(folder, authority.issue("127.0.0.1")).start()
    sessions = Sessions(broker, broker.secure, (str(folder / "ca"),))
    yield sessions
    sessions.stop()
    broker.kill()


def cut(sessions, how, direction, step):
    name = f"{how}-{direction}"
    size = sessions.run(f"{name}-whole")[direction]
    assert size > 60
    cuts = range(0, size + 1, step)
    faults = [[Faults({direction: cut}, how)] for cut in cuts]
    names = [f"{name}-{cut}" for cut in cuts]
    assert len(list(sessions.pool.map(sessions.run, names, faults))) == len(cuts)


@pytest.mark.parametrize("broker, how, direction", CASES, indirect=["broker"])
def test_cut_after_every_byte(sessions, how, direction):
    cut(sessions, how, direction, 1)


@pytest.mark.parametrize(
    "how, direction, step",
    [("reset", "up", 7), ("close", "down", 7), ("silent", "up", 29), ("silent", "down", 29)],
)
def test_cut_in_tls(secure_sessions, how, direction, step):
    cut(secure_sessions, how, direction, step)
