"""The development loop, on a desk board: from a copy of the tree, as sources are edited here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from hashlib import sha256

import pytest
from processes import PATIENCE, Log, Peer
from runtimes import ROOT
from tools.cable import Cable
from tools.console import CABLE, CONFIG
from tools.desk import Board
from tools.run import is_back

OWN = "print('rst:0x8 (TG1WDT_SYS_RESET),boot:0x13')\nprint('own program')\nprint('on')\n"
SECRET = "not for build"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the tree, which a test copies again: with what is built, that is quick."""
    folder = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("lib", "firmware", "boards", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    call = [sys.executable, "-m", "tools", "build", "--board", "unix"]
    subprocess.run(call, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def tree(built, tmp_path):
    return shutil.copytree(built, tmp_path / "tree")


@pytest.fixture
def seen(broker, request):
    """What a subscriber receives of the device, which has a name of its own."""
    peer = Peer(broker.port)
    peer.base = f"test/{request.node.name.replace('_', '-')[:28]}"
    peer.subscribe(peer.base + "/#")
    yield peer
    peer.stop()


@pytest.fixture
def config(broker, seen):
    prefix, device = seen.base.split("/")
    return {
        "broker": f"127.0.0.1:{broker.port}",
        "prefix": prefix,
        "device": device,
        "interval": 0.1,
        "sensors": [{"type": "chip", "name": "chip"}],
    }


@pytest.fixture
def board(tmp_path, config):
    """One with a program and a configuration of its own, and a library that is out of date."""
    with Board(tmp_path / "flash") as board:
        with Cable(board.port) as cable:
            cable.exec("import os\nos.mkdir('lib')")
            cable.write("lib/app.py", b"raise Exception('out of date')\n")
            cable.write("main.py", OWN.encode())
            cable.write("config.json", json.dumps(config).encode())
        board.sum = lambda: sha256(board.flash.read_bytes()).digest()
        board.before = board.sum()
        yield board


@pytest.fixture
def loop(tree, board, tmp_path):
    """Starts `tools run` on the board, from the copy; ends what a test leaves running."""
    started = []
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def start(*args):
        started.append(Loop(tree, board.port, {"TMPDIR": str(temporary)}, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.end()
    assert all(one.killed for one in started) or not list(temporary.iterdir())


class Loop:
    def __init__(self, tree, port, env, *args):
        self.tree = tree
        self.log = Log()
        self.killed = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools", "run", "--port", port, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tree,
            env={**os.environ, **env, "PYTHONUNBUFFERED": "1"},
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.log.add(line.rstrip())
        self.log.add(None)

    def wait(self, text, count=1):
        """Wait until it has printed that many lines with that text."""

        def found(lines):
            hit = sum(text in line for line in lines if line is not None) >= count
            assert hit or None not in lines, f"it has ended: {lines}"
            return hit

        self.log.wait(found)

    def edit(self, name, old, new):
        file = self.tree / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        code = self.process.wait(PATIENCE)
        self.reader.join()
        self.killed = code == -signal.SIGKILL
        return code

    def count(self, text):
        return self.output.count(text)

    @property
    def output(self):
        return "\n".join(line for line in self.log.entries if line is not None)


def received(seen, kind, text=""):
    """Wait for a message with that text on that topic; later ones only, if called again."""

    def found(messages):
        return any(m[0] == f"{seen.base}/{kind}" and text in m[1].decode() for m in messages)

    seen.log.wait(found)
    seen.log.entries.clear()


def test_changes_start_it_anew(loop, board, seen):
    run = loop()
    received(seen, "info", '"version": "0')
    received(seen, "chip", "temperature")

    run.edit("firmware/app.py", "VERSION = ", 'VERSION = "9.9.9"  # ')
    received(seen, "info", "9.9.9")
    run.wait("firmware/app.py changed: built and started again")

    run.edit("lib/umqtt_lite/outbox.py", "class Outbox", "clas Outbox")
    run.wait("lib/umqtt_lite/outbox.py, line ")
    run.wait("waiting for a change")
    received(seen, "status", "offline")
    run.edit("lib/umqtt_lite/outbox.py", "clas Outbox", "class Outbox")
    received(seen, "chip", "temperature")

    assert run.interrupt() == 0, run.output
    received(seen, "status", "offline")
    assert "Traceback" not in run.output and "own program" in run.output
    assert board.starts == 1
    assert board.sum() == board.before


def test_cable_is_cut(loop, board, seen):
    run = loop()
    received(seen, "diagnostics")
    received(seen, "chip")  # all is loaded
    board.cut()
    assert run.end() == CABLE
    assert run.count("run: the cable to ") == 1 and "Traceback" not in run.output

    again = loop()  # the mount of the one before is still there
    received(seen, "status", "offline")
    received(seen, "chip")
    assert again.interrupt() == 0, again.output
    assert board.starts == 1 and board.sum() == board.before


def test_resets(loop, board, seen):
    run = loop()
    received(seen, "chip")
    seen.publish(f"{seen.base}/cmd/reboot", "now", 1)
    run.wait("the program resets the board")
    received(seen, "info", '"reset_cause": "hard"')
    assert board.starts == 1

    board.process.kill()  # as a watchdog would: flash has another program
    run.wait("the board was reset")
    received(seen, "info", '"reset_cause": "watchdog"')
    assert board.starts == 2
    assert run.interrupt() == 0, run.output
    assert board.sum() == board.before


def test_a_crash_waits_for_a_change(loop, board, seen):
    run = loop("--seconds", 60)
    received(seen, "chip")
    run.edit("firmware/app.py", "    def step(self):", "    def step(self):\n        1 / 0\n")
    run.wait("ZeroDivisionError")
    run.wait("crashed; waiting for a change")
    run.edit("firmware/app.py", "        1 / 0\n", "")
    received(seen, "chip")
    assert run.interrupt() == 0, run.output
    assert run.count("ZeroDivisionError") == 1
    assert board.sum() == board.before


def test_watchdog_is_fed_until_the_next_program_does(loop, board, seen):
    run = loop()
    received(seen, "chip")
    timer = """
class Timer:
    def deinit(self):
        print("fed no more")

def halt(code):  # it returns, as a board's does
    global _feeder
    _feeder = Timer()
    print("fed by a timer")

_feeder = None
"""
    run.edit("boards/unix/board.py", "halt = sys.exit", timer)
    received(seen, "status", "offline")
    received(seen, "chip")
    run.edit("firmware/app.py", "import gc", "import gc ")
    run.wait("fed no more")
    fed = [line for line in run.log.entries if "fed" in line or "app.py" in line]
    assert fed[0] == "fed by a timer" and "app.py" in fed[1] and fed[2] == "fed no more"
    assert run.interrupt() == 0, run.output


def test_configuration_of_this_machine(loop, board, seen, config, tmp_path, tree):
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / "config.json"
    secrets = folder / "secrets.json"
    secrets.write_text(json.dumps({"user": "me", "password": SECRET}))
    changes = {"device": seen.base.split("/")[1] + "2", "spool": 16384}
    path.write_text(json.dumps(config | changes | {"interval": 0}))
    seen.base += "2"
    seen.subscribe(seen.base + "/#")

    run = loop("--config", path, "--source")
    run.wait(f"{path}: interval: ")
    run.wait("waiting for a change")
    path.write_text(json.dumps(config | changes))
    run.wait(f"{path} changed")
    received(seen, "chip")  # by way of the spool, in a file here
    secrets.write_text(json.dumps({"user": "you", "password": SECRET}))
    run.wait(f"{secrets} changed")
    received(seen, "status", "offline")
    received(seen, "chip")
    assert run.interrupt() == 0, run.output
    assert SECRET not in run.output
    built = [file for file in tree.rglob("*") if file.is_file()]
    assert not [file for file in built if SECRET.encode() in file.read_bytes()]
    assert board.sum() == board.before


def test_deep_sleep_leaves_the_board_awake(loop, board, seen, config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"sleep": {"seconds": 1, "awake": 1}}))
    run = loop("--config", path)
    run.wait("the board stays awake, and waits")
    received(seen, "info", '"reset_cause": "power"')
    run.wait("the board stays awake, and waits", 2)
    received(seen, "chip")
    assert run.interrupt() == 0, run.output
    assert board.starts == 1


def test_it_ends_by_itself(loop, board):
    run = loop("--seconds", 0.5)
    assert run.end() == 0, run.output
    assert "own program" in run.output
    assert board.sum() == board.before


def test_wrong_board_goes_on(loop, board):
    run = loop("--board", "esp32")
    assert run.end() == 1
    assert "not esp32: --board unix?" in run.output
    assert run.count("\n") == 0


def test_wrong_configuration_on_the_board(loop, board):
    with Cable(board.port) as cable:
        cable.write("config.json", b'{"sensors": [{"type": "bme208"}]}')
    run = loop()
    assert run.end() == CONFIG
    assert "the board's config.json: no sensor of type 'bme208'" in run.output
    with Cable(board.port) as cable:
        assert (cable.root, cable.eval("'remote' in __import__('os').listdir()")) == ("/", False)


def test_only_a_port_on_usb_comes_back(board):
    assert not is_back(board.port)
