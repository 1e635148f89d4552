"""Store and forward: messages wait on flash for outages longer than the outbox holds.

    | acknowledged | in flight |    to be fed    |    to be fed    | to be fed |  free  |
    _segs[0]                   _at               _segs[1]          _segs[-1]
    |<-           segments, files on flash                       ->|<-  log, in RAM   ->|

All messages stand in one row of records, and a position is the number of bytes before it. The end
of the row is the log, a bytearray that shrinks and grows within its memory. poll() feeds the
client from `_at`. What is no more in the client's outbox is acknowledged, so that on_ack stays the
user's. Only when the log is full, when a message has waited in it for too long, or for sync(), all
of it is appended to flash, in one write.

A segment is a file named by the position of its first record. It goes when all in it is
acknowledged, or when it is the oldest and room is needed. An empty file named by minus a position
says that all before is acknowledged; it is renamed when it is too far behind. A record is

    0xA0 | QoS << 1 | retain    1 byte
    length of the record        2 bytes, big-endian
    length of the topic         2 bytes, big-endian
    topic, payload
    CRC-32, little-endian       4 bytes, which make the CRC of the whole a constant

Where there is none, or not a right one, the next is looked for byte by byte.

Beside what the constructor makes, some memoryviews, a CRC and a tuple are allocated for each
message, and a file object for each access to flash, which is closed again at once.
"""

import os
from binascii import crc32
from time import time

from micropython import const

from .outbox import OutboxFull
from .packet import check_topic, end, packet_id, string, text

_MORE = const(9)  # bytes of a record, or of a PUBLISH packet, beside topic and payload
_MAGIC = const(0xA0)
_RIGHT = const(0x2144DF1C)  # CRC of what ends in its CRC
_SEGMENTS = const(16)
_BEHIND = const(1024)  # bytes
_ENOSPC = const(28)


class Spool:
    """A queue before an MQTTClient, for messages at QoS 1 and 2. Call poll() after the client's.

    client  the MQTTClient, which may be used directly as well
    folder  of flash, for this alone: what a former start left there is delivered first
    size    bytes on flash at most, in 16 segments
    buffer  bytes of RAM for the log, and as many for reading flash; at most size / 16
    drop    when flash is full, drop the oldest messages; False: refuse new ones
    hold    s that a message may wait in RAM only

    OSError if there can be no such folder. len() is the number of bytes kept, 0 if everything is
    acknowledged. After a reset, what was in flight is delivered again, at QoS 2 too, and so may be
    what was acknowledged in the last 1024 bytes.
    """

    error = None  # the last OSError
    dropped = 0  # messages that were never fed, to make room for new ones
    skipped = 0  # stretches that are damaged or cannot be read; messages the outbox cannot hold

    _rest = b""  # of the page, from _at on
    _base = -1  # where the page was read from
    _saved = 0  # the position that a file's name says
    _mark = 0  # what stands before it has waited for hold / 2

    def __init__(self, client, folder="spool", size=65536, buffer=2048, drop=True, hold=60):
        self._client = client
        self._path = folder + "/%d"
        self._size = size // _SEGMENTS
        self._drop = drop
        self._hold = hold // 2
        self._since = time()
        buffer = min(buffer, self._size, 65535)
        self._out = bytearray(buffer)  # the log
        self._out[:] = b""
        self._page = memoryview(bytearray(buffer))
        self._flight = []  # (packet identifier, position) of each message
        self._segs = segs = []  # where each begins, and where the last one ends
        n = 0
        try:
            os.mkdir(folder)
        except OSError:  # it is there
            segs.extend(map(int, os.listdir(folder)))
            segs.sort()
            while segs and segs[0] < 0:
                self._saved = n = max(n, -segs.pop(0))
            if segs:
                n = max(n, segs[-1] + os.stat(self._path % segs[-1])[6])
        segs.append(n)
        self._at = max(segs[0], self._saved)

    def __len__(self):
        return self._segs[-1] - self._segs[0] + len(self._out)

    def publish(self, topic, payload, retain=False, qos=1):
        """Accept a message, in any state of the client; poll() feeds it.

        Topic and payload are as those of MQTTClient.publish(). OutboxFull: neither flash nor
        `buffer` has room; its argument says why. ValueError or TypeError: it can never be sent.
        """
        topic = check_topic(topic)
        payload = bytes(text(payload))
        if (qos - 1) // 2:
            raise ValueError("qos")
        out = self._out
        n = len(topic) + len(payload) + _MORE
        i = len(self._page) - n
        if i < 0 or n > self._client._size:
            raise ValueError("size")
        if len(out) > i:
            try:
                self._flush()
            except OSError as e:
                self.error = e
                raise OutboxFull(e)
        i = len(out)
        out.append(_MAGIC | qos << 1 | bool(retain))
        out.append(n >> 8)
        out.append(n & 255)
        string(out, topic)
        out.extend(payload)
        out.extend(crc32(memoryview(out)[i:]).to_bytes(4, "little"))

    def poll(self):
        """One bounded step: let go of what is acknowledged, write what is due, feed the client.

        Raises nothing for what the network or the file system does: see `error`.
        """
        segs = self._segs
        try:
            self._tidy(_BEHIND)
            if abs(time() - self._since) >= self._hold:
                self._since = time()
                if self._mark > segs[-1]:
                    self._flush()
                self._mark = segs[-1] + len(self._out)
        except OSError as e:
            self.error = e
        c = self._client
        while c.up:
            r = self._look()
            n = len(r)
            if not n:
                break
            if n > c._size:
                self.skipped += 1
            else:
                c._find(8, 0)
                if len(c._out) + n > c._room:
                    break
                i = (r[3] << 8 | r[4]) + 5
                i = c.publish(r[5:i], r[i:-4], r[0] & 1, r[0] >> 1 & 3)
                self._flight.append((i, self._at))
            self._move(n)
        r = None  # `error` may keep this frame, and what is exported by a bytearray fixes its size

    def sync(self):
        """Bring to flash what is accepted, and what is acknowledged. OSError if that fails."""
        self._tidy(1)
        self._flush()

    def _tidy(self, n):
        # let go of what is acknowledged; save the position if it is `n` bytes ahead
        flight = self._flight
        out = self._client._out
        segs = self._segs
        while flight:
            i = 0
            while i < len(out) and packet_id(out, i) != flight[0][0]:
                i = end(out, i)
            if i < len(out):
                break
            flight.pop(0)
        head = flight[0][1] if flight else self._at
        i = head - segs[-1]
        if i > 0:
            self._out[:i] = b""
            segs[-1] += i
        while len(segs) > 1 and head >= segs[1]:
            os.remove(self._path % segs[0])
            segs.pop(0)
        if len(segs) > 1 and head - self._saved >= n:
            if self._saved:
                os.rename(self._path % -self._saved, self._path % -head)
            else:
                open(self._path % -head, "wb").close()
            self._saved = head

    def _flush(self):
        # append the log to flash
        out = self._out
        segs = self._segs
        n = segs[-1]
        if not out:
            return
        if len(segs) < 2 or n + len(out) - segs[-2] > self._size:
            while len(segs) > _SEGMENTS:
                if not self._drop:
                    raise OSError(_ENOSPC)
                while True:
                    i = len(self._look())
                    if self._at >= segs[1]:
                        break
                    self._move(i)
                    self.dropped += i > 0
                os.remove(self._path % segs[0])
                segs.pop(0)
            open(self._path % n, "wb").close()
            segs.append(n)
        with open(self._path % segs[-2], "r+b") as f:
            f.seek(n - segs[-2])
            f.write(out)
        segs[-1] += len(out)
        out[:] = b""

    def _move(self, n):
        self._at += n
        self._rest = self._rest[n:]

    def _look(self):
        # The record at _at; empty if there is none, or if it is behind damage of a page's length
        segs = self._segs
        bad = 1
        for k in self._page:
            n = self._at - segs[-1]
            if n >= 0:
                r = self._out
                if n == len(r):
                    break
                return memoryview(r)[n : n + (r[n + 1] << 8 | r[n + 2])]
            r = self._rest
            k = 1
            n = _MORE
            if len(r) > 4:
                n = r[1] << 8 | r[2]
                if r[0] >> 3 != _MAGIC >> 3:
                    n = 0
            if n <= len(r):
                if crc32(r[:n]) == _RIGHT:
                    return r[:n]
            elif self._base != self._at:
                # it may go on behind the page
                self._base = self._at
                self._rest = b""
                for n in segs:
                    if n > self._at:
                        break
                    k = n
                n -= self._at
                try:
                    with open(self._path % k, "rb") as f:
                        f.seek(self._at - k)
                        self._rest = self._page[: min(n, f.readinto(self._page))]
                except OSError as e:
                    self.error = e
                if self._rest:
                    continue
                k = n
            self.skipped += bad
            bad = 0
            self._move(k)
        return b""
