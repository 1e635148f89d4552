# What a Cycle needs of the rest, and, as a program, one wake of a device:
# options in JSON: port, base, folder, sleep, value, woke, clock, and every, spool.

import json
import sys
from time import ticks_add, ticks_diff, ticks_ms, time

from power import Cycle
from umqtt_lite import OutboxFull, sleep


def tell(*event):
    print(json.dumps(event))


class Asleep(BaseException):
    pass


class Board:
    """Its memory is a file, or a bytearray without one; deepsleep() is the end."""

    memory = b""
    set = None

    def __init__(self, path=None):
        self.path = path

    def load(self):
        if self.path:
            try:
                with open(self.path, "rb") as file:
                    self.memory = file.read()
            except OSError:
                pass
        return self.memory

    def save(self, data):
        self.memory = bytes(data)
        if self.path:
            with open(self.path, "wb") as file:
                file.write(data)

    def settime(self, seconds):
        self.set = seconds

    def deepsleep(self, ms):
        raise Asleep(ms)


class Clock:
    """Shows `now`, or the desk's time if that is True."""

    syncs = 0
    put_off = None

    def __init__(self, now):
        self.now = now

    def time(self):
        return int(time()) if self.now is True else self.now

    def later(self, ms):
        self.put_off = ms


class Reading:
    """Publishes a value at once, and again every so many ms."""

    readings = errors = 0

    def __init__(self, name, value, publish, every=3600000):
        self.name = name
        self.value = value
        self.publish = publish
        self.every = every
        self.due = None

    def poll(self, now):
        if self.due is None:
            self.due = now
        left = ticks_diff(self.due, now)
        if left <= 0:
            self.due = ticks_add(now, self.every)
            self.readings += 1
            self.publish(self.name, {"value": self.value})
            left = self.every
        return left


class App:
    """The loop of the firmware's, as far as a Cycle is concerned."""

    spool = None

    def __init__(self, base, port, cycle, client=sleep.MQTTClient, **more):
        self.base = base
        self.out = []
        self.sensors = []
        self.cycle = cycle
        if client == sleep.MQTTClient:
            more["snapshot"] = cycle.snapshot
        name = base[:-1].replace("/", "-")
        self.client = client(name, "127.0.0.1", port, clean_session=False, **more)
        self.client.subscribe(base + "cmd/+", self.command, 1)
        cycle.attach(self)

    def command(self, topic, payload, retain):
        tell("command", str(payload, "utf8"))
        self.out.append((self.base + "response", bytes(payload)))

    def reading(self, name, values):
        self.spool.publish(self.base + name, json.dumps(values))

    def step(self):
        now = ticks_ms()
        self.client.poll()
        left = 60000
        for sensor in self.sensors:
            left = min(left, sensor.poll(now))
        left = min(left, self.cycle.poll(now))
        try:
            while self.out:
                self.client.publish(*self.out[0], qos=1)
                self.out.pop(0)
                left = 0
        except OutboxFull:
            pass
        if self.spool is not None:
            self.spool.poll()
        self.client.wait(left)


def main(text):
    options = json.loads(text)
    folder = options["folder"]
    board = Board(folder + "/memory")
    since = ticks_ms()
    cycle = Cycle(options, board, Clock(options["clock"]), options["woke"], since)
    if options.get("spool"):
        from umqtt_lite import MQTTClient
        from umqtt_lite.spool import Spool

        app = App(options["base"], options["port"], cycle, MQTTClient)
        app.spool = Spool(app.client, folder + "/spool")
    else:
        app = App(options["base"], options["port"], cycle)
    app.client.on_connect = lambda present: tell("connect", present)
    every = options.get("every", 3600000)
    app.sensors.append(Reading("air", options["value"], cycle.reading, every))
    try:
        while True:
            app.step()
    except Asleep as e:
        tell("asleep", e.args[0], ticks_diff(ticks_ms(), since), len(board.memory))


if __name__ == "__main__":
    main(sys.argv[1])
