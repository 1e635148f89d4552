"""A million messages: both ways for minutes while faults strike, and nothing has grown.

make soak MINUTES=30 SEED=1; make test has a short one.
"""

import os
import random
import time

import pytest
from brokers import Mosquitto
from processes import until
from proxy import Faults
from storm import Storm

MINUTES = float(os.environ.get("MINUTES") or 0.3)
SEED = os.environ.get("SEED") or "1"
WARM_UP = 5  # connections
OPEN = 4  # files of the device: three that every process has, and its socket
RATE = 20000  # messages a minute, each way


def some_faults(seed):
    """Of a connection that lasts for some seconds."""
    rng = random.Random(seed)
    faults = Faults(seed=seed, how=rng.choice(("close", "reset", "silent")))
    faults.cut = {rng.choice(("up", "down")): rng.randrange(1000, 120000)}
    if not rng.randrange(3):
        faults.drop = faults.repeat = faults.hold = 0.001
    if not rng.randrange(5):
        faults.inject = 0.0005
    return faults


def open_files(storm):
    return len(os.listdir(f"/proc/{storm.device.process.pid}/fd"))


@pytest.fixture
def storm(tmp_path):
    broker = Mosquitto(tmp_path).start()
    faults = [some_faults(f"{SEED}/{i}") for i in range(WARM_UP)]
    storm = Storm(broker, f"soak-{SEED}", faults, outbox=1024, wait=2)
    yield storm
    storm.stop()
    broker.kill()


def test_soak(storm):
    storm.start(at_once=12)
    storm.until(lambda: storm.proxy.calm)
    heap = storm.settle()
    sent, received = sum(storm.sent), sum(storm.received)

    endless = [some_faults(f"{SEED}/{i}") for i in range(WARM_UP, 10000)]
    storm.proxy.faults[storm.proxy.connections :] = endless
    storm.proxy.drop()
    storm.device.tell("more")
    storm.go_on(at_once=12)
    begin = time.monotonic()
    while time.monotonic() - begin < MINUTES * 60:
        assert storm.device.process.poll() is None
        time.sleep(0.1)
    minutes = (time.monotonic() - begin) / 60
    connections = storm.proxy.connections
    del storm.proxy.faults[connections:]
    storm.until(lambda: storm.proxy.calm)
    grown = storm.settle() - heap
    until(lambda: open_files(storm) == OPEN)  # it may be between two connections
    storm.end()
    sent, received = sum(storm.sent) - sent, sum(storm.received) - received
    print(
        f"seed {SEED}: {minutes:.1f} minutes, {sent:,} messages out, {received:,} in, "
        f"{connections} connections, longest call {storm.longest:.1f} ms, "
        f"heap {heap:,} bytes {grown:+}, open files {OPEN}"
    )
    if "MINUTES" in os.environ:
        assert min(sent, received) >= RATE * minutes
    assert grown == 0
