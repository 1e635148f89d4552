"""A hostile broker with one client, which runs as a process of its own.

Whatever it sends it tells the reference first, so that everything the client sends and the device
tells can be judged at once. Between its attacks it behaves, and the client has to work as if
nothing had happened.
"""

import collections
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import time
from pathlib import Path

from fuzz import generator
from fuzz.reference import (
    PINGREQ,
    PUBLISH,
    PUBREC,
    PUBREL,
    STUCK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Inward,
    Malformed,
    Outward,
    frame,
    integer,
    string,
)
from runtimes import ROOT, command, environment

DRINKER = Path(__file__).parent / "device/drinker.py"
FILTERS = ("in/#", "in/+/x", "+/y", "$SYS/+", "ü/€/#")  # as the device has them
PIECES = (0, 2)  # those that take pieces, in a share of the runs
PASSING = ("dyn/1", "dyn/2/+", "dyn/3/#")
PATIENCE = 30  # s until something counts as a hang
CHECK = 4  # every so many connections it behaves
SLOW = ("no PINGRESP", "no acknowledgement", "timeout")  # ends of what a time-out says


class Wrong(AssertionError):
    pass


def settings(seed, runtime):
    """Options of the client in a run."""
    rng = generator.seeded(seed)
    return {
        "speed": 20 if runtime == "micropython" else 1,
        "seed": rng.randrange(1 << 30),
        "options": {
            "clean_session": rng.random() < 0.3,
            "inbox": rng.choice((64, 100, 128, 512)),
            "outbox": rng.choice((160, 256, 1024)),
            "keepalive": 60 if runtime == "micropython" else 8,
            "retry": rng.choice((0, 10, 20)) if runtime == "micropython" else 2,
            "timeout": 8 if runtime == "micropython" else 2,
        },
        "pieces": PIECES if rng.random() < 0.5 else (),
    }


class Run:
    """One device and what it is sent, by seed."""

    def __init__(self, seed, runtime, lib, **options):
        self.seed = seed
        self.config = config = settings(seed, runtime)
        self.listener = socket.create_server(("127.0.0.1", 0))
        options = config["options"] = config["options"] | options
        options["port"] = self.listener.getsockname()[1]
        self.clean = options["clean_session"]
        hello = frame(
            0x10,
            b"\0\4MQTT\4",
            bytes([2 * self.clean]),
            integer(options["keepalive"]),
            string(b"drinker"),
        )
        self.inward = Inward(options["inbox"], FILTERS, config["pieces"])
        self.outward = Outward(hello, FILTERS + PASSING)
        self.process = subprocess.Popen(
            command(runtime, DRINKER, json.dumps(config), heap="64k"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment(lib),
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = b""
        self.told = collections.deque(maxlen=30)  # by the device, for a report
        self.conn = None
        self.number = self.packets = self.missed = self.nonces = 0
        self.ends = collections.Counter()
        self.messages = self.large = self.skips = self.connects = 0
        self.heaps = []
        self.files = set()
        self.last = self.final = None
        self.good = self.ending = self.done = False

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.listener.close()
        if self.conn:
            self.conn.close()

    # Waiting

    def until(self, done, what):
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise Wrong(f"not within {PATIENCE} s: {what}")
            self.pump(0.5)

    def pump(self, timeout=0.0):
        """Read and write what can be, after a time at most."""
        out = self.process.stdout
        readers, writers = [out], []
        if self.done:
            readers.clear()
        if not self.conn:
            readers.append(self.listener)
        elif not self.eof:
            readers.append(self.conn)
            if self.pieces:
                writers.append(self.conn)
        ready, writable, _ = select.select(readers, writers, [], timeout)
        if out in ready:
            self.hear(os.read(out.fileno(), 65536))
        if self.listener in ready:
            self.conn = self.listener.accept()[0]
        elif self.conn in ready:
            self.receive()
        if writable and not self.eof:
            self.write()

    def write(self):
        try:
            for _ in range(16):
                if not self.pieces:
                    return
                piece = self.pieces.popleft()
                sent = self.conn.send(piece)
                if sent < len(piece):
                    self.pieces.appendleft(piece[sent:])
        except BlockingIOError:
            self.pieces.appendleft(piece)
        except OSError:  # it has closed; receive() tells
            self.pieces.clear()
            self.lossy = True

    def receive(self):
        try:
            data = self.conn.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            self.lossy = True
        if not data:
            self.eof = True
            return
        try:
            self.outward.feed(data)
        except Malformed as error:
            if not self.late():
                raise Wrong(f"the client sends what it must not: {error}") from None
            self.outward.packets.clear()
            self.shut("reset")
            return
        for packet in self.outward.packets:
            if self.good:
                self.answer(*packet)
        self.outward.packets.clear()

    # What the device tells

    def hear(self, data):
        if not data and self.final:
            self.done = True
        elif not data:
            told = b"\n".join([*self.told, self.text]).decode(errors="replace")
            raise Wrong(f"the device ended:\n{told}")
        *lines, self.text = (self.text + data).split(b"\n")
        for line in lines:
            self.told.append(line)
            self.ending = self.ending or line[1:2] != b" "  # a traceback begins
            if not self.ending:
                self.line(line.decode())

    def line(self, line):
        kind, _, rest = line.partition(" ")
        if kind in ("m", "p", "s"):
            due = self.inward.lines[self.heard : self.heard + 1]
            if due != [line]:
                raise Wrong(f"handed over: {line!r}; due: {due}")
            self.heard += 1
            self.messages += kind == "m"
            self.large += kind == "p" and rest.split()[2] != "0"
            self.skips += kind == "s"
        elif kind == "c":
            if self.known or self.inward.accepted != int(rest):
                raise Wrong(f"{line!r} with {self.inward.accepted}")
            self.known = True
            self.connects += 1
        elif kind == "d":
            self.gone = rest.split(" ", 1)
        elif kind == "n":
            nonce, heap = rest.split()
            self.last = bytes.fromhex(nonce)
            self.heaps.append(int(heap))
        elif kind == "e":
            self.final = json.loads(rest)

    # Sending

    def send(self, data, pieces=None):
        """Tell the reference, and put it into the queue."""
        if not data:
            return
        self.flush()
        self.inward.feed(data)
        self.pieces.extend(pieces or [data])

    def flush(self, pieces=None):
        """Into the queue with what was held back to be written in one."""
        if self.held:
            self.pieces.extend(pieces or [self.held])
            self.held = b""

    def answer(self, first, body):
        """What a broker says to a packet that came."""
        kind, pid = first >> 4, body[:2]
        if kind == PUBLISH and first & 6:
            size = int.from_bytes(body[:2], "big")
            pid = body[2 + size : 4 + size]
            self.send(frame(0x40 if first & 2 else 0x50, pid))
        elif kind == PUBREC:
            self.send(frame(0x62, pid))
        elif kind == PUBREL:
            self.send(frame(0x70, pid))
        elif kind == PINGREQ:
            self.send(b"\xd0\0")
        elif kind in (SUBSCRIBE, UNSUBSCRIBE) and int.from_bytes(pid, "big") in (
            self.outward.requests
        ):
            count = self.outward.requests[int.from_bytes(pid, "big")][1]
            self.send(frame(0x90, pid, bytes(count)) if kind == SUBSCRIBE else frame(0xB0, pid))

    def behave(self):
        """From now on every packet is answered; and those that were not, are."""
        self.good = True
        for pid, message in list(self.outward.flight.items()):
            if message.owed:
                released = pid in self.outward.released
                first = 0x40 if message.qos == 1 else 0x70 if released else 0x50
                self.send(frame(first, integer(pid)))
        for pid, (kind, count) in list(self.outward.requests.items()):
            if kind == SUBSCRIBE:
                self.send(frame(0x90, integer(pid), bytes(count)))
            else:
                self.send(frame(0xB0, integer(pid)))

    # Connections

    def accept(self):
        self.until(lambda: self.conn, "a new connection")
        self.conn.setblocking(False)
        self.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number += 1
        self.pieces = collections.deque()
        self.held = b""
        self.eof = self.lossy = self.known = self.cut = self.silent = False
        self.gone = None
        self.heard = 0  # lines about messages
        self.good = False
        self.inward.connect(self.outward)
        self.outward.connect(self.inward)
        self.until(lambda: self.outward.greeted or self.eof, "CONNECT")

    def shut(self, how):
        """Close it from this side."""
        self.cut = True
        with contextlib.suppress(OSError):
            if how == "half":
                self.conn.shutdown(socket.SHUT_WR)
                return
            if how == "reset":
                self.conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.lossy = self.eof = True
        self.conn.close()

    def finish(self):
        """Wait until both sides know that it is over, and judge."""
        self.good = self.good or not self.cut
        self.until(lambda: self.eof or self.over(), "the end of the connection")
        self.until(lambda: self.gone, "the device to notice the end")
        while not self.eof:
            self.until(lambda: self.eof, "the end of the stream")
        self.conn.close()
        self.conn = None
        inward = self.inward
        kind, text = self.gone
        self.ends[kind] += 1
        if "memory" in text:
            raise Wrong(text)
        complete = False
        if kind == "ProtocolError":
            if (not inward.error or inward.refused or inward.error == STUCK) and not inward.may:
                raise Wrong(f"{text!r} about what is right")
            complete = bool(inward.error) and not inward.may
        elif kind == "Refused":
            complete = inward.refused
            if not complete:
                raise Wrong("Refused: no such CONNACK")
        elif kind != "ConnectionLost":
            raise Wrong(f"{kind}: {text}")
        elif inward.error == STUCK and text.endswith(STUCK):
            complete = True
        elif not self.silent and not self.late():
            if inward.error and not self.cut and not text.endswith(SLOW):
                raise Wrong(f"{text!r} instead of the error: {inward.error}")
            self.missed += text.endswith(SLOW)
        if complete and self.heard != len(inward.lines):
            raise Wrong(f"not handed over: {inward.lines[self.heard :]}")
        if not self.known:
            if self.heard:
                raise Wrong("messages before CONNACK")
            inward.forget()
        else:
            inward.end(None if complete else self.heard)
        self.outward.end(self.known, self.lossy)

    def over(self):
        return self.gone is not None

    def late(self):
        """A SUBSCRIBE was asked for again before the SUBACK that is wrong came."""
        return self.inward.error == "SUBACK: number of codes" and self.outward.asked > self.asked

    def connection(self, wild=True):
        """One connection from its begin to its end."""
        self.accept()
        rng = generator.seeded(self.seed, self.number)
        check = self.number % CHECK == 0 or not wild
        if check:
            data = frame(0x20, bytes([not self.clean and rng.random() < 0.8]), b"\0")
        else:
            data = generator.connack(rng, self.clean)
        self.packets += 1
        self.asked = 0
        if data is None:
            self.silent = True
            self.finish()
            return
        if not data:
            self.shut(rng.choice(("half", "close", "reset")))
            self.finish()
            return
        self.send(data, generator.cut(rng, data))
        for pid in list(self.inward.doubtful) if self.inward.accepted else ():
            self.send(frame(0x62, integer(pid)))
        if self.inward.accepted is None and not self.inward.error:
            # an incomplete one
            self.shut("half")
        elif not self.inward.error:
            if check:
                self.check(rng)
            if wild and not self.eof:
                self.attack(rng)
            elif not self.eof and not self.inward.error:
                self.shut("half")
        if self.inward.error and rng.random() < 0.1 and not self.cut:
            self.shut(rng.choice(("close", "reset")))
        self.finish()

    def attack(self, rng):
        self.good = rng.random() < 0.15  # ... but for what it sends of its own
        wild = rng.choice((0.01, 0.05, 0.2))
        merge = rng.choice((1, 1, 3, 10))
        count = rng.choice((5, 20, 60))
        if rng.random() < 0.7:  # let it say something
            self.pump(0.02)
        for i in range(count):
            self.asked = self.outward.asked
            # of its own seed: what was drawn for the one before depends on the client
            one = generator.seeded(self.seed, self.number, i)
            data = generator.packet(one, self.inward, self.outward, self.number * 100 + i, wild)
            self.packets += 1
            self.inward.feed(data)
            self.held += data
            if i % merge == 0 or self.inward.error:
                self.flush(generator.cut(one, self.held))
            self.pump(0.01 if one.random() < 0.1 else 0)
            if self.inward.error or self.eof:
                break
            if self.inward.stream.missing > 100000:
                break  # it would swallow the rest
        self.flush()
        if not self.inward.error and not self.eof:
            self.end_attack(rng)

    def end_attack(self, rng):
        kind = rng.random()
        if kind < 0.25:
            self.drain()
            self.shut("half")
        elif kind < 0.35:
            self.shut("close")
        elif kind < 0.45:
            self.shut("reset")
        elif kind < 0.453:
            self.good = False
            self.cut = self.silent = True
        else:
            missing = self.inward.stream.missing
            for _ in range(20):  # a header may come first
                if not 0 < missing <= 100000 or self.inward.error:
                    break
                self.packets += 1
                self.send(rng.randbytes(missing))
                missing = self.inward.stream.missing
            if missing:
                self.drain()
                self.shut("half")
            elif not self.inward.error:
                self.check(rng)
                if not self.eof:
                    self.drain()
                    self.shut("half")

    def drain(self):
        self.until(lambda: not self.pieces or self.eof or self.over(), "room for what is sent")

    def check(self, rng):
        """The client works: a nonce comes to it, goes back, and all is as it should be."""
        self.behave()
        self.nonces += 1
        nonce = b"%06d" % self.nonces
        self.send(frame(0x32, string(b"in/nonce"), integer(rng.randrange(1, 65536)), nonce))
        self.packets += 1
        self.until(lambda: self.last == nonce or self.eof or self.inward.error, "the nonce")
        if self.eof or self.inward.error:
            return  # to be tried again
        self.until(self.synchronous, "all messages and replies")
        if not self.eof and not self.inward.error:
            with contextlib.suppress(FileNotFoundError):  # not Linux
                self.files.add(len(os.listdir(f"/proc/{self.process.pid}/fd")))
            self.checked = self.number

    def synchronous(self):
        return (
            self.eof
            or self.inward.error
            or self.heard == len(self.inward.lines)
            and self.outward.replied == len(self.inward.replies)
        )

    def attack_with(self, data, slowly):
        """One connection with nothing but these bytes."""
        self.accept()
        self.send(frame(0x20, bytes([0]), b"\0"))
        self.until(lambda: self.known, "connected")
        self.asked = self.outward.asked
        self.packets += 1
        self.send(data, [data[i : i + 1] for i in range(len(data))] if slowly else None)
        if not self.inward.error:
            if not self.inward.stream.missing:
                self.check(generator.seeded(0))
            self.drain()
            self.shut("half")
        self.finish()

    def reset_in_a_flood(self):
        """A connection that ends while the client has more to acknowledge than it can write."""
        self.accept()
        self.send(frame(0x20, bytes([0]), b"\0"))
        self.until(lambda: self.outward.flight or self.eof, "a message")
        flood = (frame(0x32, string(b"in"), integer(i), b"x") for i in range(1, 200))
        self.send(b"".join(flood))
        self.drain()
        self.shut("reset")
        self.finish()

    def recovered(self):
        """It must be found working now."""
        self.checked = 0
        for _ in range(5):
            self.connection(wild=False)
            if self.checked:
                return
        raise Wrong("does not recover")

    def drink(self, packets):
        """Attack until that many are sent, then let the device come to its end."""
        self.checked = 0
        while self.packets < packets:
            self.connection()
            if self.number - self.checked > 6 * CHECK:
                self.recovered()
        self.stop()

    def stop(self):
        """Let the device finish what it has accepted; and count."""
        while not self.final:
            self.accept()
            self.send(frame(0x20, bytes([not self.clean]), b"\0"))
            for pid in list(self.inward.doubtful):
                self.send(frame(0x62, integer(pid)))
            self.behave()
            self.send(frame(0x32, string(b"in/stop"), integer(1), b""))
            self.until(lambda: self.final or self.eof, "the end")
            if not self.final:
                self.finish()
        self.until(lambda: self.eof, "the end of the stream")
        sent, stats = self.final
        outward = self.outward
        for qos in 1, 2:
            missing = set(range(sent[qos])) - outward.seen[qos]
            if len(missing) > outward.blinds:
                raise Wrong(f"QoS {qos}: lost {sorted(missing)}")
        if max(outward.seen[0], default=0) >= max(sent[0], 1):
            raise Wrong("QoS 0: more than was accepted")
        if stats["connects"] != self.connects or stats["dropped"] != self.skips:
            raise Wrong(f"{stats}, but {self.connects} connections and {self.skips} skipped")
        if self.missed > 2:  # a machine that stands still is no fault
            raise Wrong(f"{self.missed} ends of connections were noticed by a time-out only")
