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

from micropython import const

from .packet import MQTTError, check_topic, end, integer, packet_id, remaining_length, string, text

_RESERVE = const(12)  # for what must always fit: a reply, PINGREQ and DISCONNECT


class OutboxFull(MQTTError):
    """The message was not accepted. Publish it again when poll() has made room."""


def none(buf, i, n):
    """Stands for write() where there is no connection."""


class Outbox:
    """The outgoing side of MQTTClient."""

    def __init__(self, n):
        self._size = self._room = n - _RESERVE  # _room: less while a SUBSCRIBE waits for it
        self._out = bytearray(n)
        self._out[:] = b""
        self._pos = 0
        self._new = False  # there is something to be written
        self._write = none
        # While _n >= 0, nothing is here but a QoS 0 PUBLISH to _topic with _n bytes of payload, to
        # be written or written. Written, it is the template of the next: _head + _n = _all bytes
        self._n = self._all = -1
        self._head = 0
        self._topic = None
        self._id = 0  # the packet identifier given last
        self._asked = {}  # packet identifier: subscriptions that wait for an acknowledgement
        self._sent = self._done = 0  # messages accepted, and done with
        self._stats = {}
        for k in "retried", "acknowledged", "refused", "received", "dropped", "connects":
            self._stats[k] = 0

    def _accept(self, topic, payload, flags):
        # publish() in full
        if topic is not self._topic:
            topic = check_topic(topic)
        if flags >> 1 not in (0, 1, 2):
            raise ValueError("qos")
        payload = text(payload)
        n = len(topic) + len(payload) + (4 if flags > 1 else 2)
        size = n + (2 if n < 128 else 3 if n < 16384 else 4)
        out = self._out
        self._settle()
        if len(out) + size > self._room:
            self._find(8, 0)
            if len(out) + size > self._room:
                self._stats["refused"] += 1
                raise ValueError("outbox") if size > self._size else OutboxFull
        self._topic = topic if isinstance(topic, bytes) else None
        pid = self._new_id() if flags > 1 else 0
        start = len(out)
        out.append(0x30 | flags)
        remaining_length(out, n)
        string(out, topic)
        if pid:
            integer(out, pid)
        self._head = len(out)
        out.extend(payload)
        if len(out) != start + size:
            out[start:] = b""
            raise TypeError("payload: items of more than a byte")
        if not start and not flags:
            self._n = len(payload)
            self._all = size
            self._pos = 0
        self._sent += 1
        self._new = True
        return pid

    def _settle(self):
        # no template any more
        if self._n >= 0:
            self._n = self._all = -1
            self._done = self._sent - self._new
            if not self._new:
                self._out[:] = b""

    def _add(self, first, n):
        # a packet of nothing but `n`, for which there is room
        self._settle()
        self._out.append(first)
        self._out.append(2)
        integer(self._out, n)
        self._new = True

    def _find(self, state, pid):
        # Offset of the written message in this state with this identifier, or ~ offset of the
        # first packet that is not wholly written. Drops on the way what waits for nothing.
        self._settle()
        out = self._out
        i = 0
        while i < self._pos:
            k = end(out, i)
            if k > self._pos:
                break
            n = out[i]
            if n & 0xF0 == 0x30 and n & 6:
                if n & 6 == state and packet_id(out, i) == pid:
                    return i
                i = k
            else:
                self._drop(i, k)
        return ~i

    def _drop(self, i, k):
        if self._out[i] & 0xF0 == 0x30:
            self._done += 1
        self._out[i:k] = b""
        self._pos -= k - i

    def _resume(self, session):
        # A connection is accepted: begin again, with DUP where this session has seen a message.
        # Returns the PUBRELs to start with; their messages come to stand first, as written.
        written = ~self._find(8, 0)
        out = self._out
        first = bytearray()
        i = self._pos = 0
        while i < len(out):
            k = end(out, i)
            n = out[i]
            if n & 0xF0 != 0x30:
                out[i:k] = b""
                continue
            if not session:
                out[i] = n & (0xF5 if n & 6 == 6 else 0xF7)
            elif n & 6 == 6:
                first.extend(b"b\2")
                integer(first, packet_id(out, i))
                n = out[i:k]
                out[i:k] = b""
                out[self._pos : self._pos] = n
                self._pos += k - i
            elif i < written:
                out[i] |= 8
                self._stats["retried"] += 1
            i = k
        self._new = self._pos < i
        return first

    def _new_id(self):
        # taken in turn, past those in use
        out = self._out
        while True:
            self._id = pid = self._id % 65535 + 1
            i = 0
            while i < len(out) and (
                out[i] & 0xF0 != 0x30 or not out[i] & 6 or packet_id(out, i) != pid
            ):
                i = end(out, i)
            if i == len(out) and pid not in self._asked:
                return pid
