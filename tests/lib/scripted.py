# A broker that does what the test says, byte for byte, in the client's own thread.
#
#     broker = Broker(keepalive=10)
#     broker.start()                      # CONNECT and CONNACK
#     broker.client.publish("t", "hello")
#     broker.expect(h("30 08 0001 74") + b"hello")
#     broker.close()
#
# Whatever waits, waits by stepping the client, so a test runs as fast as its client does.

import errno
import os
import socket
import time

from umqtt_lite import MQTTClient

PATIENCE = 5000  # ms until what was expected counts as missing
EPIPE = 32  # which MicroPython's errno lacks
CONNACK = b"\x20\x02\x00\x00"

if hasattr(time, "ticks_ms"):
    now = time.ticks_ms
    since = time.ticks_diff
else:

    def now():
        return time.monotonic_ns() // 1000000

    def since(later, earlier):
        return later - earlier


h = bytes.fromhex


def text(data):
    """A string as MQTT writes it: two bytes of length first."""
    data = data.encode() if isinstance(data, str) else data
    return len(data).to_bytes(2, "big") + data


def frame(first, *parts):
    """A packet: its first byte, the remaining length, the parts."""
    body = b"".join(parts)
    head, length = bytearray([first]), len(body)
    while True:
        head.append(length & 127 | (128 if length > 127 else 0))
        length >>= 7
        if not length:
            return bytes(head) + body


def show(data):
    return " ".join("%02x" % byte for byte in data) or "nothing"


class Broker:
    Client = MQTTClient

    def __init__(self, client_id="c", **options):
        self.listener, self.port = listen()
        self.conn = None
        self.received = b""
        self.events = []  # what the hooks were told, as tuples
        self.client = client = self.Client(client_id, "127.0.0.1", self.port, **options)
        client.on_connect = lambda present: self.events.append(("connect", present))
        client.on_disconnect = lambda error: self.events.append(("disconnect", error))
        client.on_message = self.handler("message")
        client.on_ack = lambda packet_id: self.events.append(("ack", packet_id))

    def handler(self, name):
        """A handler of messages that records them under a name."""
        return lambda topic, payload, retain: self.events.append(
            (name, bytes(topic), bytes(payload), retain)
        )

    def take(self):
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def step(self):
        self.client.poll()
        self.client.wait(1)

    def until(self, done, what):
        """Step the client until done() says so."""
        begin = now()
        while not done():
            if since(now(), begin) > PATIENCE:
                what = what if isinstance(what, str) else what()
                raise AssertionError("%s: not within %d ms" % (what, PATIENCE))
            self.step()

    def run(self, ms):
        """Step the client for a while."""
        begin = now()
        while since(now(), begin) < ms:
            self.step()

    def await_event(self, *event):
        self.until(lambda: event in self.events, lambda: "%r in %r" % (event, self.events))

    # The connection

    def start(self, connack=CONNACK):
        """Accept, take whatever CONNECT comes, and answer it."""
        self.accept()
        packet = self.packet()
        assert packet[0] == 0x10, "not a CONNECT: " + show(packet)
        self.send(connack)
        self.until(lambda: self.client.connected, "connected")
        return packet

    def accept(self):
        self.drop()
        self.until(self._accept, "a connection")

    def _accept(self):
        try:
            self.conn = self.listener.accept()[0]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return False
        self.conn.setblocking(False)
        self.conn.setsockopt(6, 1, 1)  # TCP_NODELAY, which MicroPython has no names for
        self.received = b""
        return True

    def drop(self):
        """Close the connection, as a broker does that dies."""
        if self.conn:
            self.conn.close()
            self.conn = None

    def close(self):
        self.drop()
        self.listener.close()
        self.client.disconnect()

    # Bytes to the client

    def send(self, data):
        sent = 0
        while sent < len(data):
            sent += self._send(data[sent:])
            self.client.poll()

    def _send(self, data):
        try:
            return self.conn.send(data)
        except OSError as error:
            if error.errno in (EPIPE, errno.ECONNRESET):
                return len(data)  # expect_close() is the one to judge
            if error.errno != errno.EAGAIN:
                raise
            return 0

    def send_slowly(self, data):
        """Byte by byte, each seen by the client before the next is sent."""
        for i in range(len(data)):
            self.send(data[i : i + 1])
            self.client.poll()

    # Bytes from the client

    def pull(self):
        """Read what there is; False at the end of the stream."""
        try:
            data = self.conn.recv(1024)
        except OSError as error:
            if error.errno == errno.ECONNRESET:
                return False
            if error.errno != errno.EAGAIN:
                raise
            return True
        self.received += data
        return len(data) > 0

    def expect(self, data):
        """The client sends exactly these bytes next."""

        def done():
            is_open = self.pull()
            whole = len(self.received) >= len(data)
            assert self.received[: len(data)] == data[: len(self.received)], difference()
            assert whole or is_open, difference() + ", then the end"
            return whole

        def difference():
            return "\nexpected %s\nreceived %s" % (show(data), show(self.received))

        self.until(done, difference)
        self.received = self.received[len(data) :]

    def packet(self):
        """The next packet, whatever it is."""
        self.until(self._whole, "a packet")
        size = self._whole()
        packet, self.received = self.received[:size], self.received[size:]
        return packet

    def _whole(self):
        """The size of the packet that has arrived whole, or 0."""
        assert self.pull() or self.received, "the client closed the connection"
        length = 0
        for i in range(1, min(5, len(self.received))):
            length |= (self.received[i] & 127) << 7 * (i - 1)
            if self.received[i] < 128:
                return i + 1 + length if len(self.received) > i + length else 0
        return 0

    def expect_nothing(self, ms=50):
        """The client leaves the connection open and says nothing for a while."""
        self.run(ms)
        assert self.pull(), "the client closed the connection"
        assert not self.received, "\nexpected nothing\nreceived %s" % show(self.received)

    def expect_close(self):
        """The client closes the connection and says nothing before."""
        self.until(lambda: not self.pull(), "the end of the connection")
        assert not self.received, "\nexpected the end\nreceived %s" % show(self.received)


def listen():
    """A listening socket on a free port; MicroPython cannot ask which one the system chose."""
    while True:
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 40000
        listener = socket.socket()
        try:
            listener.bind(socket.getaddrinfo("127.0.0.1", port)[0][-1])
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        listener.listen(1)
        listener.setblocking(False)
        return listener, port
