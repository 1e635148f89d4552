"""The device's configuration: one JSON file, checked whole before anything starts.

Plain Python without the client or a board, so that the host's tools check with the same code.
"""

import json

INTERVAL = "a number of seconds from 0.1 to 86400"

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


class ConfigError(Exception):
    """The configuration cannot be used. One line for each mistake: the place and the remedy."""


def interval(value) -> float:
    """The seconds between two readings; ValueError if `value` is not what INTERVAL says."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if not 0.1 <= value <= 86400:
        raise ValueError
    return value


def _keepalive(value) -> int:
    if isinstance(value, bool) or value != int(value) or not 1 <= value <= 65535:
        raise ValueError
    return int(value)


def _name(value) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 32:
        raise ValueError
    for char in value:
        if char not in _NAME:
            raise ValueError
    return value


def _prefix(value) -> str:
    if len(value) > 64:
        raise ValueError
    for level in value.split("/"):
        _name(level)
    return value


def _broker(value) -> tuple:
    if ":" not in value:
        value += ":1883"
    host, port = value.split(":")
    port = int(port)
    if not host or " " in host or not 1 <= port <= 65535:
        raise ValueError
    return host, port


def _text(value) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


# key: default (None: must be given), check, what is expected
_CONFIG = {
    "broker": (None, _broker, '"host" or "host:port"'),
    "device": ("desk", _name, "1 to 32 letters, digits, - or _"),
    "prefix": ("home", _prefix, "topic levels of letters, digits, - or _, with / between them"),
    "interval": (2, interval, INTERVAL),
    "keepalive": (60, _keepalive, "a whole number of seconds from 1 to 65535"),
}
_SECRETS = {
    "user": ("", _text, "text that is not empty"),
    "password": ("", _text, "text that is not empty"),
}


def _read(path: str) -> dict:
    with open(path) as file:
        try:
            found = json.load(file)
        except ValueError as error:
            raise ConfigError(f"{path}: not valid JSON: {error}")
    if not isinstance(found, dict):
        raise ConfigError(path + ': expected one object, {"key": value, ...}')
    return found


def _check(known: dict, found: dict, path: str, getenv) -> tuple:
    """The checked values of all `known` keys, and the list of what is wrong."""
    values = {}
    wrong = []
    for key in found:
        if key not in known:
            names = ", ".join(sorted(known))
            wrong.append(f"{path}: {key}: unknown key; the keys are {names}")
    for key, (default, check, expected) in known.items():
        place = f"{path}: {key}"
        value = found.get(key, default)
        text = getenv("UMQTT_" + key.upper())
        if text is not None:
            place = "environment: UMQTT_" + key.upper()
            value = text
            if isinstance(default, int):  # a number arrives as text
                try:
                    value = float(text)
                except ValueError:
                    pass  # the check says what is expected
        if value is None:
            wrong.append(f"{place}: missing; expected {expected}")
        elif text is not None or key in found or default:
            try:
                value = check(value)
            except (ValueError, TypeError, AttributeError, OverflowError):
                # A secret is never shown, not even a wrong one.
                got = "" if known is _SECRETS else ", not " + json.dumps(value)
                wrong.append(f"{place}: expected {expected}{got}")
        values[key] = value
    return values, wrong


def _no_environment(name: str):
    return None


def load(path: str, getenv=_no_environment) -> dict:
    """Read and check `path` and, if it is there, the secrets.json beside it.

    Returns all keys: broker (host, port), device, prefix, interval and keepalive (seconds), user
    and password (None if not given). `getenv`, where a board has an environment, overrides a key
    by UMQTT_<KEY>. Raises ConfigError, which names every mistake.
    """
    try:
        found = _read(path)
    except OSError:
        raise ConfigError(path + ": cannot be read; every board has an example")
    values, wrong = _check(_CONFIG, found, path, getenv)

    secrets_path = path[: path.rfind("/") + 1] + "secrets.json"
    try:
        found = _read(secrets_path)
    except OSError:
        found = {}  # a broker without accounts
    secrets, more = _check(_SECRETS, found, secrets_path, getenv)
    wrong += more
    if secrets["password"] and not secrets["user"]:
        wrong.append(secrets_path + ": user: missing; a password needs one")
    if wrong:
        raise ConfigError("\n".join(wrong))
    for key in secrets:
        values[key] = secrets[key] or None
    return values
