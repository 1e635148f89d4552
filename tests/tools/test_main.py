"""The command line itself: what it lists, and how a command ends that it was not meant to."""

import signal
import subprocess
import sys

import pytest
from runtimes import ROOT
from tools.__main__ import COMMANDS
from tools.console import DONE, FAILED, USAGE

CALL = [sys.executable, "-m", "tools"]


def test_listing_needs_no_module_of_a_command():
    """As on Windows, where no desk can be."""
    code = "import sys; sys.modules |= dict.fromkeys(['fcntl', 'pty', 'termios'])"
    code += "; from tools.__main__ import main"
    listed = subprocess.run(
        [sys.executable, "-c", f"{code}; main(['--help'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert not listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()[2:-2]] == [*COMMANDS]


@pytest.mark.parametrize("args, code", [([], USAGE), (["--help"], DONE), (["no"], USAGE)])
def test_no_command(tools, args, code):
    assert tools(*args).returncode == code


def test_a_folder_that_is_a_file(tools, tmp_path):
    (tmp_path / "out").touch()
    done = tools("provision", "--board", "esp32", "--out", tmp_path / "out", UMQTT_BROKER="here")
    assert done.returncode == FAILED
    assert done.stdout.startswith("provision: ") and done.stdout.count("\n") == 1


def test_a_reader_that_has_enough():
    with subprocess.Popen(
        [*CALL, "doctor", "--board", "unix", "--no-board"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert not process.stderr.read()
    assert process.returncode == FAILED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended(number, tmp_path):
    call = [*CALL, "desk", "--flash", tmp_path / "flash"]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as desk:
        assert desk.stdout.readline().startswith(b"port")
        desk.send_signal(number)
        assert not desk.communicate(timeout=20)[1]
    assert desk.returncode == 128 + signal.SIGINT
