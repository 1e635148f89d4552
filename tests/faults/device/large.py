# Send a file away and have it come back, through buffers of 512 bytes, whatever happens meanwhile.

import hashlib
import json
import sys

from umqtt_lite import MQTTClient, OutboxFull

BUFFER = 512


def tell(*event):
    print(json.dumps(event))


def digest(path):
    sha = hashlib.sha256()
    buf = bytearray(BUFFER)
    with open(path, "rb") as file:
        while n := file.readinto(buf):
            sha.update(memoryview(buf)[:n])
    return sha.digest()


def secured(ca):
    from umqtt_lite.tls import context

    with open(ca, "rb") as file:
        return context(file.read())


def main(port, topic, there, back, qos, ca=None):
    """Publish the file `there`, and write what comes to `back`."""
    copy = open(back, "wb")  # noqa: SIM115
    acks = []
    done = []

    def take(topic, piece, offset, total, retain):
        # the broker may send it again, from the start, as a connection may end at any time
        if not offset:
            copy.seek(0)
        assert copy.tell() == offset
        copy.write(piece)
        if offset + len(piece) == total:
            copy.flush()
            done.append(total)
            tell("done", total, digest(back) == digest(there))

    client = MQTTClient(
        "large",
        "127.0.0.1",
        int(port),
        ssl=ca and secured(ca),
        clean_session=False,
        outbox=BUFFER,
        inbox=BUFFER,
    )
    client.on_ack = acks.append
    client.on_disconnect = lambda error: tell("disconnect", str(error))
    client._backoff = 1
    client.subscribe(topic, take, int(qos), pieces=True)
    while not client.connected or client._asked or client._subs.due:
        client.poll()
        client.wait(100)
    with open(there, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        packet_id = client.publish_from(topic, file, size, False, int(qos))
        n = 0
        while not done or client.pending or n < 20:
            client.poll()
            client.wait(100)
            client._backoff = 1
            if n < 20 and client.connected:  # other messages in between
                try:
                    client.publish(topic + "/n", b"%d" % (n + 1), False, 1)
                    n += 1
                except OutboxFull:
                    pass
    tell("end", packet_id in acks, len(done), client.stats["connects"])
    client.disconnect()


main(*sys.argv[1:])
