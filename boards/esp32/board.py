"""ESP32, ESP32-S3, ESP32-C3: what differs from other boards.

Deep sleep is a reset that RTC memory outlasts. A brown-out reads as "power": the port has no
name for it.
"""

from time import gmtime

import esp32
import machine
import network
from machine import Pin
from micropython import const

NAME = "esp32"
SINCE = 0  # ticks_ms() at the start
CONFIG = "/config.json"
_CAUSES = const(("unknown", "power", "hard", "watchdog", "deepsleep", "soft"))
_EPOCH = const(946684800)  # 2000-01-01, where this port's clock begins

# WLAN.status(); 15 and 204: the handshake ran out of time, which is how most wrong passwords end
_STATUS = {
    network.STAT_IDLE: "idle",
    network.STAT_CONNECTING: "joining",
    network.STAT_WRONG_PASSWORD: "wrong password",
    15: "wrong password",
    204: "wrong password",
    network.STAT_NO_AP_FOUND: "not found",
    210: "not found",
    211: "not found",
    212: "not found",
}

_station = _feeder = None
_dog: machine.WDT = None
_counters = {}  # by pin

try:  # few builds name one
    _led = Pin("LED", Pin.OUT)
except (ValueError, TypeError):
    _led = None


def getenv(name):
    return None


def identity() -> str:
    return machine.unique_id().hex()


def reset_cause() -> str:
    return _CAUSES[machine.reset_cause()]


def reset():
    machine.reset()


def halt(code):
    """main has ended: a mistake in the configuration (2) and Ctrl-C (0) leave the REPL, and a
    watchdog that is fed."""
    global _feeder
    if code not in (0, 2):
        machine.reset()
    if _dog:
        _feeder = machine.Timer(0)
        _feeder.init(period=500, callback=lambda _: _dog.feed())


def deepsleep(ms):
    if _station:
        _station.wlan.active(False)  # the IDF wants it stopped first
    machine.deepsleep(ms)


def watchdog(ms):
    global _dog
    _dog = machine.WDT(timeout=max(ms, 1000))
    return _dog


def led(on):
    if _led:
        _led.value(on)


def heap_block() -> int:
    """Bytes of the largest block that MicroPython's heap, or what it grows into, can have."""
    return max([heap[2] for heap in esp32.idf_heap_info(esp32.HEAP_DATA)])


def temperature() -> float:
    """°C of the chip; the first ESP32 has no calibration and may be 10 °C off."""
    read = getattr(esp32, "mcu_temperature", None)
    return read() if read else (esp32.raw_temperature() - 32) / 1.8


def load() -> bytes:
    return machine.RTC().memory()


def save(data):
    """Up to 2048 bytes; ValueError for more."""
    machine.RTC().memory(data)


def settime(seconds):
    t = gmtime(seconds - _EPOCH)
    machine.RTC().datetime((t[0], t[1], t[2], t[6], t[3], t[4], t[5], 0))


def pin(n, pull=None):
    """An input; pull: "up", "down" or None."""
    return Pin(n, Pin.IN, {"up": Pin.PULL_UP, "down": Pin.PULL_DOWN}.get(pull))


def adc(n):
    """0 to 65535 for 0 V to some 3.1 V. The pins of ADC2 cannot be read while there is Wi-Fi."""
    return machine.ADC(Pin(n), atten=machine.ADC.ATTN_11DB)


def i2c(options):
    o = options
    return machine.I2C(o["id"], scl=Pin(o["scl"]), sda=Pin(o["sda"]), freq=o.get("freq", 100000))


def onewire(n):
    from onewire import OneWire

    return OneWire(Pin(n))


def pulses(n):
    """Counts falling edges: in hardware where the chip (not C3) and MicroPython (1.26) have it."""
    if n not in _counters:
        p = pin(n, "up")
        if hasattr(esp32, "PCNT"):
            edge = machine.Counter.FALLING
            _counters[n] = machine.Counter(len(_counters), p, edge=edge, filter_ns=12000)
        else:
            _counters[n] = _Pulses(p)
    return _counters[n]


class _Pulses:
    # An interrupt of this port waits in a queue of 8: bursts above some 1 kHz lose edges.
    def __init__(self, p):
        self.n = 0
        p.irq(self._count, Pin.IRQ_FALLING)

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
        self.fixed = False  # a static address is set

    def setup(self, hostname, country, power):
        """(Re)start the radio. The port keeps the country to itself: the access point decides."""
        network.hostname(hostname)
        if country:
            network.country(country)
        wlan = self.wlan
        wlan.active(False)
        wlan.active(True)
        # The driver's own reconnecting would make our connect() raise "Wifi Internal Error".
        wlan.config(reconnects=0, pm=wlan.PM_NONE if power == "full" else wlan.PM_PERFORMANCE)

    def join(self, ssid, password, address=None):
        """Not within 1 s of leave(): that raises "Wifi Internal Error", or stays at status 202."""
        wlan = self.wlan
        if address:
            wlan.ifconfig(address)
            self.fixed = True
        elif self.fixed:
            self.fixed = False
            wlan.ifconfig("dhcp")  # type: ignore[call-overload]  # does not wait on this port
        wlan.connect(ssid, password or None)

    def status(self) -> str:
        """An error stays from the last attempt until the next one fails or has an address."""
        wlan = self.wlan
        n = wlan.status()
        if n == network.STAT_GOT_IP and self.ip():
            return "up"  # status() keeps that when a lease is lost
        if self.rssi() is not None:
            return "no address"
        return _STATUS.get(n, "failed")

    def leave(self):
        try:
            self.wlan.disconnect()
        except OSError:  # not started
            pass

    def rssi(self):
        """dBm, or None where there is no access point."""
        try:
            return self.wlan.status("rssi")
        except OSError:
            return None

    def ip(self):
        ip = self.wlan.ifconfig()[0]
        return None if ip == "0.0.0.0" else ip
