"""Commands and their answers."""

import json
import time

import pytest
from brokers import BROKERS

BOTH = pytest.mark.parametrize("broker", BROKERS, indirect=True)

RANGE = "a number of seconds from 0.1 to 86400"


@pytest.mark.parametrize("payload", ["0.1", ' {"interval": 0.1} '])
def test_the_interval_changes(desk, payload):
    _, watch = desk(interval=3600)
    watch.wait("air")
    assert watch.command(payload) == {"command": "interval", "ok": True, "interval": 0.1}
    watch.wait("air", 6)


def test_the_interval_holds(desk):
    """A longer one stops the readings, after the one that is on its way."""
    _, watch = desk()
    watch.wait("air", 3)
    assert watch.command("3600")["ok"]
    count = len(watch.all("air"))
    for _ in range(20):  # answers that take their time
        watch.command("3600")
    assert len(watch.all("air")) <= count + 1


BAD = [
    b"0",
    b"",
    b"0.09",
    b"-1",
    b"86401",
    b"1e999",
    b"9" * 64,
    b"nan",
    b"true",
    b"null",
    b'"1"',
    b"1 2",
    b"1x",
    b"[1]",
    b"{}",
    b'{"seconds": 1}',
    b'{"interval": {}}',
    b'{"interval": null}',
    b"-",
    b"\x00",
]


def test_bad_intervals_are_named(desk):
    _, watch = desk()
    for payload in BAD:
        answer = watch.command(payload)
        assert answer["ok"] is False, payload
        assert answer["error"] == "BadInterval", payload
        assert RANGE in answer["expected"]
    watch.more("air", 3)


MALFORMED = [
    ("Malformed", b"{"),
    ("Malformed", b"[" * 256),
    ("Malformed", b"{[]: 1}"),
    ("Malformed", b'{"id": 1} 2'),
    ("NotUTF8", b"\xff\xfe"),
    ("NotUTF8", b'{"id": "\xff"}'),
    ("BadId", b'{"id": {}}'),
    ("BadId", b'{"id": [1]}'),
    ("BadId", json.dumps({"id": "x" * 65}).encode()),
    ("BadId", json.dumps({"id": "é" * 33}, ensure_ascii=False).encode()),
]


@BOTH
def test_what_is_wrong_with_a_payload_is_named(desk):
    _, watch = desk()
    for error, payload in MALFORMED:
        for name in ("read", "interval", "set", "reboot"):
            answer = watch.command(payload, name)
            assert (answer["command"], answer["ok"], answer["error"]) == (name, False, error)
            assert "id" not in answer
    watch.more("air", 3)


def test_the_identifier_is_repeated(desk):
    _, watch = desk()
    for id in ("a", "", "x" * 64, "é" * 32, '"\\', 7, -1.5, True, None, 2**60):
        payload = json.dumps({"id": id, "interval": 0.1}, ensure_ascii=False)
        answer = {"command": "interval", "id": id, "ok": True, "interval": 0.1}
        assert watch.command(payload) == answer
        refused = watch.command(json.dumps({"id": id}), "nonsense")
        assert (refused["error"], refused["id"]) == ("UnknownCommand", id)


@BOTH
def test_long_commands_are_named(desk):
    _, watch = desk()
    for size in (257, 900, 1024, 3000):
        assert watch.command(b"1" * size) == {
            "command": "interval",
            "ok": False,
            "error": "TooLong",
            "expected": "at most 256 bytes",
        }
    watch.more("air", 3)


def test_read_all(desk):
    _, watch = desk(interval=3600)
    for count, payload in enumerate([None, b"", b"1", b"{}"], 1):
        if payload is not None:
            assert watch.command(payload, "read") == {"command": "read", "ok": True}
        for name in ("air", "chip", "door"):
            watch.wait(name, count)


def test_read_one(desk):
    _, watch = desk(interval=3600)
    watch.wait("air")
    for count, payload in enumerate([b"chip", b'"chip"', b'{"read": "chip"}'], 2):
        assert watch.command(payload, "read")["ok"]
        watch.wait("chip", count)
    assert len(watch.all("air")) == 1
    for payload in (b"nothing", b"2", b"[]", b"false"):
        answer = watch.command(payload, "read")
        assert answer["error"] == "UnknownSensor"
        assert answer["expected"] == "the sensors are air, chip, door"


def test_diagnostics_now(desk):
    _, watch = desk(interval=3600, diagnostics=3600)
    watch.wait("diagnostics")
    assert watch.command("1", "diagnostics") == {"command": "diagnostics", "ok": True}
    watch.wait("diagnostics", 2)


def test_identify_is_bounded(desk):
    _, watch = desk()
    assert watch.command("1", "identify") == {"command": "identify", "ok": True, "identify": 1}
    assert watch.command("", "identify")["identify"] == 5
    for payload in ("0", "61", '"1"', "true"):
        assert watch.command(payload, "identify")["error"] == "BadIdentify"


def test_what_is_not_configured_is_named(desk):
    _, watch = desk()
    assert watch.command("10", "awake")["error"] == "NotConfigured"
    assert watch.command('{"awake": 0}', "awake")["error"] == "BadAwake"


def test_reboot(desk):
    """Its answer comes first, and no will."""
    firmware, watch = desk(interval=3600)
    watch.wait("diagnostics")
    answer = watch.command('{"id": "r1"}', "reboot")
    assert answer == {"command": "reboot", "id": "r1", "ok": True}
    assert watch.wait("status", 2)[1] == b"offline"
    firmware.finish()
    assert firmware.output.endswith("reset")
    topics = [topic.removeprefix(watch.base + "/") for topic, *_ in watch.peer.messages]
    assert topics[-2:] == ["response", "status"]


def test_reboot_waits_for_what_is_not_acknowledged(start, scripted):
    """For some seconds; the broker has the reading then, or never."""
    firmware = start(broker=scripted.address, interval=3600)
    scripted.accept()
    scripted.send(b"\x20\x02\x00\x00")
    firmware.wait("connected")
    topic = b"home/desk/cmd/reboot"
    scripted.send(bytes((0x30, 3 + len(topic), 0, len(topic))) + topic + b"1")
    firmware.wait("command reboot ok")
    begin = time.monotonic()
    firmware.finish()
    assert time.monotonic() - begin > 4
    assert firmware.output.endswith("reset")


@BOTH
def test_a_reboot_that_is_cleared_is_none(peer, broker, base, desk):
    """What clears a retained command arrives as an empty one that is not retained."""
    other = peer(broker.port)
    other.publish(base + "/cmd/reboot", "1", 1, retain=True)
    firmware, watch = desk()
    assert json.loads(watch.wait("response")[1])["error"] == "Retained"
    other.publish(base + "/cmd/reboot", b"", 1, retain=True)
    assert json.loads(watch.wait("response", 2)[1])["error"] == "Empty"
    watch.more("air", 3)
    assert firmware.process.poll() is None


def test_unknown_commands_are_named(desk):
    _, watch = desk()
    for name in ("restart", "x" * 100, "é", '"\\', "_read", "__class__"):
        answer = watch.command("1", name=name)
        assert answer["command"] == name[:32]
        assert answer["error"] == "UnknownCommand"
        assert "interval" in answer["expected"]
    watch.more("air", 3)


@BOTH
def test_retained_commands_are_ignored(peer, broker, base, desk):
    other = peer(broker.port)
    other.publish(base + "/cmd/interval", "3600", 1, retain=True)
    _, watch = desk()
    answer = json.loads(watch.wait("response")[1])
    assert answer["error"] == "Retained"
    watch.more("air", 5)  # at the old interval
    other.publish(base + "/cmd/interval", b"", 1, retain=True)


def test_more_commands_than_memory(start, scripted):
    """A broker that acknowledges nothing: answers are given up, memory is not."""
    firmware = start(broker=scripted.address, interval=3600)
    scripted.accept()
    scripted.send(b"\x20\x02\x00\x00")
    topic = b"home/desk/cmd/interval"
    publish = bytes((0x30, 4 + len(topic), 0, len(topic))) + topic + b"no"
    for _ in range(3000):
        scripted.send(publish)
    firmware.wait("outbox full: 2900 dropped")
    assert firmware.process.poll() is None
