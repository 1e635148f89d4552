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
within its memory. So nothing here allocates, but _resume() with a message in state 6, and the
first topic that is longer than all before.
"""

from micropython import const

from .packet import MQTTError, end, integer, packet_id, remaining_length

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
        # the last PUBLISH up to its payload; if it may serve again, what for
        self._head = bytearray(64)
        self._topic = None
        self._n = -1  # bytes of payload
        self._max = 0  # len(_out) up to which there is room for another
        self._last_id = 0  # the packet identifier given last
        self._unused = 0  # how many behind it are known to be unused
        self._asked = {}  # identifier, < 0 for UNSUBSCRIBE: its subscriptions, not acknowledged
        self._sent = 0
        self._stats = {
            "retried": 0,
            "acked": 0,
            "refused": 0,
            "received": 0,
            "dropped": 0,
            "connects": 0,
        }

    def _accept(self, n, topic, payload):
        # the rest of publish(); `n` is the first byte
        self._n = -1
        pid = n & 6
        head = self._head
        head[:] = b""
        head.append(n)
        n = len(payload)
        remaining_length(head, len(topic) + n + (4 if pid else 2))
        integer(head, len(topic))
        head.extend(topic)
        if pid:
            n += 2
        self._max = self._room - len(head) - n
        if len(self._out) > self._max:
            self._find(8, 0)
            if len(self._out) > self._max:
                self._stats["refused"] += 1
                if len(head) + n > self._size:
                    raise ValueError("larger than the outbox")
                raise OutboxFull
        if pid:
            pid = self._new_id()
            integer(head, pid)
            n -= 2
        n += len(self._out) + len(head)
        self._out.extend(head)
        self._out.extend(payload)
        if len(self._out) != n:
            raise TypeError("payload")
        self._sent += 1
        self._new = True
        return pid

    def _reply(self, n, pid):
        # a packet of nothing but an identifier, for which there is room
        self._out.append(n)
        self._out.append(2)
        integer(self._out, pid)
        self._new = True

    def _find(self, n, pid):
        # Offset of the written message in state `n` with this identifier, or ~ offset of the
        # first packet that is not wholly written. Drops on the way what waits for nothing.
        out = self._out
        i = 0
        while i < self._pos:
            k = end(out, i)
            if k > self._pos:
                break
            if out[i] & 0xF0 != 0x30 or not out[i] & 6:
                out[i:k] = b""
                self._pos -= k - i
            elif out[i] & 6 == n and packet_id(out, i) == pid:
                return i
            else:
                i = k
        return ~i

    def _resume(self, session):
        # A connection is accepted: begin again, with DUP where this session has seen a message.
        # Returns the PUBRELs to start with; their messages come to stand first, as written.
        out = self._out
        written = ~self._find(8, 0)
        first = bytearray()
        i = 0
        self._pos = 0
        while i < len(out):
            k = end(out, i)
            n = out[i] & 6
            if out[i] & 0xF0 != 0x30:
                out[i:k] = b""
                continue
            if not session:
                out[i] &= 0xF5 if n == 6 else 0xF7
            elif n == 6:
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

    def _walk(self, pid):
        # how many identifiers from `pid` on no message uses; or for 0, how many messages there are
        out = self._out
        n = 65535 if pid else 0
        i = 0
        while i < len(out):
            if out[i] & 0xF0 == 0x30:
                if not pid:
                    n += 1
                elif out[i] & 6:
                    n = min(n, (packet_id(out, i) - pid) % 65535)
            i = end(out, i)
        return n

    def _new_id(self):
        # identifiers are taken in turn, past those in use; one look tells how many follow
        while not self._unused:
            pid = self._last_id % 65535 + 1
            n = self._walk(pid)
            for k in self._asked:
                n = min(n, (abs(k) - pid) % 65535)
            self._unused = n
            if not n:
                self._last_id = pid
        self._unused -= 1
        self._last_id = pid = self._last_id % 65535 + 1
        return pid

    @property
    def pending(self) -> int:
        """How many accepted messages are not done with: not written, or not acknowledged."""
        self._find(8, 0)
        return self._walk(0)

    @property
    def stats(self) -> dict:
        """Counts from the beginning: messages accepted ("sent"), sent again, acknowledged, refused
        by the outbox, received, dropped as larger than the inbox; connections."""
        self._stats["sent"] = self._sent
        return self._stats
