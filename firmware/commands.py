"""Commands: cmd/<name> is checked, carried out, and answered on `response`.

A payload is a plain value, or a JSON object with the value under the command's own name and an
"id", which the answer repeats. An answer is an object with command, id, ok, and error and expected
if it is not ok.
"""

import gc
import json
import sys
from collections import OrderedDict
from time import ticks_add, ticks_diff

from micropython import const

_PAYLOAD = const(256)  # bytes; no command is longer
_ID = const(64)  # bytes
_TEXT = const(400)  # characters of what is wrong with a configuration
_BLINK = const(250)  # ms


class CommandError(Exception):
    """A command that is not carried out: (name, what is expected)."""


def number(value, default, low, high, name: str, expected: str):
    """The value, if it is a number from low to high; None takes the default, if there is one."""
    if value is None and default:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise CommandError(name, expected)
    return value


class Commands:
    """What can be asked of an App; a part of it, for what takes its time."""

    _blinks = 0  # half periods that the LED has still to go through

    def __init__(self, app):
        self._app = app
        self._commands = {
            "awake": self._awake,
            "diagnostics": self._diagnostics,
            "identify": self._identify,
            "interval": self._interval,
            "read": self._read,
            "reboot": self._reboot,
            "set": self._set,
        }

    def poll(self, now) -> int:
        """Blink. Returns ms until there is more to do."""
        if not self._blinks:
            return 60000
        n = ticks_diff(self._next, now) if self._next is not None else 0
        if n <= 0:
            self._blinks -= 1
            self._app.board.led(self._blinks & 1 > 0)
            self._next = ticks_add(now, _BLINK)
            n = _BLINK
        return n

    def take(self, topic, payload, retain: bool):
        """The client's handler. Raises nothing."""
        try:
            payload = bytes(payload) if len(payload) <= _PAYLOAD else None
            self._handle(bytes(topic), payload, retain)
        except MemoryError as e:
            print("command", repr(e))

    def skipped(self, topic, size: int):
        """The client's on_skip. Raises nothing."""
        try:
            topic = bytes(topic)
            if topic.startswith((self._app.base + "cmd/").encode()):
                self._handle(topic, None, False)
        except MemoryError as e:
            print("command", repr(e))

    def _handle(self, topic, payload, retain):
        answer = OrderedDict()
        answer["command"] = ""
        try:
            name = _text(topic.split(b"/")[-1])
            answer["command"] = name[:32]
            if payload is None:
                raise CommandError("TooLong", "at most %d bytes" % _PAYLOAD)
            value = _value(_text(payload))
            if isinstance(value, dict) and "id" in value:
                n = value.pop("id")
                if isinstance(n, (dict, list)) or len(str(n).encode()) > _ID:
                    raise CommandError("BadId", "text or a number of at most %d bytes" % _ID)
                answer["id"] = n
            if retain:
                raise CommandError("Retained", "publish it without retain")
            if name not in self._commands:
                known = ", ".join(sorted(self._commands))
                raise CommandError("UnknownCommand", "the commands are " + known)
            if name == "reboot" and not payload:
                # what clears a retained command is empty, and comes without retain
                raise CommandError("Empty", "any value, 1 for example")
            if isinstance(value, dict) and name != "set":
                value = value.get(name)
            more = self._commands[name](value)
            answer["ok"] = True
            answer.update(more or {})
        except CommandError as e:
            answer["ok"] = False
            answer["error"], answer["expected"] = e.args
        except Exception as e:  # nothing that arrives stops the loop
            answer["ok"] = False
            answer["error"] = type(e).__name__
            answer["expected"] = "nobody foresaw this: please report it"
        print("command", answer["command"], answer.get("error", "ok"))
        try:
            self._app.put("response", json.dumps(answer))
        except MemoryError as e:
            print("command", repr(e))

    # The commands: what they return is a part of the answer

    def _awake(self, value):
        n = number(value, 0, 1, 1440, "BadAwake", "minutes from 1 to 1440")
        if not self._app.power:
            raise CommandError("NotConfigured", '"sleep" in the configuration')
        self._app.power.stay(int(n * 60000))
        return {"awake": n}

    def _diagnostics(self, value):
        self._app.diagnose()

    def _identify(self, value):
        n = number(value, 5, 1, 60, "BadIdentify", "seconds from 1 to 60")
        self._blinks = int(n * 1000) // _BLINK
        self._next = None
        return {"identify": n}

    def _interval(self, value):
        what = 'a number of seconds from 0.1 to 86400 or {"interval": number}'
        n = number(value, 0, 0.1, 86400, "BadInterval", what)
        for sensor in self._app.sensors:
            sensor.set({"interval": n})
        self._app.announce()  # after how long a value has expired
        return {"interval": n}

    def _read(self, value):
        sensors = self._app.sensors
        if value not in (None, "", 1):
            names = [sensor.name for sensor in sensors]
            sensors = [sensor for sensor in sensors if sensor.name == value]
            if not sensors:
                raise CommandError("UnknownSensor", "the sensors are " + ", ".join(names))
        for sensor in sensors:
            sensor.read()
            if self._app.power:
                self._app.power.again(sensor.name)

    def _reboot(self, value):
        self._app.reboot()

    def _set(self, value):
        gc.collect()  # what follows needs much
        import config
        import remote

        app = self._app
        try:
            remote.propose(value, app.settings)
            remote.begin(app.settings["source"][0])
        except config.ConfigError as e:
            raise CommandError("BadSet", str(e)[:_TEXT])
        finally:
            sys.modules.pop("config", None)
        app.reboot()
        return {"set": "on trial"}


def _text(s) -> str:
    try:
        return s.decode()
    except ValueError:  # UnicodeError is one
        raise CommandError("NotUTF8", "text in UTF-8")


def _value(s: str):
    # JSON, or else plain text; None: nothing
    if not s:
        return None
    try:
        return json.loads(s)
    except (ValueError, TypeError):
        if s.strip()[:1] in ("{", "["):
            raise CommandError("Malformed", "a plain value or a JSON object")
        return s
