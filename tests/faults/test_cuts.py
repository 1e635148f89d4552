"""One whole session, cut after every single byte in either direction; in TLS after every 7th, or
every 29th where the device has to find it out by itself.

And one with a message larger than the inbox in and one larger than the outbox out.
"""

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ledger
import pytest
from brokers import Mosquitto
from processes import Device, Peer
from proxy import Faults, Proxy, split
from secure import PEM, Authority, Secure
from storm import SPEED
from tools.size import BUILD

SCRIPTS = Path(__file__).parent / "device"
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
LARGE = [
    (2, False, "close", 1),
    (2, True, "reset", 5),
    (1, False, "reset", 5),
    (1, True, "close", 5),
]


class Sessions:
    """Devices that go through sessions, each over a proxy of its own, and their peer."""

    script = "session.py"

    def __init__(self, broker, port=None, more=()):
        self.port = port or broker.port
        self.more = more
        # iotcore forgets QoS 2 handshakes with the connection, and delivers QoS 0 as QoS 1
        self.levels, self.once = (3, (0, 2)) if isinstance(broker, Mosquitto) else (2, ())
        self.peer = Peer(broker.port)
        self.peer.subscribe("+/out", self.levels - 1)
        self.idle = queue.SimpleQueue()
        self.devices = [
            Device("micropython", SCRIPTS / self.script, SPEED, heap="64k", lib=BUILD)
            for _ in range(WORKERS)
        ]
        for device in self.devices:
            self.idle.put(device)
        self.pool = ThreadPoolExecutor(WORKERS)

    def run(self, name, faults=()):
        """A session with an exact ledger. Returns the bytes in each direction."""
        device = self.idle.get()
        proxy = Proxy(self.port, faults)
        try:
            self.session(device, proxy, name)
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

    def session(self, device, proxy, name):
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

    def arrived(self, name):
        topic = f"{name}/out"
        return [ledger.entry(message[1]) for message in self.peer.messages if message[0] == topic]

    def stop(self):
        self.pool.shutdown(cancel_futures=True)
        for device in self.devices:
            device.stop()
        self.peer.stop()


class LargeSessions(Sessions):
    """The same with large messages. In a clean session the one to the device is retained: what
    comes while there is no session is lost."""

    script = "pieces.py"
    qos = clean = None

    def session(self, device, proxy, name):
        payload = ledger.large(name, 150)
        if self.clean:
            self.peer.publish(f"{name}/in", payload, self.qos, True)
        device.tell(proxy.port, name, self.qos, self.clean)
        device.wait("listening", name)
        if not self.clean:
            self.peer.publish(f"{name}/in", payload, self.qos)
        device.wait("done", name)
        expected = ledger.large(name, 130)
        self.peer.log.wait(lambda _: expected in self.arrived(name))
        arrived = self.arrived(name)
        assert set(arrived) == {expected}
        if self.qos == 2 and not self.clean:
            assert len(arrived) == 1
            assert [event[1] for event in device.events("done") if event[0] == name] == [1]
        self.check_acknowledgements(proxy)

    def check_acknowledgements(self, proxy):
        """Each is for a message that came as a whole, in the same session."""
        come = set()
        for connection in range(proxy.connections):
            up, down = (
                split(b"".join(d for n, w, d in proxy.trace if (n, w) == (connection, way)))[0]
                for way in ("up", "down")
            )
            if self.clean:
                come.clear()
            for packet in down:
                if packet[0] >> 4 == 3:
                    i = 3 + (packet[1] > 127)
                    i += packet[i] + 1  # no topic is longer than 255 bytes
                    come.add(packet[i : i + 2])
            first = 0x30 + 0x10 * self.qos
            for packet in up:
                assert packet[0] != first or packet[2:] in come, "acknowledged too early"

    def arrived(self, name):
        return [message[1] for message in self.peer.messages if message[0] == f"{name}/out"]


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


@pytest.fixture(scope="module")
def large_sessions(broker):
    sessions = LargeSessions(broker)
    yield sessions
    sessions.stop()


def cut(sessions, how, direction, step, name=""):
    name += f"{how}-{direction}"
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


# After every byte where most is at stake; elsewhere a 5th, which meets each packet, saves a minute
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("qos, clean, how, step", LARGE)
def test_cut_with_large_messages(large_sessions, direction, qos, clean, how, step):
    large_sessions.qos = qos
    large_sessions.clean = clean
    cut(large_sessions, how, direction, step, f"{qos}{clean:d}")
