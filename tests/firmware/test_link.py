"""The Wi-Fi link and the boards' modules under MicroPython: the functions of device/*_cases.py."""

import ast
import os
import subprocess
from pathlib import Path

import pytest
from runtimes import ROOT, command

DEVICE = Path(__file__).with_name("device")
RUNNER = ROOT / "tests/lib/runner.py"
FOLDERS = [ROOT / "firmware", ROOT / "boards/unix", DEVICE]
FILES = {
    path.stem: [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    for path in sorted(DEVICE.glob("*_cases.py"))
}


@pytest.fixture(scope="module")
def answers():
    """What each function said, by file and name. One process for each file."""
    found = {}
    for file, names in FILES.items():
        done = subprocess.run(
            command("micropython", RUNNER, file, heap="512k"),
            input="".join(name + "\n" for name in names),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            timeout=60,
            env=os.environ | {"MICROPYPATH": os.pathsep.join(map(str, [*FOLDERS, ".frozen"]))},
        )
        output = ""
        for line in done.stdout.split("\n"):
            if line.startswith("\x1e"):
                found[file, names.pop(0)] = (line[1:], output)
                output = ""
            else:
                output += line + "\n"
        for name in names:  # it ended the process
            found[file, name] = ("ended", output)
    return found


@pytest.mark.parametrize(
    "file, name", [(file, name) for file, names in FILES.items() for name in names]
)
def test_case(answers, file, name):
    result, output = answers[file, name]
    assert result == "passed", output


def desk(tmp_path, script):
    """Run lines on the desk's board. Returns the exit code and what was printed."""
    done = subprocess.run(
        [*command("micropython", Path("-c")), "import board\n" + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
            "UMQTT_CONFIG": str(tmp_path / "config.json"),
            "MICROPYPATH": os.pathsep.join(map(str, [*FOLDERS, ".frozen"])),
        },
    )
    return done.returncode, done.stdout


def test_the_desk_remembers_its_resets(tmp_path):
    cause = "print(board.reset_cause(), board.load())\n"
    assert desk(tmp_path, cause + "board.save(b'x')") == (0, "power b''\n")
    assert desk(tmp_path, cause + "board.reset()") == (3, "power b'x'\nreset\n")
    sleep = "board.deepsleep(900000)"
    assert desk(tmp_path, cause + sleep) == (0, "hard b'x'\ndeep sleep for 900000 ms\n")
    late = (
        "import time\ndog = board.watchdog(50)\ndog.feed()\ntime.sleep_ms(60)\ndog.feed()\n"
        "print('alive')"
    )
    code, output = desk(tmp_path, cause + late)
    assert code == 3 and output.startswith("deepsleep b'x'\nwatchdog: fed after ")
    assert "alive" not in output
    assert desk(tmp_path, cause + "board.save(b'')") == (0, "watchdog b'x'\n")
    assert desk(tmp_path, cause) == (0, "power b''\n")


def test_the_desk_has_a_wifi_with_a_script(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "UMQTT_WIFI", '[[0, "home", {"password": "x"}], [3, "home", {"on": false}]]'
    )
    script = """
now = 0
air = board.wifi().air
air.now = lambda: now
air._last = 0
board.wifi().join("home", "x")
for now in range(0, 8000, 500):
    print(now, board.wifi().status())
board.wifi().join("home", "y")
for now in range(8000, 10000, 500):
    print(now, board.wifi().status())
"""
    code, output = desk(tmp_path, script)
    assert code == 0, output
    changes = {}
    for line in output.splitlines():
        ms, state = line.split(" ", 1)
        changes.setdefault(state, int(ms))
    assert changes == {
        "joining": 0,
        "no address": 1500,
        "up": 2500,
        "failed": 5500,
        "not found": 9000,
    }, output


def test_identity_of_two_desks(tmp_path):
    (tmp_path / "other").mkdir()
    first, again, other = (
        desk(folder, "print(board.identity())")
        for folder in (tmp_path, tmp_path, tmp_path / "other")
    )
    assert first == again != other
    assert len(bytes.fromhex(first[1])) == 8
