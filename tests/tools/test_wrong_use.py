"""What goes wrong with the tools: one message, an exit code, and a board that is as it was."""

import fcntl
import json
import os
import pty
import re
import socket
import threading

import boards
import pytest
import standin
from brokers import free_port
from secure import Authority
from serial.tools.list_ports_common import ListPortInfo
from tools import cable
from tools.__main__ import main
from tools.console import BROKER, CABLE, CONFIG, FAILED, USAGE
from tools.desk import Board

ON_BOARD = {"main.py": b"print('the old program')", "config.json": b"{}", "lib/a.mpy": b"a" * 9999}
DESK = "--board unix --port {desk}"
GOOD = {"broker": "127.0.0.1:{plain}", "device": "kitchen", "sensors": []}
SECRETS = {"user": "kitchen", "password": boards.WORD}

# A folder for each: config.json, and secrets.json
CONFIGURATIONS = {
    "good": (GOOD, SECRETS),
    "wifi": (GOOD | {"networks": [{"ssid": "home", "password": ""}]}, SECRETS),
    "cut": ('{"broker": "127.0.0.1"', SECRETS),
    "typo": (GOOD | {"intervall": 5}, SECRETS),
    "type": (GOOD | {"sensors": [{"type": "bme380", "name": "air"}]}, SECRETS),
    "pins": (
        GOOD | {"sensors": [{"type": "adc", "name": n, "pin": 4} for n in ("a", "b")]},
        SECRETS,
    ),
    "ca": (GOOD | {"tls": True}, SECRETS),
    "secrets": (GOOD, '{"user": "kitchen", "password": "' + boards.WORD),
    "nobody": (GOOD | {"broker": "127.0.0.1:{closed}"}, SECRETS),
    "word": (GOOD, SECRETS | {"password": boards.WIFI}),
    "expired": (GOOD | {"broker": "localhost:{tls}", "tls": True}, SECRETS),
    "plain": (GOOD | {"broker": "localhost:{plain}", "tls": True}, SECRETS),
}

TABLE = {
    "unknown command": ("depoly", USAGE, "no command 'depoly'; there are build, "),
    "unknown board": ("build --board esp", USAGE, "no board 'esp'; there are esp32, "),
    "board not named": ("deploy --port {desk}", USAGE, "name the board with --board: esp32, "),
    "no board": ("deploy --board rp2040", CABLE, "no board is connected"),
    "two boards": ("deploy --board esp32", CABLE, "several boards are connected"),
    "two boards, run": ("run --board esp32", CABLE, "several boards are connected"),
    "no such port": ("deploy --board esp32 --port /dev/tty77", CABLE, "no port /dev/tty77"),
    "not a port": ("deploy --board esp32 --port soket://x:1", CABLE, "is no port"),
    "nothing listens": ("deploy --board esp32 --port {nothing}", CABLE, "nothing answers at"),
    "port busy": ("deploy --board esp32 --port {busy}", CABLE, "is in use"),
    "port busy, flash": ("flash --board esp32 --port {busy} --image {esp32}", CABLE, "is in use"),
    "no MicroPython": ("deploy --board esp32 --port {modem}", CABLE, "does not answer"),
    "another board": ("deploy --board esp32 --port {desk}", FAILED, "not esp32: --board unix?"),
    "another board, run": ("run --board esp32 --port {desk}", FAILED, "not esp32"),
    "another board, provision": (
        "provision --board esp32 --port {desk} --config {good}",
        FAILED,
        "not esp32",
    ),
    "no configuration": (
        f"deploy {DESK} --config nowhere.json",
        CONFIG,
        "no such file; an example is boards/unix",
    ),
    "a configuration cut short": (f"deploy {DESK} --config {{cut}}", CONFIG, "line 1: expected"),
    "an unknown key": (f"deploy {DESK} --config {{typo}}", CONFIG, 'did you mean "interval"'),
    "an unknown sensor": (f"deploy {DESK} --config {{type}}", CONFIG, '"bme380"'),
    "a pin twice": (f"build {DESK[:12]} --config {{pins}}", CONFIG, "pin 4 is taken by"),
    "no certificate": (f"deploy {DESK} --config {{ca}}", CONFIG, "ca.*a file that is there"),
    "secrets cut short": (f"deploy {DESK} --config {{secrets}}", CONFIG, "secrets.json: line 1"),
    "cable cut": (f"deploy {DESK} --config {{good}}", CABLE, "was cut.*has its old program"),
    "cable cut, provision": (f"provision {DESK} --config {{good}}", CABLE, "was cut"),
    "flash full": ("deploy --board unix --port {small} --config {good}", FAILED, "is full"),
    "no broker": (f"provision {DESK} --config {{nobody}}", BROKER, "cannot be reached"),
    "no broker, monitor": ("monitor --config {nobody}", BROKER, "cannot be reached"),
    "wrong password": (f"provision {DESK} --config {{word}}", BROKER, "refuses user 'kitchen'"),
    "wrong password, monitor": ("monitor --config {word}", BROKER, "refuses user 'kitchen'"),
    "expired": (f"provision {DESK} --config {{expired}}", BROKER, "has expired"),
    "TLS where there is none": ("monitor --config {plain_}", BROKER, "is TLS spoken"),
    "nothing to see": ("monitor --config {good} --seconds 0.2", FAILED, "no reading of"),
    "firmware of another chip": (
        "image --board esp32 --config {wifi} --firmware {esp32s3} --out {out}",
        FAILED,
        "is for ESP32-S3, not for ESP32",
    ),
    "firmware of another board": (
        "image --board esp32 --config {wifi} --firmware {pico} --out {out}",
        FAILED,
        "no firmware for ESP32",
    ),
    "firmware cut short": (
        "image --board rp2040 --config {wifi} --firmware {short} --out {out}",
        FAILED,
        "cut",
    ),
    "firmware that is not pinned": (
        "image --board rp2040 --config {wifi} --firmware {pico} --sha256 " + "0" * 64,
        FAILED,
        "SHA-256",
    ),
    "flash too small": (
        "image --board esp32 --config {wifi} --firmware {esp32} --flash-size 2MB --out {out}",
        FAILED,
        "flash too small",
    ),
    "no image": ("flash --board esp32 --port {desk} --image {good}", FAILED, "is no image"),
    "image of another board": (
        "flash --board rp2040 --image {esp32}",
        FAILED,
        "for another board",
    ),
    "no fleet": ("fleet nowhere.csv", CONFIG, "nowhere.csv"),
    "one name twice": ("fleet {twice} --out {out}", CONFIG, "line 3.*kitchen"),
}


def listed(device):
    port = ListPortInfo(device)
    port.vid, port.pid, port.product = 0x10C4, 0xEA60, "CP2102"
    return port


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """What the table's calls name."""
    folder = tmp_path_factory.mktemp("wrong")
    authority = Authority("ours")
    broker = boards.Protected(folder, authority.issue("localhost", -3)).start()
    found = {"plain": broker.port, "tls": broker.secure, "closed": free_port()}
    places = {}
    for name, (configuration, secrets) in CONFIGURATIONS.items():
        (folder / name).mkdir()
        for file, content in (("config", configuration), ("secrets", secrets)):
            text = content if isinstance(content, str) else json.dumps(content)
            for key, value in found.items():
                text = text.replace("{%s}" % key, str(value))
            (folder / name / f"{file}.json").write_text(text)
        if name != "ca":
            (folder / name / "ca.pem").write_bytes(authority.pem)
        places[name] = folder / name / "config.json"
    places["plain_"] = places["plain"]
    pico = standin.uf2("rp2040", standin.pico("rp2040"))
    for name, data in (
        ("esp32", standin.esp32("esp32")),
        ("esp32s3", standin.esp32("esp32s3")),
        ("pico", pico),
        ("short", pico[:-1000]),
        ("twice", b"device,board,config\n" + b"kitchen,esp32,wifi/config.json\n" * 2),
    ):
        places[name] = folder / f"{name}.file"
        places[name].write_bytes(data)
    ends = pty.openpty()
    places["busy"] = os.ttyname(ends[1])
    fcntl.flock(ends[1], fcntl.LOCK_EX)
    modem = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=say_error, args=(modem,), daemon=True).start()
    places["modem"] = f"socket://127.0.0.1:{modem.getsockname()[1]}"
    places["nothing"] = f"socket://127.0.0.1:{found['closed']}"
    places["out"] = folder / "out"
    yield places
    broker.kill()
    modem.close()
    for end in ends:
        os.close(end)


def say_error(server):
    while True:
        try:
            host = server.accept()[0]
        except OSError:  # closed
            return
        with host:
            while host.recv(64):
                host.sendall(b"ERROR\r\n")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    path = boards.flash(tmp_path_factory.mktemp("desk") / "flash", ON_BOARD)
    with Board(path) as board:
        yield board


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A board without room for another program."""
    full = ON_BOARD | {"spool/0": bytes(700_000)}
    path = boards.flash(tmp_path_factory.mktemp("small") / "flash", full)
    with Board(path) as board:
        yield board


@pytest.mark.parametrize("case", TABLE)
def test_wrong_use(case, there, desk, small, files, monkeypatch, capfd):
    call, code, said = TABLE[case]
    connected = [listed(f"/dev/ttyUSB{n}") for n in range(2)] if "two boards" in case else []
    monkeypatch.setattr(cable.list_ports, "comports", lambda: connected)
    before = files(desk), files(small)
    desk.cut_after = 4000 if "cable cut" in case else None
    try:
        result = main(call.format(desk=desk.port, small=small.port, **there).split())
    except SystemExit as end:  # argparse
        result = end.code
    out, error = capfd.readouterr()
    assert result == code, out + error
    assert len(error.strip().split("\n")) <= 4 and "Traceback" not in out + error
    assert re.search(f"(?s){said}", error), error
    assert boards.WORD not in out + error and boards.WIFI not in out + error
    assert not there["out"].exists()
    after = files(desk), files(small)
    for old, new in zip(before, after, strict=True):
        assert {name: new.get(name) for name in old} == old
        assert all(name.endswith((".new", ".tmp")) for name in new.keys() - old.keys())
