# Publish and receive messages as tests/ledger.py numbers them, until told that it is enough. Tell
# what was accepted, what came, and how long the longest call of publish() and poll() took.

import gc
import json
import random
import select
import sys
import time

import fast
import ledger

config = json.loads(sys.argv[1])
fast.clock(config["speed"])

from umqtt_lite import MQTTClient, OutboxFull  # noqa: E402 (after its clock)


def tell(*event):
    print(json.dumps(event))


class Watch:
    """Calls functions of the client, and keeps the longest time that one took."""

    longest = 0  # µs

    def call(self, function, *args):
        begin = time.ticks_us()
        try:
            return function(*args)
        finally:
            self.longest = max(self.longest, time.ticks_diff(time.ticks_us(), begin))


def got(topic, payload, retain):
    tell("got", *ledger.entry(payload))


def connect():
    name = config["name"]
    client = MQTTClient(
        name,
        "127.0.0.1",
        config["port"],
        keepalive=20,
        clean_session=config["clean"],
        retry=5,
        outbox=config["outbox"],
    )
    client.on_connect = lambda present: tell("connect", present)
    client.on_disconnect = lambda error: tell("disconnect", str(error))
    client.on_refused = lambda error: tell("refused", error.args[1:])
    client.on_message = lambda *message: tell("stray", bytes(message[0]))
    client.subscribe(name + "/in", got, config["levels"] - 1)
    client.subscribe("denied/" + name, got)
    return client


def main():
    random.seed(config["seed"])
    client = connect()
    topic = config["name"] + "/out"
    orders = select.poll()
    orders.register(sys.stdin, select.POLLIN)
    watch = Watch()
    sent = [0] * config["levels"]
    subscribed = drained = enough = False
    while True:
        qos = random.randrange(len(sent))
        if not enough and random.randrange(4):
            try:
                watch.call(client.publish, topic, ledger.payload(qos, sent[qos]), False, qos)
                sent[qos] += 1
            except OutboxFull:
                pass
        watch.call(client.poll)
        client.wait(random.randrange(config["wait"]))
        if not subscribed and client.connected and not (client._asked or client._subs.due):
            subscribed = True
            tell("subscribed")
        if enough and not drained and client.connected and not client.pending:
            drained = True
            client.error = None  # which may be of any length
            gc.collect()
            tell("drained", sent, gc.mem_alloc())
        if orders.poll(0):
            order = sys.stdin.readline()
            if "end" in order:
                client.disconnect()
                tell("end", watch.longest)
            if not order or "end" in order:
                return
            enough = "enough" in order
            drained = False


main()
