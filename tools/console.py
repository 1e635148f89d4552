"""What every command shares: its errors, what it prints, and the options that many take."""

import argparse
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# How a command is called from here, for hints that can be typed as they stand.
PYTHON = "python" if shutil.which("python") == sys.executable else sys.executable
TOOLS = f"{PYTHON.removeprefix(os.getcwd() + os.sep)} -m tools"
COLOUR = {"dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}

# Exit codes. 130 is Ctrl-C.
DONE = 0
FAILED = 1
USAGE = 2
CABLE = 3  # no board, several, busy, no permission, cut
CONFIG = 4
BROKER = 5


class Failed(Exception):
    """What went wrong, in words that say what to look at, and the exit code."""

    def __init__(self, message: str, code: int = FAILED):
        super().__init__(message)
        self.code = code


def paint(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{COLOUR[colour]}m{text}\033[0m"


def printable(text: str) -> str:
    """The text without what moves a cursor, ends a line, or cannot be encoded."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def say(line: str = "") -> None:
    print(line, flush=True)


@contextmanager
def progress(label: str, total: int, unit: str = "bytes"):
    """Yields a function to call with what is done since; draws a bar where there is a terminal."""
    if not sys.stdout.isatty():
        yield lambda n: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    with Progress(TextColumn("{task.description}"), BarColumn(), count, transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield lambda n: bars.advance(task, n)


FOREVER = 10**9  # seconds


def seconds(text: str) -> float:
    """An argument's type."""
    value = float(text)
    if not 0 < value < FOREVER:
        raise argparse.ArgumentTypeError(f"{text} is no time in seconds")
    return value


def add_board(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--board",
        metavar="NAME",
        default=default,
        help="a folder of boards/: esp32, rp2040, unix"
        + (f" (default: {default})" * bool(default)),
    )


def add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        help="/dev/ttyACM0, COM3, socket://host:port (default: the one board that is connected)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config.json, with secrets.json beside it (default: boards/<board>/config.json)",
    )
