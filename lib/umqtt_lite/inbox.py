"""One preallocated buffer in which incoming packets are put together, one after the other.

    fixed header   -> first (type and flags), size (remaining length)
    the rest       -> buf      | topic length | topic | packet identifier (QoS 1, 2) | payload |
                      of other packets        | packet identifier | ...

The bytes of a packet are read straight into place. As readinto() cannot start in the middle of a
buffer, those of a packet that comes in pieces go by way of chunk, which takes on the length of
each piece (a bytearray shrinks and grows within its memory). Of a PUBLISH larger than buf there
remain the start of the topic and, in the last two bytes, the packet identifier.

Reading allocates nothing. Two memoryviews show topic and payload; they are made anew when a
message has another shape than the last.
"""

from .packet import ProtocolError, is_plain

_BLANK = bytes(64)


class Inbox:
    def __init__(self, n):
        self.buf = memoryview(bytearray(n))
        self.chunk = bytearray(_BLANK)
        # 0: a packet begins; 7, 14...: the remaining length comes, 7 bits each; < 0: the rest
        self.shift = self.first = self.size = 0
        self.fill = 0  # bytes of the rest that came
        self.topic = self.payload = self.buf[:0]
        self.start = 0  # of the payload
        self.ids = None  # of QoS 2 messages that were handed over and wait for their PUBREL

    def take(self, n, readinto, byte):
        """Go on with a packet; in the header `n` bytes were read into `byte`.

        True when it is complete, False when some of it came, None when nothing did.
        """
        while n and self.shift >= 0:
            self._header(byte[0], self.shift)
            if self.shift >= 0:
                n = readinto(byte)
        left = self.size - self.fill
        if n and left:
            n = self._rest(left, readinto)
            if n:
                self.fill += n
                return n == left
        if n == 0:
            raise OSError("closed by the broker")
        return n

    def _header(self, b, shift):
        self.shift = shift + 7
        if not shift:
            self.first = b
            self.size = self.fill = 0
            if b not in b" 012345:;<=@Pbp\x90\xb0\xd0":
                raise ProtocolError("type or flags", b)
            return
        self.size |= (b & 127) << shift - 7
        if b < 128:
            self.shift = -1
            b = self.first
            if self.size > 2 if b & 0xF0 == 0x30 or b == 0x90 else self.size == 2 * (b != 0xD0):
                return
        elif shift < 28:
            return
        raise ProtocolError("remaining length", self.size)

    def _rest(self, n, readinto):
        buf = self.buf
        fill = self.fill
        chunk = self.chunk
        if self.size > len(buf):
            # of a PUBLISH that is too large, the topic first
            i = len(buf) - 2
            k = 2 - fill
            if fill > 1:
                k += buf[0] << 8 | buf[1]
            if k > 0 and fill < i:
                n = min(k, i - fill)
            else:
                n = readinto(chunk, min(n, 64))
                if n and k < n:  # the packet identifier is in it, or half of it
                    if k >= 0:
                        buf[i] = chunk[k]
                    if -1 <= k < n - 1:
                        buf[i + 1] = chunk[k + 1]
                return n
        if not fill:
            return readinto(buf, n)
        n = readinto(chunk, min(n, 64))
        if n:
            chunk[n:] = b""
            buf[fill : fill + n] = chunk
            chunk[:] = _BLANK
        return n

    def packet_id(self, i):
        """The packet identifier, at `i`. ProtocolError if it is 0."""
        i = self.buf[i] << 8 | self.buf[i + 1]
        if not i:
            raise ProtocolError("packet identifier", i)
        return i

    def look(self):
        """Set topic and payload for a PUBLISH. The packet identifier, 0 at QoS 0."""
        buf = self.buf
        k = end = 2 + (buf[0] << 8 | buf[1])
        i = end + 2 if self.first & 6 else end
        if self.size > len(buf):
            k = len(buf) - 2
        n = min(end, k)
        if len(self.topic) != n - 2:
            self.topic = buf[2:n]
        if end < 3 or i > self.size or n == end and not is_plain(self.topic):
            raise ProtocolError("topic", bytes(self.topic))
        if self.start != i or len(self.payload) != self.size - i:
            self.start = i
            self.payload = buf[i : self.size]
        return self.packet_id(k) if i > end else 0
