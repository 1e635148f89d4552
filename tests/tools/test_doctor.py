"""doctor: each finding with its remedy, no secret in any, and the board as it was."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import serial
from boards import OURS, WIFI, WORD, Protected, clean
from processes import PATIENCE, until
from runtimes import ROOT
from secure import Authority
from tools.console import BROKER, CABLE, CONFIG, FAILED, TOOLS
from tools.doctor import Doctor
from tools.targets import find

MEMORY = Path("/dev/shm")


@pytest.fixture
def broker(protected):
    return protected


def configured(port, word=WORD, **more):
    """The files of a board that has been in use."""
    config = {
        "broker": f"127.0.0.1:{port}",
        "device": "cellar",
        "networks": [{"ssid": "home"}],
        "sensors": [{"type": "bme280", "name": "air", "i2c": {"id": 0, "scl": 22, "sda": 21}}],
        "ntp": "pool.ntp.org",
    }
    secrets = {"user": "kitchen", "password": word, "networks": {"home": WIFI}}
    return {
        "config.json": json.dumps(config | more).encode(),
        "secrets.json": json.dumps(secrets).encode(),
        "ca.pem": OURS.pem,
    }


def write(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / "config.json"


def doctor(board, *args):
    """The exit code, and the findings: (check, level, text and remedy)."""
    call = [sys.executable, "-m", "tools", "doctor", "--board", "unix", "--json"]
    call += ["--port", board.port] if board else []
    done = subprocess.run(
        [*call, *map(str, args)], cwd=ROOT, env=clean(), capture_output=True, text=True
    )
    assert not any(WORD in file.read_text() for file in MEMORY.glob("umqtt-*/secrets.json"))
    assert not done.stderr and WIFI not in done.stdout and WORD not in done.stdout, done
    found = json.loads(done.stdout)
    return done.returncode, [
        (f["check"], f["level"], f["text"] + "|" + f["remedy"]) for f in found
    ]


def wrong(found):
    return [finding for finding in found if finding[1] != "ok"]


def test_all_is_well(start, broker, files):
    """The only warning is of certificates that last two days. The program starts anew."""
    before = configured(broker.secure, tls=True)
    board = start(before)
    call = [sys.executable, "-m", "tools", "doctor", "--board", "unix", "--port", board.port]
    done = subprocess.run(call, cwd=ROOT, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done
    levels = re.findall(r"^(ok|warn|FAIL) +(\S+(?: board)?) ", done.stdout, re.MULTILINE)
    assert levels == [
        ("ok", "cable"),
        ("ok", "micropython"),
        ("ok", "flash"),
        ("ok", "heap"),
        ("ok", "program"),
        ("ok", "crash"),
        ("ok", "clock"),
        ("ok", "wifi"),
        ("ok", "config"),
        ("warn", "ca.pem"),
        ("ok", "broker"),
        ("warn", "tls"),
        ("ok", "tls"),
        ("ok", "account"),
        ("ok", "from board"),
    ], done.stdout
    assert f" days left\n{'':18}> get the authority's new one" in done.stdout
    assert not any(word in done.stdout for word in (WORD, WIFI))
    there = files(board)
    assert all(there[name] == data for name, data in before.items())
    with socket.create_connection(("127.0.0.1", board.server.getsockname()[1])) as cable:
        cable.settimeout(PATIENCE)
        said = b""
        while b"connected" not in said:
            said += cable.recv(4096)


def test_what_is_wrong_on_the_board(start, program):
    """All of it is told, with the exit code of the first."""
    crash = {"row": 3, "count": 7, "uptime": 60, "told": True, "crash": "Trace\nOSError: 19\n"}
    board = start(
        {
            "config.json": b'{"broker": "127.0.0.1", "sensors": [{"type": "dht", "name": "a b"}]}',
            "secrets.json": b'{"password": "%s"}' % WORD.encode(),
            "crash.json": json.dumps(crash).encode(),
            "lib/app.mpy": program["lib/app.mpy"][:-1],
            "lib/app.mpy.new": b"",
            "update.txt": b"",
        },
        without=["lib/link.mpy", "main.py"],
    )
    code, found = doctor(board)
    assert code == FAILED
    assert wrong(found) == [
        (
            "program",
            "FAIL",
            "3 of 35 files are missing or damaged: lib/app.mpy, lib/link.mpy, main.py|"
            f"{TOOLS} deploy --board unix --port {board.port}",
        ),
        (
            "update",
            "warn",
            "the power was cut in the last step of one|nothing: the start at the end of this "
            "finishes it",
        ),
        (
            "update",
            "warn",
            "one was cut short: 1 new files wait; the old program is whole|"
            f"{TOOLS} deploy --board unix --port {board.port}",
        ),
        (
            "crash",
            "warn",
            "7 in all, the last after 60 s: OSError: 19\n3 in a row: safe mode|mend that, then "
            "`deploy` or `provision`: a lasting run ends safe mode",
        ),
        (
            "config",
            "FAIL",
            "config.json: sensors[0].name: expected 1 to 32 letters, digits, - or _, not "
            '"a b"\nconfig.json: sensors[0].pin: missing; expected a pin from 0 to 255\n'
            "secrets.json: user: missing; a password needs one|the one on the board, or "
            "`provision`",
        ),
    ]


def test_without_a_driver(start):
    files = configured(1, sensors=[{"type": "chip", "name": "chip"}])
    code, found = doctor(start(files))
    assert code == FAILED
    drivers, _, board = wrong(found)
    assert drivers[0] == "drivers" and drivers[2].startswith("not on the board: lib/sensors/chip")
    assert "not tried: ConfigError: /config.json: sensors[0].type" in board[2]


def test_bare(start, program):
    code, found = doctor(start({}, without=program))
    assert code == FAILED
    assert [finding[0] for finding in wrong(found)] == ["program", "config"]


def test_damaged_json(start):
    code, found = doctor(start({"config.json": b"{", "manifest.json": b"{", "crash.json": b"{"}))
    assert code == FAILED
    assert [f[0] for f in wrong(found)] == ["program", "crash", "config"], found
    assert "config.json on the board: line 1: expected" in found[-1][2]


def test_wrong_word(start, broker):
    """As the broker tells it here, and as the board's client does."""
    code, found = doctor(start(configured(broker.port, word="a-wrong-Word")))
    assert code == BROKER
    account, board = wrong(found)
    assert account[0] == "account" and "refuses user 'kitchen': Not authorized" in account[2]
    assert board[:2] == ("from board", "FAIL")
    assert re.search(r"not authorized 5\|user and password in secrets.json", board[2])


def test_nobody_there(start, broker):
    """--config names another broker, which is looked at from here."""
    board = start(configured(1))
    code, found = doctor(board)
    assert code == BROKER
    here, there = wrong(found)
    assert here[:2] == ("broker", "FAIL") and "cannot be reached" in here[2]
    assert there[0] == "from board" and "ECONNREFUSED" in there[2]
    path = write(board.flash.parent, configured(broker.port))
    code, found = doctor(board, "--config", path)
    assert [finding[0] for finding in wrong(found)] == ["from board"] and code == BROKER


@pytest.mark.parametrize(
    "certificate, host, reason",
    [
        (OURS.issue("127.0.0.1", -5), "127.0.0.1", ": it has expired|renew it there"),
        (OURS.issue("127.0.0.1", 1), "127.0.0.1", ": not yet|this machine's clock"),
        (OURS.issue("elsewhere"), "localhost", "has a certificate for another host name"),
        (Authority("ours").issue("127.0.0.1"), "127.0.0.1", "no known authority has signed"),
        (None, "127.0.0.1", "is TLS spoken there"),
    ],
    ids=["expired", "early", "host", "authority", "plain"],
)
def test_certificates(tmp_path, certificate, host, reason):
    """Without a board."""
    broker = Protected(tmp_path, certificate).start()
    path = write(tmp_path, configured(1, tls=True, broker=f"{host}:{broker.secure}"))
    try:
        code, found = doctor(None, "--no-board", "--config", path)
    finally:
        broker.kill()
    assert code == BROKER
    check, level, text = found[-1]
    assert (check, level) == ("tls", "FAIL") and reason in text, found
    assert [finding[1] for finding in found].count("FAIL") == 1


def test_expired_as_the_board_sees_it(start, tmp_path):
    broker = Protected(tmp_path, OURS.issue("127.0.0.1", -5)).start()
    try:
        code, found = doctor(start(configured(broker.secure, tls=True)))
    finally:
        broker.kill()
    assert code == BROKER
    assert found[-1][0] == "from board"
    assert "has expired|the dates above, and the board's clock" in found[-1][2]


def test_no_board(tmp_path):
    """What a configuration says is looked at even so."""
    code, found = doctor(None)
    assert code == CABLE and found[0][:2] == ("cable", "FAIL")
    path = write(tmp_path, configured(1) | {"config.json": b'{"brokr": 1}'})
    code, found = doctor(None, "--config", path, "--port", "socket://127.0.0.1:1")
    assert code == CABLE
    assert [finding[0] for finding in found] == ["cable", "config"]
    assert "nothing answers at socket://127.0.0.1:1" in found[0][2]
    code, found = doctor(None, "--no-board", "--config", path)
    assert code == CONFIG and 'did you mean "broker"?' in found[0][2]


def test_busy():
    terminal, inside = pty.openpty()
    name = os.ttyname(inside)
    with serial.Serial(name, exclusive=True):
        code, found = doctor(None, "--port", name)
    os.close(terminal)
    os.close(inside)
    assert code == CABLE and f"{name} is in use: close" in found[0][2]


def test_another_kind(start, tmp_path):
    board = start({})
    code, found = doctor(board, "--board", "esp32")
    assert code == FAILED
    kind = wrong(found)[0]
    assert kind[0] == "micropython" and "not esp32: --board unix?" in kind[2]


def test_cut(start, broker):
    """In the middle: what was found is told."""
    board = start(configured(broker.port))
    board.cut_after = 2500
    code, found = doctor(board)
    assert code == CABLE and board.cut_after is None
    assert [finding[:2] for finding in (found[0], *wrong(found))] == [
        ("cable", "ok"),
        ("cable", "FAIL"),
    ]
    until(lambda: doctor(board)[0] == 0)


def test_radio_and_heap_of_a_board(start, broker):
    """With the modules that a board has and the desk has not."""
    network = b"""
class WLAN:
    def active(self): return True
    def isconnected(self): return True
    def status(self, what=None): return -85 if what else 1010
    def ifconfig(self): return ("192.168.1.50", "", "", "")
"""
    esp32 = b"HEAP_DATA = 1\ndef idf_heap_info(what): return [(1000, 500, 400, 300)] * 2\n"
    modules = {"lib/network.py": network, "lib/esp32.py": esp32}
    code, found = doctor(start(configured(broker.port) | modules))
    assert code == 0 and wrong(found) == [
        ("wifi", "warn", "192.168.1.50, -85 dBm: weak|nearer to the access point, or an aerial")
    ]
    modules["lib/network.py"] = network.replace(b"return True", b"return False")
    code, found = doctor(start(configured(broker.port) | modules))
    assert wrong(found)[0][2].startswith("not started, status 1010|SSID, password")


class Board:
    """Answers as one that the desk cannot be."""

    def __init__(self, answers, **files):
        self.answers = answers
        self.files = files

    def eval(self, code):
        return next(answer for part, answer in self.answers.items() if part in code)

    def exec(self, code):
        return repr(self.eval(code))

    def read(self, name):
        return self.files.get(name.split(".")[0])


@pytest.mark.parametrize(
    "check, answers, level, text",
    [
        ("clock", {"gmtime": (12, 2000)}, "ok", "not set (2000-01-01 00:00:12 UTC); only TLS"),
        ("clock", {"gmtime": (9**10, 2000)}, "warn", "UTC: +"),
        ("flash", {"statvfs": (4096, 99, 50), "vfs.mount": ["<VfsFat>"]}, "warn", "FAT, 200 of"),
        ("flash", {"statvfs": (4096, 99, 0), "vfs.mount": []}, "FAIL", "file system, 0 of 396"),
        ("flash", {"statvfs": (4096, 99, 50), "vfs.mount": ["VfsLfs2"]}, "ok", "littlefs, 200 of"),
        ("heap", {"mem_free": (9000, 90000, 4096)}, "warn", "9,000 bytes free, 4,096 in one"),
        ("heap", {"mem_free": (30000, 90000, 9000)}, "ok", "30,000 bytes free"),
    ],
)
def test_what_the_desk_cannot_be(check, answers, level, text):
    told = Doctor(find("esp32"), None, quiet=True)
    getattr(told, check)(Board(answers))
    (finding,) = told.findings
    assert finding.level == level and text in finding.text
    assert bool(finding.remedy) == (level != "ok")


def test_tls_on_a_small_board_whose_clock_is_not_set():
    told = Doctor(find("esp32"), None, quiet=True)
    board = Board(
        {"gmtime": (12, 2000), "mem_free": (30000, 90000, 9000)}, config=b'{"tls": true}'
    )
    told.clock(board)
    told.heap(board)
    assert [finding.level for finding in told.findings] == ["warn", "warn"]
