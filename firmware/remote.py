"""Remote change of what is safe to change, on trial until the device has been online with it.

    config.json     whole at every moment: it changes by a rename only
    config.new      what was proposed, once it is checked
    config.old0     what was before, as long as the change is on trial; the digit counts the starts

propose() writes config.new, begin() makes the copy and renames config.new: from then on the change
is on trial, and the device restarts. confirm() ends the trial by removing the copy. A start too
many, or too long a time without confirm(), ends it by renaming the copy back. Each of these is one
rename or remove, which littlefs does whole or not at all; what a cut of begin() leaves is removed.
"""

import os
from time import ticks_add, ticks_diff

from micropython import const

_STARTS = const(2)  # that a trial may take
_DEADLINE = const(300000)  # ms that it may take after a start
_FREE = const(60000)  # ms until poll() wants to be called where nothing is on trial

_SAFE = ("interval", "diagnostics", "sensors")
_SENSOR = ("interval", "values", "stuck", "samples", "debounce")

_path = None  # of the config.json that is on trial
_due = None
_reset = None


def _name(path, end):
    return path[: path.rfind(".") + 1] + end


def _remove(path):
    try:
        os.remove(path)
    except OSError:
        pass  # there is none


def _old(path):
    # the starts of the trial, None without one
    for n in range(_STARTS + 1):
        try:
            os.stat(_name(path, "old%d" % n))
            return n
        except OSError:
            pass


def boot_check(path: str, reset=None):
    """Call it at each start, before config.load(). None, "trial", or "rolled back".

    After "trial", poll() calls `reset` when the deadline has passed without a confirm().
    """
    global _path, _reset, _due
    n = _old(path)
    new = _name(path, "new")
    _path = _due = None
    if n == 0:
        try:
            os.stat(new)
            os.remove(_name(path, "old0"))  # begin() did not come to its end
            n = None
        except OSError:
            pass
    _remove(new)
    if n is None:
        return None
    _path = path
    _reset = reset
    if n == _STARTS:
        rollback()
        return "rolled back"
    os.rename(_name(path, "old%d" % n), _name(path, "old%d" % (n + 1)))
    return "trial"


def _merge(into, patch):
    # None takes a key away; deep enough for {"values": {"temperature": {"offset": 1}}}
    for key in patch:
        v = patch[key]
        if v is None:
            into.pop(key, None)
        else:
            if isinstance(v, dict):
                old = into.get(key)
                if not isinstance(old, dict):
                    old = into[key] = {}
                _merge(old, v)
            else:
                into[key] = v


def _change(found, patch, wrong):
    # put into a configuration what may be changed; what may not is wrong
    only = "%s: cannot be changed remotely; only %s can"
    for key in patch:
        v = patch[key]
        if key not in _SAFE:
            wrong.append(only % (key, ", ".join(_SAFE)))
        elif key != "sensors":
            _merge(found, {key: v})
        elif not isinstance(v, dict):
            wrong.append('sensors: expected an object, {"<name>": {...}}')
        else:
            named = {sensor["name"]: sensor for sensor in found.get(key, ())}
            for name in v:
                at = "sensors.%s" % name
                if name not in named:
                    text = ", ".join(sorted(named))
                    wrong.append("%s: no such sensor; expected one of %s" % (at, text))
                elif not isinstance(v[name], dict):
                    wrong.append(at + ": expected an object, {...}")
                else:
                    for part in v[name]:
                        if part in _SENSOR:
                            _merge(named[name], {part: v[name][part]})
                        else:
                            wrong.append(only % ("%s.%s" % (at, part), ", ".join(_SENSOR)))


def propose(patch, settings: dict) -> dict:
    """Check a change of the configuration that config.load() gave as `settings`.

    `patch` holds what is to be different, in the form of config.json, but the sensors by their
    names: {"interval": 10, "sensors": {"air": {"values": {"temperature": {"offset": -0.5}}}}};
    None stands for the default. Returns the new settings, for begin(). Raises config.ConfigError,
    which names every mistake, and OSError if flash is full. Allocates both configurations.
    """
    import json

    import config

    path, getenv, board = settings["source"]
    if _old(path) is not None:
        raise config.ConfigError("a change is on trial; expected another one after it")
    if not isinstance(patch, dict):
        raise config.ConfigError('expected an object, {"interval": ...}')
    with open(path, "rb") as file:
        found = config.parse(file.read())
    wrong = []
    _change(found, patch, wrong)
    new = _name(path, "new")
    try:
        with open(new, "w") as file:
            mark = "{\n"
            for key in found:
                file.write(mark + json.dumps(key) + ": ")
                json.dump(found[key], file)
                mark = ",\n"
            file.write("\n}\n")
        found = None
        settings = config.load(new, getenv, board)
    except config.ConfigError as error:
        wrong += str(error).replace(new + ": ", "").split("\n")
    if wrong:
        _remove(new)
        raise config.ConfigError("\n".join(wrong))
    settings["source"] = (path, getenv, board)
    return settings


def begin(path: str, reset=None):
    """Make what was proposed config.json, on trial. Then restart.

    OSError: there is none, or flash is full; nothing has changed.
    """
    global _path, _due, _reset
    new = _name(path, "new")
    copy = _name(path, "old0")
    os.stat(new)
    try:
        with open(path, "rb") as old:
            with open(copy, "wb") as file:
                while True:
                    piece = old.read(256)
                    if not piece:
                        break
                    file.write(piece)
        os.rename(new, path)
    except OSError:
        _remove(copy)
        raise
    _path = path
    _due = None
    _reset = reset


def confirm():
    """The change stays. To be called when the broker has acknowledged a message of this start."""
    global _path
    if _path:
        os.remove(_name(_path, "old%d" % _old(_path)))
        _path = None


def rollback() -> bool:
    """What was before the trial is config.json again. False if nothing is on trial."""
    global _path
    if not _path:
        return False
    os.rename(_name(_path, "old%d" % _old(_path)), _path)
    _path = None
    return True


def poll(now) -> int:
    """ms until it wants to be called again. Resets when the deadline is over, to roll back."""
    global _due
    if not _path:
        return _FREE
    if _due is None:
        _due = ticks_add(now, _DEADLINE)
    left = ticks_diff(_due, now)
    if left <= 0:
        # the next start rolls back, and tells
        n = _old(_path)
        if n != _STARTS:
            os.rename(_name(_path, "old%d" % n), _name(_path, "old%d" % _STARTS))
        if _reset:
            _reset()
    return max(left, 0)
