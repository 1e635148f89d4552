# A device that drinks what a hostile broker pours out. It publishes all the time, and tells in one
# line each what the client made of it:
#
#     c PRESENT             on_connect
#     d ERROR TEXT          on_disconnect
#     m HANDLER CRC RETAIN  a message, at each handler that took it; - for on_message
#     p HANDLER CRC OFFSET TOTAL RETAIN  a piece, at each handler that takes these; the CRC goes
#                           on from the one before. Of those far from the begin, the last alone
#     s CRC SIZE            a message that was skipped
#     r FILTER...           subscriptions that were refused
#     n NONCE MEM           a nonce came, went back at QoS 1, and that was acknowledged
#     e SENT STATS          after an order to stop: nothing is pending

import binascii
import gc
import json
import random
import sys

config = json.loads(sys.argv[1])
if config["speed"] > 1:
    import fast

    fast.clock(config["speed"])

from umqtt_lite import MQTTClient, OutboxFull  # noqa: E402 (after its clock)

FILTERS = ("in/#", "in/+/x", "+/y", "$SYS/+", "ü/€/#")
PASSING = ("dyn/1", "dyn/2/+", "dyn/3/#")  # subscribed to and unsubscribed from, now and then


class Device:
    def __init__(self):
        self.sent = [0, 0, 0]  # accepted at each QoS
        self.nonce = None  # to be sent back
        self.nonces = {}  # packet identifier: sent back, not acknowledged
        self.stop = False
        self.crc = {}  # of the pieces that each handler took
        self.client = client = MQTTClient("drinker", "127.0.0.1", **config["options"])
        client.on_connect = lambda present: print("c", int(present))
        client.on_disconnect = self.gone
        client.on_message = lambda *message: self.got("-", *message)
        client.on_ack = self.acked
        client.on_skip = lambda topic, size: print("s", binascii.crc32(topic), size)
        client.on_refused = lambda error: print("r", error.args[1:])
        for i in range(len(FILTERS)):
            self.handle(i)

    def handle(self, i):
        take = self.piece if i in config["pieces"] else self.got
        self.client.subscribe(
            FILTERS[i], lambda *message: take(i, *message), i % 3, i in config["pieces"]
        )

    def gone(self, error):
        self.client._backoff = 1  # to be quick
        print("d", type(error).__name__, error)

    def got(self, handler, topic, payload, retain):
        print("m", handler, binascii.crc32(payload, binascii.crc32(topic)), int(retain))
        self.obey(topic, payload)

    def piece(self, handler, topic, piece, offset, total, retain):
        crc = binascii.crc32(piece, self.crc[handler] if offset else binascii.crc32(topic))
        self.crc[handler] = crc
        if offset < 10000 or offset + len(piece) == total:
            print("p", handler, crc, offset, total, int(retain))
        self.obey(topic, piece)

    def obey(self, topic, payload):
        if topic == b"in/nonce":
            self.nonce = bytes(payload)
        elif topic == b"in/stop":
            self.stop = True

    def acked(self, packet_id):
        nonce = self.nonces.pop(packet_id, None)
        if nonce is not None:
            gc.collect()
            print("n", nonce.hex(), gc.mem_alloc() if hasattr(gc, "mem_alloc") else 0)

    def publish(self):
        client = self.client
        try:
            if self.nonce is not None:
                self.nonces[client.publish("nonce", self.nonce, qos=1)] = self.nonce
                self.nonce = None
            elif not self.stop:
                qos = random.randrange(3)
                n = self.sent[qos]
                client.publish(b"out", b"%d %d " % (qos, n) + b"." * (n * 37 % 90), qos=qos)
                self.sent[qos] = n + 1
        except OutboxFull:
            pass

    def change(self):
        if random.randrange(2):
            self.client.subscribe(random.choice(PASSING), None, random.randrange(3))
        else:
            self.client.unsubscribe(random.choice(PASSING))

    def run(self):
        client = self.client
        while not self.stop or client.pending or self.nonce is not None:
            if self.nonce is not None or not random.randrange(3):
                self.publish()
            if not random.randrange(300):
                self.change()
            client.poll()
            client.wait(random.randrange(4))
        print("e", json.dumps([self.sent, client.stats]))


random.seed(config["seed"])
Device().run()
