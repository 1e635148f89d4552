"""The sensors, one module each, imported where its type is configured.

Each has VALUES, what it reads: {name: (unit, Home Assistant's device_class)}; KEYS, the options of
its own that config.py checks; and a Sensor(board, options) with

    start()    begins a conversion; ms until read() will do, 0: at once
    read()     {name: number}
    poll(now)  where it has to be looked at between readings: 0 when it wants to be read at once,
               else ms until the next look. It is called before start() and read() too

None of them sleeps. What fails raises OSError, or a SensorError that names it.
"""


class SensorError(Exception):
    """What was read cannot be used: (kind, details), both text."""


def within(name, value, low, high):
    """The value. SensorError("range", ...) if it is not from `low` to `high`, as NaN never is."""
    if not low <= value <= high:
        raise SensorError("range", "%s %s, not %s to %s" % (name, value, low, high))
    return value
