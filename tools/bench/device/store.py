# What a spool does to its flash: -m store READINGS [SIZE [BUFFER]]. Prints JSON.
#
# Outages of 500 readings each, stored in batches of 16, then drained. The client is the real one,
# but nothing connects it: acknowledgements take their message out of its outbox.

import json
import os
import sys

import nor
import vfs

from umqtt_lite import MQTTClient
from umqtt_lite import spool as module
from umqtt_lite.packet import end

TOPIC = b"bench/t"
PAYLOAD = bytes(64)
BATCH = 16
OUTAGE = 500


class Counting:
    """Stands for open() and os in the module, and counts the bytes that they are given."""

    bytes = writes = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, mode):
        if mode == "wb":
            self.name(path)
        self.f = open(path, mode)
        return self

    def name(self, path):
        self.bytes += len(path.split("/")[-1])

    def rename(self, old, new):
        self.name(new)
        os.rename(old, new)

    def write(self, data):
        self.bytes += len(data)
        self.writes += 1
        return self.f.write(data)

    def seek(self, n):
        return self.f.seek(n)

    def readinto(self, buf):
        return self.f.readinto(buf)

    def close(self):
        self.f.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.f.close()


def store(spool, n):
    for i in range(1, n + 1):
        spool.publish(TOPIC, PAYLOAD)
        if not i % BATCH or i == n:
            spool.sync()


def drain(spool, client):
    n = 0
    client.up = True
    while len(spool):
        spool.poll()
        out = client._out
        if out:
            out[: end(out, 0)] = b""
            n += 1
    client.up = False
    return n


def main(n, size=65536, buffer=2048):
    flash = nor.Flash(80, 4096)
    vfs.mount(flash, "/flash")
    module.os = counting = Counting()
    module.open = counting.open
    client = MQTTClient("bench", "127.0.0.1")
    spool = module.Spool(client, "/flash/spool", int(size), int(buffer), hold=100000)
    spent = {"store": [0, 0], "drain": [0, 0]}
    left = n = int(n)
    while left:
        k = min(left, OUTAGE)
        for phase in "store", "drain":
            flash.programmed = flash.erases = 0
            if phase == "store":
                store(spool, k)
            else:
                if drain(spool, client) != k or spool.dropped or spool.skipped or spool.error:
                    raise RuntimeError("lost")
            spent[phase][0] += flash.programmed
            spent[phase][1] += flash.erases
        left -= k
    spent["handed"] = counting.bytes / (n * (len(TOPIC) + len(PAYLOAD)))
    spent["writes"] = counting.writes
    print(json.dumps(spent))


main(*sys.argv[1:])
