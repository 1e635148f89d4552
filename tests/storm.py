"""A storm: a device and a real broker with a bad link in between, and a ledger on either side."""

import contextlib
import json
import random
import signal
import socket
import threading

import ledger
from brokers import Denying, Mosquitto
from processes import Device, Peer, until
from proxy import Faults, Proxy, split
from runtimes import ROOT
from tools.size import BUILD

SCRIPT = ROOT / "tests/faults/device/storm.py"
SPEED = 50  # of the device's clock: a time-out of 10 s passes in 0.2 s
CONNECTIONS = 6  # with faults
LONGEST = 50  # ms that a poll() or publish() may take


def some_faults(seed, gentle):
    """What befalls one connection. gentle: acknowledgements are left alone, and the broker sees
    the end of a connection before the next begins."""
    rng = random.Random(seed)
    faults = Faults(seed=seed)
    kind = rng.randrange(10)
    if kind == 0:
        faults.mute = True
    elif kind == 1:
        faults.late = rng.choice((0.02, 0.4))
    elif kind == 2:
        faults.refuse = rng.random() / 4
    elif kind == 3:
        faults.trickle = True
    elif kind == 4:
        faults.delay = 0.02
    if rng.randrange(2) and not gentle:
        faults.drop, faults.repeat, faults.hold = (rng.random() / 5 for _ in range(3))
    if not rng.randrange(4):
        faults.inject = rng.random() / 10
    directions = rng.choice((("up",), ("down",), ("up", "down")))
    faults.cut = {direction: int(1.009 ** rng.randrange(900)) for direction in directions}
    faults.how = rng.choice(("close", "reset") if gentle else ("close", "reset", "silent"))
    return faults


class Source(threading.Thread):
    """Publishes numbered messages to the device until stopped; counts them at each QoS in `sent`.

    It sends so many of each at once, waits for the last one's acknowledgement, and 10 ms."""

    def __init__(self, peer, topic, sent, at_once):
        super().__init__(daemon=True)
        self.peer = peer
        self.topic = topic
        self.sent = sent
        self.at_once = at_once
        self.enough = threading.Event()
        self.start()

    def run(self):
        while not self.enough.wait(0.01):
            for last in [False] * (self.at_once - 1) + [True]:
                for qos, number in enumerate(self.sent):
                    self.sent[qos] += 1
                    with contextlib.suppress(RuntimeError):  # of QoS 0, when the broker is away
                        self.peer.publish(self.topic, ledger.payload(qos, number), qos, wait=last)

    def stop(self):
        self.enough.set()
        self.join()


def gone_back_on(trace):
    """QoS 2 messages that the broker published again although it had sent their PUBREL, which it
    must not (4.3.3). Mosquitto 2.0.11 does where a connection ends before it could repeat that."""
    rest = {}
    released = set()  # packet identifiers
    found = set()
    for connection, direction, data in trace:
        if direction == "down":
            packets, rest[connection] = split(rest.get(connection, b"") + data)
            for packet in packets:
                if packet[0] == 0x62:
                    released.add(packet[2:4])
                elif packet[0] & 0xF6 == 0x34:
                    topic = 2 + (packet[1] > 127)  # none is longer
                    start = topic + 2 + int.from_bytes(packet[topic : topic + 2], "big")
                    packet_id = packet[start : start + 2]
                    if packet[0] & 8 and packet_id in released:
                        found.add(ledger.entry(packet[start + 2 :]))
                    elif not packet[0] & 8:
                        released.discard(packet_id)
    return found


class Storm:
    """clean: in clean sessions, which lose what comes meanwhile; killed: the broker will be, and
    forgets what it had not saved; faults: of each connection; config: of the device."""

    def __init__(self, broker, seed, faults=None, clean=False, killed=False, **config):
        self.broker = broker
        self.seed = seed
        self.killed = killed
        # iotcore forgets QoS 2 handshakes with the connection, and delivers QoS 0 as QoS 1
        exact = isinstance(broker, Mosquitto)
        self.levels = 3 if exact and not killed else 2
        self.once = () if not exact else (0,) if clean else (0, 2)
        self.lossy = clean or killed
        # A broker that dies while an acknowledgement of the watch is on its way resets that
        # connection, and with it what was on its way to the watch: at QoS 0 there are none.
        self.watching = 0 if killed else self.levels - 1
        if faults is None:
            # iotcore's rumqttd panics where a connection takes over from another
            faults = [some_faults(f"{seed}/{i}", not exact) for i in range(CONNECTIONS)]
        self.proxy = Proxy(broker.port, faults)
        self.name = f"storm-{seed}"
        self.watch = Peer(broker.port, f"{self.name}-watch", clean_session=False)
        self.peer = Peer(broker.port)
        rng = random.Random(seed)
        self.config = {
            "name": self.name,
            "port": self.proxy.port,
            "clean": clean,
            "levels": self.levels,
            "seed": rng.randrange(2**30),
            "speed": SPEED,
            "outbox": rng.choice((256, 1024)),
            "wait": rng.choice((2, 10)),
            **config,
        }
        self.device = self.source = None
        self.received = [0] * self.levels  # what the device is to receive

    def run(self, during=lambda storm: None):
        """To its end, and the ledger balanced."""
        try:
            self.start()
            during(self)
            self.until(lambda: self.proxy.calm)
            self.settle()
            self.end()
        except AssertionError as error:
            faults = "\n".join(map(repr, self.proxy.faults))
            again = f"make test ARGS=\"'tests/faults/test_storms.py::test_storm[{self.seed}]'\""
            error.add_note(f"{again}\n{faults}\nlast: {self.proxy.trace[-20:]}")
            raise

    def start(self, at_once=1):
        self.watch.subscribe(f"{self.name}/out", self.watching)
        config = json.dumps(self.config)
        self.device = Device("micropython", SCRIPT, config, heap="64k", lib=BUILD)
        self.device.wait("subscribed")
        self.go_on(at_once)

    def go_on(self, at_once=1):
        self.source = Source(self.peer, f"{self.name}/in", self.received, at_once)

    def settle(self):
        """No more faults and no more messages: wait until all have arrived. What the device told
        when it had nothing left to do: the messages sent at each QoS, bytes of heap in use."""
        mark = list(self.received)  # what comes after these has arrived in calm
        self.until(lambda: all(self.latest(qos) >= mark[qos] for qos in (0, 1)))
        self.source.stop()
        settled = len(self.device.events("drained"))
        self.device.tell("enough")
        self.device.wait("drained", count=settled + 1)
        self.sent, heap = self.device.events("drained")[-1]
        until(lambda: ledger.complete(self.sent, self.arrived()))
        until(lambda: self.lossy or ledger.complete(self.received, self.got()))
        return heap

    def end(self):
        device = self.device
        device.tell("end")
        device.wait("end")
        # QoS 2 follows the order of PUBRECs (4.6), of which some were dropped or held back
        ledger.check(self.sent, self.arrived(), self.once, in_order=(0, 1))
        # A killed broker has mixed up what it still knew
        order = () if self.killed else (0, 1)
        excused = gone_back_on(self.proxy.trace)
        ledger.check(self.received, self.got(), self.once, order, self.lossy, excused)
        assert not device.events("stray")
        assert bool(device.events("refused")) == isinstance(self.broker, Denying)
        assert device.finish() == 0
        self.longest = device.events("end")[0][0] / 1000
        assert self.longest < LONGEST, f"poll() or publish() took {self.longest} ms"

    def until(self, done):
        self.device.log.wait(lambda entries: None in entries or done())
        assert done(), f"the device ended: {self.device.log.entries[-9:]}"

    def arrived(self):
        return [ledger.entry(message[1]) for message in self.watch.messages]

    def got(self):
        return [tuple(event) for event in self.device.events("got")]

    def latest(self, qos):
        """The number that the device got at last, of the last hundred events; -1 for none."""
        events = [event for event in self.device.log.entries[-100:] if event[:2] == ["got", qos]]
        return events[-1][2] if events else -1

    def progress(self):
        """Wait until the device has received something more at QoS 1."""
        before = self.latest(1)
        self.until(lambda: self.latest(1) > before)

    # What happens meanwhile

    def take_over(self):
        """Another client takes the device's identifier, and the session with it."""
        connect = b"\x10%c\0\4MQTT\4\0\0\x3c\0%c%s" % (
            12 + len(self.name),
            len(self.name),
            self.name.encode(),
        )
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", self.broker.port)) as sock:
                sock.sendall(connect)
                assert sock.recv(4)[:2] == b"\x20\2"
            self.progress()

    def kill(self):
        """The broker is killed and started again."""
        for _ in range(2):
            self.progress()
            self.proxy.target = None
            back = len(self.watch.connections.entries)
            self.broker.kill(signal.SIGKILL)
            self.broker.start()
            self.watch.connections.wait(lambda entries: len(entries) > back)  # noqa: B023
            self.watch.subscribe(f"{self.name}/out", self.watching)
            self.proxy.target = self.broker.port

    def stop(self):
        if self.source:
            self.source.stop()
        if self.device:
            self.device.stop()
        self.watch.stop()
        self.peer.stop()
        self.proxy.stop()
