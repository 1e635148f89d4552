"""Messages larger than memory: in by pieces, out from a seekable stream.

Imported by the first subscribe() with pieces, or publish_from().

In, the inbox takes one piece of the payload after the other:

    | topic length | topic |     a piece of the payload     | packet identifier |
    0                      |<-           _buf             ->|        2          len(buf)

Out, a stub stands for the message in the outbox: the PUBLISH without its payload. Its remaining
length has a byte more than needed, a last one of 0, which no other packet has. When the stub is
next to be written, an Upload writes the message in its place, by way of a buffer as large as the
outbox. A message whose handshake is not complete begins anew with each connection.

A message that comes in pieces allocates a list and some memoryviews, none for each piece; one that
goes out, a memoryview for each part and a copy of its header. The functions here take their frames
from the heap.
"""

from time import ticks_ms

from micropython import const

from .inbox import chunk
from .outbox import OutboxFull
from .packet import end, remaining_length
from .subscriptions import match

_MOST = const(0xFFEFFFC)  # bytes of a payload: 65,539 below the largest remaining length (2.2.3)
_LEAST = const(16)  # bytes of a piece

# In


class _InPieces:
    """The handler of a subscription that takes pieces."""

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, topic, payload, retain):
        self.handler(topic, payload, 0, len(payload), retain)


def in_pieces(client, handler):
    """A handler for a subscription of the client, made of one that takes pieces."""
    if not handler:
        raise TypeError("handler")
    box = client._inbox
    if not box.pieces:
        box.pieces = Pieces(client, box)
    return _InPieces(handler)


class Pieces:
    """The payload of a PUBLISH that is larger than the inbox."""

    def __init__(self, client, box):
        self._client = client
        self._inbox = box
        # of the inbox, as long as a piece; empty: nobody takes this message
        self._buf = box.buf[:0]

    def read(self, at, n, readinto):
        """Go on at this offset of the payload; `n` bytes are to come. True: a piece is complete.

        Else what readinto() returned.
        """
        room = at and len(self._buf)
        i = 0
        if room:
            i = at % room
            n = min(n, room - i)
        if room and not i:
            n = readinto(self._buf, n)
        else:
            n = readinto(chunk, min(n, 64 if at else _LEAST))
            if n and not at:
                room = self._start()
            k = n or 0
            while k and room:
                k -= 1
                self._buf[i + k] = chunk[k]
        if n:
            self._inbox.step += n
            if i + n == room:
                return True
        return n

    def _start(self):
        # find out who takes it, and where its pieces go
        box = self._inbox
        buf = box.buf
        i = 2 + (buf[0] << 8 | buf[1])
        view = buf[i:-2]
        topic = buf[2:i]
        self._handlers = handlers = []
        if topic and box.type < 0x40 and len(view) >= _LEAST:
            for s in self._client._subs._list:
                if isinstance(s[1], _InPieces) and match(s[0], topic):
                    handlers.append(s[1].handler)
        self._buf = view if handlers else buf[:0]
        return len(self._buf)

    def take(self, retain) -> bool:
        """Hand over the piece that is complete. False: nobody takes this message."""
        box = self._inbox
        piece = self._buf
        room = len(piece)
        total = box.size - ~box.start
        if not (room and total):  # an empty payload was never begun
            return False
        client = self._client
        handlers = self._handlers
        if not handlers:
            client._event = 0  # for no acknowledgement
            return True
        client._since = 0  # those of the broker wait behind this message
        at = total
        if box.step:
            at -= ~box.step + room
        else:
            at -= (total - 1) % room + 1
            piece = piece[: total - at]
        self._handlers = None
        for handler in handlers:
            handler(box.topic, piece, at, total, retain)
        self._handlers = handlers
        client._stats["received"] += at + len(piece) == total
        return True


# Out


def _last(buf, i):
    # offset of the last byte of the remaining length
    i += 1
    while buf[i] > 127:
        i += 1
    return i


class Upload:
    """A stream over that of the client, which writes the message in the place of its stub."""

    _error = None  # of the source

    def __init__(self, client):
        self._client = client
        self._buf = memoryview(bytearray(client._size + 12))

    def put(self, topic, source, size, flags):
        """Accept a message: publish_from(). readinto() may give less, or None: it would block."""
        c = self._client
        if not 0 <= size <= _MOST:
            raise ValueError("size")
        c._find(8, 0)
        out = c._out
        i = self.stub()
        if i < len(out):
            c._stats["refused"] += 1
            raise OutboxFull
        self._end = source.tell() + size
        self._size = size
        self._seek = source.seek
        self._read = source.readinto
        n = c._put(topic, b"", flags)
        c._settle()  # it is no template
        i = _last(out, i)
        out[i] |= 128
        out[i + 1 : i + 1] = b"\0"
        if c.up and c._io is not self:
            c._io = self.over(c._io)
        return n

    def stub(self):
        """Offset of the stub in the outbox, or of its end if there is none."""
        out = self._client._out
        i = 0
        while i < len(out):
            k = _last(out, i)
            if k > i + 1 and not out[k]:
                break
            i = end(out, i)
        return i

    def over(self, stream):
        """This, over the stream of a new connection."""
        self._io = stream
        # what of buf is to be written, and of the payload to be read; -1: not begun
        self._i = self._n = 0
        self._left = -1
        self._error = None
        self.close = stream.close
        self.sock = getattr(stream, "sock", stream)
        return self

    def write(self, buf, offset, n):
        if self._error:
            self._fail(buf, n)
        c = self._client
        i = self.stub() if buf is c._out else len(buf)
        if i < offset:  # it is written
            i = len(buf)
        if i > offset:
            return self._io.write(buf, offset, min(n, i - offset))
        k = end(buf, i)
        if offset < c._pos:
            return k - i  # a message is not sent twice on one connection, however long it takes
        if self._i == self._n:
            try:
                self._fill(buf, i, k)
            except Exception as e:
                # It cannot be completed: forget the message, and have poll() close the connection
                self._error = "source: %s" % e
                buf[i:k] = b""
                c._done += 1
                c._idle = False
                c._read = self._fail
                return 0
        n = self._n - self._i
        n = n and self._io.write(self._buf, self._i, n)
        if n:
            # the broker reads: it is no time to ask for more
            c._rx = c._tx = ticks_ms()
            c._since = 0
            self._i += n
        if self._i < self._n or self._left:
            return 0
        self._left = -1
        return k - i

    def _fill(self, out, i, k):
        # what comes next: first of all the header
        buf = self._buf
        left = self._left
        n = 0
        if left < 0:
            left = self._size
            head = bytearray(out[i : i + 1])
            i = _last(out, i) + 1
            remaining_length(head, k - i + left)
            head.extend(out[i:k])
            n = len(head)
            buf[:n] = head
        if left:
            self._seek(self._end - left)  # whoever else has moved it
            k = self._read(buf[n : n + left])
            if k == 0:
                raise ValueError("ends %d bytes before its size" % left)
            if k:  # else it would block
                left -= k
                n += k
        self._left = left
        self._i = 0
        self._n = n

    def _fail(self, buf, n):
        raise OSError(self._error)
