"""MQTTClient with a snapshot() of its session, for a memory that outlasts a deep sleep.

    version          1 byte
    _balks           1 byte
    _id              2 bytes, the packet identifier given last
    n                1 byte
    Inbox.ids        2 n bytes, those of QoS 2 messages that wait for their PUBREL
    PUBLISH packets  as they stand in the outbox, with DUP where they are written
    CRC-32           4 bytes, of the client identifier and of all before

Numbers are big-endian. What else is in the outbox belongs to its connection. A snapshot takes at
most 64 bytes more than the outbox is large: one of up to 1984 bytes fits 2048.
"""

from binascii import crc32
from struct import pack, unpack

from micropython import const

from . import client
from .packet import MQTTError, check_topic, end, packet_id, text

_VERSION = const(0xA1)
_HEAD = const(5)  # bytes before the identifiers


class BadSnapshot(MQTTError):
    """The snapshot was not used: (why), which is "version", "checksum" if it is damaged or another
    client's, "outbox" if that is too small, "content" if there never was such a session."""


class MQTTClient(client.MQTTClient):
    """An MQTTClient that goes on where the one left off that took the snapshot.

    snapshot    bytes; empty or None: none. A bad one is not used: see `error`, a BadSnapshot

    Both clients need the same client_id, and clean_session=False if the broker is to keep the
    session. Forget a snapshot once it is used: what it holds would be delivered again.
    Subscriptions are not in it. Declare them before the first poll(), with which messages may
    come that waited at the broker; what is retained comes again. Statistics begin anew.
    """

    def __init__(self, client_id, *args, snapshot=b"", **kwargs):
        client.MQTTClient.__init__(self, client_id, *args, **kwargs)
        self._seed = crc32(text(client_id))
        if snapshot:
            try:
                why = self._restore(bytes(snapshot))
            except (IndexError, ValueError):
                why = "content"
            if why:
                self.error = BadSnapshot(why)

    def snapshot(self) -> bytes:
        """The session as it is now: what is accepted and not done with, in both directions.

        In any state. The client may go on, but then take another one before you sleep. What
        publish_from() accepted is not in it.
        """
        written = ~self._find(8, 0)
        out = self._out
        ids = list(filter(None, self._inbox.ids))
        n = len(ids)
        s = bytearray(pack(">BBHB%dH" % n, _VERSION, self._balks, self._id, n, *ids))
        stub = self._upload.stub() if self._upload else -1
        i = 0
        while i < len(out):
            n = end(out, i)
            if out[i] < 0x40 and i != stub:  # PUBLISH
                s.append(out[i] | 8 if i < written else out[i])
                s.extend(out[i + 1 : n])
            i = n
        return bytes(s) + pack(">I", crc32(s, self._seed))

    def _restore(self, s):
        # why it cannot be used, and then nothing is changed
        if s[0] != _VERSION:
            return "version"
        if pack(">I", crc32(s[:-4], self._seed)) != s[-4:]:
            return "checksum"
        s = s[:-4]
        i = _HEAD + 2 * s[4]
        if i > len(s):
            return "content"
        ids = unpack(">%dH" % s[4], s[_HEAD:i])
        out = s[i:]
        if len(out) > self._size:
            return "outbox"
        # what the rest relies on, and the broker
        known = set(ids)
        known.add(0)
        if len(known) <= len(ids):
            return "content"
        known = {0}
        i = 0
        while i < len(out):
            k = i + 1
            while out[k] > 127:
                k += 1
            body = k + 3 + (out[k + 1] << 8 | out[k + 2])
            check_topic(out[k + 3 : body])
            id = ~i
            if out[i] & 6:
                id = packet_id(out, i)
                body += 2
            # not PUBLISH, or DUP at QoS 0; more than four bytes of length
            if out[i] not in b"01234567:;<=>?" or k > i + 4 or id in known:
                return "content"
            known.add(id)
            i = end(out, i)
            if not body <= i <= len(out):
                return "content"
        self._balks = s[1]
        self._id = s[2] << 8 | s[3]
        self._inbox.ids[: len(ids)] = ids
        self._out[:] = out
        self._done = 1 - len(known)
