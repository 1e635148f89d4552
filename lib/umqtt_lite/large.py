"""Messages larger than memory: in by pieces, out from a seekable stream.

Imported by the first subscribe() with pieces, or publish_from().

In, the inbox takes one piece of the payload after the other:

    | topic length | topic |     a piece of the payload     | packet identifier |
    0                      |<-           _view            ->|        2          len(buf)

Out, a stub stands for the message in the outbox: the PUBLISH without its payload. Its remaining
length has a byte more than needed, a last one of 0, which no other packet has. When the stub is
next to be written, an Upload writes the message in its place, by way of a buffer as large as the
outbox. A message whose handshake is not complete begins anew with each connection.

A message that comes in pieces allocates a list and up to three memoryviews, one that goes out some
memoryviews and a copy of its header. The functions here take their frames from the heap.
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
        self._box = box
        # _room: bytes of a piece; 0: nobody takes this message; -1: a handler has raised
        # _at: offset of the piece in the payload; _begin: of _view in the inbox
        self._room = self._at = self._begin = 0
        self._view = box.buf

    def read(self, at, n, readinto):
        """Go on at this offset of the payload; `n` bytes are to come. True: a piece is complete.

        Else what readinto() returned.
        """
        if not at:
            self._start()
        box = self._box
        room = self._room
        if room > 0:
            i = at % room
            self._at = at - i
            n = min(n, room - i)
        if room > 0 and not i:
            n = readinto(self._view, n)
        else:
            n = readinto(chunk, min(n, 64))
            k = n or 0
            while k and room > 0:
                k -= 1
                self._view[i + k] = chunk[k]
        if n:
            box.step += n
            if room > 0 and i + n == room:
                return True
        return n

    def _start(self):
        # find out who takes it, and where its pieces go
        box = self._box
        buf = box.buf
        i = 2 + (buf[0] << 8 | buf[1])
        n = len(buf) - 2 - i
        self._room = 0
        if box.type < 0x40 and i > 2 and n >= _LEAST:
            topic = buf[2:i]
            self._handlers = handlers = []
            for s in self._client._subs._list:
                if isinstance(s[1], _InPieces) and match(s[0], topic):
                    handlers.append(s[1].handler)
            if handlers:
                self._room = n
                if self._begin != i or len(self._view) != n:
                    self._begin = i
                    self._view = buf[i : i + n]

    def take(self, retain) -> bool:
        """Hand over the piece that is complete. False: nobody takes this message."""
        box = self._box
        room = self._room
        total = box.size - ~box.start
        if not (room and total):  # an empty payload was never begun
            return False
        client = self._client
        if room < 0:
            client._event = 0  # for no acknowledgement
            return True
        client._since = 0  # those of the broker wait behind this message
        piece = self._view
        if total - self._at < room:
            piece = piece[: total - self._at]
        self._room = -1
        for handler in self._handlers:
            handler(box.topic, piece, self._at, total, retain)
        self._room = room
        client._stats["received"] += not box.step
        return True


# Out


class Upload:
    """A stream over that of the client, which writes the message in the place of its stub."""

    def __init__(self, client):
        self._client = client
        self._buf = memoryview(bytearray(client._size + 12))
        # what of buf is to be written, and of the payload to be read; -1: not begun
        self._i = self._n = 0
        self._left = -1
        self._error = None  # of the source

    def put(self, topic, source, size, flags):
        """Accept a message: publish_from()."""
        c = self._client
        if not 0 <= size <= _MOST:
            raise ValueError("size")
        start = source.tell()
        read = source.readinto
        c._find(8, 0)
        out = c._out
        i = self.stub()
        if i < len(out):
            c._stats["refused"] += 1
            raise OutboxFull
        n = c._put(topic, b"", flags)
        c._settle()  # it is no template
        self._source = source
        self._read = read
        self._start = start
        self._size = size
        i += 1
        while out[i] > 127:
            i += 1
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
            k = i + 1
            while out[k] > 127:
                k += 1
            if k > i + 1 and not out[k]:
                break
            i = end(out, i)
        return i

    def over(self, stream):
        """This, over the stream of a new connection."""
        self._stream = stream
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
            return self._stream.write(buf, offset, min(n, i - offset))
        k = end(buf, i) - i
        if offset < c._pos:
            return k  # a message is not sent twice on one connection, however long it takes
        try:
            if self._left < 0:
                self._begin(buf, i)
            elif self._i == self._n:
                self._fill(0)
        except Exception as e:
            # It cannot be completed: forget the message, and have poll() close the connection
            self._error = "source: %s" % e
            buf[i : i + k] = b""
            c._done += 1
            c._idle = False
            c._read = self._fail
            return 0
        n = self._stream.write(self._buf, self._i, self._n - self._i)
        if n:
            # the broker reads: it is no time to ask for more
            c._rx = c._tx = ticks_ms()
            c._since = 0
            self._i += n
        if self._i < self._n or self._left:
            return 0
        self._left = -1
        return k

    def _begin(self, out, i):
        # the header, and what fits behind it
        self._source.seek(self._start)
        self._left = self._size
        k = i + 1
        while out[k] > 127:
            k += 1
        n = end(out, i) - k - 1
        head = bytearray(out[i : i + 1])
        remaining_length(head, n + self._left)
        head.extend(out[k + 1 : k + 1 + n])
        self._buf[: len(head)] = head
        self._fill(len(head))

    def _fill(self, i):
        n = min(self._left, len(self._buf) - i)
        if n:
            buf = self._buf
            n = self._read(buf[i : i + n])
            if not n:
                raise ValueError("ends %d bytes before its size" % self._left)
            self._left -= n
        self._i = 0
        self._n = i + n

    def _fail(self, buf, n):
        raise OSError(self._error)
