"""MQTTClient: the connection's state machine and poll()."""

import os
from builtins import bytes, isinstance, len  # publish() finds a global sooner than a builtin
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from . import packet, stream
from .inbox import Inbox
from .outbox import Outbox, OutboxFull, none
from .packet import MQTTError, ProtocolError

# States
_STOPPED = const(0)
_WAITING = const(1)  # for the time of the next attempt
_GREETING = const(2)  # TCP, TLS, CONNECT, CONNACK
_CONNECTED = const(3)
_DELIVERING = const(4)  # connected; the inbox is in a handler's hands

# What a step has for poll()
_MORE = const(1)  # maybe there is more to do
_HOOK = const(2)  # call _hook
_MESSAGE = const(3)

_STEPS = const(8)  # of one poll()
_MINUTE = const(60000)
_ALL = const(0x3FFFFFFF)  # bytes
_POLLIN = const(1)
_POLLOUT = const(4)

_ERRORS = (OSError, MQTTError, MemoryError)

# Where a connection ended, by state
_ENDS = (
    None,
    "cannot resolve or reach %s:%d: %s",
    "no CONNACK from %s:%d (address, port, TLS, credentials?): %s",
    "connection to %s:%d lost: %s",
)

# CONNACK return codes (3.2.2.3)
_CODES = (
    None,
    "protocol version",
    "client identifier",
    "server unavailable",
    "user name or password",
    "not authorized",
)

# Indices of _times: heard, connected, the oldest message was seen, PINGREQ was sent
_RX = const(0)
_UP = const(1)
_SINCE = const(2)
_PINGED = const(3)

# Indices of _config
_SSL = const(0)
_CLEAN = const(1)
_KEEPALIVE = const(2)
_RETRY = const(3)
_RETRIES = const(4)
_TIMEOUT = const(5)
_RECONNECT = const(6)


class ConnectionLost(MQTTError):
    """No connection to the broker any more, or none at all."""


class Refused(MQTTError):
    """The broker refused the connection: (what it objects to, return code) (3.2.2.3). Or, which
    does not end the connection, subscriptions: ("subscription", topic filter...) (3.9.3)."""


_byte = bytearray(1)  # of a packet's header, on its way to the inbox


def one(buf):
    """Stands for readinto() where poll() has to go on with what it has."""
    return 1


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

    connected: bool  # the broker has accepted the connection, and it stands
    pending: int  # accepted messages that are not written, or not acknowledged
    # counts from the beginning: messages accepted ("sent"), sent again, acknowledged, refused by
    # the outbox, received, dropped as larger than the inbox; connections
    stats: dict

    # Hooks, which poll() calls as shown if they are not None
    on_connect = None  # (session_present)
    on_disconnect = None  # (error), None after disconnect()
    on_message = None  # (topic, payload, retain) that no subscription's handler takes
    on_ack = None  # (packet_id): the handshake of an accepted message is complete
    on_skip = None  # (topic, size): message with a payload of `size` bytes, larger than the inbox
    on_refused = None  # (error): the broker refused subscriptions

    link = True  # set it to False while there is no network: poll() then tries nothing
    error = None  # the last error

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
            raise ValueError("outbox, inbox: at least 64")
        super().__init__(outbox)
        self._inbox = Inbox(inbox)
        self._read = one  # for poll(): _readinto in a packet's header, elsewhere `one`
        self._connect = packet.connect(client_id, user, password, keepalive, clean_session, will)
        if isinstance(server, str):
            server = ((server, port or (8883 if ssl else 1883)),)
        self._servers = list(server)
        self._address = None  # of the first, as long as it serves
        keepalive *= 1000
        self._config = (
            ssl,
            clean_session,
            keepalive,
            retry * 1000,
            retries,
            timeout * 1000,
            reconnect,
        )
        self._subs = None  # Subscriptions
        self._poller = stream.poll()
        self._stream = None
        self._backoff = 1000
        self._state = _STOPPED
        self.poll = self.poll  # bound once, they are found sooner
        self.publish = self.publish
        self.connect()

    def connect(self):
        """Let poll() connect, as it does from the beginning: the way back from disconnect()."""
        if not self._state:
            self._state = _WAITING
            self._due = ticks_ms()

    def publish(self, topic, payload, retain=False, qos=0) -> int:
        """Accept a message in any state of the connection; poll() sends it.

        Topic and payload are bytes, bytearray, memoryview, or str, which is encoded. Returns the
        packet identifier, 0 at QoS 0. OutboxFull: try again later. ValueError or TypeError: it can
        never be sent.
        """
        n = len(payload)
        if (
            n != self._n
            or topic is not self._topic
            or qos
            or retain
            or self._new
            or not isinstance(payload, bytes)
        ):
            n = 2 * qos
            n += 1 if retain else 0
            return self._accept(topic, payload, n)
        self._out[self._head :] = payload
        self._sent += 1
        self._new = True
        return 0

    def subscribe(self, topic_filter, handler=None, qos=0):
        """Declare a subscription, in any state; poll() makes it, and again for a new session.

        Every message that matches goes to handler(topic, payload, retain): memoryviews that are
        valid during the call, in which poll() does nothing. If a handler raises, the message is not
        acknowledged, and the exception leaves poll(). Without a handler on_message is called.
        """
        if not self._subs:
            from .subscriptions import Subscriptions

            self._subs = Subscriptions(self)
        self._subs.declare(topic_filter, handler, qos)
        if self.connected:
            self._due = ticks_ms()

    def unsubscribe(self, topic_filter):
        """End a subscription, in any state."""
        self.subscribe(topic_filter, None, -1)

    def poll(self):
        """One bounded step: connect, ping, send, retry, receive, call handlers and hooks.

        Raises nothing for what the network or the broker does: see `error` and on_disconnect.
        """
        try:
            if self._new:
                n = self._write(self._out, self._pos, _ALL)
                if n:
                    if n != self._all:
                        self._settle()
                        self._pos += n
                    self._new = self._all < 0 and self._pos < len(self._out)
                    n = ticks_ms()
                    if self._all < 0:
                        self._due = n  # for _timers() to see what waits for an acknowledgement
                    elif n == self._tx:
                        return  # a burst: to read once a millisecond will do
                    self._tx = n
            n = self._read(_byte)
        except OSError:
            n = -1  # it will be raised again
        if n is not None or ticks_diff(ticks_ms(), self._due) >= 0:
            self._work(n)

    def wait(self, ms: int):
        """Sleep until poll() has something to do, at most `ms`."""
        s = self._stream
        if s or self._state and self.link:
            ms = min(ms, ticks_diff(self._due, ticks_ms()))
        if s:
            n = self._new if self.connected else self._hello
            self._poller.modify(self._sock, _POLLIN | _POLLOUT if n else _POLLIN)
        self._poller.ipoll(max(ms, 0))

    def disconnect(self):
        """Write what is accepted, within `timeout`, then DISCONNECT, and close.

        What is not acknowledged stays in the outbox for another connect().
        """
        n = ticks_add(ticks_ms(), self._config[_TIMEOUT])
        while self._new and self.connected and ticks_diff(n, ticks_ms()) > 0:
            self.poll()
            self.wait(99)
        n = self.connected
        if n:
            try:
                self._write(b"\xe0\0", 0, 2)
            except OSError:
                pass
        self._close(_STOPPED)
        if n and self.on_disconnect:
            self.on_disconnect(None)

    # Not properties: with one in its class, MicroPython takes ten times as long for every store of
    # an attribute.
    def __getattr__(self, name):
        if name == "connected":
            return self._state >= _CONNECTED
        if name == "pending":
            if self._n >= 0:
                return int(self._new)
            self._find(8, 0)
            return self._sent - self._done
        if name == "stats":
            self._stats["sent"] = self._sent
            return self._stats
        raise AttributeError(name)

    # Steps of poll()

    def _work(self, n):
        # poll() with something to do: its read of a byte gave `n`, or -1 if it was not done
        for k in range(_STEPS):
            n = self._try(n, k)
            if n == _HOOK:
                if self._hook:
                    self._hook(self._event)
            elif n == _MESSAGE:
                self._deliver(self._inbox)
            elif not n:
                return
            n = -1

    def _try(self, n, k):
        try:
            return self._step(n, k)
        except _ERRORS as e:
            return self._lost(e)

    def _step(self, n, k):
        # `n`: what poll() read of a byte, -1 if it did not; `k`: how many packets were taken
        now = ticks_ms()
        if self._state != _CONNECTED:
            return self._open(n, now)
        if k == _STEPS - 1:
            self._due = now  # for the next poll()
            return 0
        n = self._take(n)
        if n:
            self._times[_RX] = now
            self._find(8, 0)
            if len(self._out) <= self._size + 4:
                return self._packet(self._inbox)
            self._read = one  # until there is room for a reply
        elif n is not None:
            # PINGRESP cannot overtake what is on its way
            self._times[_RX] = self._times[_PINGED] = now
            return _MORE
        if ticks_diff(now, self._due) >= 0:
            self._timers(now)
        if self._subs and self._subs.due:
            self._subs.ask()
        return 0

    def _take(self, n):
        if n == -1:
            n = self._read(_byte)
        box = self._inbox
        n = box.take(n, self._readinto, _byte)
        self._read = one if box.shift < 0 and not n else self._readinto
        return n

    def _open(self, n, now):
        s = self._hello if self._state == _GREETING else None
        if s is None:
            if self._state == _WAITING and self.link and ticks_diff(now, self._due) >= 0:
                s = self._servers[0]
                if not self._address:
                    self._address = stream.resolve(s[0], s[1])
                k = self._config[_SSL]
                self._stream = s = stream.connect(self._address, k, s[0])
                self._sock = s.sock if k else s
                self._poller.register(self._sock, _POLLOUT)
                self._hello = self._connect
                self._due = ticks_add(ticks_ms(), self._config[_TIMEOUT])
                self._state = _GREETING
            return 0
        if ticks_diff(now, self._due) >= 0:
            raise OSError("timeout")
        if s:
            n = self._stream.write(s, 0, len(s))
            if n:
                self._hello = s[n:]
                self._read = self._readinto = self._stream.readinto
            return 0
        if not self._take(n):
            return 0
        box = self._inbox
        s = box.buf
        if box.first != 0x20 or s[0] > 1 or s[1] > 5:
            raise ProtocolError("CONNACK", s[1])
        if s[1]:
            raise Refused(_CODES[s[1]], s[1])
        self._event = n = bool(s[0]) and not self._config[_CLEAN]
        self._hook = self.on_connect
        s = self._resume(n)
        if s and self._stream.write(s, 0, len(s)) != len(s):
            raise OSError("stuck")
        if not n:
            box.ids = [0] * 32
        if self._subs:
            self._subs.again(not n)
        box.shift = 0
        self._write = self._stream.write
        self._state = _CONNECTED
        self._tries = 0
        self._oldest = -1  # identifier of what is retried next, 0 for SUBSCRIBE
        self._pinging = False
        self._tx = self._due = now
        self._times = [now] * 4
        self._stats["connects"] += 1
        return _HOOK

    def _lost(self, e):
        if not isinstance(e, MQTTError):
            e = ConnectionLost(_ENDS[self._state] % (self._servers[0] + (e,)))
        self._event = self.error = e
        self._hook = self.on_disconnect
        if self._state < _CONNECTED:
            self._address = None
            self._servers.append(self._servers.pop(0))
        self._close(_WAITING if self._config[_RECONNECT] else _STOPPED)
        # full jitter
        n = self._backoff * int.from_bytes(os.urandom(2), "big") >> 16
        self._backoff = min(2 * self._backoff, _MINUTE)
        self._due = ticks_add(ticks_ms(), n)
        return _HOOK

    def _close(self, state):
        self._state = state
        if self._stream:
            self._poller.unregister(self._sock)
            self._stream.close()
            self._stream = None
        self._read = one
        self._write = none
        self._inbox.shift = 0

    # Time

    def _timers(self, now):
        # do what is due, and find out when the next is
        left = _MINUTE
        t = self._times
        k = self._config[_KEEPALIVE]
        if ticks_diff(now, t[_UP]) >= (k or left):
            self._backoff = 1000
        if k and self._pinging:
            left = k // 2 - ticks_diff(now, t[_PINGED])
            if left <= 0:
                raise OSError("no PINGRESP")
        elif k:
            # silence in either direction
            left = k * 3 // 4 - max(ticks_diff(now, t[_RX]), ticks_diff(now, self._tx))
            if left <= 0:
                self._settle()
                self._out.extend(b"\xc0\0")
                self._new = self._pinging = True
                t[_PINGED] = now
                left = k // 2
        n = ~self._find(8, 0)
        k = self._config[_RETRY]
        if k and (n or self._asked):
            n = n and packet.packet_id(self._out, 0)
            if n != self._oldest:
                self._oldest = n
                t[_SINCE] = now
                self._tries = 0
            n = k - ticks_diff(now, t[_SINCE])
            if n <= 0:
                self._again(self._out)
                t[_SINCE] = now
                n = k
            left = min(left, n)
        self._due = ticks_add(now, left)

    def _again(self, out):
        # the oldest message, or SUBSCRIBE, waits for too long
        self._tries += 1
        if self._tries > self._config[_RETRIES]:
            raise OSError("no acknowledgement")
        if self._asked:
            self._subs.again(False)
        if self._oldest and not self._new:
            self._stats["retried"] += 1
            if out[0] & 6 == 6:
                self._add(0x62, self._oldest)
            else:
                out[0] |= 8
                n = packet.end(out, 0)
                if self._write(out, 0, n) != n:
                    raise OSError("stuck")

    # Packets that came

    def _packet(self, box):
        # act on it; what there is for poll()
        box.shift = 0
        n = box.first
        if n == 0xD0:
            self._pinging = False
            return _MORE
        if n == 0x20:
            raise ProtocolError("CONNACK", n)
        ids = box.ids
        if n & 0xF0 == 0x30:
            self._event = pid = box.look()
            if not n & 4:
                return _MESSAGE
            if pid not in ids:
                if 0 not in ids:
                    raise ProtocolError("too many without PUBREL", pid)
                return _MESSAGE
            n = 0x50
        else:
            pid = box.packet_id(0)
            if n != 0x62:
                return self._ack(n, pid)
            if pid in ids:
                ids[ids.index(pid)] = 0
            n = 0x70
        self._add(n, pid)
        return _MORE

    def _ack(self, n, pid):
        if n > 0x80:  # SUBACK, UNSUBACK
            self._oldest = -1
            box = self._inbox
            n = bytes(box.buf[2 : box.size])
            if n.strip(b"\0\1\2\x80"):
                raise ProtocolError("SUBACK", n)
            n = self._subs and self._subs.answer(pid, n)
            if not n:
                return _MORE
            self._event = self.error = Refused("subscription", *n)
            self._hook = self.on_refused
            return _HOOK
        # PUBACK, PUBREC, PUBCOMP
        i = self._find(min(n // 8 - 6, 6), pid)
        if not i:
            self._oldest = -1
            self._due = self._times[_RX]
        if n == 0x50:
            self._add(0x62, pid)
            if i >= 0:
                self._out[i] |= 6
        elif i >= 0:
            self._drop(i, packet.end(self._out, i))
            self._stats["acknowledged"] += 1
            self._event = pid
            self._hook = self.on_ack
            return _HOOK
        return _MORE

    def _deliver(self, box):
        # hand the message over, then acknowledge it
        self._state = _DELIVERING
        self._read = one
        self._due = self._times[_RX]  # no wait() if a handler raises
        try:
            self._hand_over(box)
        finally:
            if self._state == _DELIVERING:
                self._state = _CONNECTED
                self._read = self._readinto
        n = self._event
        if n and self._state == _CONNECTED:
            if box.first & 4:
                box.ids[box.ids.index(0)] = n
            self._add(0x50 if box.first & 4 else 0x40, n)

    def _hand_over(self, box):
        if box.size > len(box.buf):
            self._stats["dropped"] += 1
            if self.on_skip:
                self.on_skip(box.topic, box.size - box.start)
            return
        self._stats["received"] += 1
        n = bool(box.first & 1)
        if not self._subs or not self._subs.route(box.topic, box.payload, n):
            if self.on_message:
                self.on_message(box.topic, box.payload, n)
