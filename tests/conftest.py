"""Fixtures of the broker tests: each broker, each runtime, a device and its peer."""

import os
import signal
import subprocess

import pytest
from brokers import BROKERS
from processes import Device, Peer
from runtimes import RUNTIMES

if os.sep in os.environ.get("MICROPYTHON", ""):  # for tests that run in other folders
    os.environ["MICROPYTHON"] = os.path.abspath(os.environ["MICROPYTHON"])
# A terminated run ends the brokers that it started, as an interrupted one does.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# In the background of a shell SIGINT is ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# With vfork, a start beside busy threads was seen to fail: EFAULT.
subprocess._USE_VFORK = False


@pytest.fixture(scope="session", params=BROKERS)
def broker(request, tmp_path_factory):
    """A broker that the tests share: use topics and client identifiers of your own."""
    broker = BROKERS[request.param](tmp_path_factory.mktemp(request.param))
    yield broker.start()
    broker.kill()


@pytest.fixture(params=BROKERS)
def own_broker(request, tmp_path):
    """A broker for one test alone, which may kill it."""
    broker = BROKERS[request.param](tmp_path)
    yield broker.start()
    broker.kill()


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture
def device(request, runtime):
    """Starts scripts of the folder `device` under the runtime; ends what a test leaves running."""
    devices = []

    def start(script, *args, **kwargs):
        path = request.path.with_name("device") / script
        devices.append(Device(runtime, path, *args, **kwargs))
        return devices[-1]

    yield start
    for started in devices:
        started.stop()


@pytest.fixture
def peer():
    """Connects paho-mqtt clients, and disconnects them."""
    peers = []

    def connect(*args, **kwargs):
        peers.append(Peer(*args, **kwargs))
        return peers[-1]

    yield connect
    for connected in peers:
        connected.stop()


@pytest.fixture
def topic(request):
    """A topic that no other test uses."""
    return "t/" + request.node.name.replace("[", "/").replace("]", "")


@pytest.fixture
def base(request):
    """<prefix>/<device> that no other test uses."""
    return "test/" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-32:]
