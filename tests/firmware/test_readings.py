"""Readings and availability, as a subscriber sees them."""

import json
import signal

import pytest


def test_readings_are_json(desk):
    _, watch = desk()
    for count in range(1, 6):
        _, payload, _, retain = watch.wait("env", count)
        assert not retain
        reading = json.loads(payload)
        assert 17 <= reading["temperature"] <= 26
        assert 30 <= reading["humidity"] <= 60
        assert 990 <= reading["pressure"] <= 1040


# To a subscriber at QoS 2 Mosquitto sends a message as it was published; iotcore at QoS 2.
@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_all_is_published_at_qos_1(desk):
    firmware, watch = desk()
    watch.command("0.1")
    watch.wait("env")
    firmware.interrupt()
    watch.wait("status", 2)
    kinds = {(topic.split("/")[-1], qos) for topic, _, qos, _ in watch.peer.messages}
    assert kinds == {("interval", 1), ("response", 1), ("env", 1), ("status", 1)}


def test_readings_drift(desk):
    _, watch = desk()
    watch.wait("env", 6)
    readings = [json.loads(payload) for _, payload, _, _ in watch.all("env")]
    assert len({reading["temperature"] for reading in readings}) > 1
    for before, after in zip(readings, readings[1:], strict=False):
        assert abs(before["temperature"] - after["temperature"]) < 0.5


def test_a_late_subscriber_gets_online(desk, watch, broker):
    desk()
    assert watch(broker.port).wait("status")[1::2] == (b"online", True)


def test_offline_after_ctrl_c(desk, watch, broker):
    firmware, seen = desk()
    assert seen.wait("status")[1] == b"online"
    assert firmware.interrupt() == 0, firmware.output
    assert seen.wait("status", 2)[1] == b"offline"
    assert "Traceback" not in firmware.output
    assert watch(broker.port).wait("status")[1::2] == (b"offline", True)


def test_offline_precedes_disconnect(start, scripted):
    """Not the will, which DISCONNECT withdraws."""
    firmware = start(broker=scripted.address, interval=3600)
    scripted.accept()
    scripted.send(b"\x20\x02\x00\x00")
    firmware.wait("connected")
    assert firmware.interrupt() == 0, firmware.output
    packets = [(0, b"")]
    while (packet := scripted.read()) != (0, b""):
        packets.append(packet)
    assert packets[-1] == (0xE0, b"")
    first, body = packets[-2]
    assert first == 0x33  # QoS 1, retained
    assert body[2:].startswith(b"home/desk/status")
    assert body.endswith(b"offline")


def test_offline_while_it_sleeps_long(desk):
    firmware, watch = desk(interval=3600)
    watch.wait("env")
    assert firmware.interrupt() == 0, firmware.output
    assert watch.wait("status", 2)[1] == b"offline"


def test_offline_is_the_will(desk, watch, broker):
    firmware, seen = desk()
    firmware.process.send_signal(signal.SIGKILL)
    firmware.finish()
    assert seen.wait("status", 2)[1] == b"offline"
    assert watch(broker.port).wait("status")[1::2] == (b"offline", True)


def test_ctrl_c_without_a_broker(start, own_broker):
    own_broker.kill()
    firmware = start(broker=f"127.0.0.1:{own_broker.port}")
    firmware.wait("disconnected")
    assert firmware.interrupt() == 0, firmware.output
    assert "Traceback" not in firmware.output


def test_a_broker_that_is_away(start, watch, own_broker, base):
    """Readings fill the outbox, then the newest waits; all of them come in the end."""
    prefix, device = base.split("/")
    own_broker.kill()
    firmware = start(
        broker=f"127.0.0.1:{own_broker.port}", prefix=prefix, device=device, interval=0.1
    )
    firmware.wait("3 dropped so far")
    own_broker.start()
    seen = watch(own_broker.port)
    seen.wait("env", 15)  # more than the outbox holds: it goes on
    assert b"online" in [payload for _, payload, _, _ in seen.all("status")]
    assert firmware.interrupt() == 0, firmware.output


def test_online_again_after_a_broker_restart(desk, own_broker, watch):
    firmware, _ = desk(on=own_broker)
    own_broker.kill()
    firmware.wait("disconnected")
    own_broker.start()
    seen = watch(own_broker.port)
    assert seen.wait("status")[1] == b"online"
    seen.wait("env", 3)
    assert seen.command("0.2")["ok"]
    assert firmware.interrupt() == 0, firmware.output
