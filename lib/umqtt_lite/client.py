import os
from builtins import isinstance, len  # publish() finds a global sooner than a builtin

from micropython import const

from . import packet, stream
from .inbox import Inbox, one
from .outbox import Outbox, OutboxFull, none
from .packet import MQTTError, ProtocolError
from .stream import ticks_add, ticks_diff, ticks_ms

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
_POLLIN = const(1)
_POLLOUT = const(4)

_BUFFERS = (bytes, bytearray, memoryview)
_ERRORS = (OSError, MQTTError, MemoryError)

# Where a connection ended, by state
_ENDS = (
    "cannot resolve or reach",
    "no CONNACK: address, port, TLS, credentials?",
    "connection lost",
)

# CONNACK return codes (3.2.2.3)
_CODES = (
    "protocol version",
    "client identifier",
    "server unavailable",
    "user name or password",
    "not authorized",
)

# A subscription: a list of
_FILTER = const(0)
_HANDLER = const(1)
_QOS = const(2)  # or _GONE: unsubscribe
_DUE = const(3)  # to be sent
_GONE = const(-1)


class ConnectionLost(MQTTError):
    """No connection to the broker any more, or none at all: (what, (host, port), why)."""


class Refused(MQTTError):
    """The broker refused the connection: (what it objects to, return code) (3.2.2.3). Or, which
    does not end the connection, subscriptions: ("subscription", topic filters...) (3.9.3)."""


class MQTTClient(Outbox, Inbox):
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
        if not 64 <= min(outbox, inbox) <= max(outbox, inbox) <= 262144:
            raise ValueError("outbox, inbox: 64 to 262144 bytes")
        Outbox.__init__(self, outbox)
        Inbox.__init__(self, inbox)
        self._connect = packet.connect(client_id, user, password, keepalive, clean_session, will)
        if isinstance(server, str):
            server = ((server, port or (8883 if ssl else 1883)),)
        self._servers = list(server)
        self._address = None  # of the first, as long as it serves
        self.ssl = ssl
        self.clean_session = clean_session
        self.keepalive = keepalive * 1000
        self.retry = retry * 1000
        self.retries = retries
        self.timeout = timeout * 1000
        self.reconnect = reconnect
        self._subs = []
        self._poller = stream.poll()
        self._stream = None
        self._backoff = 1000
        self._state = _STOPPED
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
        # at QoS 0, the same topic and length make the same start of a packet
        if (
            n != self._n
            or topic is not self._topic
            or qos
            or retain
            or len(self._out) > self._max
            or not isinstance(payload, bytes)
        ):
            return self._publish(topic, payload, (1 if retain else 0) | packet.check_qos(qos) << 1)
        self._out.extend(self._head)
        self._out.extend(payload)
        self._sent += 1
        self._new = True
        return 0

    def _publish(self, topic, payload, n):
        topic = packet.text(topic)
        payload = packet.text(payload)
        if topic is not self._topic:
            packet.check_topic(topic)
        if not isinstance(payload, _BUFFERS):
            raise TypeError("payload")
        pid = self._accept(0x30 | n, topic, payload)
        self._topic = topic if isinstance(topic, bytes) else None
        if pid:
            self._due = ticks_ms()  # for a look at the clock, to note when it was sent
        elif not n:
            self._n = len(payload)
        return pid

    def subscribe(self, topic_filter, handler=None, qos=0):
        """Declare a subscription, in any state; poll() makes it, and again for a new session.

        Every message that matches goes to handler(topic, payload, retain): memoryviews that are
        valid during the call, in which poll() does nothing. If a handler raises, the message is not
        acknowledged, and the exception leaves poll(). Without a handler on_message is called.
        """
        if qos != _GONE:
            packet.check_qos(qos)
        f = packet.check_filter(topic_filter)
        if len(f) + 9 > self._size:
            raise ValueError("outbox")
        subs = [[f, handler, qos, True]]
        for s in self._subs:
            if s[_FILTER] != f:
                subs.append(s)
        self._subs = subs
        self._undeclared = True

    def unsubscribe(self, topic_filter):
        """End a subscription, in any state."""
        self.subscribe(topic_filter, None, _GONE)

    def poll(self):
        """One bounded step: connect, ping, send, retry, receive, call handlers and hooks.

        Raises nothing for what the network or the broker does: see `error` and on_disconnect.
        """
        n = -1
        try:
            if self._new:
                k = len(self._out) - self._pos
                n = self._write(self._out, self._pos, k)
                if n:
                    self._pos += n
                    self._new = n < k
                    k = ticks_ms()
                    if k == self._tx:
                        return  # a burst: to read once a millisecond will do
                    self._tx = k
            n = self._read(self._byte)
        except OSError:
            n = -1  # it will be raised again
        if n is None and ticks_diff(ticks_ms(), self._due) < 0:
            return
        k = _STEPS
        while True:
            n = self._try(n, k)
            if n == _HOOK:
                if self._hook:
                    self._hook(self._event)
            elif n == _MESSAGE:
                self._deliver()
            elif not n:
                return
            n = -1
            k -= 1

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
        n = ticks_add(ticks_ms(), self.timeout)
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

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection, and it stands."""
        return self._state >= _CONNECTED

    # Steps of poll()

    def _try(self, n, k):
        try:
            return self._step(n, k)
        except _ERRORS as e:
            return self._lost(e, self._state)

    def _step(self, n, k):
        # `n`: what poll() read of a byte, -1 if it did not; `k`: how many packets may be taken
        now = ticks_ms()
        state = self._state
        if state != _CONNECTED:
            return self._open(n, now) if state == _GREETING else self._begin(now, state)
        if not k:
            self._due = now
            return 0
        n = self._take(self._read(self._byte) if n == -1 else n)
        if n is not None:
            self._rx = now
            if n:
                self._find(8, 0)
                if len(self._out) <= self._size + 4:
                    self._shift = 0
                    self._read = self._readinto
                    return self._packet(self._first)
            else:
                self._pinged_at = now  # PINGRESP cannot overtake what is on its way
                return _MORE
        if ticks_diff(now, self._due) >= 0:
            self._timers(now)
        if self._undeclared:
            self._subscribe()
        return 0

    def _begin(self, now, state):
        if state == _WAITING and self.link and ticks_diff(now, self._due) >= 0:
            server = self._servers[0]
            if not self._address:
                self._address = stream.resolve(*server)
            s = stream.wrap(stream.connect(self._address), self.ssl, server[0])
            self._stream = s
            self._sock = s.sock if self.ssl else s
            self._poller.register(self._sock, _POLLOUT)
            self._hello = self._connect
            self._due = ticks_add(ticks_ms(), self.timeout)
            self._state = _GREETING
        return 0

    def _open(self, n, now):
        if ticks_diff(now, self._due) >= 0:
            raise OSError("timeout")
        s = self._hello
        if s:
            n = self._stream.write(s, 0, len(s))
            if n:
                self._hello = s[n:]
                self._readinto = self._read = self._stream.readinto
            return 0
        if not self._take(self._read(self._byte) if n == -1 else n):
            return 0
        s = self._in
        if self._first != 0x20 or s[0] > 1 or s[1] > 5:
            raise ProtocolError("CONNACK", s[1])
        if s[1]:
            raise Refused(_CODES[s[1] - 1], s[1])
        self._event = n = bool(s[0]) and not self.clean_session
        self._hook = self.on_connect
        s = self._resume(n)
        if s and self._stream.write(s, 0, len(s)) != len(s):
            raise OSError("stuck")
        if not n:
            self._ids = [0] * 32
            for s in self._subs:
                s[_DUE] = True
        self._undeclared = True
        self._write = self._stream.write
        self._state = _CONNECTED
        self._shift = self._tries = 0
        self._read = self._readinto
        self._oldest = -1  # identifier of what is retried next, 0 for SUBSCRIBE
        self._pinging = False
        # ticks: written, heard, `_oldest` was seen, PINGREQ was sent, connected, the next look
        self._tx = self._rx = self._since = self._pinged_at = self._up = self._due = now
        self._stats["connects"] += 1
        return _HOOK

    def _lost(self, e, state):
        if not isinstance(e, MQTTError):
            e = ConnectionLost(_ENDS[state - 1], self._servers[0], str(e))
        self._event = self.error = e
        self._hook = self.on_disconnect
        self._close(_WAITING if self.reconnect else _STOPPED)
        if state < _CONNECTED:
            self._address = None
            self._servers.append(self._servers.pop(0))
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
        self._shift = 0
        self._ask_again()

    # Time

    def _timers(self, now):
        # do what is due, and find out when the next is
        left = _MINUTE
        if ticks_diff(now, self._up) >= (self.keepalive or left):
            self._backoff = 1000
        if self.keepalive:
            left = self._ping(now, self.keepalive)
        n = ~self._find(8, 0)
        if self.retry and (n or self._asked):
            n = packet.packet_id(self._out, 0) if n else 0
            if n != self._oldest:
                self._oldest = n
                self._since = now
                self._tries = 0
            n = self.retry - ticks_diff(now, self._since)
            if n <= 0:
                self._again(self._out)
                self._since = now
                n = self.retry
            left = min(left, n)
        self._due = ticks_add(now, left)

    def _ping(self, now, ms):
        if self._pinging:
            n = ms // 2 - ticks_diff(now, self._pinged_at)
            if n <= 0:
                raise OSError("no PINGRESP")
            return n
        # silence in either direction
        n = ms * 3 // 4 - max(ticks_diff(now, self._rx), ticks_diff(now, self._tx))
        if n <= 0:
            self._out.extend(b"\xc0\0")
            self._new = self._pinging = True
            self._pinged_at = now
            n = ms // 2
        return n

    def _again(self, out):
        # the oldest message, or SUBSCRIBE, waits for too long
        self._tries += 1
        if self._tries > self.retries:
            raise OSError("no acknowledgement")
        self._ask_again()
        if self._oldest and not self._new:
            self._stats["retried"] += 1
            if out[0] & 6 == 6:
                self._reply(0x62, self._oldest)
            else:
                out[0] |= 8
                n = packet.end(out, 0)
                if self._write(out, 0, n) != n:
                    raise OSError("stuck")

    # Packets that came

    def _packet(self, n):
        # act on it; what there is for poll()
        if n == 0xD0:
            self._pinging = False
            return _MORE
        if n & 0xF0 == 0x30:
            return self._message(self._look(self._in))
        if n == 0x20:
            raise ProtocolError("CONNACK", n)
        pid = self._id(0)
        if n > 0x80:
            return self._suback(-pid if n == 0xB0 else pid)
        if n == 0x62:  # PUBREL
            if pid in self._ids:
                self._ids[self._ids.index(pid)] = 0
            self._reply(0x70, pid)
            return _MORE
        # PUBACK, PUBREC, PUBCOMP
        i = self._find(min(n // 8 - 6, 6), pid)
        if n == 0x50:
            self._reply(0x62, pid)
        if i < 0:
            return _MORE
        if not i:
            self._oldest = -1
            self._due = self._rx
        if n == 0x50:
            self._out[i] |= 6
            return _MORE
        n = packet.end(self._out, i)
        self._out[i:n] = b""
        self._pos -= n - i
        self._stats["acked"] += 1
        self._event = pid
        self._hook = self.on_ack
        return _HOOK

    def _message(self, pid):
        self._pid = pid
        if self._first & 4:
            if pid in self._ids:
                self._reply(0x50, pid)
                return _MORE
            if 0 not in self._ids:
                raise ProtocolError("too many without PUBREL", pid)
        return _MESSAGE

    def _deliver(self):
        # hand the message over, then acknowledge it
        self._state = _DELIVERING
        self._read = one
        self._due = self._rx  # no wait() if a handler raises
        try:
            self._hand_over(self._name)
        finally:
            if self._state == _DELIVERING:
                self._state = _CONNECTED
                self._read = self._readinto
        n = self._pid
        if n and self._state == _CONNECTED:
            if self._first & 4:
                self._ids[self._ids.index(0)] = n
            self._reply(0x50 if self._first & 4 else 0x40, n)

    def _hand_over(self, topic):
        if self._left > len(self._in):
            self._stats["dropped"] += 1
            if self.on_skip:
                self.on_skip(topic, self._left - self._start)
            return
        self._stats["received"] += 1
        hook = self.on_message
        for s in self._subs:
            if s[_HANDLER] and packet.match(s[_FILTER], topic):
                hook = None
                s[_HANDLER](topic, self._payload, bool(self._first & 1))
        if hook:
            hook(topic, self._payload, bool(self._first & 1))

    # Subscriptions

    def _subscribe(self):
        # one packet, of as many as fit of the filters that are due
        self._undeclared = False
        self._find(8, 0)
        batch = []
        body = bytearray(2)
        gone = False
        for s in self._subs:
            if s[_DUE]:
                if not batch:
                    gone = s[_QOS] < 0
                n = self._size - 7 - len(body) - len(s[_FILTER])
                if gone != (s[_QOS] < 0) or len(self._out) > n or len(batch) > 60:
                    self._undeclared = True
                    self._room = n  # publish() leaves it
                    break
                packet.string(body, s[_FILTER])
                if not gone:
                    body.append(s[_QOS])
                batch.append(s)
        if batch:
            self._room = self._size
            n = self._new_id()
            body[0] = n >> 8
            body[1] = n & 255
            self._out.append(0xA2 if gone else 0x82)
            packet.remaining_length(self._out, len(body))
            self._out.extend(body)
            self._asked[-n if gone else n] = batch
            for s in batch:
                s[_DUE] = False
            self._new = True
            self._due = self._tx

    def _ask_again(self):
        for batch in self._asked.values():
            for s in batch:
                s[_DUE] = True
        self._asked.clear()
        self._undeclared = True

    def _suback(self, n):
        codes = bytes(self._in[2 : self._left])
        batch = self._asked.pop(n, None)
        if codes.strip(b"\0\1\2\x80") or codes and batch and len(batch) != len(codes):
            raise ProtocolError("SUBACK", codes)
        self._oldest = -1
        if batch and b"\x80" in codes:
            self.error = self._event = Refused(
                "subscription", *[s[_FILTER] for s, n in zip(batch, codes) if n > 2]
            )
            self._hook = self.on_refused
            return _HOOK
        return _MORE
