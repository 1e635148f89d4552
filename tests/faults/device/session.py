# Go through a whole session for each line on stdin, whatever happens to its connections:
# subscribe, publish at each QoS, receive at each QoS, disconnect.

import json
import sys

import fast
import ledger

fast.clock(int(sys.argv[1]))

from umqtt_lite import MQTTClient  # noqa: E402 (after its clock)


def tell(*event):
    print(json.dumps(event))


def secured(ca):
    from umqtt_lite.tls import context

    with open(ca, "rb") as file:
        return context(file.read())


def session(port, name, levels, ca=None):
    got = set()

    def receive(topic, payload, retain):
        qos, number = ledger.entry(payload)
        got.add(qos)
        tell("got", name, qos, number)

    def until(done):
        while not done():
            client.poll()
            client.wait(20)

    client = MQTTClient(
        name,
        "127.0.0.1",
        port,
        keepalive=20,
        ssl=ca and secured(ca),
        clean_session=False,
        retry=5,
        outbox=128,
        inbox=64,
    )
    client.subscribe(name + "/in", receive, levels - 1)
    until(lambda: client.connected and not (client._asked or client._subs.due))
    for qos in range(levels):
        client.publish(name + "/out", ledger.payload(qos, 0), qos=qos)
    until(lambda: not client.pending)
    tell("listening", name)
    # a QoS 0 message may be lost; QoS 2 is over when the broker has let go of its identifier
    until(lambda: got.issuperset(range(1, levels)) and not any(client._inbox.ids))
    client.disconnect()
    tell("done", name)


while line := sys.stdin.readline():
    session(*json.loads(line))
