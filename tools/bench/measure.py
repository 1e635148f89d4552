"""What `make bench` measures: MicroPython programs, all from .mpy, against a broker."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.build import compile_mpy
from tools.console import ROOT, Failed
from tools.size import BUILD, sizes

DEVICE = Path(__file__).with_name("device")
PROGRAMS = ROOT / "build/bench"
PATIENCE = 60  # seconds for one program
LARGEST = 256  # KiB
HEAP = "128K"


def build() -> dict[str, int]:
    """Compile the library and the programs. Returns the bytes of each of the library's modules."""
    for source in DEVICE.glob("*.py"):
        compile_mpy(source, DEVICE, PROGRAMS)
    return sizes()


def build_simple(peers: Path) -> int:
    """Compile umqtt.simple. Returns its bytes."""
    source = peers / "umqtt/simple.py"
    if not source.exists():
        raise Failed(f"no umqtt/simple.py in {peers}")
    return compile_mpy(source, peers, PROGRAMS)


def run(micropython, program, *args, heap=HEAP, under=(), timeout=PATIENCE):
    """Run a program to its end, or kill it."""
    path = os.pathsep.join([str(PROGRAMS), str(BUILD), ".frozen"])
    return subprocess.run(
        [*under, micropython, "-X", f"heapsize={heap}", "-m", program, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        # Instructions are to be the same each time, those of a wrapper in Python too.
        env={**os.environ, "MICROPYPATH": path, "PYTHONHASHSEED": "0"},
    )


def runs_in(micropython: str, port: int, client: str, kib: int) -> bool:
    """Whether 50 messages of 64 bytes at QoS 1 go out, and 10 come in, with so small a heap."""
    try:
        done = run(micropython, f"heap_{client}", port, heap=f"{kib}K", timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout == "ok\n"


def flash(micropython: str) -> dict:
    """What a spool does to its flash for 1,000 readings, as store.py prints it."""
    done = run(micropython, "store", 1000, heap="2M")
    if done.returncode:
        raise Failed(f"store:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


class Bench:
    """Measures with one interpreter and one broker."""

    def __init__(self, micropython: str, port: int):
        self.micropython = micropython
        self.port = port

    def measure(self, client, task, *args, **kwargs):
        what = f"{client} {task} {' '.join(map(str, args))}"
        try:
            done = run(self.micropython, "run", client, task, self.port, *args, **kwargs)
        except subprocess.TimeoutExpired:
            raise Failed(f"{what}: not done within {PATIENCE} s") from None
        if done.returncode:
            raise Failed(f"{what}:\n{done.stdout}{done.stderr}")
        return done

    def live_heap(self, client: str) -> int:
        """Bytes held by the library and one connection."""
        return int(self.measure(client, "live").stdout)

    def smallest_heap(self, client: str) -> int:
        """KiB."""
        low, high = 0, LARGEST
        while high - low > 1:
            middle = (low + high) // 2
            if runs_in(self.micropython, self.port, client, middle):
                high = middle
            else:
                low = middle
        return high

    def allocations(self, client: str) -> dict:
        """Bytes per publish and received message at each QoS, and per idle poll."""
        return json.loads(self.measure(client, "allocations").stdout)

    def instructions(self, client: str, how: str) -> int:
        """Per round of the loop, without the loop: from the difference of two counts of rounds."""
        return self.count(client, how) - self.count(client, "nothing")

    def count(self, client: str, how: str) -> int:
        few, many = 1000, 3000
        total = {n: self.collected(client, how, n) for n in (few, many)}
        return round((total[many] - total[few]) / (many - few))

    def collected(self, client, how, n) -> int:
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        done = self.measure(client, "loop", how, n, under=valgrind)
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])

    def rate(self, client: str, how: str, ms: int) -> float:
        """Messages per second."""
        return float(self.measure(client, "rate", how, ms).stdout)


def has_valgrind() -> bool:
    return shutil.which("valgrind") is not None
