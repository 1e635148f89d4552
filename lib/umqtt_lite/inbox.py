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
        # 0: a packet begins; 7, 14...: the remaining length comes, 7 bits each; < 0: ~ of the
        # bytes that are still to come
        self.shift = self.first = self.size = 0
        self.topic = self.payload = self.buf[:0]
        self.start = 0  # of the payload, or ~ of where it would be
        self.ids = None  # of QoS 2 messages that were handed over and wait for their PUBREL

    def take(self, n, readinto, byte):
        """Go on with a packet; in the header `n` bytes were read into `byte`.

        True when it is complete, False when some of it came, None when nothing did.
        """
        while n and self.shift >= 0:
            b = byte[0]
            shift = self.shift
            self.shift = shift + 7
            if not shift:
                self.first = b
                self.size = 0
                if b not in b" 012345:;<=@Pbp\x90\xb0\xd0":
                    raise ProtocolError("type or flags", b)
            else:
                self.size |= (b & 127) << shift - 7
                if b < 128:
                    self.shift = ~self.size
                    b = self.first
                    # PUBLISH and SUBACK have more than an identifier, PINGRESP has not even that
                    if self.size < 3 if b >> 4 in b"\3\t" else self.size != 2 * (b < 0xD0):
                        shift = 28
                if shift > 27:
                    raise ProtocolError("remaining length", self.size)
                if self.shift < 0:
                    break
            n = readinto(byte)
        if n and self.shift != -1:
            n = self._rest(~self.shift, readinto)
        if n:
            return self.shift == -1
        if n == 0:
            raise OSError("closed by the broker")

    def _rest(self, n, readinto):
        buf = self.buf
        at = self.size - n
        if self.size > len(buf):
            # Of a PUBLISH that is too large, the topic, then the packet identifier. What goes
            # beyond buf is lost
            k = 2 - at
            if at > 1:
                k += buf[0] << 8 | buf[1]
            if k > 0:
                n = min(n, k)
            else:
                at = len(buf) - 2 - k
        k = len(buf) - at
        if k > 0:
            n = min(n, k)
        n = readinto(self.chunk, min(n, 64)) if at else readinto(buf, n)
        if n:
            self.shift += n
            if at and k > 0:
                self.chunk[n:] = b""
                buf[at : at + n] = self.chunk
                self.chunk[:] = _BLANK
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
        if self.size > len(buf):
            self.start = ~i
        elif self.start != i or len(self.payload) != self.size - i:
            self.start = i
            self.payload = buf[i : self.size]
        return self.packet_id(k) if i > end else 0
