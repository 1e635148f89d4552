"""The application: what is published on which topic, and the loop. It waits in `wait` only.

    parts, sensors -> reading(), error(), put() -> out -> client, at QoS 1
                                        '-> spool, if there is one: readings only

What waits in `out` for room in the outbox is the newest of each topic, and a few answers. Between
two connections nothing else is kept here: what the client or the spool has accepted, it delivers.
"""

import gc
import json
import sys
from time import gmtime, ticks_add, ticks_diff, ticks_ms, time

from micropython import const

from commands import Commands
from umqtt_lite import MQTTClient, OutboxFull

VERSION = "0.2.0"

_ANSWERS = const(8)  # that wait for room in the outbox, at most
_LAST_WORD = const(2000)  # ms that close() gives to "offline"
_SETTLE = const(5000)  # ms that a reading has to be acknowledged before all else is told
_REBOOT = const(5000)  # ms that what is accepted has to be acknowledged before a reboot
_MINUTE = const(60000)

_EPOCH = 946684800 if gmtime(0)[0] == 2000 else 0  # s from 1970 to that of the port


def largest() -> int:
    """Bytes of the largest free block of the heap, less at most one part in 32.

    Call it after a collection, and collect afterwards: the block is garbage then.
    """
    n = gc.mem_free()
    gc.disable()  # an allocation that fails would collect first
    while n > 31:
        try:
            bytearray(n)
            break
        except MemoryError:
            n -= n >> 5
    gc.enable()
    return n


class App:
    """Polls its parts and the client, and publishes what they have for it.

    settings  what config.load() returns
    board     the module
    client    class of the client, as the one of umqtt_lite.sleep; `more` are its own arguments

    To be filled in before run():
    sensors   Readings, that have `reading` and `error` to call
    parts     objects with poll(now) -> ms until the next one; None: it is stuck, and the watchdog
              is not fed
    spool     a Spool, for readings
    station   the board's Wi-Fi
    remote    the module, while a change of the configuration is on trial
    power     the Cycle of deep sleep: then nothing is said of being online, as it seldom is
    crash     the module, for what is to be told of one, and when to leave safe mode
    """

    spool = station = remote = power = crash = None
    uptime = 0  # s
    dropped = 0  # readings and answers given up for newer ones while the outbox was full

    _dog = _discovery = _reboot = None
    _online_id = 0  # of the last `online`, until it is acknowledged
    _crash = None  # what is told of one
    _crash_id = 0
    _connects = 0
    _heard = False  # the broker has acknowledged something
    _tell = _announce = False  # info is to be told, discovery to be sent
    _longest = 0  # ms, of a step

    def __init__(self, settings: dict, board, client=MQTTClient, **more):
        base = settings["prefix"] + "/" + settings["device"] + "/"
        self.settings = settings
        self.board = board
        self.base = base
        self.sensors: list = []
        self.commands = Commands(self)
        self.parts: list = [self.commands]
        self.out = []  # (topic, payload, retain)
        self._online = (base + "status", b"online", True)
        self._mark = self._due = ticks_ms()
        self._cap = _MINUTE
        self._acked = False  # anything but `online`
        self.client = client = client(
            base[:-1].replace("/", "-"),  # as unique as the topics must be
            settings["brokers"],
            user=settings["user"],
            password=settings["password"],
            keepalive=settings["keepalive"],
            clean_session=False,
            will=None if settings["sleep"] else (base + "status", b"offline", True, 1),
            inbox=1024 if settings["discovery"] else 512,  # its messages come back once
            **more,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_ack = self._on_ack
        client.on_skip = self.commands.skipped
        client.subscribe(base + "cmd/+", self.commands.take, 1)
        if settings["discovery"]:
            client.subscribe(settings["discovery"] + "/status", self._on_birth)

    def run(self):
        """Step for ever, watched by the watchdog."""
        ms = int(self.settings["watchdog"] * 1000)
        if ms:
            self._cap = min(self._cap, ms // 2)
            self._dog = self.board.watchdog(ms)
        while True:
            self.step()

    def step(self):
        """Poll everything once, hand over what waits, and sleep if there is nothing to do."""
        now = ticks_ms()
        client = self.client
        client.poll()
        left = self._poll(now)
        moved = self._send()
        if self.spool is not None and not (self.out and client.up):  # which come first
            self.spool.poll()
        self._longest = max(self._longest, ticks_diff(ticks_ms(), now))
        client.wait(0 if moved else max(left, 0))

    def close(self):
        """Publish `offline` and disconnect; without a connection the will has said it."""
        client = self.client
        start = ticks_ms()
        while not self.power and client.up and ticks_diff(ticks_ms(), start) < _LAST_WORD:
            if self._dog:
                self._dog.feed()
            try:
                client.publish(self._online[0], b"offline", True, 1)
                break
            except OutboxFull:
                client.poll()
                client.wait(100)
        if self._dog:
            self._dog.feed()
        client.disconnect(_LAST_WORD)
        if self.spool is not None:
            try:
                self.spool.sync()
            except OSError as e:
                print("spool:", repr(e))

    # What the parts call

    def reading(self, name: str, values: dict):
        """Publish the values of a sensor, with the time once the clock is set."""
        payload = json.dumps(values)
        if gmtime()[0] > 2024:
            payload = '%s, "time": %d}' % (payload[:-1], int(time()) + _EPOCH)
        if self.spool is not None:
            try:
                return self.spool.publish(self.base + name, payload)
            except (OutboxFull, ValueError) as e:
                print("spool:", repr(e))
        self.put(name, payload)

    def error(self, name: str, text):
        """Publish what is wrong with a sensor; None: nothing any more."""
        if text:
            print(name, text)
        self.put(name + "/error", text or "", True)

    def put(self, topic: str, payload, retain=False):
        """Publish below the device's topic, at QoS 1; at once, or as soon as there is room.

        Until then a newer message takes the place of an older one of the same topic; answers
        wait in a queue.
        """
        item = (self.base + topic, payload, retain)
        out = self.out
        n = _ANSWERS if topic == "response" else 1
        for old in out:
            if old[0] == item[0]:
                n -= 1
        if n <= 0:
            for old in out:
                if old[0] == item[0]:
                    out.remove(old)
                    break
            if not retain and topic != "diagnostics":
                self._drop("outbox full")
        out.append(item)

    def diagnose(self):
        """Publish the diagnostics now. Collects garbage, and tries the heap for its blocks."""
        client = self.client
        stats = client.stats
        spool = self.spool
        gc.collect()
        free = gc.mem_free()
        block = getattr(self.board, "heap_block", largest)()
        gc.collect()
        found = {
            "rssi": self.station and self.station.rssi(),
            "heap_free": free,
            "heap_block": block,
            "uptime": self.uptime,
            "reset_cause": self.board.reset_cause(),
            "version": VERSION,
            "reconnects": max(self._connects - 1, 0),
            "retries": stats["retried"],
            "drops": self.dropped + (0 if spool is None else spool.dropped),
            "spool": 0 if spool is None else len(spool),
            "loop_ms": self._longest,
        }
        self._longest = 0
        self.put("diagnostics", json.dumps(found))
        self._due = ticks_add(ticks_ms(), self.settings["diagnostics"] * 1000)

    def announce(self):
        """Have the discovery messages sent, again."""
        if self.settings["discovery"]:
            try:
                from discovery import messages

                self._discovery = messages(self)
                if self.power:
                    self.power.stay(_SETTLE)
            except MemoryError as e:
                print("discovery:", repr(e))

    def reboot(self):
        """Restart as soon as what is accepted is acknowledged, or after a few seconds."""
        self._reboot = ticks_add(ticks_ms(), _REBOOT)

    # Steps of step()

    def _poll(self, now) -> int:
        # ms until something is to be done
        left = self._cap
        stuck = False
        for part in self.parts:
            n = part.poll(now)
            if n is None:
                stuck = True
            else:
                left = min(left, n)
        for part in self.sensors:
            left = min(left, part.poll(now))
        if self._dog and not stuck:
            self._dog.feed()
        if self.crash:
            n = self.crash.note_progress(now)
            if not n and self._reboot is None:
                self.reboot()
            left = min(left, n or _REBOOT)

        n = ticks_diff(now, self._mark) // 1000
        self.uptime += n
        self._mark = ticks_add(self._mark, n * 1000)
        if self._tell:
            n = ticks_diff(self._settled, now)
            if n <= 0 or self._acked or not self.sensors:
                self._tell = False
                self._info()
            else:
                left = min(left, n)
        if self.settings["diagnostics"] and self.client.up and not self._tell:
            n = ticks_diff(self._due, now)
            if not 0 < n <= self.settings["diagnostics"] * 1000:  # or the ticks have wrapped
                self.diagnose()
            else:
                left = min(left, n)
        if self._heard and self.remote:
            self.remote.confirm()
            self.parts.remove(self.remote)
            self.remote = None
            self.put("response", '{"command": "set", "ok": true, "set": "kept"}')
        if self._discovery:
            try:
                left = min(left, next(self._discovery))
            except (StopIteration, MemoryError) as e:
                if isinstance(e, MemoryError):
                    print("discovery:", repr(e))
                self._discovery = None
                sys.modules.pop("discovery", None)  # its memory is free for others
        if self._reboot is not None:
            n = ticks_diff(self._reboot, now)
            if n <= 0 or not (self.out or self.client.pending):
                self.close()
                self.board.reset()
            left = min(left, n)
        return left

    def _send(self) -> bool:
        # move what waits into the outbox, as far as there is room; whether anything moved
        out = self.out
        moved = False
        while out:
            item = out[0]
            try:
                n = self.client.publish(item[0], item[1], item[2], 1)
            except OutboxFull:  # the next acknowledgement makes room and ends `wait`
                break
            except ValueError as e:  # larger than the outbox
                self._drop("%s: %r" % (item[0], e))
            else:
                moved = True
                if item is self._online:
                    self._online_id = n
                elif item is self._crash:
                    self._crash_id = n
            out.pop(0)
        return moved

    def _info(self):
        info = {
            "version": VERSION,
            "board": self.board.NAME,
            "identity": self.board.identity(),
            "micropython": ".".join([str(n) for n in sys.implementation.version[:3]]),
            "reset_cause": self.board.reset_cause(),
            "ip": self.station and self.station.ip(),
        }
        self.put("info", json.dumps(info), True)
        if self._announce:
            self._announce = False
            self.announce()

    def _drop(self, why):
        self.dropped += 1
        print("%s: %d dropped so far" % (why, self.dropped))

    # What the client calls

    def _on_connect(self, session_present: bool):
        print("connected")
        # One that still is in the outbox goes out again by itself: don't fill it with them.
        if not self._online_id and not self.power:
            self.out.insert(0, self._online)
        n = self.crash and not self._crash and self.crash.pending()
        if n:
            self.put("crash", n)
            self._crash = self.out[-1]
        now = ticks_ms()
        self._settled = ticks_add(now, _SETTLE)
        # a broker that knows the session has kept what is retained as well
        known = session_present and (self._connects or self.board.reset_cause() == "deepsleep")
        if not known:
            self._announce = True
        self._tell = not known or not self.power
        self._connects += 1

    def _on_disconnect(self, error):
        print("disconnected", *(error.args if error else ()))
        if self._online in self.out:  # said anew by the next connect
            self.out.remove(self._online)

    def _on_ack(self, packet_id: int):
        self._heard = True
        if packet_id == self._crash_id:
            self.crash.told()  # type: ignore[attr-defined]
            self._crash_id = 0
        if packet_id == self._online_id:
            self._online_id = 0
        else:
            self._acked = True

    def _on_birth(self, topic, payload, retain: bool):
        if payload == b"online" and not retain:  # else it was so before we came
            self.announce()
