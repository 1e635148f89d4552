"""python -m tools monitor: what it shows, keeps and draws of devices, real and hostile ones."""

import csv
import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from base64 import b64encode
from datetime import UTC, datetime

import pyte
import pytest
from brokers import BROKERS, Denying, Mosquitto, free_port
from firmware.conftest import DESK, Firmware
from processes import PATIENCE, until
from runtimes import ROOT
from secure import Authority, Secure
from tools.console import BROKER, CABLE, CONFIG, DONE, FAILED, USAGE
from tools.monitor.devices import LARGEST, MOST_DEVICES, MOST_VALUES, SLOTS, Devices, shown
from tools.monitor.view import View, age, bars
from tools.monitor.wait import listening

ENV = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith("UMQTT_") and key not in ("COLUMNS", "LINES", "NO_COLOR")
} | {"TERM": "xterm-256color"}
MONITOR = [sys.executable, "-m", "tools", "monitor"]
OURS = Authority("ours")


def monitor(*args, **env):
    return subprocess.run(
        [*MONITOR, *map(str, args)],
        cwd=ROOT,
        env=ENV | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Terminal:
    """The monitor on a pseudo-terminal, and what an emulated screen shows of it."""

    def __init__(self, *args, columns=80, lines=24, **env):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.lock = threading.Lock()
        self.output = b""
        self.ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [*MONITOR, *map(str, args)],
            cwd=ROOT,
            env=ENV | env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            while chunk := os.read(self.ours, 65536):
                with self.lock:
                    self.output += chunk
                    self.stream.feed(chunk)
        except OSError:
            pass  # Linux says so when the other end is closed

    def resize(self, columns, lines):
        with self.lock:
            fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            self.screen.resize(lines, columns)

    @property
    def lines(self):
        with self.lock:
            return [line.rstrip() for line in self.screen.display]

    @property
    def text(self):
        return "\n".join(self.lines)

    def wait(self, *texts, gone=None):
        """Wait until it shows all these texts, and not the one that is to be gone."""

        def found():
            text = self.text
            return all(t in text for t in texts) and (gone is None or gone not in text)

        end = time.monotonic() + PATIENCE
        while not found():
            ended = self.process.poll() is not None
            assert not ended and time.monotonic() < end, f"{texts} not in\n{self.text}"
            time.sleep(0.02)
        return self

    def colours(self, text):
        """The colours of the line with that text, from where it begins."""
        for y, line in enumerate(self.lines):
            if text in line:
                with self.lock:
                    return {self.screen.buffer[y][line.index(text) + i].fg for i in range(3)}

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self):
        code = self.process.wait(PATIENCE)
        self.reader.join()
        return code

    def stop(self):
        self.process.kill()
        self.finish()
        os.close(self.ours)


@pytest.fixture
def terminal():
    started = []

    def start(*args, **options):
        started.append(Terminal(*args, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield broker.start()
    broker.kill()


@pytest.fixture
def where(mosquitto, request):
    """The shared broker's port, and a prefix of this test alone."""
    return mosquitto.port, "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
def options(where):
    return ["--broker", f"127.0.0.1:{where[0]}", "--prefix", where[1]]


@pytest.fixture
def say(where, peer):
    """Publishes below the test's prefix."""
    device = peer(where[0])

    def say(topic, payload, retain=False):
        if not isinstance(payload, str | bytes):
            payload = json.dumps(payload)
        device.publish(f"{where[1]}/{topic}", payload, 1, retain)

    say.discover = lambda name, sensor, value, **keys: device.publish(
        f"homeassistant/sensor/{where[1]}-{name}/{sensor}_{value}/config",
        json.dumps({"~": f"{where[1]}/{name}", "stat_t": f"~/{sensor}", **keys}),
        1,
        True,
    )
    return say


@pytest.fixture
def desk(tmp_path):
    """Starts the firmware."""
    started = []

    def start(port, prefix, device, **settings):
        path = tmp_path / device / "config.json"
        path.parent.mkdir()
        broker = {"broker": f"127.0.0.1:{port}", "prefix": prefix, "device": device}
        path.write_text(json.dumps(DESK | {"interval": 0.2} | settings | broker))
        started.append(Firmware(config=path))
        return path

    yield start
    for firmware in started:
        firmware.kill()


@pytest.mark.parametrize("kind", BROKERS)
def test_a_real_device_line_by_line_and_in_files(kind, tmp_path, desk):
    broker = BROKERS[kind](tmp_path).start()
    csv_path, json_path, plot = (tmp_path / f"kept.{kind}" for kind in ("csv", "json", "svg"))
    try:
        config = desk(broker.port, "home/upper", "desk")
        files = ["--csv", csv_path, "--json", json_path, "--plot", plot]
        result = monitor("--config", config, "--seconds", 4, *files)
    finally:
        broker.kill()
    assert result.returncode == DONE, result.stderr
    lines = result.stdout.splitlines()
    assert all(re.match(r"20\d\d-\d\d-\d\dT[\d:]{8}\.\d{3}Z  desk  \S", line) for line in lines)
    readings = [line for line in lines if "  air  " in line]
    assert len(readings) > 3
    # the order of what is known, and units as discovery told them
    pattern = r"  desk  air  temperature [\d.-]+ °C  humidity [\d.]+ %  pressure [\d.]+ hPa$"
    assert re.search(pattern, readings[-1])
    assert any(re.search(r"  desk  status  online", line) for line in lines)
    assert any(re.search(r"  desk  door  state (on|off)$", line) for line in lines)

    with open(csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [json.loads(line) for line in json_path.read_text().splitlines()]
    assert [row | {"value": float(row["value"])} for row in rows] == kept
    air = [row for row in kept if row["sensor"] == "air"]
    assert len(air) == 3 * len(readings)
    assert {(row["name"], row["unit"]) for row in air} == {
        ("temperature", "°C"),
        ("humidity", "%"),
        ("pressure", "hPa"),
    }
    assert [row["time"] for row in air[::3]] == [line.split()[0] for line in readings]

    picture = plot.read_text()
    assert all(text in picture for text in ("desk air humidity", "desk chip", "hPa", "UTC"))


def test_files_are_appended_to_also_after_a_cut(options, say, tmp_path):
    table, lines = tmp_path / "kept.csv", tmp_path / "kept.json"
    files = ["--csv", table, "--json", lines]
    for n in (1, 2):
        process = subprocess.Popen(
            [*MONITOR, *options, *map(str, files)], cwd=ROOT, env=ENV, stdout=subprocess.PIPE
        )
        stop = threading.Event()

        def talk(stop=stop, n=n):
            while not stop.wait(0.1):
                say("desk/air", {"x": n})

        talker = threading.Thread(target=talk)
        talker.start()
        process.stdout.readline()
        process.kill()  # after a line is out it is in the files
        process.wait()
        process.stdout.close()
        stop.set()
        talker.join()
        if n == 1:
            for path in (table, lines):
                path.write_bytes(path.read_bytes()[:-3])
    text = table.read_text()
    assert text.startswith("time,device,sensor,name,value,unit\n")
    assert text.count("time,device") == 1
    rows = text.splitlines()
    assert rows[-1].endswith(",desk,air,x,2,") and rows.count("") == 0
    kept = lines.read_text().splitlines()
    assert json.loads(kept[-1])["value"] == 2
    for path, line in ((table, "a,b\n"), (lines, "time,device\n")):
        path.write_text(line)
        result = monitor(*options, *files)
        assert result.returncode == USAGE and path.name in result.stderr, result.stderr
        assert path.read_text() == line
        path.unlink()


def test_a_file_that_cannot_be_written_any_more(options, say, tmp_path):
    """Its process may write no file larger than 1 KB, as on a disk that is full."""
    kept = tmp_path / "kept.csv"
    limit = (
        "import resource as r, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    )
    limit += "; r.setrlimit(r.RLIMIT_FSIZE, (1000, 1000)); sys.argv[0] = 'tools'"
    limit += "; runpy.run_module('tools', run_name='__main__')"
    call = [sys.executable, "-c", limit, "monitor", *options, "--csv", str(kept)]
    process = subprocess.Popen(call, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=-1)
    while process.poll() is None:
        say("desk/air", dict.fromkeys(map(str, range(9)), 1))
        time.sleep(0.05)
    assert process.returncode == FAILED
    error = process.communicate()[1].decode()
    assert error.startswith(f"monitor: {kept} cannot be written: ") and error.count("\n") == 1


@pytest.mark.parametrize("columns, lines", [(80, 24), (120, 40)])
def test_the_table(columns, lines, where, options, say, desk, terminal):
    """A real device among others: all is there, in columns, and nothing wraps."""
    say.discover("attic", "roof", "temperature", unit_of_meas="°F", exp_aft=1000)
    say("cellar/status", "offline", True)
    say("cellar/pump/error", "absent: no device on the bus", True)
    say("offline-for-years-with-a-long-name/status", "online", True)
    desk(*where, "desk")
    shown = terminal(*options, columns=columns, lines=lines)
    shown.wait("attic", "cellar", "desk", "air temperature", "hPa")
    say("attic/roof", {"temperature": 70.25, "a-value-with-a-very-long-name-in-it": 5})
    say("cellar/crash", {"count": 7, "row": 2, "uptime": 86400, "crash": "at\nValueError: x\n"})
    say("cellar/diagnostics", {"rssi": -67})
    shown.wait("70.25 °F", "-67 dBm", "crash 7 after 86400 s, 2 in a row: ValueError: x", "▄")
    text = shown.text
    assert text.count("reading  ") == 1
    row = next(line for line in shown.lines if "air temperature" in line)
    assert re.match(r"desk +online +air temperature +\d\d\.\d\d °C +\ds ", row), row
    assert re.search(r"cellar +offline +-67 dBm crash 7", text)
    assert re.search(r"attic +asleep ", text)
    assert "offline-fo" in text and "…" in text  # shortened, in one line
    assert "no reading so far" in text
    assert shown.colours("pump: absent") == {"red"} == shown.colours("crash 7")
    assert shown.colours("offline ") == {"red"}
    assert shown.colours("online  ") == {"green"}
    # each column begins at one place, whatever the line
    heads = shown.lines[1]
    assert row.index("°C") == heads.index("unit") == shown.lines[2].index("°F")
    if columns == 120:
        assert "last 10 min" in heads and "air temperature" in row
    if os.environ.get("SHOW"):
        print(text)
    assert shown.interrupt() == DONE
    assert b"\x1b[?1049h" in shown.output  # the screen is given back, with its cursor
    after = shown.output.split(b"\x1b[?1049l")[1]
    assert b"70.25" in after
    assert shown.output.rindex(b"\x1b[?25h") > shown.output.rindex(b"\x1b[?25l")


def test_resize_and_what_does_not_fit(options, say, terminal):
    for n in range(30):
        say(f"device{n:02}/status", "online", True)
    shown = terminal(*options, lines=24)
    shown.wait("30 devices", "device20", "… 9 more lines")
    assert "device21" not in shown.text
    shown.resize(120, 40)
    shown.wait("device29", gone="more lines")
    shown.resize(40, 10)
    shown.wait("… 23 more lines")
    shown.resize(5, 3)  # nobody reads that, but it stands it
    shown.resize(100, 50)
    shown.wait("device29")
    assert shown.interrupt() == DONE


def test_redrawn_at_most_four_times_a_second(options, say, terminal):
    shown = terminal(*options)
    shown.wait("nothing heard below")
    begin, frames = time.monotonic(), shown.output.count(b"\x1b[H")
    for n in range(300):
        say("desk/air", {"n": n})
    shown.wait(" 299 ")
    frames = shown.output.count(b"\x1b[H") - frames
    assert 1 <= frames <= 4 * (time.monotonic() - begin) + 2
    shown.process.terminate()
    assert shown.finish() == 128 + signal.SIGTERM
    assert b"\x1b[?1049l" in shown.output  # the terminal is given back then too


HOSTILE = [
    b"",
    b"\0\xff\xfe",
    b"NaN",
    b"{",
    b"[1]",
    b"7",
    b'{"x": NaN}',
    b'{"x": 1e999}',
    b'{"x": -Infinity}',
    b'{"x": 1' + b"0" * 4400 + b"}",
    b'{"x": "\\ud800"}',
    b'{"x": {"y": 1}}',
    b"[" * 10000,
    b'{"x":' * 3000 + b"1",
    b'{"x": 1, "y": "' + b"z" * LARGEST + b'"}',
    b"\x1b[2J\x1b]0;title\x07",
]


def test_hostile_payloads_break_neither_table_nor_files(options, say, where, terminal, tmp_path):
    table, lines = tmp_path / "kept.csv", tmp_path / "kept.json"
    shown = terminal(*options, "--csv", table, "--json", lines, lines=40)
    shown.wait("nothing heard below")
    for payload in HOSTILE:
        for topic in ("desk/air", "desk/status", "desk/diagnostics", "desk/info", "desk/crash"):
            say(topic, payload)
    names = [
        "a\x1b[31mb",
        'quote", ,\r\n',
        "[red]x[/red]",
        "\u202egnp",
        "=1+1",
        "\ud800",
        "x" * 500,
    ]
    for name in names:
        say("desk/air", {name: 1, "time": 1e300, "age": -5})
        say("desk/air/error", json.dumps(name))
    say("desk/a[bold]b", {"x": 2})
    say("desk/crash", {"count": [], "row": "x", "uptime": None, "crash": {"a": 1}})
    say("desk/diagnostics", {"rssi": "\x1b[2J"})
    say("zz/last", {"x": 1234})
    shown.wait("zz", "1234", "[red]x[/red]", "[bold]b", "messages not understood")
    assert shown.interrupt() == DONE
    assert b"\x1b[31mb" not in shown.output and b"title\x07" not in shown.output
    assert "\u202e".encode() not in shown.output
    with open(table, newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {6}
    kept = [json.loads(line) for line in lines.read_text().split("\n")[:-1]]
    assert [[str(value) for value in row.values()] for row in kept] == rows[1:]
    assert len(kept) == len(names) + 2
    assert all(value.isprintable() for row in rows for value in row)
    now = datetime.now(UTC).timestamp()  # whatever a device's clock says
    assert all(now - 60 < datetime.fromisoformat(row["time"]).timestamp() <= now for row in kept)


def test_many_devices(options, say, where, terminal):
    shown = terminal(*options, columns=120, lines=40)
    shown.wait("nothing heard below")
    for sensor in range(5):
        for n in range(200):
            say(f"device{n:03}/s{sensor}", {"x": n})
    shown.wait("200 devices  1000 values", "… 963 more lines")
    frames = shown.output.count(b"\x1b[H")
    say("device000/s0", {"x": 4321})
    shown.wait(" 4321 ")
    until(lambda: shown.output.count(b"\x1b[H") > frames + 2)  # it goes on, as ages move
    assert shown.interrupt() == DONE


def test_memory_is_bounded():
    devices = Devices("home", ["+"])
    for n in range(MOST_DEVICES + 50):
        devices.take(1e9, f"home/{n}/air", b'{"x": 1}', False)
    assert len(devices.devices) == MOST_DEVICES and devices.bad == 50
    for n in range(300):
        keys = json.dumps({f"{n} {k}": k for k in range(300)}).encode()
        devices.take(1e9, f"home/{n}/air", keys, False)
        devices.take(1e9, f"home/0/s{n}/error", b"x", True)
    assert devices.values == sum(len(d.series) for d in devices.devices.values()) <= MOST_VALUES
    assert len(devices.devices["0"].errors) <= 256
    assert len(devices.trouble) < 200
    large = b'{"x": 1, "y": "' + b"z" * LARGEST + b'"}'
    assert "more than 16384 bytes" in devices.take(1e9, "home/1/air", large, False).text


class Port:
    """A board's serial port behind a TCP socket."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        self.url = f"socket://127.0.0.1:{self.server.getsockname()[1]}"

    def accept(self):
        self.sock = self.server.accept()[0]
        self.sock.setblocking(False)

    def received(self):
        try:
            return self.sock.recv(100)
        except BlockingIOError:
            return b""


def test_the_log_of_the_serial_port(options, say, terminal):
    port = Port()
    with port.server:
        shown = terminal(*options, "--port", port.url)
        port.accept()
        with port.sock:
            shown.wait("nothing heard")  # what came before it was open is not shown
            port.sock.sendall(b"boot\r\n" + b"one\r\ntwo \x1b[31mred\x1b[2J\r\n\xff\xfe\r\nhal")
            shown.wait(f"── {port.url} ─", "one\n", "two red\n", "\ufffd\ufffd")
            say("desk/air", {"x": 1234})  # both go on
            port.sock.sendall(b"f\r\n" + b"long " * 200)
            shown.wait("half", "1234", "long long")
            for n in range(30):
                port.sock.sendall(b"line %d\r\n" % n)
            shown.wait("line 29", "line 23")
            assert "line 22" not in shown.text
            assert port.received() == b""
        shown.wait("trying again")
        port.accept()
        with port.sock:
            shown.wait(gone="trying again")
            port.sock.sendall(b"back\r\n")
            shown.wait("back")
            assert shown.interrupt() == DONE
            assert port.received() == b""


def test_the_log_line_by_line_from_a_terminal_device(options):
    """A pty instead of TCP: the lines that reset a board are none of its, and it is no mistake."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)  # without an echo
    process = subprocess.Popen(
        [*MONITOR, *options, "--port", os.ttyname(theirs)],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    )
    stop = threading.Event()

    def talk():
        while not stop.wait(0.1):
            os.write(ours, b"connected\r\n")

    talker = threading.Thread(target=talk)
    talker.start()
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 128 + signal.SIGINT
    process.stdout.close()
    stop.set()
    talker.join()
    assert line.endswith(f"  {os.ttyname(theirs)}  serial  connected\n")
    os.set_blocking(ours, False)
    with pytest.raises(BlockingIOError):
        os.read(ours, 1)
    os.close(ours)
    os.close(theirs)


def test_a_connection_that_is_lost_comes_back(tmp_path, peer, terminal):
    broker = Mosquitto(tmp_path).start()
    try:
        shown = terminal("--broker", f"127.0.0.1:{broker.port}", "--prefix", "lost")
        shown.wait("nothing heard")
        broker.kill()
        shown.wait("the broker has lost the connection; trying again")
        broker.start()
        device = peer(broker.port)
        shown.wait(gone="trying again")
        device.publish("lost/desk/air", '{"x": 1234}', 1)
        shown.wait("1234")
        assert shown.interrupt() == DONE
    finally:
        broker.kill()


def test_nobody_reads_any_more(options, say):
    process = subprocess.Popen(
        [*MONITOR, *options, "--seconds", "20"],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stop = threading.Event()

    def talk():
        while not stop.wait(0.1):
            say("desk/air", {"x": 1})

    talker = threading.Thread(target=talk)
    talker.start()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == DONE
    stop.set()
    talker.join()
    assert process.stderr.read() == b""
    process.stderr.close()


def test_the_password_is_asked_for_without_echo(options, say, terminal):
    shown = terminal(*options, "--user", "me", "--seconds", "5")
    shown.wait("me's password:")
    until(lambda: not termios.tcgetattr(shown.ours)[3] & termios.ECHO)
    os.write(shown.ours, b"hush-hush\n")
    shown.wait("nothing heard")
    assert b"hush" not in shown.output


def test_no_reading(options, say):
    say("desk/status", "online", True)
    result = monitor(*options, "--seconds", 1)
    assert result.returncode == FAILED
    assert "no reading of" in result.stderr and "desk (online)" in result.stderr
    result = monitor(*options, "--seconds", 1, "--device", "none")
    assert result.returncode == FAILED
    assert "nothing else either" in result.stderr and "--prefix" in result.stderr


@pytest.mark.parametrize(
    "args, code, expected",
    [
        (["--broker", f"127.0.0.1:{free_port()}"], BROKER, "cannot be reached"),
        (["--broker", "no-such-host.invalid"], BROKER, "cannot be found"),
        (["--broker", "me:secret@host"], USAGE, "takes no password"),
        (["--broker", "host:port"], USAGE, "expected host or host:port"),
        (["--user", "me"], USAGE, "set UMQTT_PASSWORD"),
        (["--prefix", "home/#"], USAGE, "expected levels of a topic"),
        (["--device", "a/b"], USAGE, "one level"),
        (["--config", "/no/such/file"], CONFIG, "/no/such/file: cannot be read"),
        (["--ca", "/no/such/file"], CONFIG, "no certificate that can be used"),
        (["--port", "/no/such/port"], CABLE, "is the cable in?"),
        (["--port", f"socket://127.0.0.1:{free_port()}"], CABLE, "cannot be opened"),
        (["--csv", "/no/such/folder/x"], FAILED, "cannot be written"),
        (["--plot", "x.pdf"], USAGE, ".png or .svg"),
        (["--plot", "/no/such/folder/x.svg"], USAGE, "no folder"),
        (["--plot", "x.svg", "--from-file", "/no/such/file"], FAILED, "cannot be read"),
        (["--from-file", "x"], USAGE, "needs --plot"),
        (["--since", "1h"], USAGE, "belong to --from-file"),
        (["--since", "yesterday"], USAGE, "2026-01-31T18:00"),
        (["--minutes", "0"], USAGE, "minutes"),
    ],
)
def test_mistakes(args, code, expected):
    result = monitor(*args, "--seconds", "1")
    assert result.returncode == code, result.stderr
    assert expected in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == "" and "secret" not in result.stderr


@pytest.fixture
def started(tmp_path):
    """Starts a broker of the test's own."""
    brokers = []

    def start(kind, *args):
        brokers.append(kind(tmp_path, *args))
        return brokers[-1].start()

    yield start
    for broker in brokers:
        broker.kill()


class Closed(Mosquitto):
    def more(self):
        return "allow_anonymous false\n"


class Guarded(Mosquitto):
    """Lets me in, with open-sesame."""

    def more(self):
        salt = b"twelve bytes"
        key = hashlib.pbkdf2_hmac("sha512", b"open-sesame", salt, 101)
        line = f"me:$7$101${b64encode(salt).decode()}${b64encode(key).decode()}\n"
        path = self.folder / "users"
        path.write_text(line)
        return f"allow_anonymous false\npassword_file {path}\n"


def test_where_the_password_comes_from(started, tmp_path):
    broker = started(Guarded)
    where = f"127.0.0.1:{broker.port}"
    secrets = tmp_path / "secrets.json"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"broker": where}))
    wrong, right = "open-barley", "open-sesame"
    for stored, args, env, let_in in (
        (right, ["--config", config], {}, True),
        (wrong, ["--config", config], {}, False),
        (wrong, ["--config", config], {"UMQTT_PASSWORD": right}, True),
        (right, ["--broker", where, "--user", "me"], {"UMQTT_PASSWORD": right}, True),
        (right, ["--broker", where, "--user", "me"], {"UMQTT_PASSWORD": wrong}, False),
    ):
        secrets.write_text(json.dumps({"user": "me", "password": stored}))
        result = monitor(*args, "--seconds", 0.2, **env)
        expected = (FAILED, "no reading") if let_in else (BROKER, "refuses user 'me'")
        assert (result.returncode, expected[1] in result.stderr) == (expected[0], True), result
        assert "open-" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "kind, args, expected",
    [
        (Closed, ["--user", "me"], "refuses user 'me'"),
        (Closed, [], "refuses one without a user name"),
        (Denying, ["--prefix", "denied"], "refuses the subscription to denied/+/+"),
    ],
)
def test_refusals(kind, args, expected, started):
    broker = started(kind)
    where = ["--broker", f"127.0.0.1:{broker.port}"]
    result = monitor(*where, *args, "--seconds", "1", UMQTT_PASSWORD="hush-hush")
    assert result.returncode == BROKER and len(result.stderr.splitlines()) == 1, result.stderr
    assert expected in result.stderr and "hush" not in result.stderr


@pytest.mark.parametrize(
    "host, begins, authority, expected",
    [
        ("localhost", -1, OURS, None),
        ("localhost", -3, OURS, "has expired"),
        ("localhost", 1, OURS, "not valid yet"),
        ("elsewhere", -1, OURS, "another host name"),
        ("localhost", -1, Authority("foreign"), "no known authority has signed"),
    ],
)
def test_certificates(host, begins, authority, expected, started, tmp_path, desk):
    broker = started(Secure, authority.issue(host, begins))
    (tmp_path / "ca.pem").write_bytes(OURS.pem)
    where = ["--broker", f"localhost:{broker.secure}", "--prefix", "tls", "--seconds", "1"]
    result = monitor(*where, "--ca", tmp_path / "ca.pem")
    if expected:
        assert result.returncode == BROKER and expected in result.stderr, result.stderr
    else:
        assert "nothing else either" in result.stderr  # it was let in
        # a configuration names it too, and by itself this machine trusts no such authority
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"broker": f"localhost:{broker.secure}", "tls": True}))
        result = monitor("--config", config, "--seconds", "1")
        assert "nothing else either" in result.stderr, result.stderr
        result = monitor(*where, "--tls")
        assert result.returncode == BROKER and "no known authority" in result.stderr
        # plain where TLS is spoken, and TLS where it is not
        result = monitor("--broker", f"localhost:{broker.secure}")
        assert result.returncode == BROKER and "is TLS spoken there" in result.stderr
        result = monitor("--broker", f"localhost:{broker.port}", "--tls")
        assert result.returncode == BROKER and "is TLS spoken" in result.stderr


def test_a_client_certificate_is_asked_for(started, tmp_path):
    (tmp_path / "ca.pem").write_bytes(OURS.pem)
    (tmp_path / "own.pem").write_bytes(OURS.issue("client"))
    demand = f"cafile {tmp_path / 'ca.pem'}\nrequire_certificate true\n"
    broker = started(Secure, OURS.issue("localhost"), demand)
    for cert, expected in (("", "client certificate"), ("own.pem", "nothing else either")):
        tls = {"ca": "ca.pem"} | ({"cert": cert} if cert else {})
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"broker": f"localhost:{broker.secure}", "tls": tls}))
        result = monitor("--config", config, "--seconds", "1")
        assert expected in result.stderr, result.stderr


def test_a_plot_of_a_file(tmp_path):
    kept = tmp_path / "kept.csv"
    lines = ["time,device,sensor,name,value,unit"]
    lines += [f"2026-03-01T{h:02}:00:00.000Z,_desk,air,temperature,{h},°C" for h in range(24)]
    lines += [
        "2026-03-01T12:00:00Z,attic,a$x$b$\\frac{$,x,5,",
        "broken",
        '2026-03-01T12:00:00Z,"a',
    ]
    lines += [f"2026-03-01T{h:02}:00:00Z,attic,air,pressure,{1000 + h},hPa" for h in range(24)]
    kept.write_text("\n".join(lines) + "\n2026-03-01T")
    for name, begin in (("a.png", b"\x89PNG\r\n\x1a\n"), ("a.svg", b"<?xml")):
        result = monitor("--plot", tmp_path / name, "--from-file", kept)
        assert result.returncode == DONE, result.stderr
        assert (tmp_path / name).read_bytes().startswith(begin)
    assert "49 values, 2026-03-01 00:00:00 to 2026-03-01 23:00:00 UTC" in result.stdout
    assert "3 damaged lines" in result.stdout
    svg = (tmp_path / "a.svg").read_text()
    names = ("_desk air temperature", "attic air pressure", "attic a$x$b$\\frac{$ x")
    for text in (*names, "hPa", "°C"):
        assert f">{text}</text>" in svg, text  # as text, not as outlines
    some = tmp_path / "some.svg"
    since = ["--since", "2026-03-01T10:30", "--until", "2026-03-01T13:30:00+01:00"]
    result = monitor("--plot", some, "--from-file", kept, *since, "--device", "attic")
    assert "3 values, 2026-03-01 11:00:00 to 2026-03-01 12:00:00" in result.stdout
    assert "attic" in some.read_text() and "desk" not in some.read_text()
    result = monitor("--plot", tmp_path / "no.svg", "--from-file", kept, "--since", "1s")
    assert result.returncode == FAILED and "nothing to draw" in result.stderr
    assert not (tmp_path / "no.svg").exists()


def test_a_picture_of_the_table(options, say, tmp_path):
    process = subprocess.Popen(
        [*MONITOR, *options, "--seconds", "2", "--picture", tmp_path / "table.svg"],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        say("desk/air", {"temperature": 21.5})
        time.sleep(0.1)
    assert process.returncode == DONE
    svg = (tmp_path / "table.svg").read_text()
    assert "21.50" in svg and "▄" in svg and "url(http" not in svg


def test_waiting_for_a_device(where, desk, say):
    say("desk/status", "online", True)  # of an earlier life
    settings = {
        "brokers": [("127.0.0.1", free_port()), ("127.0.0.1", where[0])],
        "prefix": where[1],
        "device": "desk",
        "discovery": "homeassistant",
        "user": None,
        "password": None,
        "tls": False,
    }
    with listening(settings) as device:
        assert device.wait(0.5) is None
        desk(*where, "other")
        assert device.wait(0.5) is None
        desk(*where, "desk")
        found = device.wait(PATIENCE)
    assert found["status"] == "online" and found["sensor"] in ("air", "chip")
    assert found["values"]["temperature"][1] == "°C"
    assert found["errors"] == {}
    with listening(settings | {"device": "third"}) as device:
        say("third/status", "online")
        say("third/pump/error", "absent: nothing")
        found = device.wait(0.5)
    assert (found["status"], found["sensor"]) == ("online", None)
    assert found["errors"] == {"pump": "absent: nothing"}


# Without a broker: time goes as the test says.


def test_a_chart_is_true_to_time():
    devices = Devices("home", ["+"], minutes=SLOTS / 60)  # a slot a second
    now = 1.8e9
    for second in range(60):
        payload = json.dumps({"x": second}).encode()
        if not 20 <= second < 40:
            devices.take(now + second, "home/desk/air", payload, False)
    series = devices.devices["desk"].series["air", "x"]
    means = series.means(now + 59, devices.slot, 12, 0)
    assert means == [None] * 6 + [4.5, 14.5, None, None, 44.5, 54.5]
    assert bars(means) == "      ▁▂  ▇█"
    # where it is known how long a value stands, it does
    assert series.means(now + 59, devices.slot, 12, 10)[6:] == [4.5, 14.5, 14.5, None, 44.5, 54.5]
    assert series.means(now + 89, devices.slot, 12, 1e9)[-4:] == [54.5] * 4
    assert bars([None, 5, 5]) == " ▄▄"
    assert bars([]) == "" and bars([0, 0]) == "▄▄"
    # what is a whole window later is a new chart, and what comes too late is in none
    devices.take(now + 300, "home/desk/air", b'{"x": 7}', False)
    devices.take(now + 301, "home/desk/air", b'{"x": 1, "time": %d}' % now, False)
    assert series.means(now + 300, devices.slot, 12, 0) == [None] * 11 + [7]
    assert series.value == 7 and series.time == now + 300


def test_when_a_reading_was_taken():
    devices = Devices("home", ["+"])
    now = 1.8e9
    for payload, taken in (
        ({"x": 1}, now),
        ({"x": 1, "time": int(now) - 1}, now),
        ({"x": 1, "time": int(now) - 900}, now - 900),
        ({"x": 1, "age": 300}, now - 300),
        ({"x": 1, "time": int(now) + 900}, now),  # a wrong clock
        ({"x": 1, "time": 5}, now),
    ):
        told = devices.take(now, "home/desk/air", json.dumps(payload).encode(), False)
        assert [(value.name, value.time) for value in told.values] == [("x", taken)], payload


def test_availability_of_a_device_that_sleeps():
    devices = Devices("home", ["+"])
    entity = {"~": "home/shed", "stat_t": "~/air", "exp_aft": 100, "unit_of_meas": "K"}
    topic = "homeassistant/sensor/home-shed/air_x/config"
    devices.take(1e9, topic, json.dumps(entity).encode(), True)
    devices.take(1e9, "home/shed/status", b"offline", True)
    shed = devices.devices["shed"]
    assert shed.availability(1e9) == "asleep"
    devices.take(1e9, "home/shed/air", b'{"x": 1}', False)
    assert shed.availability(1e9 + 99) == "asleep" and not shed.expired("air", "x", 1e9 + 99)
    assert shed.availability(1e9 + 101) == "overdue" and shed.expired("air", "x", 1e9 + 101)
    assert shed.unit("air", "x") == "K" and shed.hold("air", "x") == 100
    devices.take(1e9, topic, json.dumps(entity | {"avty_t": "~/status"}).encode(), True)
    assert shed.availability(1e9 + 101) == "offline"
    devices.take(1e9, topic, b"", False)  # the sensor was removed
    assert not shed.series and not shed.entities and devices.values == 0


def test_discovery_of_others_is_left_alone():
    devices = Devices("home", ["desk"])
    for base in ("homes/desk", "home/other", "home/a/b", "", 7):
        payload = json.dumps({"~": base, "stat_t": "~/air", "name": "home/desk"})
        topic = "homeassistant/sensor/home-desk/air_x/config"
        devices.take(1e9, topic, payload.encode(), True)
    assert not devices.devices


@pytest.mark.parametrize("width", [1, 5, 20, 40, 63, 64, 79, 80, 100, 120, 200, 300])
def test_every_width(width):
    devices = Devices("home", ["+"])
    for name in ("desk", "a" * 60, "\u6f22\u5b57" * 9):
        for sensor in ("air", "b" * 60):
            devices.take(1e9, f"home/{name}/{sensor}", b'{"temperature": -1.5e30, "x": 1}', False)
            devices.take(1e9, f"home/{name}/{sensor}/error", b"absent: " + b"x" * 300, True)
    view = View(devices, "127.0.0.1:1883", "/dev/ttyACM0")
    view.wrong = view.gone = "x" * 300
    view.log.append("y" * 300)
    for height in (1, 5, 24, 50):
        lines = view.lines(width, height, 1e9)
        assert len(lines) <= height
        assert all(line.cell_len <= width for line in lines)
        if width >= 80 and height == 50:
            assert sum("temperature" in line.plain for line in lines) >= 3
            assert sum(line.plain.count("-1.5e+30") for line in lines) == 6


def test_short_forms():
    assert [age(n) for n in (-1, 0, 59.9, 60, 7199, 86400, 1e9)] == [
        *("0s", "0s", "59s", "1m", "1h", "1d", "999d")
    ]
    for value, text in ((1, "1"), (1.0, "1.00"), (-123456.789, "-1.23e+05"), (10**30, "1e+30")):
        assert shown(value) == text
    assert shown(1, True) == "on"
