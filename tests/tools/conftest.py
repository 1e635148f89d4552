"""The tools as their users call them, and a board on this desk to use them on."""

import os
import subprocess
import sys

import pytest
from brokers import BROKERS
from littlefs import LittleFS
from runtimes import ROOT
from tools.desk import Board

ENV = {key: value for key, value in os.environ.items() if not key.startswith("UMQTT_")}


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """The broker that the tests share."""
    broker = BROKERS["mosquitto"](tmp_path_factory.mktemp("mosquitto"))
    yield broker.start()
    broker.kill()


@pytest.fixture
def tools():
    """Runs `python -m tools ...`; what it says on both outputs is in stdout."""

    def run(*args, timeout=60, **env):
        return subprocess.run(
            [sys.executable, "-m", "tools", *map(str, args)],
            cwd=ROOT,
            env=ENV | env,
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
