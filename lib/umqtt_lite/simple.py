"""umqtt.simple's MQTTClient, with its calls that block, on the client of client.py.

    from umqtt_lite.simple import MQTTClient     # the only line that a program changes

No call waits for ever: OSError(-1, what to look at) ends it, and then connect() is the way back.
Each connect() makes a client with an outbox of its own. Outbox and inbox grow for a message that
is larger than all before; a received one is allocated once more, as bytes for the callback.
"""

from micropython import const

from . import client

_MINUTE = const(60000)
_LARGEST = const(1 << 26)  # bytes; more than there are

# Of client.py
_MESSAGE = const(2)
_KEEPALIVE = const(1)  # index of _config


class MQTTException(Exception):
    """The broker refused: (return code of CONNACK (3.2.2.3), or 128 of SUBACK (3.9.3))."""


class MQTTClient:
    """See umqtt.simple. Attributes may be changed before connect().

    keepalive   s; wait_msg() sends the pings. 0: the broker expects none, and 60 s are used to
                find a dead peer
    ssl         an SSLContext, or True, with the arguments of ssl.wrap_socket() in ssl_params
    """

    # _io: the polled client, whose names a subclass may use; _busy: a callback is running
    cb = sock = _will = _io = _busy = None

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
        n = int(timeout or 10) or 1
        ssl = self.ssl
        if ssl is True:
            from .legacy import Context

            ssl = Context(self.ssl_params)
        user = self.user or None
        c = client.MQTTClient(
            self.client_id,
            ((self.server, self.port),),
            0,
            user,
            user and self.pswd,
            self.keepalive,
            ssl,
            clean_session=clean_session or not self.client_id,
            will=self._will,
            retry=n,
            timeout=n,
        )
        c._step = self._rx
        c._size = c._room = _LARGEST
        s = c._config
        s[_KEEPALIVE] = s[_KEEPALIVE] or _MINUTE
        old = self._io
        if old:
            MQTTClient.disconnect(self)
            c._id = old._id
            c._inbox = old._inbox
            s = old._subs
            if s and not clean_session:
                c._subs = s
                s._box = c
        self._io = c
        c.items = []  # type: ignore[attr-defined]  # messages for the callback
        while not c.up:
            self._step(c)
        return c._event

    def disconnect(self):
        """DISCONNECT, after which the broker publishes no will, and close."""
        c = self._io
        c.disconnect()
        c.error = "closed"

    def ping(self):
        """Send PINGREQ. A missing answer ends wait_msg() or check_msg()."""
        c = self._io
        c._settle()
        c._out.extend(b"\xc0\0")
        c._new = True
        self._step(c, False)
        if not c._ping:
            c._rx = c._tx
        c._ping = 2  # wait_msg() is to return

    def publish(self, topic, msg, retain=False, qos=0):
        """Write a message; at QoS 1 and 2 wait until the broker has acknowledged it."""
        c = self._io
        c.publish(topic, msg, retain, qos)
        self._step(c, False)
        while qos and c.pending:
            self._step(c)

    def subscribe(self, topic, qos=0):
        """Subscribe, and wait for the broker's answer. MQTTException if it refuses."""
        c = self._io
        c.subscribe(topic, None, qos)
        while c._subs.due or c._asked:
            self._step(c)

    def unsubscribe(self, topic):
        """End a subscription, and wait for the broker's answer."""
        MQTTClient.subscribe(self, topic, -1)

    def wait_msg(self, ms=_MINUTE):
        """Wait for a message, and call the callback; or for the answer to ping().

        Returns the first byte of the PUBLISH, or None.
        """
        c = self._io
        self._busy = False  # for one that a callback asks for
        while True:
            p = c._ping
            n = self._step(c, True, ms)
            if n or p == 2 and not c._ping or not ms and c._due != c._rx:
                return n

    def check_msg(self):
        """wait_msg() for a message that is there; else None, at once."""
        return MQTTClient.wait_msg(self, 0)

    def _rx(self, n):
        # The client's _step(): one packet at most, or a call would take what is the next one's.
        # A message waits for poll() to return, as its callback may call anything
        c = self._io
        if n and not c.read:
            c._due = c._tx  # to be seen to when it is read again
            return
        n = client.MQTTClient._step(c, n)
        c._idle = False  # for all to go by way of this
        box = c._inbox
        if n:
            c._due = c._rx  # for wait(): there may be more
            if n == _MESSAGE:
                n = box.type
                if n & 4:
                    box.ids[box.ids.index(0)] = c._event  # type: ignore[call-overload]
                c.items.append((n, bytes(box.topic), bytes(box.payload), c._event))
        if box.size > len(box.buf):  # and two bytes at most are there
            n = box.buf[:2]
            box.buf = box.topic = memoryview(bytearray(box.size))
            box.buf[:2] = n

    def _step(self, c, read=True, ms=_MINUTE):
        # One poll() when there is something to do, or after ms. Hands over what came. Goes on
        # until all is written, which while the broker takes it needs no reading: that is the
        # next wait_msg()'s
        n = None
        while True:
            if not c.error:
                c.wait(ms)
                self.sock = s = getattr(c._io, "sock", c._io)
                if s:
                    s.setblocking(False)  # whatever the program has made of it
                c.read = read
                c.poll()
            e = c.error
            if e:
                if c.up:  # the broker refused a subscription
                    c.error = None
                    raise MQTTException(128)
                c._out = bytearray()  # however often it is tried
                c._pos = 0
                if isinstance(e, client.Refused):
                    raise MQTTException(e.args[1])
                raise OSError(-1, str(e))
            if not self._busy:
                self._busy = True
                try:
                    while c.items:
                        n, topic, msg, id = c.items.pop(0)
                        self.cb(topic, msg)
                        if id and c.up:
                            c._add(0x40 + 4 * (n & 4), id)  # PUBACK, PUBREC
                finally:
                    self._busy = False
            if not c._new:
                return n
            read = not read
