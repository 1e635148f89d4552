# App through simulated hours, against a real broker: day.py PORT HOURS FOLDER
#
# Time goes on when there is nothing to wait for but time: then it jumps to the next thing to be
# done. While something is under way to the broker it stands for 50 ms of the clock on the wall.
# Three counters are read once a minute, with an outage of 20 minutes every sixth hour.

import gc
import json
import sys
import time as wall
from time import sleep_ms

import fast

_MINUTE = 60000
_HOUR = 60 * _MINUTE


class Clock(fast.Clock):
    def __init__(self):
        self.ms = 0  # since the start

    def ticks_ms(self):
        return self.ms - 60000 & fast._MASK  # it wraps after a minute

    def time(self):
        return 1764000000 + self.ms // 1000

    gmtime = staticmethod(wall.gmtime)


clock = sys.modules["time"] = Clock()
sys.path[:0] = ["firmware", "boards/unix"]

from app import App  # noqa: E402
from umqtt_lite.spool import Spool  # noqa: E402


class Board:
    NAME = "desk"
    blinks = 0
    fed = 0

    def identity(self):
        return "01"

    def reset_cause(self):
        return "power"

    def watchdog(self, ms):
        return self

    def feed(self):
        self.fed += 1

    def led(self, on):
        self.blinks += 1


class Sensors:
    VALUES = {"n": (None, None)}


sys.modules["sensors"] = sys.modules["sensors.counter"] = Sensors


class Counter:
    """Reading's face, around a number that counts its readings."""

    def __init__(self, name, publish):
        self.name = name
        self.options = {"type": "counter", "interval": 60}
        self.publish = publish
        self.n = 0
        self.due = 0

    def poll(self, now):
        if clock.ms >= self.due:
            self.publish(self.name, {"n": self.n})
            self.n += 1
            self.due += _MINUTE
        return self.due - clock.ms


def wait(ms):
    """In the place of the client's."""
    if not client.link and not client.up:
        clock.ms += max(1, ms)
    elif (
        client._state == 2
        or client.up
        and not (client.pending or client._asked or client._ping or client._new)
    ):
        real(0)
        clock.ms += max(1, min(ms, clock.ticks_diff(client._due, clock.ticks_ms())))
    else:
        poll = client._poll
        poll.register(client._io, 5 if client._new or not client.up and client._hello else 1)
        clock.ms += 1
        if not list(poll.ipoll(min(ms, 50))):  # it is lost
            clock.ms += max(1, min(ms, clock.ticks_diff(client._due, clock.ticks_ms())))


def tell(*words):
    print(json.dumps(words))


port, hours, folder = sys.argv[1:]
board = Board()
app = App(
    {
        "brokers": [("127.0.0.1", int(port))],
        "prefix": "day",
        "device": folder.split("/")[-1],
        "user": None,
        "password": None,
        "keepalive": 60,
        "discovery": "homeassistant",
        "diagnostics": 300,
        "watchdog": 8,
        "sleep": False,
    },
    board,
)
client = app.client
real = client.wait
client.wait = wait
app.spool = Spool(client, folder + "/spool", 65536, 1024)
app.sensors = [Counter(name, app.reading) for name in ("a", "b", "c")]
app._dog = board

hour = steps = 0
while hour < int(hours):
    app.step()
    steps += 1
    away = hour % 6 == 5 and 20 <= clock.ms % _HOUR // _MINUTE < 40
    if away and client.link:
        client.disconnect()
        client.connect()
    client.link = not away
    if clock.ms >= (hour + 1) * _HOUR:
        hour += 1
        gc.collect()
        tell("hour", hour, gc.mem_alloc())
for sensor in app.sensors:
    sensor.due = 1 << 60
while len(app.spool) or client.pending or app.out:
    app.step()
tell("forgotten", "discovery" not in sys.modules)
tell("fed", board.fed == steps)
board.blinks = 0
app.commands.take(b"day/x/cmd/identify", b"5", False)
begin = clock.ms
while clock.ms < begin + 10000:
    app.step()
tell("blinks", board.blinks)
app.commands._commands["broken"] = lambda value: 1 // 0
app.commands.take(b"day/x/cmd/broken", b'{"id": 1}', False)
tell("broken", app.out[-1][1])
tell("end", app.sensors[0].n, app.uptime, app.dropped + app.spool.dropped)
sleep_ms(10)
app.close()
