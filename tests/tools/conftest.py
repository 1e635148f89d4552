"""The tools as their users call them, and a board on this desk to use them on."""

import subprocess
import sys
from contextlib import ExitStack

import boards
import pytest
from boards import OURS, Protected, clean
from brokers import BROKERS
from littlefs import LittleFS
from runtimes import ROOT
from tools.desk import Board


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """The broker that the tests share."""
    broker = BROKERS["mosquitto"](tmp_path_factory.mktemp("mosquitto"))
    yield broker.start()
    broker.kill()


@pytest.fixture(scope="session")
def protected(tmp_path_factory):
    """The broker with an account."""
    broker = Protected(tmp_path_factory.mktemp("protected"), OURS.issue("127.0.0.1"))
    yield broker.start()
    broker.kill()


@pytest.fixture
def tools():
    """Runs `python -m tools ...`; what it says on both outputs is in stdout."""

    def run(*args, timeout=60, **env):
        return subprocess.run(
            [sys.executable, "-m", "tools", *map(str, args)],
            cwd=ROOT,
            env=clean() | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def board(tmp_path):
    """A desk board with nothing on its flash."""
    with Board(tmp_path / "flash") as board:
        yield board


@pytest.fixture(scope="session")
def program():
    return boards.program("unix")


@pytest.fixture
def start(program, tmp_path):
    """Starts a desk board with the program and some more files, and without some."""
    with ExitStack() as on_exit:

        def start(files, without=()):
            there = {k: v for k, v in (program | files).items() if k not in without}
            return on_exit.enter_context(Board(boards.flash(tmp_path / "flash", there)))

        yield start


@pytest.fixture
def files():
    return read_flash


def read_flash(board) -> dict[str, bytes]:
    """What is on the flash of a desk board, read past the board; by path."""
    image = board.flash.read_bytes()
    fs = LittleFS(block_size=4096, block_count=len(image) // 4096, mount=False)
    fs.context.buffer[:] = image
    fs.mount()
    found = {}
    for folder, _, names in fs.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with fs.open(path, "rb") as file:
                found[path[1:]] = file.read()
    return found
