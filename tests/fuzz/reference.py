"""MQTT 3.1.1 as the specification has it, slow and simple: what a client must make of the bytes of
its broker, and what it may send itself. Shares nothing with the library."""

import binascii
from dataclasses import dataclass

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14
CONNECT = 1

ANY = range(3, 1 << 28)
PUBLISHES = {0x30 | bits: ANY for bits in range(16) if bits & 6 != 6 and bits & 14 != 8}
# The first bytes that a broker may send, and what may follow: lengths
FROM_BROKER = PUBLISHES | {
    0x20: (2,),
    0x40: (2,),
    0x50: (2,),
    0x62: (2,),
    0x70: (2,),
    0x90: ANY,
    0xB0: (2,),
    0xD0: (0,),
}
FROM_CLIENT = PUBLISHES | {
    0x10: ANY,
    0x40: (2,),
    0x50: (2,),
    0x62: (2,),
    0x70: (2,),
    0x82: ANY,
    0xA2: ANY,
    0xC0: (0,),
    0xE0: (0,),
}
LEAST = 16  # bytes of a piece (its README)
UNTOLD = 10000  # the offset from which the device tells of the last piece only
MOST = 32  # QoS 2 messages that the client can keep apart (its README)
STUCK = "stuck"  # after more than that, and a PUBREL for each of these: to get them again


class Malformed(Exception):
    pass


def integer(n):
    return n.to_bytes(2, "big")


def number(data):
    """A packet identifier."""
    n = int.from_bytes(data[:2], "big")
    if not n:
        raise Malformed("packet identifier 0")
    return n


def string(data):
    return integer(len(data)) + data


def frame(first, *parts):
    """A packet: its first byte, the remaining length, the parts."""
    body = b"".join(parts)
    head, n = bytearray([first]), len(body)
    while n > 127:
        head.append(n % 128 + 128)
        n //= 128
    head.append(n)
    return bytes(head) + body


def check_topic(data):
    try:
        topic = data.decode()
    except UnicodeDecodeError:
        raise Malformed("topic: UTF-8") from None
    if not topic or set(topic) & set("\0#+"):
        raise Malformed("topic")
    return topic


def match(topic_filter, topic):
    if topic[0] == "$" != topic_filter[0]:
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(
        w in ("+", level) for w, level in zip(wanted, levels, strict=True)
    )


class Splitter:
    """Cuts a stream of bytes into packets."""

    def __init__(self, headers):
        self.headers = headers
        self.data = bytearray()
        self.missing = 0  # bytes of the packet that has begun, as far as one can tell

    def feed(self, data):
        self.data += data
        while self.data:
            size, at = self.header()
            self.missing = at + size - len(self.data)
            if self.missing > 0:
                return
            packet = self.data[0], bytes(self.data[at : at + size])
            del self.data[: at + size]
            self.missing = 0
            yield packet

    def header(self):
        data = self.data
        if data[0] not in self.headers:
            raise Malformed(f"first byte {data[0]:02x}")
        size = 0
        for i in range(1, 5):
            if i == len(data):
                return 1, i
            size += (data[i] & 127) << 7 * (i - 1)
            if data[i] < 128:
                if size not in self.headers[data[0]]:
                    raise Malformed(f"length {size} of {data[0]:02x}")
                return size, i + 1
        raise Malformed("remaining length")


@dataclass
class Event:
    """What a packet of the broker has to lead to."""

    lines: list  # that the device tells
    came: int = 0  # identifier of a QoS 2 message that is new
    released: int = 0  # that has its PUBREL


class Inward:
    """What a client must make of its broker's bytes, over all connections."""

    def __init__(self, inbox, filters, pieces=()):
        self.inbox = inbox
        self.filters = filters
        self.pieces = pieces  # indices of the filters that take pieces
        self.ids = set()  # of QoS 2 messages that wait for their PUBREL
        self.doubtful = set()  # those of them whose PUBREL may have come
        self.connect(Outward(b"", ()))

    def connect(self, outward):
        self.outward = outward
        self.stream = Splitter(FROM_BROKER)
        self.accepted = None  # the session present flag
        self.refused = False
        self.error = None  # why the client has to give up
        self.may = False  # ... and this is up to it
        self.deaf = False  # for QoS 2 messages: there were too many
        self.events = []
        self.lines = []  # of these
        self.shown = 0  # bytes of a message's payload, piece by piece
        self.replies = []
        self.before = set(self.ids), set(self.doubtful)

    def feed(self, data):
        if not self.error:
            try:
                for first, body in self.stream.feed(data):
                    self.packet(first, body)
                    self.shown = 0
                if self.stream.data:
                    size, at = self.stream.header()
                    self.part(self.stream.data[0], bytes(self.stream.data[at:]), size)
            except Malformed as error:
                self.error = str(error)

    def happen(self, lines, **what):
        self.events.append(Event(lines, **what))
        self.lines += lines

    def forget(self):
        """The client did not get to know of its CONNACK."""
        self.ids, self.doubtful = self.before

    def end(self, told):
        """The connection has ended; the client told so many lines of it, or all (None)."""
        ids, doubtful = self.before if self.accepted else (set(), set())
        certain = len(self.events)
        if told is not None:
            lines = len(self.lines)
            while certain and lines > told:
                certain -= 1
                lines -= len(self.events[certain].lines)
            while certain and not self.events[certain - 1].lines:
                certain -= 1
        for event in self.events[:certain]:
            ids |= {event.came}
            ids -= {0, event.released}
            doubtful -= {event.came, event.released}
        self.doubtful = doubtful | (ids & {event.released for event in self.events[certain:]})
        self.ids = ids

    def packet(self, first, body):
        kind = first >> 4
        if (kind == CONNACK) == (self.accepted is not None):
            raise Malformed("second CONNACK, or none")
        if kind == CONNACK:
            if body[0] > 1 or body[1] > 5:
                raise Malformed("CONNACK")
            if body[1]:
                self.refused = True
                raise Malformed("refused")
            self.accepted = body[0]
            if not body[0]:
                self.ids = set()
                self.doubtful = set()
            self.outward.accepted(body[0])
        elif kind == PUBLISH:
            self.publish(first, body)
        elif kind == SUBACK:
            pid, codes = number(body), body[2:]
            if len(body) > self.inbox:  # more than was ever asked for
                self.may = True
            elif codes.strip(b"\0\1\2\x80"):
                raise Malformed("SUBACK: codes")
            else:
                self.suback(pid, len(codes))
        elif kind != PINGRESP:
            pid = number(body)
            if kind == PUBREL:
                self.happen([], released=pid)
                self.doubtful.discard(pid)
                if pid in self.ids:
                    self.ids.remove(pid)
                    if self.deaf and not self.ids:
                        raise Malformed(STUCK)
                self.replies.append(frame(0x70, integer(pid)))
            else:
                self.outward.told(kind, pid)

    def suback(self, pid, count):
        kind, wanted = self.outward.requests.get(pid, (None, None))
        if kind is None:  # it may just be on its way
            self.may = True
        elif kind == SUBSCRIBE:
            if count != wanted:
                raise Malformed("SUBACK: number of codes")
            self.outward.told(SUBACK, pid)

    def publish(self, first, body):
        qos = first >> 1 & 3
        size = int.from_bytes(body[:2], "big")
        at = 2 + size + 2 * bool(qos)
        if not size or at > len(body):
            raise Malformed("PUBLISH: topic length")
        topic, payload = body[2 : 2 + size], body[at:]
        fits = len(body) <= self.inbox
        if fits or size <= self.inbox - 4:  # the topic is there as a whole
            name = check_topic(topic)
        pid = number(body[2 + size :]) if qos else 0
        new = qos < 2 or pid not in self.ids
        in_pieces = self.part(first, body, len(body))
        if qos == 2 and new:
            self.deaf |= len(self.ids) == MOST
            if self.deaf:
                return
            self.ids.add(pid)
        lines = []
        if new and fits:
            crc = binascii.crc32(payload, binascii.crc32(topic))
            takers = [i for i, f in enumerate(self.filters) if match(f, name)]
            lines = [
                f"p {i} {crc} 0 {len(payload)} {first & 1}"
                if i in self.pieces
                else f"m {i} {crc} {first & 1}"
                for i in takers or "-"
            ]
        elif new and not in_pieces:
            lines = [f"s {binascii.crc32(topic[: self.inbox - 4])} {len(payload)}"]
        self.happen(lines, came=pid if qos == 2 and new else 0)
        if qos:
            self.replies.append(frame(0x30 + 0x10 * qos, integer(pid)))

    def part(self, first, body, whole):
        """What has come of a packet of that length: pieces, if it is a message for these. Whether
        it is."""
        at = 2 + int.from_bytes(body[:2], "big")
        room = self.inbox - at - 2
        if first >> 4 != PUBLISH or whole <= self.inbox or len(body) < at or at == 2:
            return False
        topic = body[2:at]
        end = at + 2 * bool(first & 6)
        total = whole - end
        # as bytes: it is not checked yet
        takers = [i for i in self.pieces if match(raw(self.filters[i].encode()), raw(topic))]
        if room < LEAST or not takers or not total:
            return False
        while True:
            size = min(room, left := total - self.shown)
            begin = end + self.shown
            if self.shown >= UNTOLD and left > room:  # all but the last in one
                size *= max(1, min(left - 1, len(body) - begin) // room)
            if not size or len(body) < begin + size:
                return True
            if self.accepted is None:
                raise Malformed("no CONNACK")
            check_topic(topic)
            pid = number(body[at:]) if first & 6 else 0
            if first & 4 and (pid in self.ids or self.deaf or len(self.ids) == MOST):
                return True
            if not self.shown:
                self.crc = binascii.crc32(topic)
            self.crc = binascii.crc32(body[begin : begin + size], self.crc)
            if self.shown < UNTOLD or self.shown + size == total:
                line = f"{self.crc} {self.shown} {total} {first & 1}"
                self.happen([f"p {i} {line}" for i in takers])
            self.shown += size


def raw(data):
    return data.decode("latin-1")


@dataclass
class Flight:
    """A message of the client that is not acknowledged."""

    key: object
    qos: int
    released: bool  # it is, but the client may not know
    owed: bool = True  # the broker has not answered what came last of it


class Outward:
    """Checks what the client sends, over all connections."""

    def __init__(self, connect, filters):
        self.connect_packet = connect
        self.filters = filters
        self.flight = {}
        self.recs = set()  # identifiers that the broker sent a PUBREC for
        self.blind = set()  # ... or an acknowledgement, for nothing
        self.blinds = 0
        self.lossy = False  # what the client wrote in this session may be lost
        self.seen = [set(), set(), set()]
        self.first = [-1, -1, -1]  # the last number that came for the first time
        self.nonces = set()

    def connect(self, inward):
        self.inward = inward
        self.stream = Splitter(FROM_CLIENT)
        self.greeted = self.ended = False
        self.replied = 0
        self.published = set()  # identifiers of messages that came in this connection
        self.early = set()  # those that were sent a PUBREC before that: it is for nothing
        self.released = set()  # PUBREL came in this connection, and is not for nothing
        self.requests = {}  # identifier: (SUBSCRIBE or UNSUBSCRIBE, filters)
        self.asked = 0
        self.packets = []  # that are new, for the broker to answer
        self.before = None

    def accepted(self, present):
        if not present:
            self.before = self.flight, self.recs, self.blind, self.lossy
            self.flight, self.recs, self.blind, self.lossy = {}, set(), set(), False

    def end(self, known, lossy):
        """The connection has ended; whether the client knew of its CONNACK."""
        if self.before and not known:
            self.flight, self.recs, self.blind, self.lossy = self.before
        self.lossy |= lossy

    def told(self, kind, pid):
        """The broker sends an acknowledgement."""
        if kind in (SUBACK, UNSUBACK):
            asked = self.requests.get(pid, (None,))[0]
            if asked == kind - 1:
                del self.requests[pid]
            return
        message = self.flight.get(pid)
        if kind == PUBREC:
            self.recs.add(pid)
            if pid not in self.published:
                self.early.add(pid)
        if not message:
            self.blind.add(pid)
            self.blinds += 1
        elif kind == (PUBACK if message.qos == 1 else PUBCOMP):
            message.released = True
            message.owed = message.qos == 2 and pid not in self.released

    def feed(self, data):
        for first, body in self.stream.feed(data):
            self.packet(first, body)
            self.packets.append((first, body))

    def packet(self, first, body):
        kind = first >> 4
        if self.ended:
            raise Malformed("something after DISCONNECT")
        if not self.greeted:
            if frame(first, body) != self.connect_packet:
                raise Malformed(f"CONNECT: {first:02x} {body.hex()}")
            self.greeted = True
        elif self.inward.accepted is None:
            raise Malformed("something before CONNACK")
        elif kind == CONNECT:
            raise Malformed("a second CONNECT")
        elif kind == PUBLISH:
            self.publish(first, body)
        elif kind in (PUBACK, PUBREC, PUBCOMP):
            due = self.inward.replies[self.replied : self.replied + 1]
            if due != [frame(first, body)]:
                raise Malformed(f"{first:02x} {body.hex()} instead of {[d.hex() for d in due]}")
            self.replied += 1
        elif kind == PUBREL:
            pid = number(body)
            if pid not in self.recs:
                raise Malformed("PUBREL without PUBREC")
            if pid not in self.early:
                self.released.add(pid)
            if pid in self.flight:
                self.flight[pid].owed = True
        elif kind in (SUBSCRIBE, UNSUBSCRIBE):
            self.request(kind, body)
        elif kind == DISCONNECT:
            self.ended = True

    def use(self, pid):
        message = self.flight.get(pid)
        if message and not message.released or pid in self.requests:
            raise Malformed(f"identifier {pid} is in use")

    def request(self, kind, body):
        pid = number(body)
        self.use(pid)
        count, at = 0, 2
        while at < len(body):
            size = int.from_bytes(body[at : at + 2], "big")
            name = body[at + 2 : at + 2 + size].decode()
            at += 2 + size
            if name not in self.filters:
                raise Malformed(f"filter {name!r}")
            if kind == SUBSCRIBE:
                if body[at] > 2:
                    raise Malformed("QoS of a subscription")
                at += 1
            count += 1
        if at != len(body) or not count:
            raise Malformed("length of a request")
        self.requests[pid] = kind, count
        self.asked += 1

    def publish(self, first, body):
        qos, dup, retain = first >> 1 & 3, first & 8, first & 1
        size = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + size]
        at = 2 + size + 2 * bool(qos)
        payload = body[at:]
        if retain or topic not in (b"out", b"nonce"):
            raise Malformed(f"PUBLISH to {topic}, first byte {first:02x}")
        key = payload
        if topic == b"out":
            level, n = map(int, payload.split(b" ")[:2])
            if level != qos or payload != b"%d %d " % (qos, n) + b"." * (n * 37 % 90):
                raise Malformed(f"PUBLISH of {payload}")
            key = qos, n
            self.number(qos, n)
        if not qos:
            return
        pid = number(body[2 + size :])
        self.published.add(pid)
        message = self.flight.get(pid)
        if message and message.key == key:
            if not dup and not message.released:
                raise Malformed(f"{key} comes again without DUP")
            if pid in self.released:
                raise Malformed(f"{key} comes again after its PUBREL")
            message.owed = True
            return
        self.use(pid)
        if dup and not self.lossy:
            raise Malformed(f"{key} has DUP, but never came")
        self.flight[pid] = Flight(key, qos, pid in self.blind)
        self.blind.discard(pid)

    def number(self, qos, n):
        new = n not in self.seen[qos]
        self.seen[qos].add(n)
        if not new:
            if not qos:
                raise Malformed(f"QoS 0 twice: {n}")
        elif n < self.first[qos] and not self.blinds:
            raise Malformed(f"QoS {qos}: {n} after {self.first[qos]}")
        else:
            self.first[qos] = max(n, self.first[qos])
