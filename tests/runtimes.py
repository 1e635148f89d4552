"""The two runtimes that the tests run under, and the command line of each."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNTIMES = ("cpython", "micropython")


def command(runtime: str, script: Path, *args: str, heap: str = "96k") -> list[str]:
    """How to run a script under a runtime; `heap` caps MicroPython's."""
    if runtime == "cpython":
        return [sys.executable, "-u", str(script), *args]
    micropython = os.environ.get("MICROPYTHON") or str(Path(sys.executable).with_name(runtime))
    return [micropython, "-X", f"heapsize={heap}", str(script), *args]


def environment(lib: Path = ROOT / "lib") -> dict[str, str]:
    """The environment of a process that imports the library, or the .mpy files in `lib`."""
    path = [str(lib), str(ROOT / "tests/lib"), str(ROOT / "tests")]
    # MicroPython drops its own default (frozen modules first) once the variable is set.
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "MICROPYPATH": os.pathsep.join([*path, ".frozen"]),
    }
