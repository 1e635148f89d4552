"""The deep-sleep cycle: each wake a process of its own, against Mosquitto; device/power_try.py
without one."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from cases import answers, environment, names
from processes import PATIENCE
from runtimes import command

DEVICE = Path(__file__).with_name("device")
CASES = DEVICE / "power_try.py"
PROGRAM = DEVICE / "cycle.py"
SLEEP = {"seconds": 100, "awake": 0.3}
PATIENT = {"seconds": 100, "awake": 30}

mosquitto = pytest.mark.parametrize("own_broker", ["mosquitto"], indirect=True)


@pytest.mark.parametrize("name", names(CASES))
def test_power(name):
    said = answers(CASES)[name]
    assert not said, said


class Shed:
    """A device, asleep for most of the time."""

    def __init__(self, base, folder):
        self.options = {"base": base + "/", "folder": str(folder)}
        self.wakes = 0

    def start(self, port, **options):
        """Let it wake."""
        wakes = {"port": port, "value": self.wakes, "woke": self.wakes > 0}
        options = self.options | wakes | {"clock": None, "sleep": PATIENT} | options
        self.wakes += 1
        return subprocess.Popen(
            command("micropython", PROGRAM, json.dumps(options)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(PROGRAM),
        )

    def wake(self, port, **options):
        """A whole wake. Returns what it told, by kind."""
        return self.end(self.start(port, **options))

    def end(self, process):
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        told = {}
        for line in output.splitlines():
            kind, *values = json.loads(line)
            told.setdefault(kind, []).append(values)
        (ms, awake, size) = told["asleep"][0]
        assert 0 < ms < 100_000 and size <= 2048
        return told


@pytest.fixture
def shed(base, tmp_path):
    return Shed(base, tmp_path)


@mosquitto
@pytest.mark.parametrize("clock", [True, None])
def test_ten_wakes_without_a_broker(shed, own_broker, watch, clock):
    """Then every reading comes, once, in order, with its time or its age."""
    own_broker.kill()
    for _ in range(10):
        assert "connect" not in shed.wake(own_broker.port, clock=clock, sleep=SLEEP)
    own_broker.start()
    seen = watch(own_broker.port)
    shed.wake(own_broker.port, clock=clock)
    seen.wait("air", 11)
    shed.wake(own_broker.port, clock=clock)
    seen.wait("air", 12)
    found = [json.loads(payload) for _, payload, _, _ in seen.all("air")]
    assert [f["value"] for f in found] == list(range(12))
    if clock:
        times = [f["time"] for f in found]
        assert times == sorted(times) and abs(times[-1] - time.time()) < 2 * PATIENCE
    else:
        assert [f.get("age") for f in found] == [*range(1000, 0, -100), None, None]


def values(seen):
    return [json.loads(payload)["value"] for _, payload, _, _ in seen.all("air")]


@mosquitto
def test_the_spool_instead(shed, own_broker, watch):
    own_broker.kill()
    for _ in range(3):
        shed.wake(own_broker.port, sleep=SLEEP, spool=True)
    own_broker.start()
    seen = watch(own_broker.port)
    for _ in range(2):
        shed.wake(own_broker.port, spool=True)
    seen.wait("air", 5)
    assert values(seen) == list(range(5))


@mosquitto
def test_commands_wait_for_the_device(shed, own_broker, watch, base):
    seen = watch(own_broker.port)
    assert shed.wake(own_broker.port)["connect"] == [[False]]
    for i in range(30):  # more than the broker sends at once
        seen.peer.publish(f"{base}/cmd/read", str(i), 1)
    told = shed.wake(own_broker.port)
    assert told["connect"] == [[True]]
    assert told["command"] == [[str(i)] for i in range(30)]
    seen.wait("response", 30)
    assert "command" not in shed.wake(own_broker.port)
    seen.wait("air", 3)


@mosquitto
@pytest.mark.parametrize("end", [b"", b"off", "kill"])
def test_a_retained_topic_keeps_it_awake(shed, own_broker, watch, base, end):
    seen = watch(own_broker.port)
    seen.peer.publish(f"{base}/awake", "1", 1, True)
    awake = 0.3 if end == "kill" else 30
    device = shed.start(own_broker.port, every=400, sleep=SLEEP | {"awake": awake})
    seen.wait("air", 4)  # of one wake, which is longer than 0.3 s
    seen.peer.publish(f"{base}/cmd/read", "x", 1)
    seen.wait("response")
    if end == "kill":  # the limit is back
        own_broker.kill()
    else:
        seen.peer.publish(f"{base}/awake", end, 1, True)
    told = shed.end(device)
    assert told["command"] == [["x"]] and len(told["connect"]) == 1


def test_what_was_not_acknowledged_comes_again(shed, scripted):
    """As what it was, in the same session: with DUP, its identifier, and nothing twice."""
    port = scripted.server.getsockname()[1]
    seen = []
    for present in (0, 1, 1):
        device = shed.start(port, sleep=SLEEP)
        first, _ = scripted.accept()
        assert first == 0x10
        scripted.send(bytes((0x20, 2, present, 0)))
        while True:
            first, body = scripted.read()
            if first == 0x82:
                scripted.send(b"\x90\x04" + body[:2] + b"\x01\x00")
            elif first in (0xE0, 0):
                break
            else:
                n = 2 + body[1]
                seen.append((first, body[n : n + 2], body[n + 2 :]))
        assert first == 0xE0  # DISCONNECT, at the limit
        shed.end(device)
    values = [json.loads(payload) for _, _, payload in seen]
    assert [v["value"] for v in values] == [0, 0, 1, 0, 1, 2]
    assert [first for first, _, _ in seen] == [0x32, 0x3A, 0x32, 0x3A, 0x3A, 0x32]
    ids = [name for _, name, _ in seen]
    assert ids[0] == ids[1] == ids[3] and ids[2] == ids[4] and len(set(ids)) == 3


def test_a_broker_that_says_nothing(shed, scripted, own_broker, watch):
    """It costs no more than the limit."""
    shed.wake(scripted.server.getsockname()[1], sleep=SLEEP)
    seen = watch(own_broker.port)
    shed.wake(own_broker.port)
    seen.wait("air", 2)
    assert values(seen) == [0, 1]
