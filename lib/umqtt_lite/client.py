"""MQTTClient: the connection's state machine and poll()."""

import os
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from . import packet, stream
from .inbox import Inbox, chunk
from .outbox import Outbox
from .packet import MQTTError, ProtocolError, Refused

# States
_STOPPED = const(0)
_DELIVERING = const(1)  # connected; the inbox is in a handler's hands
_WAITING = const(2)  # for the time of the next attempt
_GREETING = const(3)  # TCP, TLS, CONNECT, CONNACK
_CONNECTED = const(4)

# What a step has for poll(), if not a hook to be called with _event
_MORE = const(1)  # maybe there is more to do
_MESSAGE = const(2)

_STEPS = const(9)  # of one poll(), the last of which does not read
_MINUTE = const(60000)
_ALL = const(8191)  # bytes in one write
_POLLIN = const(1)
_POLLOUT = const(4)

# Where a connection ended, by state from _WAITING
_ENDS = const(
    (
        "cannot find or reach %s:%d: %s",
        "no CONNACK from %s:%d (port, TLS, credentials?): %s",
        "connection to %s:%d lost: %s",
    )
)

# CONNACK return codes (3.2.2.3)
_CODES = const(
    (
        None,
        "protocol version",
        "client_id",
        "unavailable",
        "credentials",
        "not authorized",
    )
)

# Packet types, the upper half of a packet's first byte
_CONNACK = const(2)
_PUBLISH = const(3)
_PUBREC = const(5)
_PUBREL = const(6)
_PUBCOMP = const(7)
_PINGRESP = const(13)

# Indices of _config
_SSL = const(0)
_KEEPALIVE = const(1)
_RETRY = const(2)
_RETRIES = const(3)
_TIMEOUT = const(4)
_RECONNECT = const(5)
_CONNECT = const(6)  # the packet
_HOSTS = const(7)


# made here: there may be no memory for it when it is needed
_ERRORS = (OSError, MQTTError, MemoryError, ValueError)


class ConnectionLost(MQTTError):
    """No connection to the broker any more, or none at all."""


class MQTTClient(Outbox):
    """An MQTT 3.1.1 client that poll() moves; nothing is sent before the first poll().

    client_id   str or bytes; "" lets the broker choose, with clean_session only
    server      host name or address, or a list of (host, port) to fall back on in turn
    port        0 for 1883, or 8883 with TLS
    user, password  str, bytes or None
    keepalive   s; a dead peer is noticed within 1.5 times that. 0 turns it off
    ssl         an SSLContext for TLS; it decides what is verified
    clean_session  False: the broker keeps the session while the client is away
    will        (topic, payload, retain=False, qos=0), published when the client vanishes
    outbox      bytes for outgoing packets
    inbox       bytes for one incoming packet; a larger message is skipped
    retry       s without an acknowledgement after which the oldest message is sent again; 0: never
    retries     how often, before the connection is given up
    timeout     s for a connection attempt up to CONNACK, and for the flush of disconnect()
    reconnect   False: one attempt, then connect() is the way back

    ValueError for what MQTT does not allow. The buffers are allocated here; publish() and poll()
    allocate nothing while a connection lasts, but for messages given as str and two memoryviews
    for a received message of another shape than the last.
    """

    pending: int  # accepted messages that are not written, or not acknowledged
    # counts from the beginning: messages accepted ("sent"), sent again, acknowledged, refused by
    # the outbox, received, dropped as larger than the inbox; connections
    stats: dict

    link = True  # set it to False while there is no network: poll() then tries nothing

    # Hooks, which poll() calls if they are not None:
    # on_connect(session_present)
    # on_disconnect(error), None after disconnect()
    # on_message(topic, payload, retain) that no subscription's handler takes
    # on_ack(packet_id): the handshake of an accepted message is complete
    # on_skip(topic, size): message with a payload of `size` bytes, larger than the inbox
    # on_refused(error): the broker refused subscriptions
    on_connect = on_disconnect = on_message = on_ack = on_skip = on_refused = None

    _config: list
    error = None  # the last error
    # _addr: of the first host, as long as it serves; _upload: for publish_from()
    _subs = _io = _addr = _upload = None

    def __init__(
        self,
        client_id,
        server,
        port=0,
        user=None,
        password=None,
        keepalive=60,
        ssl=None,
        *,
        clean_session=True,
        will=None,
        outbox=1024,
        inbox=512,
        retry=10,
        retries=3,
        timeout=10,
        reconnect=True,
    ):
        if min(outbox, inbox) < 64:
            raise ValueError("outbox/inbox")
        Outbox.__init__(self, outbox)
        self._inbox = Inbox(inbox)
        connect = packet.connect(client_id, user, password, keepalive, clean_session, will)
        if isinstance(server, str):
            server = ((server, port or (8883 if ssl else 1883)),)
        # The connection: _ping, PINGRESP is awaited; _since when an acknowledgement is, 0 if none;
        # _begin, _tx, _rx: times of its begin, and of the last that was written and heard
        self._config = [
            ssl,
            keepalive * 1000,
            retry * 1000,
            retries,
            timeout * 1000,
            reconnect,
            connect,
            list(server),
        ]
        self._backoff = 1000
        self.poll = self.poll  # bound once, they are found sooner
        self.publish = self.publish
        self._close(_WAITING)

    def connect(self):
        """Let poll() connect, as it does from the beginning: the way back from disconnect()."""
        if not self._state:
            self._close(_WAITING)

    def publish(self, topic, payload, retain=False, qos=0) -> int:
        """Accept a message in any state of the connection; poll() sends it.

        Topic and payload are bytes, bytearray, memoryview, or str, which is encoded. Returns the
        packet identifier, 0 at QoS 0. OutboxFull: try again later. ValueError or TypeError: it can
        never be sent.
        """
        n = self._head + len(payload)
        if n == self._n and topic is self._topic and not (qos or retain or self._new):
            if isinstance(payload, bytes):
                self._out[self._head :] = payload
                self._sent += 1
                self._new = True
                return 0
        n = 2 * qos + bool(retain)
        return self._put(topic, payload, n)

    def subscribe(self, topic_filter, handler=None, qos=0, pieces=False):
        """Declare a subscription, in any state; poll() makes it, and again for a new session.

        Every message that matches goes to handler(topic, payload, retain): memoryviews that are
        valid during the call, in which poll() does nothing. If a handler raises, the message is
        not acknowledged, and the exception leaves poll(). Without a handler on_message is called.

        With pieces, to handler(topic, piece, offset, total, retain), in turn, offset and total in
        bytes of the payload; what is larger than the inbox too. See large.py, which this imports.
        """
        if pieces:
            from .large import in_pieces

            handler = in_pieces(self, handler)
        if not self._subs:
            from .subscriptions import Subs

            self._subs = Subs(self)
        self._subs.declare(topic_filter, handler, qos)

    def unsubscribe(self, topic_filter):
        """End a subscription, in any state."""
        self.subscribe(topic_filter, None, -1)

    def poll(self):
        """One bounded step: connect, ping, send, retry, receive, call handlers and hooks.

        Raises nothing for what the network or the broker does: see `error` and on_disconnect.
        """
        try:
            if self._new and self.up:
                n = self._io.write(self._out, self._pos, _ALL)  # type: ignore[attr-defined]
                if n:
                    if n == self._n:
                        self._new = False
                        n = ticks_ms()
                        if n == self._tx:
                            return  # a burst: to read once a millisecond will do
                    else:
                        self._settle()
                        self._pos += n
                        self._new = self._pos < len(self._out)
                        # for _tick() to see what waits for an acknowledgement
                        self._due = n = ticks_ms()
                    self._tx = n
            n = self._read(chunk, 1) if self._idle else -1
        except OSError:
            n = -1 if self._idle else 0  # it will be raised again, or is the end
        if n is not None or ticks_diff(ticks_ms(), self._due) >= 0:
            self._try(n)

    def wait(self, ms: int):
        """Sleep until poll() has something to do, at most `ms`."""
        s = self._io
        if s or self._state and self.link:
            ms = min(ms, ticks_diff(self._due, ticks_ms()))
        if s:
            n = self._new if self.up else self._hello
            self._poll.register(getattr(s, "sock", s), _POLLIN | _POLLOUT if n else _POLLIN)
        self._poll.ipoll(max(ms, 0))

    def disconnect(self, ms=None):
        """Write what is accepted, within `ms` or `timeout`, then DISCONNECT, and close.

        What is not acknowledged stays in the outbox for another connect().
        """
        n = ticks_add(ticks_ms(), self._config[_TIMEOUT] if ms is None else ms)
        while self._new and self.up and ticks_diff(n, ticks_ms()) > 0:
            self.wait(99)
            self.poll()
        n = self.up
        if n and not self._new:  # not within a packet
            try:
                self._io.write(b"\xe0\0", 0, 2)  # type: ignore[attr-defined]
            except OSError:
                pass
        self._close(_STOPPED)
        if n and self.on_disconnect:
            self.on_disconnect(None)

    def publish_from(self, topic, source, size: int, retain=False, qos=0) -> int:
        """Accept a message with a payload of `size` bytes from a seekable stream, which is kept.

        It goes out in pieces, after what was accepted before it. One at a time: OutboxFull until
        its handshake is complete; the source has to stay as it is until then. Else as publish().
        See large.py, which this imports.
        """
        if not self._upload:
            from .large import Upload

            self._upload = Upload(self)
        return self._upload.put(topic, source, size, 2 * qos + bool(retain))

    # Steps of poll()

    def _try(self, n):
        # poll() with something to do: its read of a byte gave `n`, or it is -1 and to be done
        k = _STEPS
        while k:
            k -= 1
            try:
                n = self._step(n if k else None)
            except _ERRORS as e:
                # the connection, or the attempt, has failed
                if not isinstance(e, MQTTError):
                    if self._hello and self._config[_SSL]:
                        e = self._io.end(e)  # type: ignore[attr-defined]
                    n = tuple(self._config[_HOSTS][0]) + (e,)
                    e = ConnectionLost(_ENDS[self._state - _WAITING] % n)
                self._event = self.error = e
                if not self.up:
                    self._addr = None
                    n = self._config[_HOSTS]
                    n.append(n.pop(0))
                self._close(_WAITING if self._config[_RECONNECT] else _STOPPED)
                # full jitter
                self._due = ticks_add(self._due, self._backoff * os.urandom(1)[0] >> 8)
                self._backoff = min(2 * self._backoff, _MINUTE)
                n = self.on_disconnect
            if not n:
                break
            if n == _MESSAGE:
                # hand it over, then acknowledge it
                box = self._inbox
                self._state = _DELIVERING
                self._idle = False
                n = box.type & 1 > 0
                try:
                    if box.start < 0:
                        if not (box.pieces and box.pieces.take(n)):
                            self._stats["dropped"] += 1
                            if self.on_skip:
                                self.on_skip(box.topic, box.size - ~box.start)
                    else:
                        self._stats["received"] += 1
                        if not (self._subs and self._subs.route(box.topic, box.payload, n)):
                            if self.on_message:
                                self.on_message(box.topic, box.payload, n)
                finally:
                    if self.up:
                        self._state = _CONNECTED
                n = self._event
                if n and self.up and not box.step:
                    if box.type & 4:
                        box.ids[box.ids.index(0)] = n
                    self._add(0x40 + 4 * (box.type & 4), n)  # PUBACK, PUBREC
            elif n != _MORE:
                n(self._event)
                if not self.up:
                    return
            n = -1
        if k < self.up:
            self._due = self._rx  # wait() is to know that there may be more

    def _step(self, n):
        now = ticks_ms()
        due = ticks_diff(now, self._due) >= 0
        if self._state < _GREETING:
            if due and self._state == _WAITING:
                self._due = now  # however long there is no link: the ticks wrap
                if self.link:
                    s = self._config[_HOSTS][0]
                    self._addr = self._addr or stream.resolve(*s)
                    self._io = s = stream.connect(self._addr, self._config[_SSL], s[0])
                    self._read = s.readinto
                    self._hello = self._config[_CONNECT]  # what is to be written of it
                    self._state = _GREETING
                    # _deaf: to new messages of QoS 2. All there before the steady state
                    self._deaf = self._ping = self._since = self._tries = 0
                    self._begin = self._tx = now
                    self._due = ticks_add(ticks_ms(), self._config[_TIMEOUT])
                    self.wait(0)  # to allocate what it needs
            return
        s = self._hello
        if s:
            n = self._io.write(s, 0, len(s))  # type: ignore[attr-defined]
            if n:
                self._hello = s[n:]
        else:
            s = self._inbox
            n = s.read(n, self._read)
            if n and self.up and s.step == -1:
                self._find(8, 0)
                if len(self._out) > self._size + 4:
                    n = None  # it waits until there is room for a reply
            self._idle = s.step >= 0 or n and s.step == -1
            if n is not None:
                self._rx = now
                return self._packet() if n else _MORE
        if due:
            self._tick()

    def _close(self, next):
        self._state = next
        self._due = ticks_ms()  # the next attempt, its end, or what _tick() does next
        self.up = False  # the broker has accepted the connection, and it stands
        self._hello = None
        if self._io:
            self._io.close()
            self._io = None
        self._poll = stream.poll()
        self._idle = False  # poll() may read a byte of a packet's header itself
        self._inbox.step = 0

    # Time

    def _tick(self):
        # do what is due, and find out when the next is
        if not self.up:
            raise OSError("timeout")
        now = ticks_ms()
        left = _MINUTE
        if ticks_diff(now, self._begin) > left:
            self._backoff = 1000
        k = self._config[_KEEPALIVE]
        if k:
            k -= k // 4  # silence in either direction, for 3/4 of it
            n = k - (self._ping and k // 3) - ticks_diff(now, self._rx)
            left = min(k - ticks_diff(now, self._tx), n)
            if left <= 0:
                if self._ping and n <= 0:
                    raise OSError("no PINGRESP")
                self._settle()
                self._out.extend(b"\xc0\0")
                self._new = self._ping = True
                # PINGRESP, or what is on its way before it, has 2/3 of that
                self._rx = self._tx = now
        # where the oldest message, or SUBSCRIBE, waits for too long
        k = self._config[_RETRY]
        if self._find(8, 0) == -1 and not self._asked or not k:
            self._since = 0
        else:
            if not self._since:
                self._since = now
                self._tries = 0
            k -= ticks_diff(now, self._since)
            if k <= 0:
                self._since = now
                self._tries += 1
                if self._tries > self._config[_RETRIES]:
                    raise OSError("no acknowledgement")
                if self._asked:
                    self._subs.again(False)
                out = self._out
                if out and not self._new:
                    self._stats["retried"] += 1
                    if out[0] & 6 == 6:
                        n = packet.packet_id(out, 0)
                        self._add(0x62, n)
                    else:
                        out[0] |= 8
                        n = packet.end(out, 0)
                        if self._io.write(out, 0, n) != n:  # type: ignore[attr-defined]
                            raise OSError("stuck")
            left = min(left, k)
        self._due = ticks_add(now, left)
        if self._subs and self._subs.due:
            self._subs.ask()

    # Packets that came

    def _packet(self):
        # act on it; what there is for poll()
        box = self._inbox
        if box.step == -1:  # else it is a piece
            box.step = 0
        n = box.type >> 4
        if not self.up:
            i, n = box.buf[:2]
            if box.type != 0x20 or i > 1 or n > 5:
                raise ProtocolError("CONNACK", n)
            if n:
                raise Refused(_CODES[n], n)
            self._event = n = i > 0
            i = self._resume(n)
            if self._upload:
                self._io = self._upload.over(self._io)
            if i and self._io.write(i, 0, len(i)) != len(i):  # type: ignore[attr-defined]
                raise OSError("stuck")
            if not n:
                box.ids = [0] * 32
            if self._subs:
                self._subs.again(not n)
            self._state = _CONNECTED
            self.up = True
            self._due = self._rx
            self._stats["connects"] += 1
            return self.on_connect
        if n == _PINGRESP:
            self._ping = 0
            return _MORE
        self._event = id = box.open()  # which takes a second CONNACK for a PUBLISH, and fails
        if n == _PUBLISH:
            if not box.type & 4:
                return _MESSAGE
            if id not in box.ids:
                if 0 in box.ids and not self._deaf:
                    return _MESSAGE
                self._deaf = True
            elif not box.step:
                self._add(0x50, id)
        elif n == _PUBREL:
            if id in box.ids:
                box.ids[box.ids.index(id)] = 0
                if self._deaf and not any(box.ids):
                    self._backoff = 1000
                    raise OSError("stuck")
            self._add(0x70, id)
        elif n > _PUBCOMP:  # SUBACK, UNSUBACK
            self._since = 0
            self._due = self._rx  # for _tick() to see what waits now
            n = bytes(box.buf[2 : box.size])
            if n.strip(b"\0\1\2\x80"):  # type: ignore[attr-defined]
                raise ProtocolError("SUBACK", n)
            return self._subs and self._subs.answer(id, n) or _MORE
        else:
            i = self._find(n - 1 & 6, id)
            if not i:
                self._since = 0
            if n == _PUBREC:
                self._add(0x62, id)
                if i >= 0:
                    self._out[i] |= 6
            elif i >= 0:
                if n == _PUBCOMP:
                    self._balks = 0
                self._out[i] = 0x30  # as one of QoS 0
                self._find(8, 0)
                if self._pos:
                    self._due = self._rx
                self._stats["acknowledged"] += 1
                return self.on_ack or _MORE
        return _MORE
