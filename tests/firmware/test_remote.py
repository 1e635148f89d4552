"""Remote changes of the configuration: what is refused, and what a power cut leaves."""

import json
import os
import subprocess

import pytest
from runtimes import ROOT, command

DEVICE = ROOT / "tests/firmware/device"
SENSOR = """VALUES = {"temperature": ("°C", "temperature")}
KEYS = {"pin": (..., "pin"), "stuck": (0, (0, "number 1 86400 seconds"))}
"""
CONFIG = {
    "prefix": "home",
    "broker": "192.168.1.2",
    "device": "shed",
    "sensors": [
        {"type": "dht", "name": "air", "pin": 4, "values": {"temperature": {"round": 1}}},
        {"type": "dht", "name": "ground", "pin": 5},
    ],
}
LEAST = 30  # operations of a scenario
SECONDS = "expected a number of seconds from 0.1 to 86400"
ONLY = "cannot be changed remotely; only interval, diagnostics, sensors can"


def run(script, *args, path=(), stdin=""):
    """What a device script prints, under MicroPython."""
    path = [*path, ROOT / "firmware", ROOT / "lib", ROOT / "tools/bench/device", ".frozen"]
    done = subprocess.run(
        command("micropython", DEVICE / script, *map(str, args), heap="2m"),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=os.environ | {"MICROPYPATH": os.pathsep.join(map(str, path))},
    )
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def change(tmp_path):
    """Proposes changes of CONFIG; returns what is said, and what config.json is then."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    (tmp_path / "sensors").mkdir()
    (tmp_path / "sensors/dht.py").write_text(SENSOR)

    def change(*patches):
        stdin = "".join(json.dumps(patch) + "\n" for patch in patches)
        said = run("change.py", tmp_path, path=[tmp_path], stdin=stdin)
        names = {name.name for name in tmp_path.iterdir()}
        assert names == {"config.json", "sensors"}
        return said, json.loads(path.read_text())

    return change


def test_what_may_be_changed(change):
    values = {"temperature": {"offset": -0.5, "filter": "median 5", "round": None}}
    air = {"interval": 30, "stuck": 600, "values": values}
    said, found = change({"interval": 10, "sensors": {"air": air}}, {"diagnostics": 600})
    assert said == ["", ""]
    wanted = json.loads(json.dumps(CONFIG)) | {"interval": 10, "diagnostics": 600}
    wanted["sensors"][0] |= {"interval": 30, "stuck": 600}
    wanted["sensors"][0]["values"]["temperature"] = {"offset": -0.5, "filter": "median 5"}
    assert found == wanted
    assert list(found) == list(wanted)  # the order is the user's
    said, found = change({"interval": None, "sensors": {"air": {"interval": None}}})
    assert said == [""]
    assert "interval" not in found and "interval" not in found["sensors"][0]
    said, _ = change({"sensors": {"ground": {"values": {"temperature": {"offset": None}}}}})
    assert said == [""]  # null of what is not there


REFUSED = [
    (7, "expected an object"),
    ({"broker": "other"}, "broker: " + ONLY),
    ({"networks": [{"ssid": "x", "password": "hunter2"}]}, "networks: " + ONLY),
    ({"tls": False}, "tls: " + ONLY),
    ({"prefix": "x"}, "prefix: " + ONLY),
    ({"device": "x"}, "device: " + ONLY),
    ({"user": "x"}, "user: " + ONLY),
    ({"password": "hunter2"}, "password: " + ONLY),
    ({"interval": 0}, f"interval: {SECONDS}, not 0"),
    ({"interval": "5"}, f'interval: {SECONDS}, not "5"'),
    ({"diagnostics": True}, "diagnostics: expected false, or a whole number"),
    ({"sensors": []}, "sensors: expected an object"),
    ({"sensors": {"water": {}}}, "sensors.water: no such sensor; expected one of air, ground"),
    ({"sensors": {"air": None}}, "sensors.air: expected an object"),
    (
        {"sensors": {"air": {"pin": 5}}},
        "sensors.air.pin: cannot be changed remotely; only interval",
    ),
    ({"sensors": {"air": {"name": "status"}}}, "sensors.air.name: cannot be changed"),
    ({"sensors": {"air": {"interval": -1}}}, "sensors[0].interval: " + SECONDS),
    ({"sensors": {"ground": {"values": 1}}}, "sensors[1].values: expected an object"),
    (
        {"sensors": {"air": {"values": {"temperatur": {}}}}},
        'sensors[0].values.temperatur: unknown key; did you mean "temperature"?',
    ),
    (
        {"sensors": {"air": {"values": {"temperature": {"min": 9, "max": 8}}}}},
        "sensors[0].values.temperature.min: expected at most 8",
    ),
    (
        {"sensors": {"air": {"values": {"temperature": {"scale": "x" * 8000}}}}},
        "8218 bytes; expected at most 8192",
    ),
]


def test_what_is_refused(change):
    said, found = change(*(patch for patch, _ in REFUSED))
    for (patch, expected), text in zip(REFUSED, said, strict=True):
        assert text.startswith(expected), patch
        assert "hunter2" not in text
    assert found == CONFIG


def test_every_mistake_at_once(change):
    wrong = {"air": {"type": "adc", "interval": 0}, "water": {}}
    said, _ = change({"broker": "x", "interval": "x", "sensors": wrong})
    assert len(said[0].split("\n")) == 5


@pytest.mark.parametrize("last", ["undone", "half"])
@pytest.mark.parametrize("scenario", ["confirmed", "started_again", "too_late", "without_restart"])
def test_power_cuts(scenario, last):
    """At every operation config.json is whole, and the device ends with the right one."""
    (cuts,) = run("trial.py", last, scenario)
    assert cuts > LEAST
