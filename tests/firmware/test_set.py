"""cmd/set: a change of the configuration, on trial until the broker has acknowledged something."""

import json

import pytest

RESET = 3  # exit code of a desk that is to be started again


@pytest.fixture
def changed(start, watch, broker, base, tmp_path):
    """Starts the firmware with a configuration of its own, again and again."""
    seen = watch(broker.port)
    prefix, device = base.split("/")
    path = tmp_path / "config.json"
    sensors = start.sensors
    address = f"127.0.0.1:{broker.port}"
    text = {"broker": address, "prefix": prefix, "device": device, "interval": 0.5}
    path.write_text(json.dumps(text | {"sensors": sensors}))
    return seen, path, lambda: start(config=path)


def test_a_change_is_kept(changed):
    watch, path, start = changed
    firmware = start()
    watch.wait("air")
    answer = watch.command(
        '{"id": 1, "interval": 0.2, "sensors": {"air": {"interval": 3600}}}', "set"
    )
    assert answer == {"command": "set", "id": 1, "ok": True, "set": "on trial"}
    assert firmware.finish() == RESET
    start()
    assert json.loads(watch.wait("response", 2)[1]) == {
        "command": "set",
        "ok": True,
        "set": "kept",
    }
    found = json.loads(path.read_text())
    assert found["interval"] == 0.2
    assert found["sensors"][0]["interval"] == 3600
    assert [p.name for p in path.parent.glob("config.*")] == ["config.json"]


def test_mistakes_change_nothing(changed):
    watch, path, start = changed
    before = path.read_text()
    start()
    watch.wait("air")
    for payload in ("5", '{"interval": "x"}', '{"broker": "x"}', '{"sensors": {"nothing": {}}}'):
        answer = watch.command(payload, "set")
        assert (answer["ok"], answer["error"]) == (False, "BadSet"), payload
    watch.more("door", 2)
    assert path.read_text() == before
