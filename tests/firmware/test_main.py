"""What main puts together: starts that crash, safe mode, and wakes from deep sleep."""

import json

RESET = 3  # exit code of the desk: start it again


def configuration(folder, broker, base, **settings):
    prefix, device = base.split("/")
    settings |= {"broker": f"127.0.0.1:{broker.port}", "prefix": prefix, "device": device}
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return path


def test_safe_mode_after_three_crashes(start, watch, broker, base, tmp_path):
    seen = watch(broker.port)
    config = configuration(tmp_path, broker, base, sensors=start.sensors, spool=65536)
    (tmp_path / "spool").write_text("in the place of its folder")
    for _ in range(3):
        firmware = start(config)
        assert firmware.finish() == RESET, firmware.output
    assert not seen.peer.messages
    firmware = start(config)
    crash = json.loads(seen.wait("crash")[1])
    assert crash["row"] == crash["count"] == 3
    assert "node.py" in crash["crash"] and "OSError" in crash["crash"]
    seen.wait("diagnostics")
    assert seen.command("1", "read")["ok"]
    assert not seen.all("air")
    assert firmware.interrupt() == 0
    assert json.loads((tmp_path / "crash.json").read_text())["told"]


def test_wakes(start, watch, broker, base, tmp_path):
    seen = watch(broker.port)
    config = configuration(
        tmp_path, broker, base, sensors=start.sensors, sleep={"seconds": 60, "awake": 30}
    )
    for i in range(3):
        firmware = start(config)
        assert firmware.finish() == 0, firmware.output
        assert "deep sleep for" in firmware.output
        seen.wait("air", i + 1)
    assert len(seen.all("air")) == 3
    assert len(seen.all("info")) == len(seen.all("diagnostics")) == 1  # at the first start
    assert not seen.all("status")
