"""The desk: the unix port of MicroPython, with simulated sensors, Wi-Fi, watchdog and resets.

Memory that survives a reset, and the cause of the last one, are files beside the configuration.
UMQTT_WIFI holds a script for the simulated Wi-Fi: see wifi.py.
"""

import os
import sys
from time import ticks_diff, ticks_ms

getenv = os.getenv  # overrides in the configuration; None where a board has no environment

NAME = "unix"
SINCE = ticks_ms()  # at the start
# The one that UMQTT_CONFIG names, else beside this file; above it, where that is in lib/.
_folder = __file__[: __file__.rfind("/") + 1]
CONFIG: str = getenv("UMQTT_CONFIG") or (
    (_folder[:-4] if _folder.endswith("lib/") else _folder) + "config.json"
)

halt = sys.exit  # what a board does when main ends

RESET = 3  # exit code: whoever started the process is to start it again

_station = None


def _read(name) -> bytes:
    try:
        with open(CONFIG + name, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(name, data):
    if data:
        with open(CONFIG + name, "wb") as file:
            file.write(data)
    elif _read(name):
        os.remove(CONFIG + name)


_cause = _read(".reset").decode() or "power"
_write(".reset", b"")


def identity() -> str:
    """From the machine's identity and the configuration's path: several may run on one desk."""
    from hashlib import sha256

    text = CONFIG
    try:
        with open("/etc/machine-id") as file:
            text += file.read()
    except OSError:
        pass
    return sha256(text.encode()).digest()[:8].hex()


def reset_cause() -> str:
    return _cause


def _end(cause, code):
    _write(".reset", cause.encode())
    sys.exit(code)


def reset():
    """Ends the process with exit code RESET."""
    print("reset")
    _end("hard", RESET)


def deepsleep(ms):
    """Ends the process with exit code 0."""
    print("deep sleep for %d ms" % ms)
    _end("deepsleep", 0)


class _Watchdog:
    # It bites when it is fed too late, which a real one would not wait for.
    def __init__(self, ms):
        self.ms = ms
        self.last = ticks_ms()

    def feed(self):
        now = ticks_ms()
        late = ticks_diff(now, self.last)
        self.last = now
        if late > self.ms:
            print("watchdog: fed after %d ms, not within %d" % (late, self.ms))
            _end("watchdog", RESET)


watchdog = _Watchdog


def led(on):
    print("led", "on" if on else "off")


def temperature() -> float:
    """Warms up within some minutes of work."""
    return 48.0 - 800000 / (ticks_diff(ticks_ms(), SINCE) + 100000)


def load() -> bytes:
    return _read(".memory")


def save(data):
    _write(".memory", data)


def settime(seconds):
    """The desk's clock is right."""


def _simulated():
    import simulated

    return simulated


def pin(n, pull=None):
    return _simulated().Pin(n, pull)


def adc(n):
    return _simulated().ADC(n)


def i2c(options):
    return _simulated().I2C(options)


def onewire(n):
    return _simulated().OneWire(n)


def pulses(n):
    return _simulated().Pulses(n)


def wifi():
    """A simulated station, for a configuration with networks."""
    global _station
    if not _station:
        import json

        from wifi import Air, Station

        _station = Station(Air(script=json.loads(getenv("UMQTT_WIFI") or "[]")))
    return _station
