# A photo comes in pieces into a file on littlefs, and goes back out of it; readings from a spool
# on the same flash go beside it.

import gc
import hashlib
import json
import sys

import vfs

from umqtt_lite import MQTTClient, OutboxFull
from umqtt_lite.spool import Spool

BLOCK = 4096
READINGS = 30
PHOTO = "/flash/photo"


class Flash:
    """A NOR flash in a file of the host, for VfsLfs2; counts what is done to it."""

    def __init__(self, path, blocks):
        self.file = open(path, "w+b")  # noqa: SIM115
        self.blocks = blocks
        self.programmed = self.erases = 0
        for block in range(blocks):
            self.ioctl(6, block)
        vfs.VfsLfs2.mkfs(self)
        self.programmed = self.erases = 0

    def readblocks(self, block, buf, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.readinto(buf)

    def writeblocks(self, block, buf, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.write(buf)
        self.programmed += len(buf)

    def ioctl(self, op, arg):
        if op == 4:
            return self.blocks
        if op == 5:
            return BLOCK
        if op == 6:
            self.erases += 1
            self.file.seek(arg * BLOCK)
            for _ in range(BLOCK // 64):
                self.file.write(64 * b"\xff")
        return 0


def digest():
    sha = hashlib.sha256()
    buf = bytearray(256)
    with open(PHOTO, "rb") as f:
        while n := f.readinto(buf):
            sha.update(memoryview(buf)[:n])
    return "".join("%02x" % b for b in sha.digest())


def main(image, port, topic, qos):
    flash = Flash(image, 72)
    vfs.mount(flash, "/flash")
    client = MQTTClient("photo", "127.0.0.1", int(port), outbox=512, inbox=512)
    spool = Spool(client, "/flash/spool", 16384, 512)
    copy = open(PHOTO, "wb")  # noqa: SIM115
    acks = []
    size = n = 0

    def take(topic, piece, offset, total, retain):
        nonlocal size
        copy.seek(offset)
        copy.write(piece)
        if n < READINGS // 2:
            reading()
        if offset + len(piece) == total:
            copy.close()
            size = total

    def reading():
        nonlocal n
        spool.publish(topic + "/n", b"%d" % n)
        n += 1
        if n % 4 == 0:
            spool.sync()

    def step():
        client.poll()
        spool.poll()
        client.wait(100)
        if client.error or spool.error:
            raise client.error or spool.error

    client.on_ack = acks.append
    client.subscribe(topic + "/in", take, int(qos), pieces=True)
    while not size:
        step()
    found = [size, digest(), flash.programmed, flash.erases]
    with open(PHOTO, "rb") as photo:
        packet_id = None
        while not packet_id:  # the spool leaves room sooner or later
            try:
                packet_id = client.publish_from(topic + "/out", photo, size, False, int(qos))
            except OutboxFull:
                step()
        while client.pending or len(spool):
            step()
            if n < READINGS:
                reading()
    gc.collect()
    print(json.dumps(["end", packet_id in acks] + found + [gc.mem_alloc()]))
    client.disconnect()


main(*sys.argv[1:])
