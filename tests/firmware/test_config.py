"""Mistakes in the configuration, each named by its place and its remedy."""

import importlib.util
import json

import pytest
from runtimes import ROOT

spec = importlib.util.spec_from_file_location("config", ROOT / "firmware/config.py")
config = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config)

GOOD = {"broker": "127.0.0.1:1", "device": "d", "prefix": "a/b", "interval": 1, "keepalive": 60}
SECONDS = "a number of seconds from 0.1 to 86400"
KEEPALIVE = "a whole number of seconds from 1 to 65535"
BROKER = '"host" or "host:port"'


def refused(start, tmp_path, text, **overrides):
    """What the firmware says about that configuration; {} is its folder."""
    path = tmp_path / "config.json"
    text = text if isinstance(text, str) else json.dumps(text)
    path.write_text(text.replace("Infinity", "1e999"))
    firmware = start(config=path, **overrides)
    assert firmware.finish() == 2, firmware.output
    assert firmware.output.startswith("ConfigError: ")
    return firmware.output.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("broker", 1883, BROKER),
        ("broker", "", BROKER),
        ("broker", ":1883", BROKER),
        ("broker", "host:", BROKER),
        ("broker", "host:0", BROKER),
        ("broker", "host:65536", BROKER),
        ("broker", "host:mqtt", BROKER),
        ("broker", "mqtt://host", BROKER),
        ("broker", None, BROKER),
        ("device", "", "1 to 32 letters"),
        ("device", "a/b", "1 to 32 letters"),
        ("device", "a+", "1 to 32 letters"),
        ("device", "x" * 33, "1 to 32 letters"),
        ("device", 7, "1 to 32 letters"),
        ("prefix", "", "topic levels"),
        ("prefix", "/a", "topic levels"),
        ("prefix", "a//b", "topic levels"),
        ("prefix", "a/#", "topic levels"),
        ("prefix", ["a"], "topic levels"),
        ("interval", 0, SECONDS),
        ("interval", 86401, SECONDS),
        ("interval", "2", SECONDS),
        ("interval", True, SECONDS),
        ("keepalive", 0, KEEPALIVE),
        ("keepalive", 65536, KEEPALIVE),
        ("keepalive", 1.5, KEEPALIVE),
        ("keepalive", 1e300, KEEPALIVE),
        ("keepalive", float("inf"), KEEPALIVE),
        ("keepalive", True, KEEPALIVE),
        ("keepalive", "60", KEEPALIVE),
    ],
)
def test_a_wrong_value(start, tmp_path, key, value, expected):
    output = refused(start, tmp_path, GOOD | {key: value})
    assert output.startswith(f"ConfigError: config.json: {key}: ")
    assert f"expected {expected}" in output
    assert len(output.splitlines()) == 1
    with pytest.raises(config.ConfigError) as error:  # the host's tools say the same
        config.load(str(tmp_path / "config.json"))
    said = output.removeprefix("ConfigError: ").partition(", not ")[0]
    assert str(error.value).replace(f"{tmp_path}/", "").partition(", not ")[0] == said


def test_every_mistake_at_once(start, tmp_path):
    output = refused(start, tmp_path, {"device": "", "interval": "x", "colour": "red"})
    for key in ("broker: missing", "device: expected", "interval: expected", "colour: unknown"):
        assert f"config.json: {key}" in output
    assert len(output.splitlines()) == 4


@pytest.mark.parametrize("text", ["", "{", "{broker: 1}"])
def test_not_json(start, tmp_path, text):
    assert "config.json: not valid JSON" in refused(start, tmp_path, text)


def test_not_an_object(start, tmp_path):
    assert "config.json: expected one object" in refused(start, tmp_path, "[]")


def test_no_file(start, tmp_path):
    firmware = start(config=tmp_path / "other.json")
    assert firmware.finish() == 2
    assert "other.json: cannot be read" in firmware.output


def test_a_wrong_override(start, tmp_path):
    output = refused(start, tmp_path, GOOD, interval="often", broker="a:b")
    assert "environment: UMQTT_INTERVAL: expected " + SECONDS in output
    assert "environment: UMQTT_BROKER: expected " + BROKER in output


@pytest.mark.parametrize(
    "secrets, expected",
    [
        ({"user": 1}, "user: expected text"),
        ({"user": "u", "password": ["hunter2"]}, "password: expected text"),
        ({"password": "hunter2"}, "user: missing"),
        ({"user": "u", "pasword": "hunter2"}, "pasword: unknown key"),
        ("user=u", "not valid JSON"),
    ],
)
def test_wrong_secrets(start, tmp_path, secrets, expected):
    text = secrets if isinstance(secrets, str) else json.dumps(secrets)
    (tmp_path / "secrets.json").write_text(text)
    output = refused(start, tmp_path, GOOD)
    assert "secrets.json: " + expected in output
    assert "hunter2" not in output


def test_what_is_configured_reaches_connect(start, tmp_path, scripted):
    (tmp_path / "config.json").write_text(json.dumps(GOOD | {"keepalive": 0x1234}))
    (tmp_path / "secrets.json").write_text('{"user": "me", "password": "hunter2"}')
    start(config=tmp_path / "config.json", broker=scripted.address)
    first, body = scripted.accept()
    fields = [b"a-b-d", b"a/b/d/status", b"offline", b"me", b"hunter2"]
    assert first == 0x10
    # user name, password, will: retained, QoS 1; clean session
    assert body == b"\x00\x04MQTT\x04\xee\x12\x34" + b"".join(
        len(field).to_bytes(2, "big") + field for field in fields
    )
