# Be a client whose peer goes silent, and measure on its own clock how long it takes to notice:
# from the last byte that was heard to on_disconnect.

import json
import sys

import fast

config = json.loads(sys.argv[1])
fast.clock(config["speed"])
clock = sys.modules["time"]

from umqtt_lite import MQTTClient, OutboxFull, stream  # noqa: E402 (after its clock)


def tell(*event):
    print(json.dumps(event))


class Ear:
    """A stream that keeps when it last heard something, and when it last wrote."""

    def __init__(self, sock):
        self.sock = sock
        self.close = sock.close
        self.heard = self.wrote = clock.ticks_ms()

    def readinto(self, buf, n=None):
        n = self.sock.readinto(buf) if n is None else self.sock.readinto(buf, n)
        if n:
            self.heard = clock.ticks_ms()
        return n

    def write(self, buf, offset, n):
        n = self.sock.write(buf, offset, n)
        if n:
            self.wrote = clock.ticks_ms()
        return n

    def age(self, then):
        return clock.ticks_diff(clock.ticks_ms(), then)


ears = []
connect = stream.connect


def listen(*args):
    sock = connect(*args)
    sock.setsockopt(1, 7, 4096)  # SO_SNDBUF
    ears.append(Ear(sock))
    return ears[-1]


def main():
    stream.connect = listen
    over = []
    client = MQTTClient(
        config["name"],
        "127.0.0.1",
        config["port"],
        keepalive=config["keepalive"],
        retry=config["retry"],
        outbox=128,
    )

    def noticed(error):
        over.append((ears[-1].age(ears[-1].heard), str(error)))

    client.on_disconnect = noticed
    client.on_message = lambda *message: None
    if config["subscribe"]:
        client.subscribe(config["name"] + "/in")
    qos = config["qos"]
    told = set()
    waiting = False  # a whole packet in the inbox
    gap = 0  # the longest between two polls
    last = clock.ticks_ms()

    def state(name, reached):
        if reached and name not in told:
            told.add(name)
            tell(name)

    while not over:
        full = False
        n = config["burst"] if client.connected and qos >= 0 else 0
        while n and not full:
            n -= 1
            try:
                client.publish("out", b"0123456789", qos=qos)
            except OutboxFull:
                full = True
            if n:
                client.poll()
        now = clock.ticks_ms()
        gap = max(gap, clock.ticks_diff(now, last))
        last = now
        client.poll()
        client.wait(2)
        if not client.connected:
            continue
        state("connected", True)
        state("subscribed", not client._asked and not (client._subs and client._subs.due))
        state("full", full)
        state("blocked", full and ears[-1].age(ears[-1].wrote) > 1000)
        state("partial", client._inbox.step < -1)
        waiting = client._inbox.step == -1
    tell("noticed", over[0][0], gap, over[0][1], waiting)


main()
