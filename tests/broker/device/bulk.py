# Over TLS: publish until nothing goes any more, then take a burst while handlers raise.

import json
import sys

import ledger

from umqtt_lite import MQTTClient, OutboxFull
from umqtt_lite.tls import context


def tell(*event):
    print(json.dumps(event))


def main(port, ca):
    with open(ca, "rb") as file:
        c = context(file.read())
    client = MQTTClient("bulk", "localhost", int(port), ssl=c, outbox=16384, inbox=160)
    client.on_disconnect = lambda error: tell("disconnect", str(error))
    client.on_skip = lambda topic, size: tell("skip", size)
    count = got = 0

    def receive(topic, payload, retain):
        nonlocal got
        if ledger.entry(payload) != (0, got):
            raise ValueError(got)
        got += 1
        if got % 3 == 0:
            raise KeyError

    def step(ms):
        client.wait(ms)
        try:
            client.poll()
        except KeyError:
            pass

    client.subscribe("in", receive, 0)
    while not client.connected:
        step(60000)
    sock = getattr(client._io, "tcp", None) or client._io._sock
    sock.setsockopt(1, 7, 4096)  # SO_SNDBUF
    full = 0
    while full < 50:
        try:
            client.publish("out", ledger.payload(1, count), qos=1)
            count += 1
            full = 0
            if count % 10 == 0:
                step(0)
        except OutboxFull:
            full += 1
            step(1)
    tell("blocked", count)
    while client.pending:
        step(60000)
    client.subscribe("more", receive, 0)  # which the broker has waited for
    while got < 300:
        step(60000)
    tell("got", got)


main(*sys.argv[1:])
