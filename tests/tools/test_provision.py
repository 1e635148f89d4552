"""provision: a board gets name, Wi-Fi and broker, all or nothing, and no secret is told."""

import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from boards import BLOCK, OURS, WIFI, WORD, Protected, clean
from paho.mqtt.publish import single
from processes import PATIENCE
from runtimes import ROOT
from secure import Authority
from tools import desk
from tools.console import BROKER, CABLE, CONFIG, FAILED, TOOLS, USAGE
from tools.provision import fresh
from tools.targets import find

SECRETS = (WORD, WIFI, "a-wrong-Word")


@pytest.fixture
def broker(protected):
    return protected


def provision(board, *args, **environment):
    """Without a terminal. Returns the exit code and what it says."""
    call = [sys.executable, "-m", "tools", "provision", "--board", "unix", *map(str, args)]
    if board:
        call += ["--port", board.port]
    done = subprocess.run(
        call,
        cwd=ROOT,
        env=clean() | {f"UMQTT_{key.upper()}": str(value) for key, value in environment.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout and not any(word in done.stdout for word in SECRETS)
    return done.returncode, done.stdout


class Terminal:
    """provision on a terminal of its own."""

    def __init__(self, *args):
        self.terminal, inside = pty.openpty()
        self.output = ""
        self.seen = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools", "provision", "--board", *map(str, args)],
            cwd=ROOT,
            env=clean() | {"NO_COLOR": "1"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            preexec_fn=lambda: self._own(inside),
        )
        os.close(inside)

    def _own(self, inside):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        desk._own_terminal(inside)

    def read(self):
        """More of what it prints; "" at its end."""
        ready = select.select([self.terminal], [], [], PATIENCE)[0]
        assert ready, f"it waits: {self.output[self.seen :]!r}"
        try:
            data = os.read(self.terminal, 4096)
        except OSError:
            data = b""
        self.output += data.decode().replace("\r\n", "\n")
        return data

    def expect(self, text):
        while text not in self.output[self.seen :]:
            assert self.read(), f"ended without {text!r}: {self.output}"
        self.seen = self.output.index(text, self.seen) + len(text)

    def answer(self, prompt, text=""):
        self.expect(prompt)
        self.expect(": ")
        os.write(self.terminal, f"{text}\n".encode())

    def finish(self):
        while self.read():
            pass
        assert "Traceback" not in self.output
        return self.process.wait(PATIENCE)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def typed():
    """Starts provision on a terminal; ends what a test leaves running."""
    started = []

    def begin(*args):
        started.append(Terminal(*args))
        return started[-1]

    yield begin
    for one in started:
        one.close()


class Spy(threading.Thread):
    """Looks for secrets in the command line of every process."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.ended = threading.Event()
        self.looks = 0

    def run(self):
        words = [word.encode() for word in SECRETS]
        while not self.ended.wait(0.05):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.found += [line for word in words if word in line]


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """Whoever runs in here tells no secret to other processes, and leaves none behind."""
    spy = Spy()
    spy.start()
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    spy.ended.set()
    spy.join()
    assert spy.looks and not spy.found
    assert not list(folder.iterdir())
    left = [*Path("/dev/shm").glob("umqtt-*/*"), *(ROOT / "build" / "unix").rglob("*")]
    for file in left:
        if file.is_file():
            assert not any(word.encode() in file.read_bytes() for word in SECRETS), file


def test_asked_on_a_terminal(start, broker, quiet, typed, tmp_path, program, files):
    """What is wrong is asked again, the broker's word too; then the board comes online."""
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    board = start({})
    line = typed("unix", "--port", board.port)
    line.answer("name of the device [desk]", "the kitchen")
    line.expect("expected 1 to 32 letters")
    line.answer("name of the device", "kitchen")
    line.answer("topics begin with [home]")
    line.answer("SSID", "attic")
    line.answer("Wi-Fi password [none]", "short")
    line.expect('networks.attic: expected "", or text of 8 to 64 bytes\nWi-Fi')
    line.answer(" password [kept; -: none]", WIFI)
    line.answer("country (two letters; XX: any) [XX]", "DE")
    line.answer("broker (host or host:port) [127.0.0.1:1883]", f"127.0.0.1:{broker.secure}")
    line.answer("TLS (y or n) [n]", "maybe")
    line.expect("expected y or n")
    line.answer("TLS (y or n) [n]", "y")
    line.answer("authority (file)", "nowhere.pem")
    line.expect("nowhere.pem: No such file")
    line.answer("authority (file)", tmp_path / "ours.pem")
    line.answer("user at the broker [none]", "kitchen")
    line.answer("password at the broker [none]", "a-wrong-Word")
    line.expect("refuses user 'kitchen'")
    line.answer("broker (host or host:port)")
    line.answer("TLS (y or n) [y]")
    line.answer("authority (file) [ca.pem]")
    line.answer("user at the broker [kitchen")
    line.answer("password at the broker [kept", WORD)
    line.expect("kitchen starts:")
    assert line.finish() == 0
    assert re.search(r"status +online", line.output) and "temperature" in line.output
    assert f"topics   home/kitchen/#\nnext     {TOOLS} monitor --broker" in line.output
    assert not any(word in line.output for word in (*SECRETS, "short"))
    there = files(board)
    config = json.loads(program["config.json"])
    assert json.loads(there["config.json"]) == config | {
        "device": "kitchen",
        "broker": f"127.0.0.1:{broker.secure}",
        "networks": [{"ssid": "attic"}],
        "wifi": {"country": "DE"},
        "tls": True,
        "ntp": "pool.ntp.org",
    }
    assert json.loads(there["secrets.json"]) == {
        "user": "kitchen",
        "password": WORD,
        "networks": {"attic": WIFI},
    }
    assert there["ca.pem"] == OURS.pem


CONFIGURED = {
    "device": "cellar",
    "prefix": "test",
    "networks": [{"ssid": "home", "address": None}, {"ssid": "garden"}],
    "sensors": [{"type": "adc", "name": "battery", "pin": 34, "values": {"value": {"round": 1}}}],
    "interval": 7,
    "diagnostics": 60,
}
del CONFIGURED["networks"][0]["address"]


def configured(port, **more):
    """The files of a board that has been in use."""
    config = CONFIGURED | {"broker": f"127.0.0.1:{port}"} | more
    secrets = {
        "user": "kitchen",
        "password": WORD,
        "networks": {"home": WIFI, "garden": WIFI + "2"},
    }
    return {
        "config.json": json.dumps(config, indent=2).encode(),
        "secrets.json": json.dumps(secrets).encode(),
    }


def test_enter_keeps_what_is_there(start, broker, quiet, typed, files):
    before = configured(broker.port)
    board = start(before | {"config.old0": before["config.json"]})  # a trial, which this ends
    line = typed("unix", "--port", board.port)
    for prompt in (
        "device [cellar]",
        "with [test]",
        "(SSID) [home]",
        "password [kept; -: none]",
        "[XX]",
        f"[127.0.0.1:{broker.port}]",
        "[n]",
        "broker [kitchen; -: none]",
        "broker [kept; -: none]",
    ):
        line.answer(prompt)
    assert line.finish() == 0
    there = files(board)
    assert {name: there[name] for name in ("config.json", "secrets.json")} == {
        name: before[name] for name in ("config.json", "secrets.json")
    }
    assert not any(name.startswith(("config.old", "config.new")) for name in there)
    assert "lib/sensors/adc.mpy" in there and "lib/sensors/bme280.mpy" not in there
    assert not any(word in line.output for word in SECRETS)


def test_from_the_environment(start, broker, quiet, files):
    """What is not named stays; another network takes the place of the first."""
    board = start(configured(broker.port))
    words = {"ssid": "barn", "wifi_password": WIFI + "3"}
    code, said = provision(board, "--no-wait", device="shed", tls="false", country="FR", **words)
    assert code == 0 and "topics   test/shed/#" in said, said
    there = files(board)
    assert json.loads(there["config.json"]) == CONFIGURED | {
        "broker": f"127.0.0.1:{broker.port}",
        "device": "shed",
        "networks": [{"ssid": "barn"}, {"ssid": "garden"}],
        "wifi": {"country": "FR"},
        "tls": False,
    }
    assert json.loads(there["secrets.json"])["networks"] == {
        "barn": WIFI + "3",
        "garden": WIFI + "2",
    }


def unchanged(there, before):
    """Whether all of the board's own files are as they were."""
    assert not [name for name in there if name.endswith((".new", ".tmp"))]
    return all(there[name] == data for name, data in before.items())


def test_all_mistakes_at_once(start, quiet, files):
    before = configured(1883)
    board = start(before)
    told = provision(
        board,
        device="no name",
        country="german",
        wifi_password="short",
        tls="maybe",
        ca="nowhere.pem",
        user="",
        password=WORD,
    )
    assert told == (
        CONFIG,
        "provision: environment: UMQTT_DEVICE: expected 1 to 32 letters, digits, - or _, not "
        '"no name"\n'
        'environment: UMQTT_WIFI_PASSWORD: expected "", or text of 8 to 64 bytes\n'
        'environment: UMQTT_COUNTRY: expected a country\'s two capital letters, not "german"\n'
        "environment: UMQTT_TLS: expected y or n, true or false\n"
        "environment: UMQTT_USER: missing; a password needs one\n",
    )
    assert unchanged(files(board), before)


def test_bad_files(start, quiet, tmp_path, files):
    """Named by their own names, whole, and nothing is sent. Then the files are mended."""
    before = configured(1883)
    board = start(before)
    path = tmp_path / "mine.json"
    path.write_text('{"broker": "b:x", "sensors": [{"type": "chip", "name": "a", "pin": 1}]}')
    (tmp_path / "secrets.json").write_text(json.dumps({"password": WORD, "usr": WORD}))
    code, said = provision(board, "--config", path)
    assert code == CONFIG and said.startswith("provision: config.json: broker: expected")
    assert "config.json: sensors[0].pin: unknown key" in said
    assert 'secrets.json: usr: unknown key; did you mean "user"?' in said
    (tmp_path / "secrets.json").write_text('{"password": "%s" "user": 1}' % WORD)
    code, said = provision(board, "--config", path)
    assert code == CONFIG and f"secrets.json beside {path}: line 1: expected a comma or }}" in said
    assert unchanged(files(board), before)


def test_from_a_file_with_another_sensor(start, broker, quiet, tmp_path, files):
    """Secrets and certificates come from beside it, and the driver that the board lacks."""
    path = tmp_path / "mine.json"
    sensors = [{"type": "chip", "name": "warmth"}]
    config = {"broker": f"localhost:{broker.secure}", "sensors": sensors}
    config["tls"] = {"ca": "ours.pem", "verify": False}
    path.write_text(json.dumps(config))
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    (tmp_path / "secrets.json").write_text(json.dumps({"user": "kitchen", "password": WORD}))
    board = start({})
    code, said = provision(board, "--config", path)
    assert code == 0 and re.search(r"warmth +temperature \d+", said), said
    assert f"next     {TOOLS} monitor --config {path}" in said
    there = files(board)
    assert there["config.json"] == path.read_bytes() and there["ours.pem"] == OURS.pem
    assert provision(board, "--config", path, "--no-wait")[1].startswith("nothing to send")


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"password": "a-wrong-Word", "user": "kitchen"}, "refuses user 'kitchen': Not auth"),
        ({"user": ""}, "refuses one without a user name"),
        ({"broker": "127.0.0.1:{free}"}, "cannot be reached"),
        ({"broker": "127.0.0.1:{secure}", "ca": "theirs.pem"}, "no known authority has signed"),
        ({"broker": "localhost:{secure}", "ca": "ours.pem"}, "for another host name"),
    ],
    ids=["word", "anonymous", "nobody", "authority", "host"],
)
def test_the_broker_says_no(start, broker, quiet, tmp_path, settings, reason, files):
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    (tmp_path / "theirs.pem").write_bytes(Authority("theirs").pem)
    ports = {"port": broker.port, "secure": broker.secure, "free": 1}
    if "ca" in settings:
        settings = settings | {"ca": tmp_path / settings["ca"]}
    before = configured(broker.port)
    board = start(before)
    code, said = provision(board, **{k: str(v).format(**ports) for k, v in settings.items()})
    assert code == BROKER and reason in said and "Nothing was changed" in said, said
    assert unchanged(files(board), before)


def test_expired(start, tmp_path, quiet, files):
    broker = Protected(tmp_path, OURS.issue("127.0.0.1", -5)).start()
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    board = start(before := configured(broker.port))
    try:
        code, said = provision(
            board, broker=f"127.0.0.1:{broker.secure}", ca=tmp_path / "ours.pem"
        )
    finally:
        broker.kill()
    assert code == BROKER and "has a certificate that has expired" in said, said
    assert unchanged(files(board), before)


def test_cut_cable(start, broker, quiet, files):
    """Wherever it is cut, the old configuration is whole; then the next run brings the new one."""

    def change(n):
        return provision(board, "--no-wait", device=f"shed{n:02}", password=f"{WORD}{n:02}")

    def pair():
        return [files(board)[name] for name in ("config.json", "secrets.json")]

    board = start(configured(broker.port, networks=[]))
    board.cut_after = 10**6
    assert change(0)[0] == 0
    total = 10**6 - board.cut_after
    before = pair()
    found, left = [], set()
    for percent in (2, 30, 50, 70):  # the start is the last part
        board.cut_after = total * percent // 100
        code, said = change(percent)
        assert code == CABLE and board.cut_after is None, (percent, said)
        assert "old program" in said or "does not answer" in said
        found.append(pair())
        left |= {name for name in files(board) if name.endswith(".new")}
    code, said = provision(board, device="shed", password=WORD)
    assert code == 0, said
    assert before in found and all(one in (before, pair()) for one in found)
    assert {"config.json.new", "secrets.json.new"} <= left, "none was cut while it was sent"
    config, secrets = map(json.loads, pair())
    assert (config["device"], secrets["password"]) == ("shed", WORD)


def test_full(start, quiet, program, files):
    before = configured(1883)
    used = sum(-(-len(data) // BLOCK) for data in program.values())
    board = start(before | {"large.bin": bytes(BLOCK * (desk.BLOCKS - used - 8))})
    code, said = provision(board, "--no-wait", device="shed")
    assert code == FAILED and "is full" in said, said
    assert unchanged(files(board), before)


def test_does_not_come_online(start, broker, quiet, monkeypatch):
    """What the board says of it, and what to look at; here Wi-Fi takes another password."""
    for topic, text in (("status", "online"), ("battery", '{"value": 1}')):  # of an earlier life
        auth = {"username": "kitchen", "password": WORD}
        single(f"test/cellar/{topic}", text, 1, True, port=broker.port, auth=auth)
    script = [[0, "home", {"password": "another-one"}]]
    monkeypatch.setenv("UMQTT_WIFI", json.dumps(script))
    board = start(configured(broker.port))
    code, said = provision(board, "--wait", 6, wifi_password="a-wrong-Word")
    assert code == FAILED
    assert "cellar did not come online within 6 s; it says: wifi: wrong password (home)" in said
    assert "Look at the Wi-Fi password" in said


def test_ctrl_c(start, quiet, typed, files):
    """Nothing was written, and the program goes on."""
    board = start(before := configured(1, networks=[]))
    line = typed("unix", "--port", board.port)
    line.answer("device [cellar]", "shed")
    line.expect("begin with [test]")
    os.write(line.terminal, b"\x03")
    assert line.finish() == 128 + signal.SIGINT
    assert unchanged(files(board), before)
    with socket.create_connection(("127.0.0.1", board.server.getsockname()[1])) as cable:
        cable.settimeout(PATIENCE)
        said = b""
        while b"no CONNACK" not in said:
            said += cable.recv(4096)


def test_into_a_folder(tmp_path, quiet, typed):
    """For an ESP32 that is not there: what it needs no wires for, and files for one reader."""
    out = tmp_path / "kitchen"
    call = ["esp32", "--out", out]
    line = typed(*call)
    line.answer("device [kitchen]")
    line.answer("begin with [home]")
    line.expect("(SSID): ")
    os.write(line.terminal, b"\n")
    line.expect("networks: expected one or more")
    line.answer("(SSID)", "attic")
    line.answer("Wi-Fi password [none]")
    line.answer("[XX]")
    line.answer("broker (host or host:port)", "192.168.1.2, nearby:1884")
    line.answer("[n]")
    line.answer("user at the broker", "kitchen")
    line.answer("password at the broker", WORD)
    assert line.finish() == 0, line.output
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {
        "config.json": 0o644,
        "secrets.json": 0o600,
    }
    found = json.loads((out / "config.json").read_text())
    assert found["broker"] == ["192.168.1.2", "nearby:1884"]
    assert found["networks"] == [{"ssid": "attic", "password": ""}]
    assert (
        found["sensors"] == [{"type": "chip", "name": "chip"}] == fresh(find("rp2040"))["sensors"]
    )
    assert WORD not in line.output
    line = typed(*call)
    for prompt in ("[kitchen]", "[home]", "[attic]", "[none]", "[XX]", "nearby:1884]", "[n]"):
        line.answer(prompt)
    line.answer("[kitchen; -: none]", "-")
    assert line.finish() == 0
    assert json.loads((out / "secrets.json").read_text()) == {}
    assert json.loads((out / "config.json").read_text()) == found
    (out / "config.json").write_text(json.dumps(found | {"sensors": [{"type": "adc"}]}))
    line = typed(*call)
    line.expect("config.json: sensors[0].name: missing")  # before anything is asked
    assert line.finish() == CONFIG


def test_wrong_use(tmp_path):
    path = tmp_path / "mine.json"
    told = CONFIG, f"provision: {path}: No such file or directory\n"
    assert provision(None, "--config", path, "--out", tmp_path) == told
    code, said = provision(None, "--out", tmp_path)
    assert code == USAGE and "no terminal to ask on" in said
    assert not list(tmp_path.iterdir())
    assert provision(None)[0] == CABLE
    code, said = provision(None, "--port", "socket://127.0.0.1:1")
    assert code == CABLE and "nothing answers" in said
