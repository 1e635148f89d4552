"""One preallocated buffer in which incoming packets are put together, one after the other.

    fixed header   -> type (with flags), size (remaining length)
    the rest       -> buf      | topic length | topic | packet identifier (QoS 1, 2) | payload |
                      of other packets        | packet identifier | ...

The bytes of a packet are read straight into place. As readinto() cannot start in the middle of a
buffer, those of a packet that comes in pieces go by way of chunk. Of a PUBLISH larger than buf
there remain the start of the topic and, in the last two bytes, the packet identifier.

Reading allocates nothing. Two memoryviews show topic and payload; they are made anew when a
message has another shape than the last.
"""

from .packet import ProtocolError, is_plain

chunk = bytearray(64)  # of any client's packet, on its way


class Inbox:
    pieces = None  # a large.Pieces, where a subscription takes them

    def __init__(self, n):
        self.buf = memoryview(bytearray(n))
        # step: 0, a packet begins; 7, 14...: the remaining length comes, 7 bits each; < 0: ~ of
        # the bytes that are still to come. start: of the payload, or ~ of where it would be
        self.step = self.type = self.size = self.start = 0
        self.topic = self.payload = self.buf[:0]
        self.ids = [0] * 32  # of QoS 2 messages that were handed over and wait for their PUBREL

    def read(self, n, readinto):
        """Go on with a packet; in the header `n` bytes were read into chunk, or -1: read.

        True when it is complete, or a piece of its payload is; False when some of it came, None
        when nothing did.
        """
        while self.step >= 0:
            if n == -1:
                n = readinto(chunk, 1)
            if not n:
                break
            n = -1
            b = chunk[0]
            shift = self.step
            self.step = shift + 7
            if not shift:
                self.type = b
                self.size = 0
                good = b in b" 012345:;<=@Pbp\x90\xb0\xd0"
            else:
                self.size |= (b & 127) << shift - 7
                good = shift < 28
                if b < 128:
                    self.step = ~self.size
                    b = self.type
                    # PUBLISH and SUBACK have more than an identifier, PINGRESP has not even that
                    good = self.size > 2 if b >> 4 in b"\3\t" else self.size == 2 * (b < 0xD0)
            if not good:
                raise ProtocolError("TLS expected" if b == 21 else "header", self.type, self.size)
        if n and self.step != -1:
            n = self._rest(~self.step, readinto)
        if n:
            return n is True or self.step == -1
        if n == 0:
            raise OSError("closed by broker")

    def _rest(self, n, readinto):
        buf = self.buf
        at = self.size - n
        if self.size > len(buf):
            # Of a PUBLISH that is too large, the topic, then the packet identifier. What goes
            # beyond buf is lost, if it is not for pieces
            k = 2 - at
            if at > 1:
                k += buf[0] << 8 | buf[1]
            if k <= 0:
                k += self.type & 6 and 2
                at = len(buf) - k
                if k <= 0:
                    if self.pieces:
                        return self.pieces.read(-k, n, readinto)
                    k = n
            n = min(n, k)
        n = readinto(chunk, min(n, 64)) if at else readinto(buf, n)
        if n:
            self.step += n
            if at:
                k = min(n, len(buf) - at)
                while k > 0:
                    k -= 1
                    buf[at + k] = chunk[k]
        return n

    def open(self):
        """The packet identifier, 0 at QoS 0. Sets topic and payload for a PUBLISH."""
        buf = self.buf
        k = 0
        if self.type < 0x40:
            n = k = end = 2 + (buf[0] << 8 | buf[1])
            i = end + 2 if self.type & 6 else end
            if self.size > len(buf):
                self.start = ~i
                k = len(buf) - 2
                n = min(end, k)
            elif self.start != i or len(self.payload) != self.size - i:
                self.start = i
                self.payload = buf[i : self.size]
            if len(self.topic) != n - 2:
                self.topic = buf[2:n]
            if end < 3 or i > self.size or n == end and not is_plain(self.topic):
                raise ProtocolError("topic", bytes(self.topic))
            if i == end:
                return 0
        i = buf[k] << 8 | buf[k + 1]
        if not i:
            raise ProtocolError("packet_id", i)
        return i
