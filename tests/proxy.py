"""A bad link: a TCP proxy on loopback that does to each connection what its Faults say.

"up" is from the device to the broker, "down" the other way. What happens depends on the bytes and
packets that pass, and on a seed, not on the time.
"""

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import threading
from dataclasses import dataclass, field

ACKNOWLEDGEMENTS = (4, 5, 6, 7, 9, 11, 13)  # PUBACK to PUBCOMP, SUBACK, UNSUBACK, PINGRESP
MALFORMED = (
    b"\x00\x00",
    b"\xf0\x00",
    b"\x36\x05\x00\x01t\x00\x01",  # QoS 3
    b"\x30\xff\xff\xff\xff\x7f",
    b"\x40\x01\x00",
    b"\x40\x02\x00\x00",
    b"\x60\x02\x00\x01",
    b"\x32\x04\x00\x01t\x00",
    b"\x30\x05\x00\x03a+b",
    b"\x30\x04\x00\x02\xc0\x80",
    b"\x20\x02\x00\x00",
    b"\x90\x02\x00\x01",
    b"\xd0\x01\x00",
    b"\x82\x06\x00\x01\x00\x01t\x00",
)


@dataclass
class Faults:
    """Of one connection; those of packets are probabilities."""

    cut: dict[str, int] = field(default_factory=dict)  # bytes that each direction carries; then
    how: str = "close"  # ... "close", "reset" or go "silent", in this direction alone
    refuse: float = 0  # s with nobody listening before it
    mute: bool = False  # it never gets to the broker
    late: float = 0  # s until the broker is first heard
    delay: float = 0  # s at most before each piece
    trickle: bool = False  # a byte at a time
    drop: float = 0  # acknowledgements, in both directions
    repeat: float = 0
    hold: float = 0  # until after the next packet
    inject: float = 0  # malformed packets, down
    seed: str = ""


class Proxy:
    """Forwards to a port. `faults` are those of each connection in turn; those after are fine."""

    def __init__(self, port, faults=()):
        self.target = port  # None: the broker is away
        self.faults = list(faults)
        self.connections = 0
        self.trace = []  # of what was carried: connection, direction, bytes
        self.loop = asyncio.new_event_loop()
        self.heard = asyncio.Event()  # cleared, what the broker sends has to wait
        self.heard.set()
        self.taken = asyncio.Event()  # cleared, nothing more is taken from the device
        self.taken.set()
        self.left_open = []  # to the broker, which is to notice by itself
        sock = listener(0)
        self.port = sock.getsockname()[1]
        self.loop.run_until_complete(self.listen(sock))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def listen(self, sock):
        self.server = await asyncio.start_server(self.accept, sock=sock, limit=4096)

    def call(self, function):
        """Have it called in the proxy's own thread."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(), done.set()))
        done.wait()

    def drop(self):
        """End the newest connection."""
        self.call(lambda: end(self.newest))

    @property
    def calm(self):
        """All faults are over."""
        return self.connections > len(self.faults)

    def faults_of(self, number):
        return self.faults[number] if number < len(self.faults) else Faults()

    async def accept(self, reader, writer):
        number = self.connections
        self.connections += 1
        self.newest = writer
        faults = self.faults_of(number)
        broker = None
        # the broker may be away, or end meanwhile
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if faults.mute:
                await drain(reader)
            elif self.target:
                broker = await asyncio.open_connection("127.0.0.1", self.target)
                await Link(self, number, (reader, writer), broker).run()
        end(writer)
        if broker and faults.how == "silent":
            self.left_open.append(broker[1])
        elif broker:
            end(broker[1])
        if number + 1 == self.connections:
            await self.refuse(self.faults_of(number + 1).refuse)

    async def refuse(self, seconds):
        if seconds:
            self.server.close()
            while True:
                with contextlib.suppress(OSError):  # a child that begins may hold the old one
                    sock = listener(self.port)  # bound: nobody else gets it, nobody listens
                    break
                await asyncio.sleep(0.001)
            await asyncio.sleep(seconds)
            await self.listen(sock)

    def stop(self):
        def finish():
            self.server.close()
            for writer in self.left_open:
                end(writer)
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_later(0.01, self.loop.stop)

        self.call(finish)
        self.thread.join()
        self.loop.close()


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy, number, device, broker):
        self.proxy = proxy
        self.number = number
        self.faults = proxy.faults_of(number)
        self.ends = {"up": (device[0], broker[1]), "down": (broker[0], device[1])}

    async def run(self):
        pumps = [asyncio.ensure_future(self.pump(direction)) for direction in self.ends]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await pump

    async def pump(self, direction):
        """Carry one direction to its end."""
        faults = self.faults
        reader, writer = self.ends[direction]
        rng = random.Random(faults.seed + direction)
        meddler = Meddler(faults, direction, rng)
        left = faults.cut.get(direction)
        if left is not None and left <= 0:
            return await self.cut(reader)
        first = True
        while data := await reader.read(4096):
            if direction == "down":
                await self.proxy.heard.wait()
                if first and faults.late:
                    await asyncio.sleep(faults.late)
                first = False
            else:
                await self.proxy.taken.wait()
            for packet in meddler.pass_on(data):
                size = 1 if faults.trickle else len(packet)
                for i in range(0, len(packet), size):
                    piece = packet[i : i + size]
                    if faults.delay:
                        await asyncio.sleep(rng.random() * faults.delay)
                    elif faults.trickle:
                        await asyncio.sleep(0)
                    if writer.is_closing():
                        return
                    # traced first, for whoever sees its effect
                    self.proxy.trace.append((self.number, direction, piece[:left]))
                    writer.write(piece[:left])
                    if left is not None:
                        left -= len(piece)
                        if left <= 0:
                            return await self.cut(reader)

    async def cut(self, reader):
        if self.faults.how == "silent":
            await drain(reader)
        elif self.faults.how == "reset":
            for _, writer in self.ends.values():
                end(writer, reset=True)


class Meddler:
    """Drops, repeats and holds back acknowledgements, and adds malformed packets."""

    def __init__(self, faults, direction, rng):
        self.faults = faults
        self.inject = faults.inject if direction == "down" else 0
        self.rng = rng
        self.active = faults.drop or faults.repeat or faults.hold or faults.inject
        self.rest = b""
        self.held = []

    def pass_on(self, data):
        if not self.active:
            return [data]
        packets, self.rest = split(self.rest + data)
        return itertools.chain.from_iterable(map(self.meddle, packets))

    def meddle(self, packet):
        faults = self.faults
        packets = [packet]
        if packet[0] >> 4 in ACKNOWLEDGEMENTS:
            luck = self.rng.random()
            if luck < faults.drop:
                return []
            luck -= faults.drop
            if luck < faults.repeat:
                packets *= 2
            elif luck - faults.repeat < faults.hold:
                self.held.append(packet)
                return []
        packets += self.held
        self.held = []
        if self.rng.random() < self.inject:
            packets.append(self.rng.choice(MALFORMED))
        return packets


def split(data):
    """The whole packets in it, and the rest."""
    packets = []
    while len(data) > 1:
        size = shift = 0
        for i in range(1, len(data)):
            size |= (data[i] & 127) << shift
            shift += 7
            if data[i] < 128:
                break
        else:
            break
        size += i + 1
        if len(data) < size:
            break
        packets.append(data[:size])
        data = data[size:]
    return packets, data


async def drain(reader):
    while await reader.read(4096):
        pass


def end(writer, reset=False):
    if reset:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


def listener(port):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock
