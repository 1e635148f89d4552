"""Readings and availability, as a subscriber sees them."""

import collections
import json
import signal
import time

import pytest
from brokers import BROKERS, Mosquitto
from processes import Device, Peer
from proxy import Faults, Proxy
from runtimes import ROOT
from secure import PEM, Authority, Secure

BOTH = pytest.mark.parametrize("broker", BROKERS, indirect=True)


@BOTH
def test_readings_are_json(desk):
    _, watch = desk()
    for count in range(1, 6):
        _, payload, _, retain = watch.wait("air", count)
        assert not retain
        reading = json.loads(payload)
        assert 17 <= reading["temperature"] <= 26
        assert 30 <= reading["humidity"] <= 60
        assert 990 <= reading["pressure"] <= 1040
        assert abs(reading["time"] - time.time()) < 60  # s since 1970, as the desk's clock is set


def test_each_sensor_has_its_topic(desk):
    _, watch = desk()
    assert set(json.loads(watch.wait("chip")[1])) == {"temperature", "time"}
    assert json.loads(watch.wait("door")[1])["state"] in (0, 1)


# To a subscriber at QoS 2 Mosquitto sends a message as it was published; iotcore at QoS 2.
def test_all_is_published_at_qos_1(desk):
    firmware, watch = desk()
    watch.command("0.1")
    watch.wait("diagnostics")
    watch.wait("air")
    firmware.interrupt()
    watch.wait("status", 2)
    assert {qos for _, _, qos, _ in watch.peer.messages} == {1}
    kinds = {topic.removeprefix(watch.base + "/") for topic, *_ in watch.peer.messages}
    sensors = {"air", "chip", "door"}
    errors = {name + "/error" for name in sensors}
    rest = {"cmd/interval", "response", "status", "info", "diagnostics"}
    assert kinds == sensors | errors | rest


def test_readings_drift(desk):
    _, watch = desk()
    watch.wait("air", 6)
    readings = [json.loads(payload) for _, payload, _, _ in watch.all("air")]
    assert len({reading["temperature"] for reading in readings}) > 1
    for before, after in zip(readings, readings[1:], strict=False):
        assert abs(before["temperature"] - after["temperature"]) < 0.5


@BOTH
def test_a_late_subscriber_gets_online(desk, watch, broker):
    desk()
    assert watch(broker.port).wait("status")[1::2] == (b"online", True)


@BOTH
def test_a_late_subscriber_gets_the_information(desk, watch, broker):
    _, seen = desk()
    seen.wait("info")
    _, payload, _, retain = watch(broker.port).wait("info")
    assert retain
    info = json.loads(payload)
    assert info.keys() == {
        "version", "board", "identity", "micropython", "reset_cause", "ip"
    }  # fmt: skip
    assert info["board"] == "unix"
    assert info["reset_cause"] == "power"
    assert info["ip"] is None  # nobody's Wi-Fi
    assert [part.isdigit() for part in info["micropython"].split(".")] == [True] * 3


def test_diagnostics(desk):
    _, watch = desk()
    for count in (1, 2, 3):
        _, payload, _, retain = watch.wait("diagnostics", count)
        assert not retain
        found = json.loads(payload)
        assert found.keys() == {
            "rssi", "heap_free", "heap_block", "uptime", "reset_cause", "version", "reconnects",
            "retries", "drops", "spool", "loop_ms",
        }  # fmt: skip
        assert 0 < found["heap_block"] <= found["heap_free"] < 256 * 1024
        assert 0 <= found["uptime"] < 20
        assert (found["reconnects"], found["drops"], found["spool"]) == (0, 0, 0)
        watch.command("1", "diagnostics")


def test_tls(start, tmp_path, watch, base):
    ours = Authority("ours")
    (tmp_path / "ca.pem").write_bytes(ours.certificate.public_bytes(PEM))
    broker = Secure(tmp_path, ours.issue("127.0.0.1")).start()
    try:
        seen = watch(broker.port)
        prefix, device = base.split("/")
        settings = {"prefix": prefix, "device": device, "tls": {"ca": "ca.pem"}}
        firmware = start(broker=f"127.0.0.1:{broker.secure}", settings=settings)
        firmware.wait("connected")
        seen.wait("air")
    finally:
        broker.kill()


def published(scripted, count):
    """The topics of the next packets that are PUBLISH, and their identifiers."""
    topics = []
    while len(topics) < count:
        first, body = scripted.read()
        assert first, topics
        if first >> 4 == 3:
            size = int.from_bytes(body[:2], "big")
            topics.append((body[2 : 2 + size].decode(), body[2 + size : 4 + size]))
    return topics


def test_the_first_reading_does_not_wait(start, scripted):
    """It is read before the connection stands; what else there is to tell comes after its PUBACK.

    So a reading is acknowledged two round trips after the broker is reached, CONNECT's included.
    """
    start(broker=scripted.address, interval=3600)
    scripted.accept()
    scripted.send(b"\x20\x02\x00\x00")
    topics = published(scripted, 7)
    names = {topic.removeprefix("home/desk/") for topic, _ in topics}
    assert names == {
        "air", "air/error", "chip", "chip/error", "door", "door/error", "status"
    }  # fmt: skip
    topic = b"home/desk/cmd/nothing"
    scripted.send(bytes((0x30, 3 + len(topic), 0, len(topic))) + topic + b"1")
    assert published(scripted, 1)[0][0] == "home/desk/response"  # and nothing before it
    for _, id in topics:
        scripted.send(b"\x40\x02" + id)
    assert published(scripted, 1)[0][0] == "home/desk/info"


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
    first, body = [packet for packet in packets if packet[0] >> 4 == 3][-1]
    assert first == 0x33  # QoS 1, retained
    assert body[2:].startswith(b"home/desk/status")
    assert body.endswith(b"offline")


def test_offline_while_it_sleeps_long(desk):
    firmware, watch = desk(interval=3600)
    watch.wait("air")
    assert firmware.interrupt() == 0, firmware.output
    assert watch.wait("status", 2)[1] == b"offline"


@BOTH
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
    firmware.wait("9 dropped so far")
    own_broker.start()
    seen = watch(own_broker.port)
    for name in ("air", "chip", "door"):
        seen.wait(name, 15)  # more than the outbox holds: it goes on
    assert b"online" in [payload for _, payload, _, _ in seen.all("status")]
    assert firmware.interrupt() == 0, firmware.output


def test_online_again_after_a_broker_restart(desk, own_broker, watch):
    firmware, _ = desk(on=own_broker)
    own_broker.kill()
    firmware.wait("disconnected")
    own_broker.start()
    seen = watch(own_broker.port)
    assert seen.wait("status")[1] == b"online"
    seen.wait("air", 3)
    assert seen.command("0.2")["ok"]
    assert firmware.interrupt() == 0, firmware.output


def packets(trace):
    """The PUBLISH packets at QoS 1 that each connection carried, as (DUP, topic and payload)."""
    streams = collections.defaultdict(bytes)
    for connection, direction, data in trace:
        if direction == "up":
            streams[connection] += data
    for connection in sorted(streams):
        stream = streams[connection]
        while len(stream) > 1:
            size = shift = 0
            for at in range(1, 5):  # noqa: B007
                size |= (stream[at] & 127) << shift
                shift += 7
                if stream[at] < 128:
                    break
            if len(stream) <= at + size:
                break  # it was cut
            body = stream[at + 1 : at + 1 + size]
            if stream[0] & 0xF6 == 0x32:
                end = 2 + int.from_bytes(body[:2], "big")
                yield bool(stream[0] & 8), body[2:end] + b" " + body[end + 2 :]
            stream = stream[at + 1 + size :]


class Calm(Mosquitto):
    def more(self):
        return "autosave_interval 3600\n"  # nobody kills it


@pytest.fixture
def calm(tmp_path):
    broker = Calm(tmp_path)
    yield broker.start()
    broker.kill()


def test_a_day(calm, tmp_path):
    """24 hours in seconds, with outages, cuts, and acknowledgements that are lost: every reading
    arrives, none goes out a second time without DUP, and the heap stays as it is."""
    hours = 24
    peer = Peer(calm.port, "later", clean_session=False)
    peer.subscribe(f"day/{tmp_path.name}/#", 1)
    peer.stop()
    faults = [
        Faults(cut={"up": 1000 * n} if n % 2 else {"down": 100 * n}, drop=0.05 * (n == 8))
        for n in range(1, 13)
    ]
    proxy = Proxy(calm.port, faults)
    day = ROOT / "tests/firmware/device/day.py"
    device = Device("micropython", day, proxy.port, hours, tmp_path, heap="256k")
    try:
        device.log.wait(lambda entries: None in entries, 120)
        assert device.finish() == 0, device.log.entries
    finally:
        device.stop()
        proxy.stop()
    count, uptime, dropped = device.events("end")[0]
    assert count in (60 * hours, 60 * hours + 1)
    assert dropped == 0
    assert hours * 3600 <= uptime < hours * 3600 + 600
    assert proxy.calm

    peer = Peer(calm.port, "later", clean_session=False)
    peer.log.wait(lambda entries: len({m[:2] for m in entries if b'"n"' in m[1]}) == 3 * count)
    peer.stop()
    topic = f"day/{tmp_path.name}/diagnostics"
    told = [json.loads(m[1]) for m in peer.messages if m[0] == topic]
    assert 260 < len(told) <= 290  # every 5 minutes, but for the outages
    assert told[-1]["reconnects"] == proxy.connections - 1
    assert told[-1]["retries"] > 0
    for name in "abc":
        topic = f"day/{tmp_path.name}/{name}"
        found = [json.loads(m[1])["n"] for m in peer.messages if m[0] == topic]
        assert list(dict.fromkeys(found)) == list(range(count)), "lost, or out of order"
    seen = collections.Counter()
    again = 0
    for dup, message in packets(proxy.trace):
        if b'"n"' in message:
            assert dup or not seen[message], message
            seen[message] += 1
            again += dup
    assert len(seen) == 3 * count
    assert again, "no fault struck"

    heap = [used for _, used in device.events("hour")]
    assert len(heap) == hours
    assert max(heap[1:]) - min(heap[1:]) < 1024, heap
    assert device.events("forgotten") == device.events("fed") == [[True]]
    assert device.events("blinks") == [[20]]
    answer = json.loads(device.events("broken")[0][0])
    assert (answer["ok"], answer["error"], answer["id"]) == (False, "ZeroDivisionError", 1)
