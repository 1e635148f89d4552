"""One preallocated bytearray that holds every outgoing packet until it is done with.

    | PUBLISH | PINGREQ | PUBLISH | PUBACK | PUBLISH |  free  |  reserve  |
    |<-        written        ->|<-  to be written ->|        |           |
    0                           _pos                 len      _size

Packets stand in it as they go over the wire, in the order of their acceptance, and nothing is
noted down beside them. The QoS bits of a PUBLISH say what it waits for:

    0  to be written, as a packet of any other type
    2  PUBACK (QoS 1)
    4  PUBREC (QoS 2)
    6  PUBCOMP: PUBREC has come. Never on the wire; should the session be lost, it is 4 again

What is written and waits for nothing is dropped when room is needed or an acknowledgement looks
for its message. That closes the gap: a bytearray that was `size` long once shrinks and grows
within its memory. So nothing here allocates, but _resume() with a message in state 6.
"""

from .packet import MQTTError, check_topic, end, packet_id, remaining_length, string, text, u16


class OutboxFull(MQTTError):
    """The message was not accepted. Publish it again when poll() has made room."""


class Outbox:
    """The outgoing side of MQTTClient."""

    def __init__(self, n):
        # without the reserve for what must always fit: a reply, PINGREQ and DISCONNECT.
        # _room: less while a SUBSCRIBE waits for it
        self._size = self._room = n - 12
        self._out = out = bytearray(n)
        out[:] = b""
        self._new = False  # there is something to be written
        # While _n >= 0, nothing is here but a QoS 0 PUBLISH to _topic, _n bytes with the payload
        # behind _head, to be written or written. Written, it is the template of the next
        self._n = -1
        self._topic = None
        self._asked = {}  # packet identifier: subscriptions that wait for an acknowledgement
        # _id: the packet identifier given last; _sent, _done: messages accepted, and done with;
        # _balks: connections in a row that ended after PUBRELs, without any PUBCOMP
        self._pos = self._head = self._id = self._sent = self._done = self._balks = 0
        self._stats = {
            "retried": 0,
            "acknowledged": 0,
            "refused": 0,
            "received": 0,
            "dropped": 0,
            "connects": 0,
        }

    # Not properties: with one in its class, MicroPython takes ten times as long for every store of
    # an attribute.
    def __getattr__(self, name):
        if name == "stats":
            self._stats["sent"] = self._sent
            return self._stats
        if name == "connected":
            return self.up
        if name != "pending":
            raise AttributeError(name)
        if self._n >= 0:
            return int(self._new)
        self._find(8, 0)
        return self._sent - self._done

    def _put(self, topic, payload, flags):
        # publish() in full
        if topic is not self._topic:
            topic = check_topic(topic)
        if flags // 6:
            raise ValueError("qos")
        payload = text(payload)
        self._settle()
        out = self._out
        n = len(topic) + len(payload) + 9  # what it takes at most
        if len(out) + n > self._room:
            self._find(8, 0)
            if len(out) + n > self._room:
                self._stats["refused"] += 1
                raise ValueError("outbox") if n > self._size else OutboxFull
        if flags > 1:
            n += 2
            self._new_id()
        start = len(out)
        out.append(flags | 0x30)
        remaining_length(out, n - 7)
        string(out, topic)
        if flags > 1:
            u16(out, self._id)
        self._head = len(out)
        out.extend(payload)
        if end(out, start) != len(out):  # a memoryview of larger items
            out[start:] = b""
            raise TypeError("payload")
        self._topic = topic if isinstance(topic, bytes) else None
        if not (start or flags):
            self._n = len(out)
        self._sent += 1
        self._new = True
        return flags // 2 and self._id

    def _settle(self):
        # no template any more
        if self._n >= 0:
            self._n = -1
            self._done = self._sent - self._new
            if not self._new:
                self._out[:] = b""

    def _add(self, flags, n):
        # a packet of nothing but `n`, for which there is room
        self._settle()
        out = self._out
        out.append(flags)
        out.append(2)
        u16(out, n)
        self._new = True

    def _find(self, qos, id):
        # Offset of the written message with these QoS bits and identifier, or ~ offset of the
        # first packet that is not wholly written. Drops on the way what waits for nothing.
        self._settle()
        out = self._out
        i = 0
        while i < self._pos:
            k = end(out, i)
            if k > self._pos:
                break
            n = packet_id(out, i)
            if not n:
                if out[i] < 0x40:  # PUBLISH
                    self._done += 1
                out[i:k] = b""
                self._pos -= k - i
            elif n == id and out[i] & 6 == qos:
                return i
            else:
                i = k
        return ~i

    def _resume(self, kept):
        # A connection is accepted: begin again, with DUP if the broker kept the session.
        # Returns the PUBRELs to start with; their messages come to stand first, as written. For a
        # broker that keeps on balking at these (rumqttd forgets its PUBRECs) it is PUBLISH again.
        written = ~self._find(8, 0)
        out = self._out
        first = bytearray()
        i = self._pos = 0
        while i < len(out):
            k = end(out, i)
            n = out[i]
            if n >= 0x40:  # not PUBLISH
                out[i:k] = b""
                continue
            if n & 6 == 6 and (self._balks > 14 or not kept):
                n &= 0x35
            if not kept:
                n &= 0x37
            elif i < written:
                n |= 8
                self._stats["retried"] += 1
            out[i] = n
            if n & 6 == 6:
                first.extend(b"b\2")
                u16(first, packet_id(out, i))
                message = out[i:k]
                out[i:k] = b""
                out[self._pos : self._pos] = message
                self._pos += k - i
            i = k
        self._new = self._pos < i
        self._balks = self._balks + 1 if first else 0
        return first

    def _new_id(self):
        # taken in turn, past those in use
        out = self._out
        while True:
            self._id = n = self._id % 65535 + 1
            i = 0
            while i < len(out) and packet_id(out, i) != n:
                i = end(out, i)
            if i == len(out) and n not in self._asked:
                return n
