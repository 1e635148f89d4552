"""What was heard of the devices, bounded in all it keeps: the newest of each value, and for its
chart the mean of each slot of the last minutes.

Whatever a message holds ends in a number, or in text that clean() has been over.
"""

import json
import math
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tools.console import printable

# of what the discovery messages have not told yet, in the order in which values are shown
UNITS = {"temperature": "°C", "humidity": "%", "pressure": "hPa"}
LARGEST = 16384  # bytes of a payload that is looked at
HUGE = 1e38  # what a device's float holds
SLOTS = 120  # of a chart
MOST_DEVICES = 2000
MOST_VALUES = 10_000  # of all devices
ONE_DEVICE = 256  # values, entities and errors of one
AT_ONCE = 2  # s between a reading's own time and its arrival, up to which it is taken as new
BEGIN = 1704067200  # 2024; a clock that says less was never set
NAME, TEXT = 64, 400  # characters


def clean(text: str, most: int = NAME) -> str:
    return printable(text[:most])


def utc(seconds: float) -> str:
    """ISO 8601, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def parse(payload: bytes) -> dict:
    """An object in JSON. ValueError says what is wrong."""
    if len(payload) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    try:
        found = json.loads(payload.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("too many objects in one another") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def number(value) -> float | int | None:
    """What a device can have measured, and None for all else."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float) and -HUGE < value < HUGE:  # as NaN is not
        return value
    return None


def text_of(value) -> str:
    return clean(value) if isinstance(value, str) else ""


@dataclass(slots=True)
class Entity:
    """What a discovery message tells of a value."""

    unit: str
    binary: bool
    expires: int  # s; 0: never


class Series:
    """One value: the newest, and sum and count of each slot of time, in a ring."""

    __slots__ = ("value", "time", "newest", "sums", "counts")

    def __init__(self):
        self.value: float | int = 0
        self.time = 0.0
        self.newest = 0  # slots since 1970
        self.sums = array("d", bytes(8 * SLOTS))
        self.counts = array("L", bytes(array("L").itemsize * SLOTS))

    def add(self, time: float, value: float | int, slot: float) -> None:
        if time >= self.time:
            self.time = time
            self.value = value
        at = int(time // slot)
        if at > self.newest:
            for i in range(max(self.newest + 1, at - SLOTS + 1), at + 1):
                self.sums[i % SLOTS] = self.counts[i % SLOTS] = 0
            self.newest = at
        if at > self.newest - SLOTS:
            self.sums[at % SLOTS] += value
            self.counts[at % SLOTS] += 1

    def means(self, now: float, slot: float, columns: int, hold: float) -> list[float | None]:
        """The mean in each of `columns` equal stretches of time up to now. None: nothing came,
        and what came last was more than `hold` seconds old."""
        each = SLOTS // columns
        end = int(now // slot) // each * each + each
        found: list[float | None] = []
        last, since = None, 0  # what came, and the end of its stretch
        for first in range(end - columns * each, end, each):
            slots = [
                i % SLOTS
                for i in range(first, first + each)
                if self.newest - SLOTS < i <= self.newest
            ]
            count = sum(self.counts[i] for i in slots)
            if count:
                last, since = sum(self.sums[i] for i in slots) / count, first + each
            found.append(last if count or (first + each - since) * slot <= hold else None)
        return found


@dataclass(slots=True)
class Device:
    name: str
    status: str = ""  # "online" or "offline", as the device or its will has said
    sleeps: bool = False
    rssi: int | float | None = None
    heard: float = 0.0  # when it last said something itself
    crash: str = ""
    errors: dict[str, str] = field(default_factory=dict)  # by sensor
    entities: dict[tuple[str, str], Entity] = field(default_factory=dict)  # by sensor and value
    series: dict[tuple[str, str], Series] = field(default_factory=dict)

    def unit(self, sensor: str, name: str) -> str:
        entity = self.entities.get((sensor, name))
        return entity.unit if entity else UNITS.get(name, "")

    def binary(self, sensor: str, name: str) -> bool:
        entity = self.entities.get((sensor, name))
        return entity is not None and entity.binary

    def expired(self, sensor: str, name: str, now: float) -> bool:
        entity = self.entities.get((sensor, name))
        series = self.series.get((sensor, name))
        return bool(entity and series and 0 < entity.expires < now - series.time)

    def hold(self, sensor: str, name: str) -> float:
        """For how many seconds a value stands, as far as discovery has told."""
        entity = self.entities.get((sensor, name))
        return (entity.expires or math.inf) if entity else 0

    def availability(self, now: float) -> str:
        """What its status says or, of a device that sleeps, whether its values are overdue."""
        if not self.sleeps:
            return self.status
        waits = [entity.expires for entity in self.entities.values() if entity.expires]
        if not self.heard or not waits:
            return "asleep"
        return "asleep" if now - self.heard <= max(waits) else "overdue"


@dataclass(slots=True)
class Value:
    """One value of a reading, as it is recorded."""

    time: float  # s since 1970, when it was taken
    device: str
    sensor: str
    name: str
    value: float | int
    unit: str


@dataclass(slots=True)
class Told:
    """What one message says, for people."""

    time: float
    device: str
    topic: str  # below the device's
    text: str
    colour: str
    retained: bool = False
    values: list[Value] = field(default_factory=list)


class Devices:
    """All devices below `prefix`, or those that are named."""

    def __init__(self, prefix: str, names: list[str], minutes: float = 10):
        self.prefix = prefix
        self.names = names
        self.minutes = minutes
        self.slot = minutes * 60 / SLOTS
        self.devices: dict[str, Device] = {}
        self.nodes: dict[str, Device] = {}  # by how discovery's topics name them
        self.messages = 0
        self.readings = 0  # that were not retained
        self.bad = 0
        self.trouble = ""  # the last that was bad
        self.values = 0

    def filters(self, discovery: str | None) -> list[str]:
        """What to subscribe to: no commands, and discovery first, as it tells the units."""
        found = []
        for name in self.names:
            node = "+" if name == "+" else f"{self.prefix}/{name}".replace("/", "-")
            found += [f"{discovery}/+/{node}/+/config"] if discovery else []
            found += [f"{self.prefix}/{name}/+", f"{self.prefix}/{name}/+/error"]
        return found

    def take(self, time: float, topic: str, payload: bytes, retained: bool) -> Told | None:
        """Take a message that came at `time`; None if there is nothing to tell of it."""
        self.messages += 1
        try:
            if topic.startswith(self.prefix + "/"):
                name, _, kind = topic[len(self.prefix) + 1 :].partition("/")
                return self._take(time, self.device(name), clean(kind), payload, retained)
            self._discover(topic, payload)
        except ValueError as error:
            self.bad += 1
            self.trouble = f"{clean(topic)}: {error}"
            name = topic.removeprefix(self.prefix + "/")
            device, _, kind = clean(name).partition("/")
            return Told(time, device, kind, f"not understood: {error}", "yellow", retained)
        return None

    def device(self, name: str) -> Device:
        name = clean(name)
        found = self.devices.get(name)
        if found is None:
            if len(self.devices) >= MOST_DEVICES:
                raise ValueError(f"more than {MOST_DEVICES} devices")
            found = self.devices[name] = Device(name)
            self.nodes[f"{self.prefix}/{name}".replace("/", "-")] = found
        return found

    def _take(self, time, device, kind, payload, retained) -> Told | None:
        told = Told(time, device.name, kind, "", "dim", retained)
        if kind in ("cmd", "awake"):  # which others send
            return None
        if not retained and kind != "status":  # a status may be the will
            device.heard = time
        sensor, slash, end = kind.partition("/")
        if slash:
            if end != "error":
                return None
            text = clean(payload[:LARGEST].decode(errors="replace"), TEXT)
            if not text:
                told.text = f"{sensor} works again"
                return told if device.errors.pop(sensor, None) else None
            if len(device.errors) >= ONE_DEVICE:
                raise ValueError("too many errors")
            device.errors[sensor] = told.text = text
            told.colour = "red"
        elif kind == "status":
            text = payload[:LARGEST].decode(errors="replace")
            if text not in ("online", "offline"):
                raise ValueError("neither online nor offline")
            device.status = told.text = text
            told.colour = "green" if text == "online" else "red"
        else:
            found = parse(payload)
            if kind == "diagnostics":
                device.rssi = number(found.get("rssi"))
            elif kind == "crash":
                device.crash = told.text = crash(found)
                told.colour = "red"
            elif kind not in ("info", "response"):
                return self._reading(told, device, found)
            if kind != "crash":
                told.text = clean(json.dumps(found, ensure_ascii=False), TEXT)
        return told

    def _reading(self, told: Told, device: Device, found: dict) -> Told:
        taken = told.time
        clock, age = number(found.get("time")), number(found.get("age"))
        # More than a moment old, it waited in the device.
        if clock is not None and BEGIN < clock < taken - AT_ONCE:
            taken = float(clock)
        elif clock is None and age is not None and AT_ONCE < age < taken - BEGIN:
            taken -= age
        names = [name for name in UNITS if name in found]
        names += [name for name in found if name not in UNITS and name not in ("time", "age")]
        sensor = told.topic
        texts = []
        for key in names[:ONE_DEVICE]:
            value = number(found[key])
            if value is None:
                continue
            name = clean(key)
            unit = device.unit(sensor, name)
            told.values.append(Value(taken, device.name, sensor, name, value, unit))
            texts.append(f"{name} {shown(value, device.binary(sensor, name))} {unit}".rstrip())
        if not texts:
            raise ValueError("no number in it")
        told.text = "  ".join(texts)
        told.colour = "green"
        if told.retained:  # so nobody knows how old it is
            told.values.clear()
            return told
        for value in told.values:
            where = (sensor, value.name)
            series = device.series.get(where)
            if series is None:
                if len(device.series) >= ONE_DEVICE or self.values >= MOST_VALUES:
                    raise ValueError("too many values")
                series = device.series[where] = Series()
                self.values += 1
            series.add(value.time, value.value, self.slot)
        self.readings += 1
        return told

    def _discover(self, topic: str, payload: bytes) -> None:
        levels = topic.rsplit("/", 4)
        if len(levels) < 5:
            return
        _, component, node, entity, _ = levels
        if not payload:  # the sensor was removed
            device = self.nodes.get(node)
            for where in list(device.entities) if device else ():
                if "_".join(where) == entity:
                    del device.entities[where]
                    self.values -= device.series.pop(where, None) is not None
            return
        if f'"{self.prefix}/'.encode() not in payload[:LARGEST]:
            return  # one of all the others that Home Assistant knows
        found = parse(payload)
        base, topic = found.get("~"), found.get("stat_t")
        if not isinstance(base, str) or not isinstance(topic, str):
            return
        prefix, _, name = base.rpartition("/")
        sensor = clean(topic.removeprefix("~/"))
        if (
            prefix != self.prefix
            or "/" in sensor
            or (self.names != ["+"] and name not in self.names)
        ):
            return
        device = self.device(name)
        if sensor in ("status", "diagnostics"):
            device.sleeps = False
            return
        if not entity.startswith(sensor + "_") or len(device.entities) >= ONE_DEVICE:
            return
        expires = number(found.get("exp_aft")) or 0
        device.sleeps = "avty_t" not in found
        device.entities[sensor, clean(entity[len(sensor) + 1 :])] = Entity(
            text_of(found.get("unit_of_meas")), component == "binary_sensor", int(expires)
        )


def shown(value: float | int, binary: bool = False) -> str:
    """A value in at most 9 characters."""
    if binary:
        return "on" if value else "off"
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 9 else f"{value:.3g}"


def crash(found: dict) -> str:
    """A crash in one line: which, when, and the end of its traceback."""
    lines = found.get("crash")
    lines = lines.strip().splitlines() if isinstance(lines, str) else []
    count, row, uptime = (number(found.get(key)) for key in ("count", "row", "uptime"))
    text = f"crash {shown(count)}" if count is not None else "crash"
    if uptime:
        text += f" after {shown(uptime)} s"
    if row is not None and row > 1:
        text += f", {shown(row)} in a row"
    return clean(f"{text}: {lines[-1] if lines else '?'}", TEXT)
