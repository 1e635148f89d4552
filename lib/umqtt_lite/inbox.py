"""One preallocated bytearray in which incoming packets are put together, one after the other.

    fixed header   -> _first (type and flags), _left (remaining length)
    the rest       -> _in      | topic length | topic | packet identifier (QoS 1, 2) | payload |
                      of other packets        | packet identifier | ...

The bytes of a packet are read straight into place. As readinto() cannot start in the middle of a
buffer, those of a packet that comes in pieces go by way of _chunk, which takes on the length of
each piece (a bytearray shrinks and grows within its memory). Of a PUBLISH larger than _in there
remain the start of the topic and, in the last two bytes, the packet identifier.

Reading allocates nothing. Two memoryviews show topic and payload; they are made anew when a
message has another shape than the last.
"""

from .packet import ProtocolError, is_plain

_BLANK = bytes(64)


def one(buf):
    """Stands for readinto() where poll() has to go on with what it has."""
    return 1


class Inbox:
    """The incoming side of MQTTClient."""

    def __init__(self, n):
        self._in = bytearray(n)
        self._view = memoryview(self._in)
        self._chunk = bytearray(_BLANK)
        self._byte = bytearray(1)
        # of the stream: for the header, one byte a poll(), it is _read too, which is `one` else
        self._readinto = self._read = one
        # 0: a packet begins; 7, 14...: the remaining length comes, 7 bits each; < 0: the rest
        self._shift = 0
        self._first = self._left = 0
        self._fill = 0  # bytes of the rest that came
        self._name = self._payload = self._view[:0]
        self._start = 0  # of the payload

    def _take(self, n):
        # Go on with a packet; in the header `n` bytes were read into _byte. True when it is
        # complete, False when some of it came, None when nothing did.
        while n and self._shift >= 0:
            self._header(self._byte[0], self._shift)
            if self._shift >= 0:
                n = self._readinto(self._byte)
        if n:
            self._read = one
            left = self._left - self._fill
            if left:
                if self._left > len(self._in):
                    n = self._skip(left, len(self._in) - 2)
                elif self._fill:
                    n = self._piece(left)
                else:
                    n = self._readinto(self._in, left)
                if n:
                    self._fill += n
                    if n < left:
                        return False
        if n == 0:
            raise OSError("closed by the broker")
        return n

    def _header(self, b, shift):
        self._shift = shift + 7
        if not shift:
            self._first = b
            self._left = self._fill = 0
            if b not in b" 012345:;<=@Pbp\x90\xb0\xd0":
                raise ProtocolError("type or flags", b)
            return
        self._left |= (b & 127) << shift - 7
        n = self._left
        if b < 128:
            self._shift = -1
            b = self._first
            if n > 2 if b == 0x90 or b & 0xF0 == 0x30 else n == (b != 0xD0) * 2:
                return
        elif shift < 28:
            return
        raise ProtocolError("remaining length", n)

    def _piece(self, n):
        chunk = self._chunk
        n = self._readinto(chunk, min(n, len(chunk)))
        if n:
            chunk[n:] = b""
            self._in[self._fill : self._fill + n] = chunk
            chunk[:] = _BLANK
        return n

    def _skip(self, n, i):
        # of a PUBLISH that is too large; `i` is the place of the packet identifier
        box = self._in
        k = 2 + (box[0] << 8 | box[1]) if self._fill > 1 else 2
        if self._fill < k and self._fill < i:
            return self._piece(min(k, i) - self._fill)
        chunk = self._chunk
        n = self._readinto(chunk, min(n, len(chunk)))
        k -= self._fill
        if n and k < n:
            if k >= 0:
                box[i] = chunk[k]
            if -1 <= k < n - 1:
                box[i + 1] = chunk[k + 1]
        return n

    def _id(self, i):
        # the packet identifier, at `i`
        i = self._in[i] << 8 | self._in[i + 1]
        if not i:
            raise ProtocolError("packet identifier", i)
        return i

    def _look(self, box):
        # set _name and _payload for a PUBLISH; its packet identifier, 0 at QoS 0
        end = 2 + (box[0] << 8 | box[1])
        i = end + 2 if self._first & 6 else end
        k = len(box) - 2
        if self._left <= len(box):
            k = end
        n = min(end, k)
        if len(self._name) != n - 2:
            self._name = self._view[2:n]
        if not 2 < end <= i <= self._left or n == end and not is_plain(self._name):
            raise ProtocolError("topic", bytes(self._name))
        if self._start != i or len(self._payload) != self._left - i:
            self._start = i
            self._payload = self._view[i : self._left]
        return self._id(k) if self._first & 6 else 0
