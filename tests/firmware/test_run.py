"""`make run`: python -m tools run."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from brokers import free_port
from processes import PATIENCE, until
from runtimes import ROOT, command

MICROPYTHON = command("micropython", ROOT)[0]
ENV = {key: value for key, value in os.environ.items() if not key.startswith("UMQTT_")}
SENSORS = ("air", "battery", "boiler", "door", "rain")  # of boards/unix/config.json
RUN = [sys.executable, "-m", "tools", "run", "--micropython", MICROPYTHON]


def run(*args, **env):
    return subprocess.run(
        [*RUN, *args],
        cwd=ROOT,
        env=ENV | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


@pytest.fixture
def script(tmp_path):
    """An executable in the place of MicroPython."""

    def script(source):
        path = tmp_path / "micropython"
        path.write_text(f"#!{sys.executable}\n{source}\n")
        path.chmod(0o755)
        return str(path)

    return script


def test_ends_by_itself_with_readings():
    result = run("--seconds", "2", UMQTT_INTERVAL="0.5")
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[0].startswith("broker   127.0.0.1:")
    assert "home/desk/cmd/interval" in lines[2]
    shown = [line.split() for line in lines if line[2:3] == ":" == line[5:6]]
    readings = [words for words in shown if words[1] == "air"]
    assert 3 <= len(readings) <= 6  # one more by the command
    for words in readings:
        assert words[3::2] == ["°C", "%", "hPa"]
    statuses = [words[2] for words in shown if words[1] == "status"]
    assert statuses == ["online", "offline"]
    count = len([words for words in shown if words[1] in SENSORS])
    assert lines[-1].startswith(f"{count} readings in 2.")


def test_the_whole_firmware_in_a_few_seconds():
    """Several sensors, discovery, diagnostics, a command and its answer: each in its line."""
    result = run("--seconds", "3", UMQTT_INTERVAL="0.5")
    lines = result.stdout.splitlines()
    found = {}
    for line in lines:
        words = line.split(maxsplit=2)
        if line[2:3] == ":" == line[5:6]:
            found.setdefault(words[1], []).append(words[2])
            assert line[12:14] == "  " and line[14] != " "
            assert line[26:28] == "  "  # columns, whatever the topic
            assert len(line) <= 80, line
    assert found.keys() >= {*SENSORS, "info", "status", "response"}
    assert len(found["discovery"]) == 12
    assert any("air_pressure" in line and "hPa" in line for line in found["discovery"])
    assert len(found["diagnostics"]) == 1
    assert "KiB" in found["diagnostics"][0]
    assert found["cmd/read"] == ['{"id": "make run"}']
    assert json.loads(found["response"][0]) == {"command": "read", "id": "make run", "ok": True}


def test_the_printed_command_works():
    """In the printed form it is what another terminal is given."""
    process = subprocess.Popen(
        RUN, cwd=ROOT, env=ENV | {"UMQTT_INTERVAL": "3600"}, stdout=subprocess.PIPE, text=True
    )
    answered = False
    for line in process.stdout:
        if line.startswith("command"):
            typed = line.removeprefix("command").strip()
        elif "online" in line:
            subprocess.run(typed, shell=True, check=True)
        elif "  response  " in line and "interval" in line:
            answered = json.loads(line[line.index("{") :])["ok"]
            process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert answered


def test_a_reboot_starts_it_again(broker, peer):
    device = peer(broker.port)
    process = subprocess.Popen(
        [*RUN, "--broker", f"127.0.0.1:{broker.port}"],
        cwd=ROOT,
        env=ENV | {"UMQTT_DEVICE": "rebooted"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    online = 0
    for line in process.stdout:
        lines.append(line)
        if "  diagnostics  " in line:
            online += 1
            if online == 1:
                device.publish("home/rebooted/cmd/reboot", "1", 1)
            else:
                process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0, lines
    assert online == 2


@pytest.mark.parametrize("kind", ["iotcore", "mosquitto"])
def test_another_broker(kind, tmp_path):
    from brokers import BROKERS

    broker = BROKERS[kind](tmp_path).start()
    try:
        result = run("--seconds", "1", "--broker", f"127.0.0.1:{broker.port}")
    finally:
        broker.kill()
    assert result.returncode == 0, result.stdout
    assert f"127.0.0.1:{broker.port}\n" in result.stdout


def descendants(pid):
    """All processes below that one."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True)
    pairs = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its in pairs if its == parent]
    return found[1:]


def ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_signals_end_everything(number, code, group):
    """A terminal's Ctrl-C goes to the whole group, kill to one process."""
    process = subprocess.Popen(
        RUN, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    lines = []
    children = []
    for line in process.stdout:
        lines.append(line)
        if "  air  " in line and not children:
            children = descendants(process.pid)
            (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(PATIENCE) == code, lines
    assert any("  status  " in line and "offline" in line for line in lines), lines
    assert len(children) == 2  # broker and firmware
    until(lambda: all(map(ended, children)), 5)


def test_no_reading(script):
    idle = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    result = run("--seconds", "1", "--micropython", script(idle))
    assert result.returncode == 1
    assert "0 readings" in result.stdout
    assert "no reading arrived, and the firmware never came online" in result.stdout


def test_a_crash_is_shown(script):
    before = time.monotonic()
    result = run("--seconds", "50", "--micropython", script("import sys\nsys.exit('it broke')"))
    assert time.monotonic() - before < 20
    assert result.returncode == 1
    assert "it broke" in result.stdout
    assert "the firmware ended by itself, exit code 1" in result.stdout


def test_a_firmware_that_will_not_end(script):
    deaf = "import signal, time\nsignal.signal(2, signal.SIG_IGN)\ntime.sleep(60)"
    result = run("--seconds", "1", "--micropython", script(deaf))
    assert result.returncode == 1
    assert "did not end within" in result.stdout


@pytest.mark.parametrize(
    "args, env, code, expected",
    [
        (["--broker", f"127.0.0.1:{free_port()}"], {}, 5, "cannot be reached"),
        (["--broker", "127.0.0.1:mqtt"], {}, 4, 'UMQTT_BROKER: expected "host" or "host:port"'),
        (["--micropython", "/no/such/file"], {}, 1, "no MicroPython at /no/such/file"),
        ([], {"UMQTT_INTERVAL": "x"}, 4, "UMQTT_INTERVAL: expected a number of seconds"),
        ([], {"UMQTT_CONFIG": "/no/such/file"}, 4, "/no/such/file: cannot be read"),
    ],
)
def test_mistakes_are_one_line(args, env, code, expected):
    result = run("--seconds", "1", *args, **env)
    assert result.returncode == code
    assert expected in result.stdout
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal(env, coloured):
    ours, theirs = pty.openpty()
    base = {key: value for key, value in ENV.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [*RUN, "--seconds", "1"], cwd=ROOT, env=base | env, stdin=theirs, stdout=theirs
    )
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:
        pass  # Linux says so when the other end is closed
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert (b"\033[" in output) == coloured
    assert b"hPa" in output
