"""The firmware as a process, under the unix port of MicroPython."""

import json
import os
import signal
import socket
import subprocess
import threading

import pytest
from brokers import BROKERS
from processes import PATIENCE, Log
from runtimes import ROOT, command

PATH = [ROOT / "lib", ROOT / "firmware", ROOT / "boards/unix", ".frozen"]
ENV = {key: value for key, value in os.environ.items() if not key.startswith("UMQTT_")} | {
    "MICROPYPATH": os.pathsep.join(map(str, PATH))
}


DESK = {
    "broker": "127.0.0.1:1883",
    "device": "desk",
    "prefix": "home",
    "discovery": "homeassistant",
    "sensors": [
        {"type": "bme280", "name": "air", "i2c": {"id": 0, "scl": 1, "sda": 2}},
        {"type": "chip", "name": "chip"},
        {"type": "digital", "name": "door", "pin": 3},
    ],
}


class Firmware:
    """Takes configuration keys as overrides; keeps the lines that the firmware prints."""

    def __init__(self, **overrides):
        env = ENV | {f"UMQTT_{key.upper()}": str(value) for key, value in overrides.items()}
        self.log = Log()
        self.process = subprocess.Popen(
            command("micropython", ROOT / "firmware/main.py", heap="256k"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=env,
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.log.add(line.rstrip())
        self.log.add(None)

    def wait(self, text):
        """Wait until it has printed a line with that text."""

        def found(lines):
            hit = any(text in line for line in lines if line)
            assert hit or None not in lines, f"the firmware ended: {lines}"
            return hit

        self.log.wait(found)

    def interrupt(self):
        """Ctrl-C. Returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.finish()

    def kill(self):
        self.process.kill()
        return self.finish()

    def finish(self):
        code = self.process.wait(PATIENCE)
        self.reader.join()
        return code

    @property
    def output(self):
        return "\n".join(line for line in self.log.entries if line is not None)


@pytest.fixture
def start(tmp_path):
    """Starts firmware with DESK, or what `settings` change of it, and what else is overridden;
    ends what a test leaves running."""
    started = []

    def start(config=None, settings=(), **overrides):
        if not config:
            config = tmp_path / f"desk{len(started)}.json"
            config.write_text(json.dumps(DESK | dict(settings)))
        started.append(Firmware(config=config, **overrides))
        return started[-1]

    start.sensors = DESK["sensors"]
    yield start
    for firmware in started:
        firmware.kill()


@pytest.fixture(scope="session", params=["mosquitto"])
def broker(request, tmp_path_factory):
    """The broker that the tests share; those where brokers differ ask for both."""
    broker = BROKERS[request.param](tmp_path_factory.mktemp(request.param))
    yield broker.start()
    broker.kill()


class Watch:
    """What a device's subscriber has received, by kind of topic."""

    def __init__(self, peer, base):
        self.peer = peer
        self.base = base
        peer.subscribe(base + "/#")

    def all(self, kind):
        return [m for m in self.peer.messages if m[0] == f"{self.base}/{kind}"]

    def wait(self, kind, count=1):
        """Wait for `count` messages in all on that topic, and return the last of those."""
        self.peer.log.wait(lambda _: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def more(self, kind, count):
        """Wait for `count` messages more than there are."""
        return self.wait(kind, len(self.all(kind)) + count)

    def command(self, payload, name="interval", retain=False):
        """Send a command, and return its answer."""
        before = len(self.all("response"))
        self.peer.publish(f"{self.base}/cmd/{name}", payload, 1, retain)
        return json.loads(self.wait("response", before + 1)[1])


def retained(peer, topic_filter):
    """What is retained for someone who comes now, by topic."""
    peer.subscribe(topic_filter)
    peer.subscribe("mark")
    peer.publish("mark", "", 1)
    peer.log.wait(lambda entries: any(topic == "mark" for topic, *_ in entries))
    return {topic: payload for topic, payload, _, retain in peer.messages if retain}


class Scripted:
    """A broker for one connection at a time, which only does as it is told."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.sock = None

    def accept(self):
        """Wait for a connection, and return its first packet."""
        self.sock = self.server.accept()[0]
        self.sock.settimeout(PATIENCE)
        self.file = self.sock.makefile("rb")
        return self.read()

    def read(self):
        """The next packet as (first byte, body); (0, b"") at the end."""
        first = self.file.read(1)
        if not first:
            return 0, b""
        size = shift = 0
        more = True
        while more:
            byte = self.file.read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            more = byte > 127
        return first[0], self.file.read(size)

    def send(self, packet):
        self.sock.sendall(packet)

    def close(self):
        if self.sock:
            self.file.close()
            self.sock.close()
        self.server.close()


@pytest.fixture
def scripted():
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def late(peer):
    """What is retained on a broker's port under a topic filter."""
    return lambda port, topic_filter: retained(peer(port), topic_filter)


@pytest.fixture
def watch(peer, base):
    """Starts to watch the device through the broker on that port."""
    return lambda port: Watch(peer(port), base)


@pytest.fixture
def desk(start, watch, broker, base):
    """Starts the firmware on the shared broker; returns it and what a subscriber receives."""

    def desk(interval=0.1, on=broker, **settings):
        seen = watch(on.port)
        prefix, device = base.split("/")
        firmware = start(
            broker=f"127.0.0.1:{on.port}",
            prefix=prefix,
            device=device,
            interval=interval,
            settings=settings,
        )
        if not settings.get("sleep"):
            seen.wait("status")
        return firmware, seen

    desk.sensors = DESK["sensors"]
    return desk
