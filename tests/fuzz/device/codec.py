# The client over a stream of its own, for test_codec.py: each line on stdin is a call, [name,
# arguments...], with bytes in hexadecimal; each is answered in one line.

import json
import sys

import umqtt_lite
from umqtt_lite import packet, stream, subscriptions

h = bytes.fromhex


class Stream:
    """Gives the pieces that it was given, each by itself, and keeps what is written."""

    sock = sys.stdin  # for poll(), which only looks whether there is something

    def __init__(self):
        self.pieces = []
        self.written = []

    def readinto(self, buf, n=None):
        if not self.pieces:
            return None
        n = min(len(buf) if n is None else n, len(self.pieces[0]))
        buf[:n] = self.pieces[0][:n]
        self.pieces[0] = self.pieces[0][n:]
        if not self.pieces[0]:
            self.pieces.pop(0)
        return n

    def write(self, buf, offset, n):
        n = min(n, len(buf) - offset)
        self.written.append(bytes(memoryview(buf)[offset : offset + n]))
        return n

    def close(self):
        self.pieces.clear()


class Codec:
    def new(self, args, options):
        """A new client, with strings where MQTT has some."""
        self.events = []
        self.stream = Stream()
        stream.resolve = lambda *address: address
        stream.connect = lambda *args: self.stream
        self.client = client = umqtt_lite.MQTTClient(
            args[0], "host", 0, *args[1:], reconnect=False, **options
        )
        client.on_connect = lambda present: self.events.append(["connect", present])
        client.on_disconnect = lambda e: self.events.append(["end", type(e).__name__])
        client.on_message = lambda topic, payload, retain: self.events.append(
            ["message", bytes(topic).hex(), bytes(payload).hex(), retain]
        )
        client.on_skip = lambda topic, size: self.events.append(["skip", bytes(topic).hex(), size])
        client.on_ack = lambda id: self.events.append(["ack", id])
        client.on_refused = lambda e: self.events.append(
            ["refused", [f.hex() for f in e.args[1:]]]
        )
        return self.feed()

    def feed(self, *pieces):
        """What is written after these pieces have come, and what happened."""
        self.stream.pieces = [h(piece) for piece in pieces]
        size = -1
        calm = 0
        while calm < 6:
            calm += 1
            self.client.poll()
            if self.stream.pieces or len(self.stream.written) != size:
                calm = 0
                size = len(self.stream.written)
        written, self.stream.written = b"".join(self.stream.written), []
        events, self.events = self.events, []
        return written, events

    def publish(self, topic, payload, retain, qos):
        payload = bytes(payload) if isinstance(payload, int) else h(payload)
        self.client.publish(h(topic), payload, retain, qos)
        return self.feed()

    def subscribe(self, *requests):
        for topic_filter, qos in requests:
            self.client.subscribe(h(topic_filter), None, qos)
        return self.feed()

    def unsubscribe(self, *filters):
        for topic_filter in filters:
            self.client.unsubscribe(h(topic_filter))
        return self.feed()

    def match(self, *pairs):
        return [bool(subscriptions.match(h(f), h(topic))) for f, topic in pairs]

    def plain(self, *strings):
        return [bool(packet.is_plain(h(s))) for s in strings]


def text(answer):
    """In JSON; what was written by hand, as json takes seconds for a megabyte."""
    if isinstance(answer, tuple):
        return '["%s", %s]' % (answer[0].hex(), json.dumps(answer[1]))
    return json.dumps(answer)


codec = Codec()
while line := sys.stdin.readline():
    name, *args = json.loads(line)
    try:
        print(text(getattr(codec, name)(*args)))
    except (ValueError, TypeError) as error:
        print(text(type(error).__name__))
