"""Commands and their answers."""

import json

import pytest

RANGE = "a number of seconds from 0.1 to 86400"


@pytest.mark.parametrize("payload", ["0.1", ' {"interval": 0.1} '])
def test_the_interval_changes(desk, payload):
    _, watch = desk(interval=3600)
    watch.wait("env")
    assert watch.command(payload) == {"command": "interval", "ok": True, "interval": 0.1}
    watch.wait("env", 6)


def test_the_interval_holds(desk):
    """A longer one stops the readings, after the one that is on its way."""
    _, watch = desk()
    watch.wait("env", 3)
    assert watch.command("3600")["ok"]
    count = len(watch.all("env"))
    for _ in range(20):  # answers that take their time
        watch.command("3600")
    assert len(watch.all("env")) <= count + 1


BAD = [
    b"",
    b"0",
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
    b"[" * 64,
    b"{",
    b"{}",
    b'{"seconds": 1}',
    b'{"interval": {}}',
    b'{"interval": null}',
    b"{[]: 1}",
    b"-",
    b"\xff\xfe",
    b'"\xff"',
    b"\x00",
]


def test_bad_intervals_are_named(desk):
    _, watch = desk()
    for payload in BAD:
        answer = watch.command(payload)
        assert answer["ok"] is False, payload
        assert answer["error"] == "BadInterval", payload
        assert RANGE in answer["expected"]
    watch.more("env", 3)


@pytest.mark.parametrize("size", [65, 400, 3000])
def test_long_commands_are_named(desk, size):
    _, watch = desk()
    answer = watch.command(b"1" * size)
    assert answer == {
        "command": "interval",
        "ok": False,
        "error": "TooLong",
        "expected": "at most 64 bytes",
    }
    watch.more("env", 3)


@pytest.mark.parametrize("name", ["reboot", "x" * 100, "é", '"\\'])
def test_unknown_commands_are_named(desk, name):
    _, watch = desk()
    answer = watch.command("1", name=name)
    assert answer["command"] == name[:32]
    assert answer["error"] == "UnknownCommand"
    assert "interval" in answer["expected"]
    watch.more("env", 3)


def test_retained_commands_are_ignored(peer, broker, base, desk):
    other = peer(broker.port)
    other.publish(base + "/cmd/interval", "3600", 1, retain=True)
    _, watch = desk()
    answer = json.loads(watch.wait("response")[1])
    assert answer["error"] == "Retained"
    watch.more("env", 5)  # at the old interval
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
