"""The size of the library: each module as .mpy, and the functions with large frames.

python -m tools.size [--micropython PATH]

A function whose locals, stack and exception handlers need more than FRAME words takes its frame
from the heap, on every call.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tools import build
from tools.build import LIB, compile_mpy
from tools.console import ROOT, Failed
from tools.programs import find_micropython

BUILD = ROOT / "build/mpy"
CORE = ("__init__", *(name.removeprefix("umqtt_lite.") for name in build.CORE))
FRAME = 11  # words: VM_MAX_STATE_ON_STACK of MicroPython's py/vm.c
HANDLER = 3  # words of one exception handler
BLOCK = re.compile(r"code block '(.+?)' .*?\(N_STATE (\d+)\)\n\(N_EXC_STACK (\d+)\)", re.DOTALL)


def modules() -> list[Path]:
    """What a device may load: the core, as listed, then the optional modules."""
    folder = LIB / "umqtt_lite"
    core = [folder / f"{name}.py" for name in CORE]
    return core + sorted(set(folder.glob("*.py")) - {*core, folder / "cpython.py"})


def sizes() -> dict[str, int]:
    """Bytes of each module as .mpy, by name. Leaves the modules in BUILD."""
    return {source.stem: compile_mpy(source, LIB, BUILD) for source in modules()}


def core_size(found: dict[str, int]) -> int:
    """Bytes of what `from umqtt_lite import MQTTClient` loads."""
    return sum(found[name] for name in CORE)


class Frame(NamedTuple):
    module: str
    function: str
    words: int


def frames(micropython: str) -> list[Frame]:
    """The frame of each function."""
    found = []
    for source in modules():
        call = [micropython, "-X", "compile-only", "-v", "-v", "-v", str(source)]
        listing = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        blocks = BLOCK.findall(listing)
        if not blocks:
            raise Failed(f"{micropython} has no debug printers, which tell the size of a frame")
        for name, state, handlers in blocks:
            found.append(Frame(source.stem, name, int(state) + HANDLER * int(handlers)))
    return found


def large_frames(micropython: str) -> list[Frame]:
    """The frames that come from the heap; a module's own runs but once."""
    return [f for f in frames(micropython) if f.words > FRAME and f.function != "<module>"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.size", description=__doc__)
    parser.add_argument("--micropython", help="the unix port (default: the one beside Python)")
    args = parser.parse_args()
    try:
        large = large_frames(find_micropython(args.micropython))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    found = sizes()
    core = core_size(found)
    print(".mpy (-O2)        bytes")
    for name in CORE:
        print(f"{name:16}{found[name]:7,}")
    print(f"{'core':16}{core:7,}")
    for name in sorted(found.keys() - CORE):
        print(f"{name:16}{found[name]:7,}  optional")
    print(f"\nframes above {FRAME} words: {len(large) or 'none'}")
    for module, function, words in large:
        print(f"{module + '.' + function:30}{words:4}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
