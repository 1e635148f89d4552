# The modules of two ports, as far as boards/esp32 and boards/rp2040 use them, over the simulated
# Wi-Fi and a clock that the test moves. What the drivers do is by their source: ESP32's
# network_wlan.c, and network_cyw43.c with cyw43_ctrl.c and cyw43_lwip.c.

import sys
import time as real

from wifi import Air, Station

MASK = real.ticks_add(0, -1)
HALF = (MASK >> 1) + 1


class Module:
    def __init__(self, **names):
        for name in names:
            setattr(self, name, names[name])


class Clock:
    """Stands for the module time: nothing may sleep, unless the test says how."""

    def __init__(self):
        self.ms = MASK - 70000  # the ticks wrap soon
        self.slept = 0

    def ticks_ms(self):
        return self.ms & MASK

    def ticks_add(self, ticks, delta):
        return ticks + delta & MASK

    def ticks_diff(self, later, earlier):
        return (later - earlier + HALF & MASK) - HALF

    def sleep_ms(self, ms):
        assert self.slept is not None, "nothing may sleep"
        self.slept += ms
        self.ms += ms

    gmtime = real.gmtime


clock = Clock()


class Driver:
    """What both drivers have in common."""

    IF_STA = 0

    def __init__(self):
        self.station = Station(air)
        self.calls = {}  # by method
        self.on = False
        self.blocked = 0  # connect() calls that nothing came of
        self.fixed = None

    def ifconfig(self, value=None):
        if value is None:
            return (self.seen() or "0.0.0.0", "255.255.255.0", "192.168.1.1", "192.168.1.1")
        self.note("ifconfig")
        self.set(value)

    def config(self, **options):
        self.note("config")
        for key in options:
            setattr(self, key, options[key])

    def seen(self):
        return self.station.ip()

    def note(self, name):
        self.calls[name] = self.calls.get(name, 0) + 1


# The codes that the driver of the ESP32 gives for what ended a connection
REASONS = {"wrong password": 202, "not found": 201, "failed": 200}


class ESP32(Driver):
    PM_NONE = 0
    PM_PERFORMANCE = 1

    def __init__(self):
        Driver.__init__(self)
        self.reason = 0  # of the last disconnection; only an address or the next one replaces it
        self.wanted = False
        self.reconnects = -1
        self.left = None  # time of disconnect()
        self.last = "idle"

    def active(self, on):
        self.note("active")
        if not on:
            self.station.leave()
        self.on = on

    def events(self):
        state = self.station.status()
        if state != self.last:
            self.last = state
            if state == "up":
                self.reason = 0
            elif state in REASONS:
                self.reason = REASONS[state]
                self.left = None
                if self.wanted and self.reconnects:
                    self.station.join(self.station._ssid, self.station._password)
                    self.last = "joining"
        return self.last

    def connect(self, ssid, password):
        assert self.on
        self.note("connect")
        if self.events() in ("joining", "no address", "up"):
            raise OSError("Wifi Internal Error")
        # After an authentication failure: nothing without a disconnect() and a moment.
        ms = None if self.left is None else clock.ticks_diff(clock.ticks_ms(), self.left)
        if self.reason == 202 and (ms is None or ms < 500):
            self.blocked += 1
            return
        self.wanted = True
        self.station.join(ssid, password, self.fixed)
        self.last = "joining"

    def disconnect(self):
        self.note("disconnect")
        self.wanted = False
        if self.events() in ("joining", "no address", "up"):
            self.reason = 8
        self.left = clock.ticks_ms()
        self.station.leave()
        self.last = "idle"

    def status(self, key=None):
        state = self.events()
        if key:
            assert key == "rssi"
            if self.station.rssi() is None:
                raise OSError("Wifi Not Connected")
            return self.station.rssi()
        if state == "up":
            return 1010
        if self.reason in (201, 202):
            return self.reason
        if self.reason == 8:
            return 1000
        if self.wanted and (self.reconnects or state == "joining"):
            return 1001
        return self.reason or 1000

    def set(self, value):
        self.fixed = None if value == "dhcp" else value


CODES = {
    "idle": 0,
    "joining": 1,
    "no address": 2,
    "up": 3,
    "wrong password": -3,
    "not found": -2,
    "failed": -1,
}


class CYW43(Driver):
    def __init__(self):
        Driver.__init__(self)
        self.pm = None
        self.address = None  # lwIP's, which outlives the link
        self.powered = 0

    def active(self, on):
        self.note("active")
        if not on:
            self.station.leave()
            self.address = self.fixed = None
        elif not self.on:
            self.pm = 0xA11142
        self.on = on

    def deinit(self):
        self.note("deinit")
        self.active(False)
        self.powered += 1

    def connect(self, ssid, password):
        if not self.on:
            raise OSError(1)
        self.note("connect")
        self.station.join(ssid, password, self.fixed)

    def status(self, key=None):
        if key:
            assert key == "rssi"
            return self.station.rssi() or 0
        state = self.station.status()
        if state == "up":
            self.address = self.station.ip()
        if state == "no address" and self.address:
            return 3
        return 1 if state == "failed" and self.address else CODES[state]

    def isconnected(self):
        return self.status() == 3

    def seen(self):
        self.status()
        return self.address

    def set(self, value):
        assert value != "dhcp", "waits for up to 10 s"
        self.fixed = value
        self.address = value[0]


class Pin:
    IN = 0
    OUT = 1
    PULL_UP = 2
    PULL_DOWN = 3
    IRQ_FALLING = 4

    def __init__(self, n, mode=0, pull=None):
        self.n = n
        self.mode = mode
        self.pull = pull
        self.state = None

    def value(self, on):
        self.state = on

    def irq(self, handler, trigger, hard=False):
        self.handler = handler


class WDT:
    def __init__(self, timeout):
        self.timeout = timeout
        self.fed = clock.ticks_ms()

    def feed(self):
        assert clock.ticks_diff(clock.ticks_ms(), self.fed) < self.timeout, "reset by the watchdog"
        self.fed = clock.ticks_ms()


class Timer:
    """Its callback is called by tick()."""

    running = None

    def __init__(self, *_, **options):
        if options:
            self.init(**options)

    def init(self, period, callback):
        self.period = period
        self.callback = callback
        Timer.running = self

    def tick(self):
        clock.ms += self.period
        self.callback(self)


class Registers(dict):
    def __getitem__(self, address):
        return self.get(address, 0)


class Reset(Exception):
    pass


class Machine(Module):
    """The parts of the module machine; `memory` is what outlasts a reset."""

    def __init__(self, cause, mem32, **names):
        self.Pin = Pin
        self.WDT = WDT
        self.Timer = Timer
        self.WDT_RESET = 3
        self.cause = cause
        self.mem32 = mem32
        self.memory = b""
        self.datetime = None
        Module.__init__(self, **names)

    def reset_cause(self):
        return self.cause

    def reset(self):
        raise Reset

    def unique_id(self):
        return b"\xe6\x61\x01\x02"

    def RTC(self):
        machine = self

        class RTC:
            def memory(self, data=None):
                if data is None:
                    return machine.memory
                machine.memory = data

            def datetime(self, value):
                machine.datetime = value

        return RTC()

    def lightsleep(self, ms):
        clock.ms += self.early(ms) if self.early else ms

    early = None


air = None
wlan = None
named = {}


def start(port, cause=1, mem32=None):
    """A board fresh from power-up. Returns its module, for what `port` offers: its modules."""
    global air, wlan
    from micropython import const  # noqa: F401  (there before the modules change)

    for name in ("board", "link"):
        sys.modules.pop(name, None)
    air = Air(clock.ticks_ms)
    wlan = port()
    machine = Machine(cause, Registers() if mem32 is None else mem32)
    network = Module(
        WLAN=lambda: wlan,
        hostname=lambda name: named.update(hostname=name),
        country=lambda name: named.update(country=name),
        STAT_IDLE=1000,
        STAT_CONNECTING=1001,
        STAT_GOT_IP=1010,
        STAT_WRONG_PASSWORD=202,
        STAT_NO_AP_FOUND=201,
    )
    modules = {"time": clock, "machine": machine, "network": network, "esp32": Module()}
    sys.modules.update(modules)
    named.clear()
    folder = "esp32" if port is ESP32 else "rp2040"
    sys.path[0:0] = ["boards/" + folder]
    try:
        import board
    finally:
        sys.path.pop(0)
    return board
