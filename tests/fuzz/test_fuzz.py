"""The client drinks what a hostile broker sends.

make fuzz [PACKETS=100000] [SEED=1] is the last test alone, at length.
"""

import collections
import os
import time

import pytest
from fuzz.generator import FLOOD, NASTY
from fuzz.hostile import Run, Wrong
from tools.size import BUILD, LIB, sizes

PACKETS = int(os.environ.get("PACKETS") or 2000)
SEED = int(os.environ.get("SEED") or 1)
ROUND = 5000  # packets that one device gets
CORPUS = [("micropython", seed) for seed in range(11, 19)] + [("cpython", 19)]
CREEP = 1024  # bytes by which the heap may differ


@pytest.fixture(scope="module")
def library():
    """The library as .mpy: compiling it on the device takes more than 64 KiB."""
    sizes()
    return BUILD


def drink(seed, packets, runtime, library):
    run = Run(seed, runtime, LIB if runtime == "cpython" else library)
    try:
        run.drink(packets)
    except Wrong as error:
        again = f"make fuzz SEED={seed} PACKETS={packets}"
        if runtime == "cpython":
            again = f'make test ARGS="tests/fuzz -k {runtime}-{seed}"'
        raise Wrong(f"{again}\nconnection {run.number}, {run.config}:\n{error}") from None
    finally:
        run.close()
    assert len(run.files) < 2, f"open files: {run.files}"
    if run.heaps and run.heaps[0]:
        assert max(run.heaps[-3:]) - max(run.heaps[:3]) < CREEP, run.heaps
    return run


@pytest.mark.parametrize(("runtime", "seed"), CORPUS)
def test_corpus(runtime, seed, library):
    run = drink(seed, 1000 if runtime == "micropython" else 300, runtime, library)
    assert bool(run.large) == bool(run.config["pieces"]), "pieces of large messages"


@pytest.mark.parametrize("runtime", ("micropython", "cpython"))
def test_nasty(runtime, library):
    run = Run(1, runtime, LIB if runtime == "cpython" else library)
    try:
        for data in (*NASTY, FLOOD):
            for slowly in (False, True):
                try:
                    run.attack_with(data, slowly)
                except Wrong as error:
                    raise Wrong(f"{data[:80].hex(' ')}: {error}") from None
        run.recovered()
        run.stop()
        assert len(run.files) < 2, f"open files: {run.files}"
    finally:
        run.close()


def test_reset_in_a_flood(library):
    run = Run(1, "micropython", library, outbox=160, inbox=64, clean_session=True)
    try:
        for _ in range(10):
            run.reset_in_a_flood()
        run.recovered()
    finally:
        run.close()
    assert run.missed < 3, "noticed by a time-out only"


def test_fuzz(library):
    begin = time.monotonic()
    total = connections = 0
    ends, heaps = collections.Counter(), []
    for seed in range(SEED, SEED + -(-PACKETS // ROUND)):
        run = drink(seed, min(ROUND, PACKETS - total), "micropython", library)
        total += run.packets
        connections += run.number
        ends += run.ends
        heaps.append(max(run.heaps))
    kinds = ", ".join(f"{kind} {count}" for kind, count in ends.most_common())
    print(
        f"\nseeds {SEED} to {seed}: {total} packets, {connections} connections ({kinds}), "
        f"{time.monotonic() - begin:.0f} s, heap at most {max(heaps)} bytes"
    )
