"""Home Assistant's MQTT discovery: a retained message for each value of each sensor.

    <discovery>/<component>/<node>/<sensor>_<value>/config

<node> is prefix and device with - between them. What the broker has retained on the device's own
topics beside these belongs to a sensor that was removed: an empty message takes its place.

Imported while there is something to send, and then forgotten. One payload at a time is made, and
waits where all waits that is to be published. Keys are Home Assistant's abbreviations.
"""

import json
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from app import VERSION

_STALE = const(64)  # messages that are removed at once, at most
_QUIET = const(2000)  # ms in which the broker sends what is retained

# key of the diagnostics, unit, device class
_DIAGNOSTICS = const(
    (
        ("rssi", "dBm", "signal_strength"),
        ("uptime", "s", "duration"),
        ("heap_free", "B", "data_size"),
    )
)


def messages(app):
    """A generator that puts one message after the other into app.out, and yields ms to wait."""
    settings = app.settings
    root = settings["discovery"] + "/"
    base = app.base[:-1]
    node = base.replace("/", "-")
    own = []  # this device's topics, in bytes
    device = {
        "ids": node,
        "name": settings["device"],
        "mf": "umqtt_lite",
        "mdl": app.board.NAME,
        "sw": VERSION,
    }
    for component, name, keys in entities(app):
        keys["~"] = base
        keys["name"] = name.replace("_", " ")
        keys["uniq_id"] = "%s_%s" % (node, name)
        keys["dev"] = device
        keys["o"] = {"name": "umqtt_lite", "sw": VERSION}
        topic = "%s%s/%s/%s/config" % (root, component, node, name)
        own.append(topic.encode())
        while app.out:
            yield 1000
        app.out.append((topic, json.dumps(keys), True))

    stale = []

    def found(topic, payload, retain):
        if len(payload) and topic not in own and len(stale) < _STALE:
            stale.append(bytes(topic))

    pattern = "%s+/%s/+/config" % (root, node)
    app.client.subscribe(pattern, found)
    end = ticks_add(ticks_ms(), _QUIET)
    while ticks_diff(end, ticks_ms()) > 0:
        yield ticks_diff(end, ticks_ms())
    app.client.unsubscribe(pattern)
    for topic in stale:
        while app.out:
            yield 1000
        app.out.append((topic, b"", True))
    print("discovery: %d sent, %d removed" % (len(own), len(stale)))


def entities(app):
    """A generator of (component, name, what is its own of the keys)."""
    sleep = app.settings["sleep"]
    for sensor in app.sensors:
        options = sensor.options
        kind = options["type"]
        binary = kind == "digital"
        values = __import__("sensors." + kind, None, None, ("VALUES",)).VALUES
        expires = expire_after(options, values)
        for value in values:
            unit, kind = values[value]
            field = "value_json['%s']" % value
            keys = {"stat_t": "~/" + sensor.name}
            if expires:
                keys["exp_aft"] = expires
            if not sleep:  # else it is away most of the time
                keys["avty_t"] = "~/status"
            if kind:
                keys["dev_cla"] = kind
            if binary:
                keys["val_tpl"] = "{{ 'ON' if %s else 'OFF' }}" % field
            else:
                keys["val_tpl"] = "{{ %s }}" % field
                keys["stat_cla"] = "measurement"
                if unit:
                    keys["unit_of_meas"] = unit
            yield "binary_sensor" if binary else "sensor", "%s_%s" % (sensor.name, value), keys
    for value, unit, kind in _DIAGNOSTICS if app.settings["diagnostics"] and not sleep else ():
        if value != "rssi" or app.station:
            keys = {
                "stat_t": "~/diagnostics",
                "val_tpl": "{{ value_json.%s }}" % value,
                "dev_cla": kind,
                "unit_of_meas": unit,
                "stat_cla": "measurement",
                "ent_cat": "diagnostic",
            }
            keys["avty_t"] = "~/status"
            yield "sensor", "diagnostics_" + value, keys
    if not sleep:
        keys = {"stat_t": "~/status", "pl_on": "online", "pl_off": "offline"}
        keys["dev_cla"] = "connectivity"
        keys["ent_cat"] = "diagnostic"
        yield "binary_sensor", "status", keys


def expire_after(options, values) -> int:
    """s without a message after which a sensor's values are not valid any more; 0: never."""
    gap = 0
    for value in values:
        its = (options.get("values") or {}).get(value) or {}
        n = its.get("max") if its.get("change") else max(options["interval"], its.get("min") or 0)
        if n and (not gap or n < gap):
            gap = n
    return gap and int(gap * 3) + 10
