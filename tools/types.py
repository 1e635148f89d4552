"""Check the types of the code that each board runs against the stubs of its port.

python -m tools.types [BOARD ...]

Where there is no hardware, this finds a call that the port does not have.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools.console import ROOT

PORTS = {"rp2040": "rp2"}  # where a board's name is not that of its port


def check(board: str, *files: Path, quiet: bool = False) -> subprocess.CompletedProcess:
    """Run mypy over the library, the firmware and the board, or over `files` in their place."""
    port = PORTS.get(board, board)
    stubs = ROOT / "build/stubs" / port
    path = [stubs, ROOT / "lib", ROOT / "firmware", ROOT / "boards" / board]
    call = [sys.executable, "-m", "mypy", "--custom-typeshed-dir", str(stubs)]
    call += ["--cache-dir", str(ROOT / "build/mypy" / port)]
    call += map(str, files or [*path[1:]])
    return subprocess.run(
        call,
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, path))},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
    )


def boards() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("boards/*/board.py"))


def main() -> int:
    failed = 0
    for board in sys.argv[1:] or boards():
        print(f"mypy: {board}", flush=True)
        failed |= check(board).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
