"""Nothing is allocated while a connection lasts, and neither code nor heap has grown."""

import pytest
from proxy import Proxy
from runtimes import ROOT, command
from tools import size
from tools.bench import measure

MICROPYTHON = command("micropython", ROOT)[0]
# A ceiling over what is reached now; the aim is 28 KiB.
CORE = 9460  # bytes
HEAP = 32  # KiB

CASES = (
    [(case, qos) for case in ("publish", "receive") for qos in (0, 1, 2)]
    + [("retry", 1), ("retry", 2)]
    + [("skip", 1), ("ping", 0)]
)
# Run at construction, for a connection or for a subscription only.
RARE = {
    ("client", "__init__"),
    ("client", "disconnect"),
    ("client", "publish_from"),
    ("client", "subscribe"),
    ("outbox", "_resume"),
    ("packet", "connect"),
    ("stream", "connect"),
    ("subscriptions", "declare"),
    ("subscriptions", "ask"),
    ("subscriptions", "answer"),
    ("subscriptions", "again"),
    ("tls", "context"),
}
OPTIONAL = {"aio", "large", "robust", "simple", "sleep", "spool"}
# `except ... as e` alone takes 6 words.
CATCHES = {("client", "_try")}


@pytest.fixture(scope="module")
def large():
    """The functions that take their frame from the heap. Some optional parts may."""
    frames = size.large_frames(MICROPYTHON)
    return {(f.module, f.function) for f in frames if f.module not in OPTIONAL}


@pytest.fixture
def link(broker):
    link = Proxy(broker.port, [])
    yield link
    link.stop()


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    return request.param


@pytest.fixture
def ran(case, device, peer, link, broker, topic):
    """The functions that ran in a steady state; the device fails if it cannot allocate."""
    name, qos = case
    steady = device("steady.py", link.port, topic, name, qos)
    if name in ("receive", "skip"):
        source = peer(broker.port)
        payload = "as long as the last" * (5 if name == "skip" else 1)
        source.publish(topic, payload, qos, retain=True)
        steady.wait("listening")
        for _ in range(5):
            source.publish(topic, payload, qos)
    elif name == "retry":
        steady.wait("deaf")
        link.call(link.heard.clear)
        steady.tell("go on")
        steady.wait("retried", 1)
        link.call(link.heard.set)
        steady.tell("go on")
    steady.wait("done")
    return {tuple(function) for function in steady.events("done")[0][0]}


def names(functions):
    return " ".join(sorted(".".join(function) for function in functions))


@pytest.mark.parametrize("runtime", ["micropython"])
def test_heap_is_locked(ran):
    pass  # the device has had no MemoryError


@pytest.mark.parametrize("runtime", ["cpython"])
def test_frames_that_run(ran, large):
    """The functions that a steady state is seen to call fit on the stack."""
    assert ("client", "poll") in ran
    assert not names(ran & large - CATCHES)
    assert not names(ran & RARE)


def test_frames(large):
    """So do those of the same path that only an unusual message needs."""
    assert not names(large - RARE - CATCHES)


def test_core_size():
    assert size.core_size(size.sizes()) <= CORE


def test_smallest_heap(broker):
    measure.build()
    assert measure.runs_in(MICROPYTHON, broker.port, "lite", HEAP)
