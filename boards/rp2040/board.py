"""Pico W and Pico 2 W (RP2040, RP2350): what differs from other boards.

The chip resets itself through its watchdog, whoever asks for it, and has no deep sleep that
MicroPython reaches: deepsleep() is a light sleep, of some 1 mA, and a reset. A mark in a register
that outlasts it tells one from the other. There is no RTC memory: save() writes a file.
"""

import os
import sys
from time import gmtime, sleep_ms, ticks_add, ticks_diff, ticks_ms

import machine
import network
from machine import Pin
from micropython import const

NAME = "rp2040"
SINCE = 0  # ticks_ms() at the start
CONFIG = "/config.json"

_MEMORY = "/memory.bin"
_LONGEST = const(8388)  # ms, RP2040's watchdog
_HARD = const(0x5EED01)  # marks
_DEEP = const(0x5EED02)
_RUNNING = const(0x5EED03)  # the watchdog is
_FULL = const(0xA11140)  # no power saving; the driver's own costs up to 200 ms for each answer
_SAVE = const(0xA11142)  # the driver's own

# by WLAN.status(), which goes from -3 to 3
_STATUS = const(("idle", "joining", "no address", "up", "wrong password", "not found", "failed"))

# The watchdog's scratch register 0, which is the program's own
_SCRATCH = 0x400D800C if "RP2350" in sys.implementation._machine else 0x4005800C
_mark = machine.mem32[_SCRATCH]
machine.mem32[_SCRATCH] = 0

_station = _feeder = None
_dog: machine.WDT = None
_nap = 3600000  # ms of light sleep in one, or half the watchdog's time
_counters = {}  # by pin
_led = Pin("LED", Pin.OUT)


def getenv(name):
    return None


def identity() -> str:
    return machine.unique_id().hex()


def reset_cause() -> str:
    """A soft reset repeats the cause of the reset before it."""
    if _mark == _HARD:
        return "hard"
    if _mark == _DEEP:
        return "deepsleep"
    if machine.reset_cause() != machine.WDT_RESET:
        return "power"
    return "watchdog" if _mark == _RUNNING else "hard"  # machine.reset() is its work too


def reset():
    machine.mem32[_SCRATCH] = _HARD
    machine.reset()


def halt(code):
    """main has ended: a mistake in the configuration (2) and Ctrl-C (0) leave the REPL, and a
    watchdog that is fed."""
    global _feeder
    if code not in (0, 2):
        reset()
    machine.mem32[_SCRATCH] = 0
    if _dog:
        _feeder = machine.Timer(-1, period=500, callback=lambda _: _dog.feed())


def deepsleep(ms):
    """At most 6 days. The radio is off; a watchdog goes on and is fed."""
    if _station:
        _station.wlan.deinit()  # or lightsleep() returns at once
    end = ticks_add(ticks_ms(), ms)
    while ms > 0:
        if _dog:
            _dog.feed()
        machine.lightsleep(min(ms, _nap))
        sleep_ms(9)  # what made it return early is done with
        ms = ticks_diff(end, ticks_ms())
    machine.mem32[_SCRATCH] = _DEEP
    machine.reset()


def watchdog(ms):
    """At most 8388 ms; no single step of the program may take longer."""
    global _dog, _nap
    ms = min(ms, _LONGEST)
    _nap = ms // 2
    machine.mem32[_SCRATCH] = _RUNNING
    _dog = machine.WDT(timeout=ms)
    return _dog


def led(on):
    _led.value(on)


def temperature() -> float:
    volts = machine.ADC(machine.ADC.CORE_TEMP).read_u16() * 3.3 / 65535
    return 27 - (volts - 0.706) / 0.001721


def load() -> bytes:
    try:
        with open(_MEMORY, "rb") as file:
            return file.read()
    except OSError:
        return b""


def save(data):
    if data:
        with open(_MEMORY, "wb") as file:
            file.write(data)
    elif load():
        os.remove(_MEMORY)


def settime(seconds):
    t = gmtime(seconds)
    machine.RTC().datetime((t[0], t[1], t[2], t[6], t[3], t[4], t[5], 0))


def pin(n, pull=None):
    """An input; pull: "up", "down" or None."""
    return Pin(n, Pin.IN, {"up": Pin.PULL_UP, "down": Pin.PULL_DOWN}.get(pull))


def adc(n):
    """GP26 to GP28: 0 to 65535 for 0 V to 3.3 V."""
    return machine.ADC(Pin(n))


def i2c(options):
    o = options
    return machine.I2C(o["id"], scl=Pin(o["scl"]), sda=Pin(o["sda"]), freq=o.get("freq", 100000))


def onewire(n):
    from onewire import OneWire

    return OneWire(Pin(n))


def pulses(n):
    """Counts falling edges by interrupt: some 10 kHz at most."""
    if n not in _counters:
        _counters[n] = _Pulses(pin(n, "up"))
    return _counters[n]


class _Pulses:
    def __init__(self, p):
        self.n = 0
        p.irq(self._count, Pin.IRQ_FALLING, hard=True)

    def _count(self, p):
        self.n = self.n + 1 & 0x3FFFFFFF

    def value(self):
        return self.n


def wifi():
    global _station
    if not _station:
        _station = Station()
    return _station


class Station:
    def __init__(self):
        self.wlan = network.WLAN()
        self.pm = None

    def setup(self, hostname, country, power):
        """Start the radio; again: powered down, and its firmware loaded anew, in less than 1 s."""
        wlan = self.wlan
        network.hostname(hostname)
        if country:
            network.country(country)  # before active()
        if self.pm is None:
            wlan.active(False)  # a soft reset leaves it connected
        else:
            wlan.deinit()
        self.pm = _FULL if power == "full" else _SAVE
        wlan.active(True)

    def join(self, ssid, password, address=None):
        """Takes some 200 ms. Open networks, WPA and WPA2; WPA3 where it also offers WPA2.

        A radio that has hung takes longer than the watchdog allows; the reset starts it anew.
        """
        wlan = self.wlan
        wlan.active(True)
        wlan.config(pm=self.pm)  # active() has set the driver's own
        if address:
            wlan.ifconfig(address)  # with "dhcp" it would wait for up to 10 s
        wlan.connect(ssid, password or None)

    def status(self) -> str:
        return _STATUS[self.wlan.status()]

    def leave(self):
        # Else the address outlives the link, and the next one seems to be up with it.
        self.wlan.active(False)

    def rssi(self):
        """dBm, or None where there is no access point."""
        return self.wlan.status("rssi") if self.wlan.isconnected() else None

    def ip(self):
        ip = self.wlan.ifconfig()[0]
        return None if ip == "0.0.0.0" else ip
