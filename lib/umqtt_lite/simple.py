"""umqtt.simple's MQTTClient, with its calls that block, on the client of client.py.

    from umqtt_lite.simple import MQTTClient     # the only line that a program changes

No call waits for ever: OSError(-1, what to look at) ends it, and then connect() is the way back.
Each connect() makes a client with an outbox of its own. Outbox and inbox grow for a message that
is larger than all before; a received one is allocated once more, as bytes for the callback.
"""

from time import ticks_add, ticks_ms

from micropython import const

from . import client
from .packet import Refused

_MINUTE = const(60000)
_LARGEST = const(1 << 28)  # bytes of a packet (2.2.3)

# Of client.py
_MORE = const(1)
_MESSAGE = const(2)
_KEEPALIVE = const(1)  # index of _config


class MQTTException(Exception):
    """The broker refused: (return code of CONNACK (3.2.2.3), or 128 of SUBACK (3.9.3))."""


class _Client(client.MQTTClient):
    late: list

    def _step(self, n):
        # Takes in one packet at a poll(), or a call would take what is the next one's. A message
        # waits in `late` for poll() to return: a callback may call anything
        n = client.MQTTClient._step(self, n)
        box = self._inbox
        i = box.type
        if n == _MESSAGE:
            if i & 4:
                box.ids[box.ids.index(0)] = self._event  # type: ignore[call-overload]
            self.late.append((i, bytes(box.topic), bytes(box.payload), self._event))
        s = box.buf[:2]
        i = box.size
        if i > len(box.buf):  # and two bytes at most are there
            box.buf = memoryview(bytearray(i))
            box.buf[:2] = s
            box.topic = box.payload = s[:0]
        if n:
            self._due = self._rx  # for wait(): there may be more
        return n == _MORE and box.step != 0


class MQTTClient:
    """See umqtt.simple. Attributes may be changed before connect().

    keepalive   s; wait_msg() sends the pings. 0: the broker expects none, and 60 s are used to
                find a dead peer
    ssl         an SSLContext, or True, with the arguments of ssl.wrap_socket() in ssl_params
    """

    cb = sock = _will = _client = None
    _busy = False  # a callback is running

    def __init__(
        self,
        client_id,
        server,
        port=0,
        user=None,
        password=None,
        keepalive=0,
        ssl=None,
        ssl_params={},  # noqa: B006
    ):
        self.client_id = client_id
        self.server = server
        self.port = port or (8883 if ssl else 1883)
        self.user = user
        self.pswd = password
        self.keepalive = keepalive
        self.ssl = ssl
        self.ssl_params = ssl_params

    def set_callback(self, f):
        """Let f(topic, msg), both bytes, take the messages. It may call any method."""
        self.cb = f

    def set_last_will(self, topic, msg, retain=False, qos=0):
        """The message that the broker publishes when the client vanishes. Before connect()."""
        self._will = topic, msg, retain, qos

    def connect(self, clean_session=True, timeout=None):
        """Returns whether the broker had a session. MQTTException if it refuses.

        timeout     s for the connection; as many without an acknowledgement, three times, before
                    a message is sent again, and after the last OSError. None: 10
        """
        old = self._client
        if old:
            old._close(0)
            old.error = "closed"
        n = int(timeout or 10) or 1
        self._client = c = _Client(
            self.client_id,
            ((self.server, self.port),),
            0,
            self.user or None,
            self.pswd if self.user else None,
            self.keepalive,
            self if self.ssl is True else self.ssl,
            clean_session=clean_session or not self.client_id,
            will=self._will,
            retry=n,
            timeout=n,
            reconnect=False,
        )
        c.late = []
        c._size = c._room = _LARGEST
        c._config = s = list(c._config)
        s[_KEEPALIVE] = s[_KEEPALIVE] or _MINUTE
        if old:
            c._id = old._id
            c._inbox = old._inbox
            if not clean_session and old._subs:
                c._subs = old._subs
                c._subs._box = c
        while not c.connected:
            self._step(c)
            self.sock = getattr(c._io, "sock", c._io) or self.sock
        return c._event

    def disconnect(self):
        """DISCONNECT, after which the broker publishes no will, and close."""
        c = self._client
        c.disconnect()
        c.error = c.error or "disconnected"

    def ping(self):
        """Send PINGREQ. A missing answer ends wait_msg() or check_msg()."""
        c = self._check(self._client)
        if not c._ping:
            c._rx = ticks_ms()
        c._ping = 2  # wait_msg() is to return
        c._settle()
        c._out.extend(b"\xc0\0")
        c._new = True
        self._flush()

    def publish(self, topic, msg, retain=False, qos=0):
        """Write a message; at QoS 1 and 2 wait until the broker has acknowledged it."""
        c = self._check(self._client)
        c.publish(topic, msg, retain, qos)
        while qos and c.pending:
            self._step(c)
        self._flush()

    def subscribe(self, topic, qos=0):
        """Subscribe, and wait for the broker's answer. MQTTException if it refuses."""
        c = self._check(self._client)
        c.subscribe(topic, None, qos)
        while c._subs.due or c._asked:
            self._step(c)
        self._flush()

    def unsubscribe(self, topic):
        """End a subscription, and wait for the broker's answer."""
        self.subscribe(topic, -1)

    def wait_msg(self, ms=_MINUTE):
        """Wait for a message, and call the callback; or for the answer to ping().

        Returns the first byte of the PUBLISH, or None.
        """
        while True:
            c = self._client
            i = c._inbox.step
            p = c._ping
            n = self._step(c, ms)
            if n or p == 2 and not c._ping or not ms and i == c._inbox.step:
                self._flush()
                return n

    def check_msg(self):
        """wait_msg() for a message that is there; else None, at once."""
        return MQTTClient.wait_msg(self, 0)

    def wrap_socket(self, sock, **_):
        # as that of an SSLContext, for ssl=True
        import ssl

        return ssl.wrap_socket(sock, do_handshake=False, **self.ssl_params)

    def _flush(self):
        # Write what is to be written, reading nothing: that is wait_msg()'s
        c = self._client
        c._due = ticks_add(ticks_ms(), 9999)
        c._read = lambda buf, n: None
        while c._new:
            self._step(c)
        if c._io:
            c._read = c._io.readinto
        c._due = ticks_ms()

    def _step(self, c, ms=_MINUTE):
        # One poll(), when there is something to do or after ms. Hands over what came
        self._check(c).wait(ms)
        c._idle = False  # for all to go by way of its _step()
        if c.connected:
            self.sock.setblocking(False)  # whatever the program has made of it
        c.poll()
        self._check(c)
        n = None
        if not self._busy:
            self._busy = True
            try:
                while c.late:
                    n, topic, msg, id = c.late.pop(0)
                    self.cb(topic, msg)
                    if id and c.connected:
                        c._add(0x40 + 4 * (n & 4), id)  # PUBACK, PUBREC
            finally:
                self._busy = False
        return n

    def _check(self, c):
        # the client, if nothing is wrong with it
        e = c.error
        if e:
            if not isinstance(e, Refused):
                raise OSError(-1, str(e))
            n = e.args[1]
            if c.connected:
                n = 128
                c.error = None
            raise MQTTException(n)
        return c
