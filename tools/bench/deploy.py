"""How long it takes to bring the program onto a board: mpremote's copy beside tools.deploy."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.console import ROOT, Failed
from tools.desk import Board

PARTS = ("lib", "firmware", "boards", "tools")
COPY = "mpremote cp -r, all"
FIRST = "first deploy"
CHANGED = "one source changed"
SAME = "nothing changed"


class Clone:
    """A copy of the tree, where a source can be changed, and a board that is empty."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in PARTS:
            ignore = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)

    def copy(self, port: str) -> float:
        """Seconds of the copy of what is built."""
        call = [sys.executable, "-m", "mpremote", "connect", port, "resume"]
        call += ["fs", "cp", "-r", f"{self.folder}/build/unix/.", ":"]
        start = time.monotonic()
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"mpremote: {done.stderr or done.stdout}")
        return time.monotonic() - start

    def deploy(self, port: str) -> tuple[float, int]:
        """Seconds until all is on the board, which then starts; and the bytes that were sent."""
        call = [sys.executable, "-m", "tools", "deploy", "--board", "unix", "--port", port]
        start = time.monotonic()
        told = ""
        with subprocess.Popen(
            call, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                told += line
                if " to send" in line or " sent, " in line:
                    lasted = time.monotonic() - start
        if process.returncode:
            raise Failed(told)
        sent = re.search(r"sent, ([\d,]+) bytes", told)
        return lasted, int(sent[1].replace(",", "")) if sent else 0

    def change(self, n: int) -> None:
        with open(self.folder / "firmware/app.py", "a") as file:
            file.write(f"\nCHANGE = {n}\n")


def measure(rounds: int, micropython: str | None = None) -> list[dict[str, tuple[float, int]]]:
    """(seconds, bytes) of each way, in so many rounds. Each round has two empty boards."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder, "clone"))
        subprocess.run(
            [sys.executable, "-m", "tools", "build", "--board", "unix"],
            cwd=clone.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        tree = clone.folder / "build/unix"
        for n in range(rounds):
            size = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
            with Board(Path(folder, f"copy{n}"), micropython=micropython) as board:
                copy = clone.copy(board.port), size
            with Board(Path(folder, f"deploy{n}"), micropython=micropython) as board:
                first = clone.deploy(board.port)
                clone.change(n)
                changed = clone.deploy(board.port)
                same = clone.deploy(board.port)
            found.append({COPY: copy, FIRST: first, CHANGED: changed, SAME: same})
    return found
