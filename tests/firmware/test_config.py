"""Mistakes in the configuration, each named by its place and its remedy, under both runtimes."""

import copy
import json
import os
import re
import subprocess

import pytest
from runtimes import ROOT, RUNTIMES, command

SENSORS = {
    "bme280": """VALUES = {"temperature": ("°C", None), "humidity": ("%", None), "pressure": (0,)}
KEYS = {"i2c": (..., "i2c"), "address": (118, "address 118 119"), "stuck": (0, (0, "int 1 9 s"))}
""",
    "adc": """VALUES = {"value": ("%", None)}
KEYS = {"pin": (..., "adc"), "samples": (8, "int 1 64", "how many make a reading")}""",
    "ds18b20": """VALUES = {"temperature": ("°C", "temperature")}
KEYS = {"pin": (..., "onewire"), "rom": (None, "hex", "as on the probe")}""",
    "digital": """VALUES = {"state": (None, None)}
KEYS = {"pin": (..., "pin"), "pull": (None, "one up down"), "invert": (False, "bool")}""",
    "dht": """VALUES = {"temperature": ("°C", "temperature"), "humidity": ("%", "humidity")}
KEYS = {"pin": (..., "pin"), "model": ("DHT22", "one DHT11 DHT22")}""",
    "pulse": """VALUES = {"count": (None, None)}
KEYS = {"pin": (..., "pin")}""",
    "chip": """VALUES = {"temperature": ("°C", "temperature")}
KEYS = {}""",
    "broken": "import nothing_of_that_name",
}
ADDRESS = {"ip": "10.0.0.9", "mask": "255.255.255.0", "gateway": "10.0.0.1", "dns": "10.0.0.1"}
GOOD = {
    "device": "kitchen",
    "prefix": "home/ground",
    "broker": ["192.168.1.2", "backup.lan:1884"],
    "tls": {"ca": "ca.pem"},
    "keepalive": 60,
    "networks": [{"ssid": "home", "address": ADDRESS}, {"ssid": "cafe", "password": ""}],
    "wifi": {"hostname": "kitchen", "country": "DE", "power": "full"},
    "interval": 30,
    "sensors": [
        {
            "type": "bme280",
            "name": "air",
            "interval": 60,
            "i2c": {"id": 0, "scl": 5, "sda": 4},
            "address": 119,
            "values": {"temperature": {"offset": -0.5, "filter": "median 5", "min": 10}},
        },
        {"type": "ds18b20", "name": "water", "pin": 6},
        {"type": "ds18b20", "name": "oil", "pin": 6},
        {"type": "adc", "name": "battery", "pin": 26},
        {"type": "digital", "name": "door", "pin": 7, "pull": "up"},
    ],
    "discovery": "homeassistant",
    "diagnostics": 600,
    "ntp": "pool.ntp.org",
    "sleep": {"seconds": 900, "awake": 30},
    "spool": 65536,
    "watchdog": 8,
}
SECRETS = {"user": "me", "password": "hunter2", "networks": {"home": "hunter2hunter2"}}

GONE = object()
NAME = "1 to 32 letters, digits, - or _"
LEVELS = "topic levels of letters"
SECONDS = "a number of seconds from 0.1 to 86400"
KEEPALIVE = "a whole number of seconds from 1 to 65535"
BROKER = '"host" or "host:port"'
FILE = "the name of a file that is there, beside config.json"
VALUE = "sensors[0].values.temperature."
TAKEN = "is taken by "

# the place of a value, the value, what is said of that place, or (said of) another
MISTAKES = [
    ("broker", GONE, f"missing; expected {BROKER}, or a list of them"),
    ("broker", None, BROKER),
    ("broker", 1883, BROKER),
    ("broker", "", BROKER),
    ("broker", ":1883", BROKER),
    ("broker", "host:", BROKER),
    ("broker", "host:0", BROKER),
    ("broker", "host:65536", BROKER),
    ("broker", "host:mqtt", BROKER),
    ("broker", "mqtt://host", BROKER),
    ("broker", "ho st", BROKER),
    ("broker", "192.168.1", BROKER),
    ("broker", "192.168.1.256", BROKER),
    ("broker", [], BROKER),
    ("broker[1]", "backup:x", BROKER),
    ("broker[1]", ["backup"], BROKER),
    ("broker[1]", "192.168.1.2:8883", f"broker 192.168.1.2:8883 {TAKEN}broker[0]"),
    ("brokers", "host", 'unknown key; did you mean "broker"?'),
    ("device", "", NAME),
    ("device", "a/b", NAME),
    ("device", "a+", NAME),
    ("device", "x" * 33, NAME),
    ("device", 7, f"expected {NAME}, not 7"),
    ("device", ["a"], NAME),
    ("prefix", "", LEVELS),
    ("prefix", "/a", LEVELS),
    ("prefix", "a//b", LEVELS),
    ("prefix", "a/#", LEVELS),
    ("prefix", ["a"], LEVELS),
    ("interval", 0, SECONDS),
    ("interval", 86401, SECONDS),
    ("interval", "2", f'expected {SECONDS}, not "2"'),
    ("interval", True, f"expected {SECONDS}, not true"),
    ("keepalive", 0, KEEPALIVE),
    ("keepalive", 65536, KEEPALIVE),
    ("keepalive", 1.5, KEEPALIVE),
    ("keepalive", 1e300, KEEPALIVE),
    ("keepalive", float("inf"), KEEPALIVE),
    ("keepalive", True, KEEPALIVE),
    ("keepalive", "60", KEEPALIVE),
    ("tls", "yes", "false, or true, or an object"),
    ("tls.ca", "other.pem", f'expected {FILE}, not "other.pem"'),
    ("tls.ca", "../ca.pem", FILE),
    ("tls.ca", GONE, "missing; expected the authority's certificate, or verify false"),
    ("tls.key", "ca.pem", "missing; expected the certificate", "tls.cert"),
    ("tls.verify", 0, "true or false"),
    ("networks", GONE, "expected one or more"),
    ("networks", {"home": "hunter2"}, "expected a list, [...]"),
    ("networks", [], "expected one or more"),
    ("networks[0]", "hunter2", "expected an object, {...}"),
    ("networks[0].ssid", "", "text of 1 to 32 bytes"),
    ("networks[0].ssid", "ä" * 17, "text of 1 to 32 bytes"),
    ("networks[0].ssid", "hone", 'no password; expected "networks": {"hone": "..."} in secrets'),
    ("networks[1].ssid", "home", f'network "home" {TAKEN}networks[0].ssid'),
    ("networks[1].password", GONE, 'or "password": "" here where it is open', "networks[1].ssid"),
    ("networks[1].password", "hunter2", 'expected "" where it is open', "networks[1].password", 2),
    ("networks[0].address.ip", "10.0.0", 'an IPv4 address, like "192.168.1.2"'),
    ("networks[0].address.dns", "10.0.0.", "an IPv4 address"),
    ("networks[0].address.gateway", "router", "an IPv4 address"),
    ("networks[0].address.mask", GONE, "missing; expected an IPv4 address"),
    ("wifi.hostname", "my_host", "1 to 32 letters, digits or -"),
    ("wifi.hostname", "-host", "with no - at an end"),
    ("wifi.hostname", "x" * 33, "1 to 32 letters, digits or -"),
    ("wifi.country", "Germany", "a country's two capital letters"),
    ("wifi.country", "de", "a country's two capital letters"),
    ("wifi.power", "low", 'one of "full", "save", not "low"'),
    ("sensors", {}, "expected a list, [...]"),
    ("sensors[0]", "bme280", 'an object {"type": ...'),
    ("sensors[0].type", "bme680", 'one of "adc", "bme280", "broken", "chip", "dht", "digital"'),
    (
        "sensors[1]",
        {"type": "x", "i2c": {}, "address": 7, "name": "n"},
        "one of",
        "sensors[1].type",
    ),
    ("sensors[0].type", GONE, 'missing; expected one of "adc"'),
    ("sensors[0].type", ["adc"], 'one of "adc"'),
    ("sensors[0].type", "broken", "nothing_of_that_name"),
    ("sensors[0].name", GONE, f"missing; expected {NAME}"),
    ("sensors[0].name", "a b", NAME),
    ("sensors[0].name", "status", f"name status {TAKEN}the firmware; expected another"),
    ("sensors[2].name", "air", f"name air {TAKEN}sensors[0].name; expected another"),
    ("sensors[0].intervall", 3, 'unknown key; did you mean "interval"?'),
    ("sensors[0].colour", "red", 'unknown key; expected "address", "i2c", "interval", "name"'),
    ("sensors[0].interval", 0, SECONDS),
    ("sensors[0].i2c", 1, 'an object {"id": 0, "scl": pin, "sda": pin}'),
    ("sensors[0].i2c.id", 2, "a whole number from 0 to 1"),
    ("sensors[0].i2c.scl", GONE, "missing; expected a pin from 0 to 29"),
    ("sensors[0].i2c.sda", 5, f"pin 5 {TAKEN}sensors[0].i2c.scl", "sensors[0].i2c.sda", 2),
    ("sensors[0].i2c.sda", 8.5, "a pin from 0 to 29"),
    ("sensors[0].i2c.sda", 2, "expected one of [0, 4, 8, 12, 16, 20, 24, 28], not 2"),
    ("sensors[0].address", 117, "an I2C address from 118 to 119, not 117"),
    ("sensors[0].address", "0x76", "an I2C address from 118 to 119"),
    ("sensors[0].stuck", 10, "0, or a whole number of s from 1 to 9"),
    ("sensors[1].pin", 30, "a pin from 0 to 29, not 30"),
    ("sensors[1].pin", "GPIO6", "a pin from 0 to 29"),
    ("sensors[1].pin", 4, f"pin 4 {TAKEN}sensors[0].i2c.sda; expected another"),
    ("sensors[1].rom", "28ff", "16 hex digits: as on the probe"),
    ("sensors[1].rom", "28-ff-64-1e-8d-1", "16 hex digits"),
    ("sensors[3].pin", 25, "a pin that can measure from 26 to 29"),
    ("sensors[3].samples", 0, "a whole number from 1 to 64: how many make a reading, not 0"),
    ("sensors[4].pin", 6, f"pin 6 {TAKEN}sensors[1].pin"),
    ("sensors[4].pull", "high", 'one of "up", "down"'),
    ("sensors[4].invert", 1, "true or false, not 1"),
    ("sensors[0].values", [], "expected an object"),
    ("sensors[0].values.temperatur", {}, 'unknown key; did you mean "temperature"?'),
    (VALUE + "scale", "2", "a number from -1000000 to 1000000"),
    (VALUE + "offset", float("inf"), "a number from -1000000 to 1000000"),
    (VALUE + "filter", "median", '"median N" or "mean N", N from 2 to 32'),
    (VALUE + "filter", "median 33", '"median N" or "mean N", N from 2 to 32'),
    (VALUE + "filter", "mode 5", '"median N" or "mean N"'),
    (VALUE + "change", -1, "a number from 0 to 1000000"),
    (VALUE + "min", "x", 'a number of seconds from 0 to 86400, not "x"'),
    (VALUE + "max", 9, "expected at most 9, as max says, not 10", VALUE + "min"),
    (VALUE + "round", 7, "a whole number from 0 to 6"),
    ("discovery", "home/+", f"false, or {LEVELS}"),
    ("discovery", True, f"false, or {LEVELS}"),
    ("diagnostics", 5, "false, or a whole number of seconds from 10 to 86400"),
    ("ntp", "ntp pool", "false, or a host name"),
    ("ntp", False, "certificates are valid from a date on"),
    ("sleep", True, "false, or an object"),
    ("sleep.seconds", 20, "expected at most 20, as seconds says, not 30", "sleep.awake"),
    ("sleep.seconds", GONE, "missing; expected a whole number of seconds from 1 to 86400"),
    ("spool", 100, "0, or a whole number of bytes from 16384"),
    ("watchdog", 10, "false, or a number of seconds from 1 to 8.388, not 10"),
    ("password", "hunter2", 'unknown key; expected "broker"'),
    ("broker[0]", "me:hunter2@host", BROKER),
]

# what is said of a whole file
FILES = [
    ("", "line 1: expected one object"),
    (" \n\n", "line 3: expected one object"),
    ("[]", "line 1: expected one object"),
    ("7", "line 1: expected one object"),
    ("\ufeff{}", "line 1: expected {, not a byte-order mark: save it as UTF-8 without"),
    ("{".encode("utf-16"), "line 1: expected {, not a byte-order mark"),
    ("{", "line 1: expected a key in double quotes"),
    ("{\nbroker: 1}", "line 2: expected a key in double quotes"),
    ("{\n'broker': 1}", "line 2: expected a key in double quotes"),
    ("{1: 2}", "line 1: expected a key in double quotes"),
    ('{"a": 1,\n"b": 2,\n}', "line 3: expected a key in double quotes"),
    ('{"a": 1\n"b": 2}', "line 2: expected a comma or }"),
    ('{"a": [1 2]}', "line 1: expected a comma or ]"),
    ('{"a": [1, 2}', "line 1: expected a comma or ]"),
    ('{"a" 1}', "line 1: expected a : behind the key"),
    ('{"a"}', "line 1: expected a : behind the key"),
    ('{"a": 1}\n{', "line 2: expected nothing behind the object's }"),
    ('{"a":\n1, "a": 2}', 'line 2: expected "a" only once'),
    ('{"a": "b\n"}', 'line 1: expected a " at the end of the text'),
    ('{"a": "b', 'line 1: expected a " at the end of the text'),
    ('{"a": "b\\', 'line 1: expected a " at the end of the text'),
    ('{"a": NaN}', "line 1: expected text in double quotes, a number, true or false"),
    ('{"a": -Infinity}', "line 1: expected text in double quotes, a number"),
    ('{"a": yes}', "line 1: expected text in double quotes, a number"),
    ('{"a": 0x76}', "line 1: expected text in double quotes, a number"),
    ('{"a": // 1\n1}', "line 1: expected text in double quotes, a number"),
    (b'{"a": "\xe4"}', "line 1: expected text in double quotes, a number"),
    ('{"a": ' + "[" * 9 + "]" * 9 + "}", "line 1: expected fewer objects in one another"),
    ("{" + " " * 8191 + "}", "8193 bytes; expected at most 8192"),
]

WRONG_SECRETS = [
    ({"user": 1}, "user: expected text of 1 to 256 bytes"),
    ({"user": "u", "password": ["hunter2"]}, "password: expected text"),
    ({"user": "u", "password": 31415926}, "password: expected text"),
    ({"password": "hunter2"}, "user: missing; a password needs one"),
    ({"user": "u", "pasword": "hunter2"}, 'pasword: unknown key; did you mean "password"?'),
    ({"networks": "hunter2"}, "networks: expected an object"),
    ({"networks": {"home": "hunter2"}}, 'networks.home: expected "", or text of 8 to 64 bytes'),
    ("user=hunter2", "line 1: expected one object"),
]


def changed(place, value):
    """GOOD with another value at that place."""
    at = new = copy.deepcopy(GOOD)
    *before, last = [int(n) if n else key for key, n in re.findall(r"(\w+)|\[(\d+)\]", place)]
    for step in before:
        at = at[step]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return new


def write(path, content):
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content).replace("Infinity", "1e999")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


class Table:
    """Cases to be checked by one process of each runtime, together."""

    def __init__(self, folder):
        self.folder = folder
        self.cases = []
        (folder / "sensors").mkdir()
        (folder / "sensors/__init__.py").touch()
        for name, text in SENSORS.items():
            (folder / f"sensors/{name}.py").write_text(text)

    def add(self, config, secrets=SECRETS, board="rp2040"):
        """The number of a case."""
        path = self.folder / str(len(self.cases))
        path.mkdir()
        write(path / "config.json", config)
        write(path / "secrets.json", secrets)
        (path / "ca.pem").touch()
        self.cases.append((str(path), board))
        return len(self.cases) - 1

    def check(self, runtime, first=()):
        """What is said of each; modules in the folders `first` go before the stand-ins."""
        cases = self.folder / "cases"
        cases.write_text("".join(json.dumps(case) + "\n" for case in self.cases))
        return self.run(runtime, "check.py", cases, first)

    def run(self, runtime, script, argument, first=()):
        """What a device script prints."""
        path = os.pathsep.join(map(str, (*first, self.folder, ROOT / "firmware", ".frozen")))
        done = subprocess.run(
            command(runtime, ROOT / "tests/firmware/device" / script, str(argument), heap="160k"),
            env=os.environ | {"MICROPYPATH": path, "PYTHONPATH": path, "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


ALL = [
    "broker: missing; expected",
    "device: expected",
    "interval: expected",
    "colour: unknown key",
    "sensors[0].name: missing",
    "sensors[0].pin: missing",
    "sensors[1].type: expected one of",
    "sensors[1].name: expected",
    "secrets.json: user: missing",
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each runtime says of each case."""
    table = Table(tmp_path_factory.mktemp("config"))
    for place, value, *_ in MISTAKES:
        table.add(changed(place, value))
    for text, _ in FILES:
        table.add(text)
    for secrets, _ in WRONG_SECRETS:
        table.add(GOOD, secrets)
    wrong = [{"type": "adc"}, {"type": "x", "name": 7, "more": 1}]
    some = {"device": "", "interval": "x", "colour": "red", "sensors": wrong}
    table.add(some, {"password": "hunter2"}, "unix")
    table.add({str(n): n for n in range(99)})
    table.add(GOOD)
    table.add({"broker": "host", "tls": True}, {}, "unix")
    table.add(GOOD | {"watchdog": 20, "ntp": False, "tls": {"verify": False}}, board="esp32")
    return [table.check(runtime) for runtime in RUNTIMES]


def lines(said, number):
    """What both runtimes say, line by line."""
    first, second = (runtime[number] for runtime in said)
    assert isinstance(first, str) and isinstance(second, str)
    assert "hunter" not in first and "31415926" not in first
    # but for the order of what is missing, the form of floats, and the words of ImportError
    first, second = (re.sub(", not .*", "", text).lower().split("\n") for text in (first, second))
    assert sorted(first) == sorted(second)
    return said[0][number].split("\n")


@pytest.mark.parametrize("number, mistake", list(enumerate(MISTAKES)))
def test_a_mistake(said, number, mistake):
    place, _, expected, *other = mistake
    found = lines(said, number)
    assert found[0].startswith(f"config.json: {other[0] if other else place}: ")
    assert expected in found[0]
    assert len(found) == (other[1] if len(other) > 1 else 1), found


@pytest.mark.parametrize("number, case", list(enumerate(FILES, len(MISTAKES))))
def test_a_file(said, number, case):
    (found,) = lines(said, number)
    assert found.startswith("config.json: " + case[1])


@pytest.mark.parametrize("number, case", list(enumerate(WRONG_SECRETS, len(MISTAKES + FILES))))
def test_wrong_secrets(said, number, case):
    assert lines(said, number)[0].startswith("secrets.json: " + case[1])


def test_every_mistake_at_once(said):
    found = lines(said, -5)
    for text in ALL:
        assert any(text in line for line in found), text
    assert len(found) == len(ALL)


def test_endless_mistakes(said):
    found = lines(said, -4)
    assert sum(map(len, found)) < 5000 and found[-1] == "and more"


def test_what_is_right(said):
    full, small, unverified = said[0][-3:]
    assert said[1][-3:] == said[0][-3:]
    assert full["broker"] == ["192.168.1.2", 8883]
    assert full["brokers"] == [["192.168.1.2", 8883], ["backup.lan", 1884]]
    assert full["tls"] == {"ca": "ca.pem", "cert": "", "key": "", "verify": True}
    assert full["networks"] == [
        {"ssid": "home", "password": "hunter2hunter2", "address": ADDRESS},
        {"ssid": "cafe", "password": "", "address": None},
    ]
    plain = dict.fromkeys(("filter", "change", "max", "round"))
    plain |= {"scale": 1, "offset": 0, "min": 0}
    air = plain | {"offset": -0.5, "filter": ["median", 5], "min": 10}
    assert full["sensors"][0] == GOOD["sensors"][0] | {
        "stuck": 0,
        "values": {"temperature": air, "humidity": plain, "pressure": plain},
    }
    assert full["sensors"][1]["interval"] == 30
    assert (full["user"], full["password"]) == ("me", "hunter2")
    assert small["broker"] == ["host", 8883] and small["tls"]["ca"] == "ca.pem"
    assert small["networks"] == small["sensors"] == []
    assert small["wifi"] == {"hostname": None, "country": "XX", "power": "save"}
    assert (small["device"], small["interval"], small["spool"]) == ("desk", 2, 0)
    assert small["user"] is small["password"] is None
    assert unverified["watchdog"] == 20 and not unverified["ntp"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_examples(tmp_path, runtime):
    """That of each board, with the firmware's own sensors."""
    table = Table(tmp_path)
    boards = sorted(path.parent for path in ROOT.glob("boards/*/config.json"))
    assert [board.name for board in boards] == ["esp32", "rp2040", "unix"]
    for board in boards:
        secrets = board / "secrets.json.example"
        text = secrets.read_text() if secrets.exists() else "{}"
        table.add((board / "config.json").read_text(), text, board.name)
    said = table.check(runtime, first=[ROOT / "firmware"])
    for board, settings in zip(boards, said, strict=True):
        assert isinstance(settings, dict), settings
        given = json.loads((board / "config.json").read_text())
        assert len(settings["sensors"]) == len(given.get("sensors", ()))


def test_memory_is_given_back(tmp_path):
    table = Table(tmp_path)
    table.add({"broker": "host"}, {})
    path = tmp_path / "0/config.json"
    ((before, imported, left),) = table.run("micropython", "memory.py", path)
    assert left - before < (imported - before) / 3


MINIMAL = {"broker": "127.0.0.1:1", "device": "d", "prefix": "a/b", "interval": 1, "keepalive": 60}


def refused(start, folder, **overrides):
    """What the firmware says, instead of running."""
    firmware = start(config=folder / "config.json", **overrides)
    assert firmware.finish() == 2, firmware.output
    assert firmware.output.startswith("ConfigError: ")
    return firmware.output.replace(f"{folder}/", "")


def test_the_firmware_refuses(start, tmp_path):
    write(tmp_path / "config.json", MINIMAL | {"interval": "x", "device": ""})
    write(tmp_path / "secrets.json", {"user": 1, "pasword": "hunter2"})
    output = refused(start, tmp_path)
    for place in ("config.json: interval", "config.json: device", "secrets.json: user"):
        assert f"{place}: expected" in output
    assert "hunter2" not in output and len(output.splitlines()) == 4


def test_no_file(start, tmp_path):
    assert "config.json: cannot be read; every board has an example" in refused(start, tmp_path)


def test_a_wrong_override(start, tmp_path):
    write(tmp_path / "config.json", MINIMAL)
    output = refused(start, tmp_path, interval="often", broker="a:b", password="hunter2")
    assert f"environment: UMQTT_INTERVAL: expected {SECONDS}" in output
    assert f"environment: UMQTT_BROKER: expected {BROKER}" in output
    assert "hunter2" not in output


def test_what_is_configured_reaches_connect(start, tmp_path, scripted):
    write(tmp_path / "config.json", MINIMAL | {"keepalive": 0x1234})
    write(tmp_path / "secrets.json", {"user": "me", "password": "hunter2"})
    start(config=tmp_path / "config.json", broker=scripted.address)
    first, body = scripted.accept()
    fields = [b"a-b-d", b"a/b/d/status", b"offline", b"me", b"hunter2"]
    assert first == 0x10
    # user name, password, will: retained, QoS 1; the session is kept
    assert body == b"\x00\x04MQTT\x04\xec\x12\x34" + b"".join(
        len(field).to_bytes(2, "big") + field for field in fields
    )
