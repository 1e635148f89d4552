"""The device's configuration: config.json and secrets.json, checked whole before anything starts.

Plain Python without the client or a board, so that the host's tools check with the same code.
What may stand in an object is plain data, here as in the KEYS of each module in sensors/:

    {"key": (default, check), "key": (default, check, "what it is"), ...}

A default of `...` says that the key must be given. A check is a string, and what is expected is
told from it:

    "int 0 9 s", "number 0 9"   from the first to the second, in a unit
    "text 1 9"                  of so many bytes
    "one red green"             one of these words
    "bool", "name", "host", ... see _EXPECTED
    "pin", "adc", "onewire"     a pin: of its own, or one that others with "onewire" share
    "i2c", "address"            a bus {"id", "scl", "sda"}, and what is there once on each
    (False, "int 1 9")          one of the values before the last, or what the last one says
    {...}, ["text 1 9"]         an object, a list of such

Allocates the text of a file, 8 KB at most, and what it says. Once the settings are there, nothing
here is needed any more: main() may drop the module.
"""

import json
import os
from collections import OrderedDict

_LARGEST = 8192  # bytes of a file
_MOST = 4096  # bytes of mistakes told at once
_SENSORS = __name__[:-6] + "sensors"  # beside this module
_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# the last pin, and the s that the watchdog can be set to
_BOARDS = {"rp2040": (29, "8.388"), "esp32": (48, "300")}
_ANY = (255, "300")

_SECONDS = "number 0.1 86400 seconds"
_FACTOR = "number -1000000 1000000"
_VALUE = {
    "scale": (1, _FACTOR),
    "offset": (0, _FACTOR),
    "filter": (None, "filter"),
    "change": (None, "number 0 1000000"),
    "min": (0, "number 0 86400 seconds"),
    "max": (None, "number 1 86400 seconds"),
    "round": (None, "int 0 6"),
}
_I2C = {"id": (0, "int 0 1"), "scl": (..., "line"), "sda": (..., "line")}
_NETWORK = {
    "ssid": (..., "text 1 32"),
    "password": (None, "open"),
    "address": (None, dict.fromkeys(("ip", "mask", "gateway", "dns"), (..., "ip"))),
}
_WIFI = {
    "hostname": (None, "hostname"),
    "country": ("XX", "country"),
    "power": ("save", "one full save"),
}
_FILE = ("", "file")
_TLS = {"ca": _FILE, "cert": _FILE, "key": _FILE, "verify": (True, "bool")}
_SLEEP = {"seconds": (..., "int 1 86400 seconds"), "awake": (30, "int 1 3600 seconds")}
_CONFIG = {
    "broker": (..., "brokers"),
    "device": ("desk", "name"),
    "prefix": ("home", "levels"),
    "interval": (2, _SECONDS),
    "keepalive": (60, "int 1 65535 seconds"),
    "tls": (False, (False, True, _TLS)),
    "networks": ((), [_NETWORK]),
    "wifi": ({}, _WIFI),
    "sensors": ((), ["sensor"]),
    "discovery": (False, (False, "levels")),
    "diagnostics": (300, (False, "int 10 86400 seconds")),
    "ntp": (False, (False, "host")),
    "sleep": (False, (False, _SLEEP)),
    "spool": (0, (0, "int 16384 16777216 bytes")),
}
_TEXT = (None, "text 1 256")
_PASSWORD = (None, ("", "text 8 64"))
_SECRETS = {"user": _TEXT, "password": _TEXT, "networks": ({}, {})}

_CHARS = {
    "name": (_NAME, 32),
    "levels": (_NAME + "/", 64),
    "hostname": (_NAME[:-1], 32),
    "country": (_NAME[:26], 2),
    "host": (_NAME + ".", 64),
    "file": (_NAME + ".", 64),
    "ip": (_NAME[52:62] + ".", 15),
    "hex": ("0123456789abcdefABCDEF", 16),
}
_EXPECTED = {
    "int": "a whole number",
    "number": "a number",
    "adc": "a pin that can measure",
    "address": "an I2C address",
    "bool": "true or false",
    "name": "1 to 32 letters, digits, - or _",
    "levels": "topic levels of letters, digits, - or _, with / between them",
    "host": "a host name or an IPv4 address",
    "broker": '"host" or "host:port"',
    "brokers": '"host" or "host:port", or a list of them',
    "ip": 'an IPv4 address, like "192.168.1.2"',
    "file": "the name of a file that is there, beside config.json",
    "hex": "16 hex digits",
    "country": "a country's two capital letters",
    "hostname": "1 to 32 letters, digits or -, with no - at an end",
    "open": '"" where it is open; a password belongs in secrets.json',
    "filter": '"median N" or "mean N", N from 2 to 32',
    "i2c": 'an object {"id": 0, "scl": pin, "sda": pin}',
    "sensor": 'an object {"type": ..., "name": ..., ...}',
}


class ConfigError(Exception):
    """The configuration cannot be used. One line for each mistake: the place and the remedy."""


def _words(words):
    return ", ".join(['"%s"' % word for word in words])


def _near(word, known):
    # the one of `known` that `word` is at most two changes from, or None
    found = None
    least = min(3, len(word))
    for k in known:
        if abs(len(k) - len(word)) >= least:
            continue
        row = list(range(len(k) + 1))
        for a in word.lower():
            last = row[0]
            row[0] += 1
            for i, b in enumerate(k.lower()):
                n = min(last + (a != b), row[i] + 1, row[i + 1] + 1)
                last = row[i + 1]
                row[i + 1] = n
        if row[-1] < least:
            least = row[-1]
            found = k
    return found


def parse(b: bytes) -> dict:
    """An object in JSON, its keys in order. ValueError says the line, and what was expected.

    MicroPython's own parser takes {"a" 1} and {1: 2}, and tells no line.
    """
    b += b"\0\0"
    i = _skip(b, 0)
    if b[i] != 0x7B:
        if b[0] in b"\xef\xfe\xff":
            _fail(b, i, "{, not a byte-order mark: save it as UTF-8 without")
        _fail(b, i, 'one object, {"key": value, ...}')
    found, i = _item(b, i, 8)
    i = _skip(b, i)
    if i < len(b) - 2:
        _fail(b, i, "nothing behind the object's }")
    return found


def _fail(b, i, what):
    raise ValueError("line %d: expected %s" % (b[:i].count(b"\n") + 1, what))


def _skip(b, i):
    while b[i] in b" \t\r\n":
        i += 1
    return i


def _item(b, i, deep):
    # the value at b[i], and where it ends
    c = b[i]
    j = i + 1
    if c != 0x7B and c != 0x5B:  # { [
        if c == 0x22:
            while b[j] != 0x22:
                if b[j] < 32:
                    _fail(b, i, 'a " at the end of the text')
                j += 1 + (b[j] == 0x5C)
            j += 1
        else:
            while b[j] not in b' \t\r\n\0,:{}[]"':
                j += 1
        try:
            if c not in b'"tfn' and not 0x2F < b[j - 1] < 0x3A:
                raise ValueError  # CPython's takes NaN and -Infinity
            return json.loads(b[i:j]), j
        except ValueError:
            _fail(b, i, "text in double quotes, a number, true or false")
    if not deep:
        _fail(b, i, "fewer objects in one another")
    found = OrderedDict() if c == 0x7B else []
    j = _skip(b, j)
    end = c + 2  # } ]
    while b[j] != end or found:
        if c == 0x7B:
            if b[j] != 0x22:
                _fail(b, j, "a key in double quotes")
            key, i = _item(b, j, 0)
            if key in found:
                _fail(b, j, '"%s" only once' % key)
            i = _skip(b, i)
            if b[i] != 0x3A:
                _fail(b, i, "a : behind the key")
            j = _skip(b, i + 1)
            found[key], j = _item(b, j, deep - 1)  # type: ignore[index]
        else:
            v, j = _item(b, j, deep - 1)
            found.append(v)  # type: ignore[attr-defined]
        j = _skip(b, j)
        if b[j] == end:
            break
        if b[j] != 0x2C:
            _fail(b, j, "a comma or " + chr(end))
        j = _skip(b, j + 1)
    return found, j + 1


class _Check:
    """The mistakes of one configuration, and what can be there only once."""

    hide = False  # what is wrong
    over: list = []  # keys that the environment gives
    port = 1883
    room = _MOST

    def __init__(self, path, board):
        self.path = path  # of the file that is looked at
        self.folder = path[: path.rfind("/") + 1]
        self.board = board
        self.limits = _BOARDS.get(board, _ANY)
        self.wrong = []
        self.used = {}  # what there is only once: (where it is used, and how)

    def say(self, place, text):
        if self.room > 0:
            if place in self.over:
                place = "environment: UMQTT_" + place.upper()
            else:
                place = self.path + ": " + place
            text = place + ": " + text
            self.room -= len(text)
            self.wrong.append(text if self.room > 0 else "and more")

    def read(self):
        """The object in the file. None if it is none, OSError without a file."""
        size = os.stat(self.path)[6]
        try:
            if size > _LARGEST:
                raise ValueError("%d bytes; expected at most %d" % (size, _LARGEST))
            with open(self.path, "rb") as file:
                return parse(file.read())
        except ValueError as error:
            self.wrong.append("%s: %s" % (self.path, error))

    def claim(self, what, place, role=""):
        """Note what can be used in one role only, or in one place."""
        first = self.used.setdefault(what, (place, role))
        if first[0] != place and (not role or first[1] != role):
            self.say(place, "%s is taken by %s; expected another" % (what, first[0]))

    def object(self, found, keys, place):
        """The values of all keys: what fits, defaults, and None for what is wrong."""
        values = {}
        within = place and place + "."
        for key in found:
            at = within + key
            if key in keys:
                values[key] = self.value(found[key], keys[key], at)
            else:
                text = _near(key, keys)
                text = 'did you mean "%s"?' % text if text else "expected " + _words(sorted(keys))
                self.say(at, "unknown key; " + text)
        for key in keys:
            if key not in values:
                at = within + key
                v, check = keys[key][:2]
                if v is ...:
                    self.say(at, "missing; expected " + self.expected(keys[key]))
                    v = None
                elif v == {}:
                    v = self.object(v, check, at)
                values[key] = v
        self.order(values, "min", "max", within)
        self.order(values, "awake", "seconds", within)
        return values

    def order(self, values, least, most, within):
        v = values.get(least)
        n = values.get(most)
        if v and n and v > n:
            self.say(within + least, "expected at most %s, as %s says, not %s" % (n, most, v))

    def value(self, v, entry, place):
        """What `v` means, or None if it does not fit."""
        check = entry[1]
        if isinstance(check, tuple):
            for c in check[:-1]:
                if type(v) is type(c) and v == c:
                    return v
            check = check[-1]
        if check == "brokers":
            check = ["broker"] if v and isinstance(v, list) else "broker"
        try:
            if isinstance(check, str):
                return self.fits(v, check, place)
            if isinstance(check, list) and isinstance(v, list):
                check = (0, check[0])
                return [self.value(v[i], check, "%s[%d]" % (place, i)) for i in range(len(v))]
            if isinstance(check, dict) and isinstance(v, dict):
                return self.object(v, check, place)
        except (ValueError, TypeError, AttributeError):
            pass
        text = "expected " + self.expected(entry)
        if not (self.hide or isinstance(v, (dict, list)) or place.startswith("networks")):
            v = json.dumps(v)
            if len(v) < 40 and "@" not in v:  # else it could be, or hold, a secret
                text += ", not " + v
        self.say(place, text)

    def bounds(self, kind, *a):
        # of a number, and its unit; None if it is none
        if kind == "int" or kind == "number":
            return a
        if kind == "address":
            return a or (8, 119)
        if kind in ("pin", "adc", "onewire", "line"):
            return 26 if kind == "adc" and self.board == "rp2040" else 0, self.limits[0]

    def expected(self, entry):
        check = entry[1]
        text = ""
        if isinstance(check, tuple):
            text = "".join([json.dumps(c) + ", or " for c in check[:-1]])
            check = check[-1]
        if isinstance(check, str):
            kind, *a = check.split(" ")
            bounds = self.bounds(kind, *a)
            if kind == "text":
                text += "text of %s to %s bytes" % (a[0], a[1])
            elif kind == "one":
                text += "one of " + _words(a)
            else:
                text += _EXPECTED.get(kind, "a pin")
                if bounds:
                    if len(bounds) > 2:
                        text += " of " + bounds[2]
                    text += " from %s to %s" % (bounds[0], bounds[1])
        else:
            text += "a list, [...]" if isinstance(check, list) else "an object, {...}"
        return text + ": " + entry[2] if len(entry) > 2 else text

    def fits(self, v, check, place):
        """What `v` means. ValueError, TypeError or AttributeError if it does not fit."""
        kind, *a = check.split(" ")
        bad = False
        bounds = self.bounds(kind, *a)
        if bounds:
            bad = isinstance(v, bool) or not float(bounds[0]) <= v <= float(bounds[1])
            if not bad and kind != "number":
                bad = v != int(v)
                v = int(v)
                if kind in ("pin", "adc", "onewire") and not bad:
                    self.claim("pin %d" % v, place, kind if kind == "onewire" else "")
        elif kind in _CHARS:
            known, n = _CHARS[kind]
            bad = not (isinstance(v, str) and 1 <= len(v) <= n)
            for c in v:
                bad = bad or c not in known
            if bad:
                pass
            elif kind == "levels":
                bad = "" in v.split("/")
            elif kind == "hostname":
                bad = "-" in (v[0], v[-1])
            elif kind in ("country", "hex"):
                bad = len(v) < n
            elif kind == "host":
                if v.replace(".", "").isdigit():
                    self.fits(v, "ip", place)
            elif kind == "ip":
                a = v.split(".")
                bad = len(a) != 4 or max(map(int, a)) > 255
            elif kind == "file":
                try:
                    os.stat(self.folder + v)
                except OSError:
                    bad = True
        elif kind == "bool":
            bad = not isinstance(v, bool)
        elif kind == "text":
            bad = not int(a[0]) <= len(v.encode()) <= int(a[1])
        elif kind == "one":
            bad = v not in a
        elif kind == "open":
            bad = v != ""
        elif kind == "broker":
            n = self.port
            if ":" in v:
                v, n = v.split(":")
                n = self.fits(int(n), "int 1 65535", place)
            v = (self.fits(v, "host", place), n)
            self.claim("broker %s:%d" % v, place)
        elif kind == "filter":
            kind, n = v.split(" ")
            v = (self.fits(kind, "one median mean", place), self.fits(int(n), "int 2 32", place))
        elif kind == "i2c":
            v = self.bus(v, place)
        elif kind == "sensor":
            v = self.sensor(v, place)
        if bad:
            raise ValueError
        return v

    def bus(self, v, place):
        v = self.object(v.copy(), _I2C, place)  # which no number or text has
        n = v["id"]
        if None not in v.values():
            for key in ("scl", "sda"):
                at = place + "." + key
                self.claim("pin %d" % v[key], at, "%s %d" % (key, n))
                can = range(2 * n + (key == "scl"), 30, 4)
                if self.board == "rp2040" and v[key] not in can:
                    self.say(at, "expected one of %s, not %d" % (list(can), v[key]))
            self.claim("I2C %d with other pins" % n, place, str(v))
        return v

    def sensor(self, v, place):
        try:
            path = __import__(_SENSORS, None, None, ("KEYS",)).__path__
            types = os.listdir(path if isinstance(path, str) else list(path)[0])
            types = sorted([name.split(".")[0] for name in types if name[0] != "_"])
        except (ImportError, OSError):
            types = [str(v.get("type", "..."))]  # frozen modules are in no folder
        keys = {
            "type": (..., "one " + " ".join(types)),
            "name": (..., "name"),
            "interval": (None, _SECONDS),
        }
        module = None
        kind = v.get("type")
        if kind in types:
            try:
                module = __import__(_SENSORS + "." + kind, None, None, ("KEYS",))
                keys.update(module.KEYS)
                keys["values"] = ({}, dict.fromkeys(module.VALUES, ({}, _VALUE)))
            except ImportError as error:
                self.say(place + ".type", str(error))
        if not module:
            for key in v:
                keys.setdefault(key, (None, "any"))
        v = self.object(v, keys, place)
        name = v["name"]
        if name:
            for key in ("status", "info", "diagnostics", "cmd", "response", "crash", "awake"):
                self.used["name " + key] = ("the firmware", "")
            self.claim("name " + name, place + ".name")
        if module and v.get("i2c") and v.get("address"):
            self.claim("address %d of I2C %s" % (v["address"], v["i2c"]["id"]), place + ".address")
        return v

    def override(self, found, keys, getenv):
        """Put what the environment says into `found`."""
        self.over = []
        for key in keys:
            check = keys[key][1]
            text = getenv and getenv("UMQTT_" + key.upper())
            if text is not None and not isinstance(check, (dict, list)):
                self.over.append(key)
                try:
                    if isinstance(check, tuple) or self.bounds(*check.split(" ")):
                        text = json.loads(text)
                except ValueError:
                    pass  # what is expected will be said
                found[key] = text

    def settle(self, v, secrets):
        """What takes more than one key to tell."""
        tls = v["tls"]
        if tls is True:
            v["tls"] = tls = self.object({"ca": "ca.pem"}, _TLS, "tls")
        elif tls and tls["verify"] and tls["ca"] == "":
            self.say("tls.ca", "missing; expected the authority's certificate, or verify false")
        if tls and tls["key"] and tls["cert"] == "":
            self.say("tls.cert", "missing; expected the certificate that key belongs to")
        if tls and tls["verify"] and v["ntp"] is False and self.board in _BOARDS:
            self.say("ntp", "expected a time server: certificates are valid from a date on")
        if v["networks"] in ((), []) and self.board in _BOARDS:
            self.say("networks", 'expected one or more, [{"ssid": ...}]')
        for i, network in enumerate(v["networks"] or ()):
            name = network and network["ssid"]
            if name:
                place = "networks[%d].ssid" % i
                text = json.dumps(name)
                self.claim("network " + text, place)
                if secrets:
                    word = (secrets["networks"] or {}).get(name, network["password"])
                    if word is None:
                        text = 'no password; expected "networks": {%s: "..."} in ' % text
                        text += 'secrets.json, or "password": "" here where it is open'
                        self.say(place, text)
                    network["password"] = word
        for sensor in v["sensors"] or ():
            if sensor and not sensor["interval"]:
                sensor["interval"] = v["interval"]
        brokers = v["broker"]
        if not isinstance(brokers, list):
            brokers = [brokers]
        v["brokers"] = brokers
        v["broker"] = brokers[0]


def load(path: str, getenv=None, board: str = "") -> dict:
    """Read and check the config.json at `path`, and the secrets.json beside it if it is there.

    Returns all keys of both, with defaults, and

        broker, brokers     (host, port) of the first; a list of all
        tls                 False or {"ca", "cert", "key", "verify"}
        networks            each with its password, "" if it is open
        sensors             each with the keys of its type, an interval, and all its values
        source              the arguments of this call

    `getenv`, where a board has an environment, overrides a key by UMQTT_<KEY>; `board`, its NAME,
    limits pins and watchdog. Raises ConfigError, which names every mistake.
    """
    check = _Check(path, board)
    values = secrets = None
    try:
        found = check.read()
    except OSError:
        raise ConfigError(path + ": cannot be read; every board has an example")
    if found is not None:
        keys = dict(_CONFIG)
        keys["watchdog"] = (8, (False, "number 1 %s seconds" % check.limits[1]))
        check.override(found, keys, getenv)
        if found.get("tls"):
            check.port = 8883
        values = check.object(found, keys, "")
        over = check.over

    check.path = check.folder + "secrets.json"
    check.hide = True
    try:
        found = check.read()
    except OSError:
        found = {}  # neither accounts nor networks
    if found is not None:
        check.override(found, _SECRETS, getenv)
        keys = dict(_SECRETS)
        networks = found.get("networks")
        if isinstance(networks, dict):
            keys["networks"] = ({}, dict.fromkeys(networks, _PASSWORD))
        secrets = check.object(found, keys, "")
        if secrets["password"] and not secrets["user"]:
            check.say("user", "missing; a password needs one")
    if values:
        check.path = path
        check.over = over
        check.hide = False
        check.settle(values, secrets)
    if check.wrong:
        raise ConfigError("\n".join(check.wrong))
    for key in ("user", "password"):
        values[key] = secrets[key]
    values["source"] = (path, getenv, board)
    return values
