"""Plain functions in a file, run under MicroPython in one process."""

import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from runtimes import ROOT, command

FOLDERS = [ROOT / "lib", ROOT / "firmware"]


def names(path: Path) -> list[str]:
    """The functions of that file whose names begin with test_."""
    nodes = ast.parse(path.read_text()).body
    return [n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"]


def environment(path: Path) -> dict[str, str]:
    """That of a device program in a folder of its own."""
    return os.environ | {"MICROPYPATH": os.pathsep.join(map(str, [*FOLDERS, path.parent]))}


@cache
def answers(path: Path) -> dict[str, str]:
    """What each function said: nothing, if it passed."""
    done = subprocess.run(
        command("micropython", ROOT / "tests/lib/runner.py", path.stem, heap="256k"),
        input="".join(name + "\n" for name in names(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        timeout=60,
        env=environment(path),
    )
    *parts, rest = re.split("\x1e(passed|failed)\n", done.stdout)
    found = dict.fromkeys(names(path), f"the process has ended\n{rest}")
    for name, output, result in zip(found, parts[::2], parts[1::2], strict=False):
        found[name] = "" if result == "passed" else output or "failed"
    return found
