# Go through a whole session for each line on stdin, whatever happens to its connections: a message
# larger than the inbox in, and one larger than the outbox out.

import io
import json
import sys

import fast
import ledger

fast.clock(int(sys.argv[1]))

from umqtt_lite import MQTTClient  # noqa: E402 (after its clock)


def tell(*event):
    print(json.dumps(event))


def session(port, name, qos, clean):
    done = begun = at = 0

    def take(topic, piece, offset, total, retain):
        nonlocal done, begun, at
        if not offset:  # again, on a new connection only
            assert begun != client.stats["connects"], "begins twice"
            begun = client.stats["connects"]
            at = 0
        assert begun == client.stats["connects"] and offset == at, "goes on at %d" % offset
        at += len(piece)
        assert bytes(piece) == ledger.large(name, total)[offset:at], "content"
        if at == total:
            done += 1

    def until(done):
        while not done():
            client.poll()
            client.wait(20)

    client = MQTTClient(
        name, "127.0.0.1", port, keepalive=20, clean_session=clean, retry=5, outbox=64, inbox=64
    )
    client.subscribe(name + "/in", take, qos, pieces=True)
    until(lambda: client.connected and not (client._asked or client._subs.due))
    client.publish_from(name + "/out", io.BytesIO(ledger.large(name, 130)), 130, False, qos)
    tell("listening", name)
    until(lambda: not client.pending and done and not any(client._inbox.ids))
    client.disconnect()
    tell("done", name, done)


while line := sys.stdin.readline():
    session(*json.loads(line))
