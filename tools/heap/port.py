# Stands for what the ESP32's port has: network, machine, sockets with a broker behind them. Runs
# in MicroPython for WebAssembly, before the firmware.

import io
import json
import sys

sys.path[:] = ["/device"]
import simulated  # noqa: E402

for name in "binascii", "ds18x20", "gc", "onewire", "os", "select", "struct", "time":
    __import__(name)  # before the heap is looked at


class Socket(io.IOBase):
    def __init__(self, *_):
        self.answer = b""

    def setblocking(self, flag):
        pass

    def connect(self, address):
        pass

    def close(self):
        pass

    def write(self, buf, start=0, n=None):
        sent = bytes(memoryview(buf)[start : start + (n or len(buf))])
        i = 0
        while i < len(sent):
            kind = sent[i] >> 4
            i += 1
            n = shift = 0
            while True:
                n |= (sent[i] & 127) << shift
                shift += 7
                i += 1
                if sent[i - 1] < 128:
                    break
            body = sent[i : i + n]
            i += n
            if kind == 1:
                self.answer += b"\x20\2\0\0"
            elif kind == 3 and len(body):
                n = 2 + (body[0] << 8 | body[1])
                self.answer += b"\x40\2" + body[n : n + 2]
            elif kind == 8:
                filters = 0
                n = 2
                while n < len(body):
                    n += 3 + (body[n] << 8 | body[n + 1])
                    filters += 1
                self.answer += bytes((0x90, 2 + filters)) + body[:2] + bytes(filters)
            elif kind == 10:
                self.answer += b"\xb0\2" + body[:2]
        return len(sent)

    def readinto(self, buf, n=None):
        if not self.answer:
            return None
        n = min(n or len(buf), len(self.answer))
        buf[:n] = self.answer[:n]
        self.answer = self.answer[n:]
        return n

    def ioctl(self, request, arg):
        return arg & (5 if self.answer else 4)


class Module:
    def __init__(self, name, **names):
        for key in names:
            setattr(self, key, names[key])
        sys.modules[name] = self


class Pins:
    IN = OUT = PULL_UP = PULL_DOWN = None

    def __call__(self, n, *_):
        if n == "LED":
            raise ValueError
        pin = simulated.Pin(n)
        pin.n = n
        return pin


class ADC:
    ATTN_11DB = 3

    def __init__(self, pin, **_):
        self.read_u16 = simulated.ADC(pin.n).read_u16


class RTC:
    def memory(self, *_):
        return b""

    def datetime(self, *_):
        pass


class WDT:
    def __init__(self, **_):
        pass

    def feed(self):
        pass


class WLAN:
    IF_STA = PM_NONE = PM_PERFORMANCE = 0

    def __init__(self, *_):
        pass

    def active(self, *_):
        return True

    def isconnected(self):
        return True

    def status(self, *what):
        return -60 if what else 1010

    def config(self, *_, **__):
        return 0

    def connect(self, *_):
        pass

    def disconnect(self):
        pass

    def ifconfig(self, *_):
        return ("10.0.0.9", "255.255.255.0", "10.0.0.1", "10.0.0.1")

    def ipconfig(self, *_, **__):
        return ("10.0.0.9", "255.255.255.0")


def i2c(n, scl, sda, freq):
    return simulated.I2C({"id": n, "scl": scl.n, "sda": sda.n})


Module("socket", socket=Socket, getaddrinfo=lambda *_: [(2, 1, 0, "", b"")])
Module(
    "machine",
    RTC=RTC,
    WDT=WDT,
    Pin=Pins(),
    ADC=ADC,
    I2C=i2c,
    unique_id=lambda: b"123456",
    reset_cause=lambda: 1,
    PWRON_RESET=1,
    HARD_RESET=2,
    WDT_RESET=3,
    DEEPSLEEP_RESET=4,
    SOFT_RESET=5,
)
Module(
    "network",
    WLAN=WLAN,
    STA_IF=0,
    STAT_IDLE=1000,
    STAT_CONNECTING=1001,
    STAT_GOT_IP=1010,
    STAT_WRONG_PASSWORD=202,
    STAT_NO_AP_FOUND=201,
    hostname=lambda *_: "",
    country=lambda *_: "",
)
Module("esp32", HEAP_DATA=4, idf_heap_info=lambda _: [(0, 0, 0, 0)], mcu_temperature=lambda: 40)

with open("/config.json", "w") as file:
    json.dump(
        {
            "broker": "10.0.0.1",
            "device": "kitchen",
            "interval": 1,
            "networks": [{"ssid": "home"}],
            "sensors": [
                {"type": "bme280", "name": "air", "i2c": {"id": 0, "scl": 22, "sda": 21}},
                {"type": "ds18b20", "name": "boiler", "pin": 4},
                {"type": "adc", "name": "battery", "pin": 34},
            ],
            "discovery": "homeassistant",
        },
        file,
    )
with open("/secrets.json", "w") as file:
    json.dump({"networks": {"home": "password"}}, file)


the = None  # App


def watch(app):
    """Takes the place of App.run: it is stepped from outside."""
    global the
    the = app


def start():
    import app

    app.App.run = watch
    app.App.close = lambda app: None
    import node  # noqa: F401


def step():
    """Let it work a little; whether it has done everything at least twice."""
    for _ in range(20):
        the.step()
    return (
        the.uptime > 6
        and min([sensor.readings for sensor in the.sensors]) > 1
        and "discovery" not in sys.modules
        and not the.client.pending
    )
