"""The spool on littlefs, on a flash whose power is cut at every program and erase operation."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from brokers import Mosquitto
from processes import Peer
from runtimes import ROOT, command, environment

DEVICE = Path(__file__).with_name("device")
PATIENCE = 100  # seconds
LEAST = 300  # operations of the scenario


def run(script, *args):
    """What a device script prints as JSON, under MicroPython."""
    env = environment()
    path = [str(DEVICE), str(ROOT / "tools/bench/device"), env["MICROPYPATH"]]
    done = subprocess.run(
        command("micropython", DEVICE / script, *map(str, args), heap="2m"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=env | {"MICROPYPATH": os.pathsep.join(path)},
    )
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("last", ["undone", "half"])
def test_cut_at_every_operation(last):
    """What sync() confirmed and nothing acknowledged is delivered, once and in order."""
    found = run("cuts.py", last)
    assert found["cuts"] == found["operations"] > LEAST


def test_cut_at_every_operation_of_the_recovery():
    """And again while a new start looks at what the first cut left."""
    found = run("cuts.py", "half", "twice")
    assert found["cuts"] > LEAST


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path)
    yield broker.start()
    broker.kill()


@pytest.fixture
def watch(mosquitto):
    peer = Peer(mosquitto.port)
    yield peer
    peer.stop()


def test_outage_and_power_cuts(mosquitto, watch, tmp_path):
    """Stored without a broker; delivered to one, by a device that loses its power on the way."""
    topic = "t/outage"
    watch.subscribe(topic, 1)
    image = tmp_path / "flash"
    stored = run("outage.py", image, 0, topic, 400, 70)
    assert stored["off"] and stored["synced"] > 100
    starts = 0
    while run("outage.py", image, mosquitto.port, topic, 0, 3)["off"]:
        starts += 1
        assert starts < 50
    assert starts > 2
    last = b"%d" % (stored["synced"] - 1)
    watch.log.wait(lambda entries: any(entry[1] == last for entry in entries))
    found = [int(payload) for _, payload, _, _ in watch.messages]
    first = list(dict.fromkeys(found))
    assert first[: stored["synced"]] == list(range(stored["synced"]))
    assert first == sorted(first)
    # again only after a start, what was in flight, or ahead of the saved position
    assert sum(b <= a for a, b in zip(found, found[1:], strict=False)) <= starts
