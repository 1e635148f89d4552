"""What Home Assistant is told, held against what it has published of its schemas.

The facts are those of github.com/home-assistant/core, in homeassistant/components/:

    mqtt/abbreviations.py    KEYS, DEVICE_KEYS; as read in commit 911803bf
    mqtt/discovery.py        TOPIC, how ~ is replaced; commit 00b08a43
    mqtt/schemas.py          what device and origin require, and COMMON; commit c6ca7f5f
    mqtt/sensor.py, mqtt/binary_sensor.py   OWN, the defaults of payloads; 17309b78, 12159083
    sensor/const.py          SENSORS: DEVICE_CLASS_UNITS and DEVICE_CLASS_STATE_CLASSES; 3fd1a330
    binary_sensor/__init__.py   BINARY: BinarySensorDeviceClass; commit 027590d9

and of github.com/home-assistant/home-assistant.io: source/_integrations/mqtt.markdown, commit
0a314403, for `o`, which stands for `origin`, and for the birth message.
"""

import ast
import json
import re

import pytest
from brokers import BROKERS
from runtimes import ROOT

BOTH = pytest.mark.parametrize("broker", BROKERS, indirect=True)

TOPIC = re.compile(r"(\w+)/(?:([a-zA-Z0-9_-]+)/)?([a-zA-Z0-9_-]+)/config")
KEYS = {
    "avty_t": "availability_topic",
    "dev": "device",
    "dev_cla": "device_class",
    "ent_cat": "entity_category",
    "exp_aft": "expire_after",
    "name": "name",
    "o": "origin",
    "pl_off": "payload_off",
    "pl_on": "payload_on",
    "stat_cla": "state_class",
    "stat_t": "state_topic",
    "uniq_id": "unique_id",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
}
DEVICE_KEYS = {
    "ids": "identifiers",
    "mdl": "model",
    "mf": "manufacturer",
    "name": "name",
    "sw": "sw_version",
}
ORIGIN_KEYS = {"name": "name", "sw": "sw_version", "url": "support_url"}
COMMON = {
    "availability_topic", "device", "device_class", "entity_category", "expire_after", "name",
    "origin", "state_topic", "unique_id", "value_template",
}  # fmt: skip
OWN = {
    "sensor": {"state_class", "unit_of_measurement"},
    "binary_sensor": {"payload_off", "payload_on"},
}
# units and state classes of the device classes of a sensor
M = {"measurement"}
ANY = {"measurement", "total", "total_increasing"}
PRESSURE = {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"}
BYTES = {"B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
SENSORS = {
    None: (None, ANY),
    "atmospheric_pressure": (PRESSURE, M),
    "data_size": (BYTES | {"bit", "kbit", "Mbit", "Gbit"}, ANY),
    "duration": ({"d", "h", "min", "s", "ms"}, ANY),
    "humidity": ({"%"}, M),
    "pressure": (PRESSURE, M),
    "signal_strength": ({"dB", "dBm"}, M),
    "temperature": ({"°C", "°F", "K"}, M),
    "voltage": ({"V", "mV"}, M),
}
BINARY = {
    None, "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door",
    "garage_door", "gas", "heat", "light", "lock", "moisture", "motion", "moving", "occupancy",
    "opening", "plug", "power", "presence", "problem", "running", "safety", "smoke", "sound",
    "tamper", "update", "vibration", "window",
}  # fmt: skip

ENTITIES = {
    "air_temperature", "air_humidity", "air_pressure", "chip_temperature", "door_state",
    "diagnostics_uptime", "diagnostics_heap_free", "status",
}  # fmt: skip


def expand(payload):
    """A message as Home Assistant reads it."""
    found = {KEYS[key]: value for key, value in payload.items() if key != "~"}
    base = payload.get("~")
    for key, value in found.items():
        if base and key.endswith("topic"):
            found[key] = re.sub("^~|~$", base, value)
    found["device"] = {DEVICE_KEYS[key]: value for key, value in found["device"].items()}
    found["origin"] = {ORIGIN_KEYS[key]: value for key, value in found["origin"].items()}
    return found


def check(component, found):
    """What Home Assistant's schema demands."""
    assert found.keys() <= COMMON | OWN[component]
    assert {"state_topic", "unique_id", "device", "origin"} <= found.keys()
    assert found["device"]["identifiers"]
    assert found["origin"]["name"]
    for key, value in found.items():
        if key == "expire_after":
            assert isinstance(value, int) and value > 0
        elif key not in ("device", "origin"):
            assert isinstance(value, str) and value
        if key.endswith("topic"):
            assert not set(value) & set("+#~")
    assert found.get("entity_category", "diagnostic") == "diagnostic"
    kind = found.get("device_class")
    if component == "binary_sensor":
        assert kind in BINARY
    else:
        units, states = SENSORS[kind]
        assert found["state_class"] in states
        assert units is None or found["unit_of_measurement"] in units


class Home:
    """What Home Assistant sees of one device."""

    def __init__(self, peer, base, root="homeassistant"):
        self.peer = peer
        self.root = root
        self.node = base.replace("/", "-")
        peer.subscribe(f"{root}/#")

    def messages(self):
        """(component, name, payload, retain) of each, in order."""
        found = []
        for topic, payload, _, retain in self.peer.messages:
            match = TOPIC.fullmatch(topic.removeprefix(self.root + "/"))
            if match and match[2] == self.node:
                found.append((match[1], match[3], payload, retain))
        return found

    def wait(self, count):
        self.peer.log.wait(lambda _: len(self.messages()) >= count)
        return self.messages()


@pytest.fixture
def home(peer, base):
    return lambda port, *root: Home(peer(port), base, *root)


@BOTH
def test_the_payloads_are_what_home_assistant_takes(desk, home, broker):
    seen = home(broker.port)
    _, watch = desk()
    ids = set()
    devices = []
    readings = {}
    for component, name, payload, _ in seen.wait(len(ENTITIES)):
        found = expand(json.loads(payload))
        check(component, found)
        assert component == ("binary_sensor" if name in ("door_state", "status") else "sensor")
        ids.add(found["unique_id"])
        devices.append(found["device"])
        # it points to what the device does publish
        kind = found["state_topic"].removeprefix(watch.base + "/")
        readings[name] = state = watch.wait(kind)[1]
        if name == "status":
            assert (found["payload_on"], found["payload_off"]) == ("online", "offline")
            assert found["device_class"] == "connectivity"
            assert state.decode() in ("online", "offline")
            continue
        assert found["availability_topic"] == watch.base + "/status"
        value = name.removeprefix(kind + "_")
        fields = re.findall(r"value_json(?:\['(\w+)'\]|\.(\w+))", found["value_template"])
        assert [a or b for a, b in fields] == [value]
        assert value in json.loads(state)
    assert readings.keys() == ENTITIES
    assert len(ids) == len(ENTITIES)
    assert all(device == devices[0] for device in devices)


@BOTH
def test_the_messages_are_retained(desk, home, broker, late):
    first = home(broker.port)
    desk()
    first.wait(len(ENTITIES))
    found = late(broker.port, f"homeassistant/+/{first.node}/#")
    assert {topic.split("/")[3] for topic in found} == ENTITIES


@pytest.mark.parametrize("root", ["homeassistant", "ha/discovery"])
def test_again_when_home_assistant_comes(desk, home, broker, root):
    seen = home(broker.port, root)
    _, watch = desk(discovery=root)
    count = len(ENTITIES)
    first = seen.wait(count)
    assert len(first) == count
    for again in (2, 3):
        for payload in ("offline", "online now"):  # is not meant
            seen.peer.publish(root + "/status", payload, 1)
        watch.command("1", "read")
        assert len(seen.messages()) == (again - 1) * count
        seen.peer.publish(root + "/status", "online", 1)
        messages = seen.wait(again * count)[-count:]
        assert messages == first


def test_not_for_a_birth_that_is_retained(desk, home, broker):
    """The device has told it all anyway."""
    seen = home(broker.port, "elsewhere")
    seen.peer.publish("elsewhere/status", "online", 1, retain=True)
    firmware, _ = desk(discovery="elsewhere")
    firmware.wait("discovery: 8 sent, 0 removed")
    assert len(seen.messages()) == len(ENTITIES)
    seen.peer.publish("elsewhere/status", b"", 1, retain=True)


@BOTH
def test_a_sensor_that_is_removed(desk, home, broker, late):
    """The broker forgets it; what is another device's, it keeps."""
    seen = home(broker.port)
    other = f"homeassistant/sensor/{seen.node}x/air_temperature/config"
    seen.peer.publish(other, "{}", 1, retain=True)
    firmware, _ = desk()
    firmware.wait("discovery: 8 sent, 0 removed")  # not what it has just sent
    assert len(seen.messages()) == len(ENTITIES)
    firmware.interrupt()
    firmware, _ = desk(sensors=desk.sensors[1:])
    firmware.wait("discovery: 5 sent, 3 removed")
    removed = [name for _, name, payload, _ in seen.wait(2 * len(ENTITIES)) if not payload]
    assert sorted(removed) == ["air_humidity", "air_pressure", "air_temperature"]
    found = late(broker.port, "homeassistant/#")
    names = {topic.split("/")[3] for topic in found if topic.split("/")[2] == seen.node}
    assert names == {name for name in ENTITIES if not name.startswith("air_")}
    assert other in found
    seen.peer.publish(other, b"", 1, retain=True)


def test_after_how_long_a_value_expires(desk, home, broker):
    """Three of the longest times without a message and 10 s; never where there is no longest."""
    often = {"temperature": {"change": 0.1, "max": 600}, "humidity": {"change": 1, "max": 100}}
    bus = {"id": 0, "scl": 1, "sda": 2}
    one = {"type": "bme280", "interval": 60, "i2c": bus}
    sensors = [
        one | {"name": "a"},
        one | {"name": "b", "address": 119, "values": often | {"pressure": {"change": 1}}},
        {"type": "chip", "name": "c", "values": {"temperature": {"change": 0.1}}},
        {"type": "chip", "name": "d", "interval": 0.1, "values": {"temperature": {"min": 60}}},
    ]
    seen = home(broker.port)
    _, watch = desk(sensors=sensors, diagnostics=False)
    messages = seen.wait(9)
    found = {name: json.loads(payload).get("exp_aft") for _, name, payload, _ in messages}
    assert found["a_temperature"] == found["a_pressure"] == 190
    assert found["b_temperature"] == found["b_pressure"] == 310
    assert found["c_temperature"] is None
    assert found["d_temperature"] == 190
    watch.command("20")
    found = {name: json.loads(payload).get("exp_aft") for _, name, payload, _ in seen.wait(18)}
    assert (found["a_temperature"], found["b_temperature"]) == (70, 310)


def test_a_device_that_sleeps_expires_only(desk, home, broker):
    seen = home(broker.port)
    desk(sleep={"seconds": 60, "awake": 30}, interval=60)
    for _, name, payload, _ in seen.wait(len(ENTITIES) - 3):
        assert name != "status" and not name.startswith("diagnostics")
        assert "avty_t" not in json.loads(payload)


def test_off(desk, home, broker):
    seen = home(broker.port)
    _, watch = desk(discovery=False)
    watch.wait("diagnostics")
    seen.peer.publish("homeassistant/status", "online", 1)
    watch.more("door", 10)
    assert not seen.messages()


def test_the_longest_names_fit(start, home, broker, watch):
    prefix = "/".join(["p" * 31, "q" * 32])
    device = "d" * 32
    seen = Home(home(broker.port).peer, f"{prefix}/{device}")
    name = "s" * 32
    start(
        broker=f"127.0.0.1:{broker.port}",
        prefix=prefix,
        device=device,
        settings={"sensors": [start.sensors[0] | {"name": name}]},
    )
    for component, _, payload, _ in seen.wait(6):
        check(component, expand(json.loads(payload)))


def test_a_broker_that_forgets(start, own_broker, home, base):
    """The messages stand again after a restart, whether it kept what is retained or not."""
    prefix, device = base.split("/")
    firmware = start(
        broker=f"127.0.0.1:{own_broker.port}", prefix=prefix, device=device, interval=0.1
    )
    firmware.wait("discovery: 8 sent")
    own_broker.kill()
    firmware.wait("disconnected")
    own_broker.start()
    seen = home(own_broker.port)
    assert {name for _, name, _, _ in seen.wait(len(ENTITIES))} == ENTITIES


def test_what_sensors_measure_is_known_to_home_assistant():
    for path in (ROOT / "firmware/sensors").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and node.targets[0].id == "VALUES":
                for unit, kind in ast.literal_eval(node.value).values():
                    units, states = SENSORS[kind]
                    assert units is None or unit in units, path
                    assert "measurement" in states, path
