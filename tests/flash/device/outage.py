# A device with a flash: outage.py IMAGE PORT TOPIC COUNT LEFT. Each process is one start of it.
#
# Publishes COUNT numbers through the spool, from the one on that flash counts to, and delivers all
# that is stored. The power fails at program or erase operation LEFT, never if that is negative.

import gc
import json
import sys

import nor
import vfs

from umqtt_lite import MQTTClient
from umqtt_lite.spool import Spool


def main(image, port, topic, count, left):
    flash = nor.Flash(64, 512)
    try:
        with open(image, "rb") as f:
            f.readinto(flash.data)
    except OSError:
        pass
    vfs.mount(flash, "/flash")
    flash.left = int(left)
    client = MQTTClient(topic.replace("/", "-"), "127.0.0.1", int(port), retry=1)
    synced = 0
    try:
        spool = Spool(client, "/flash/spool", 8192, 512)
        for n in range(int(count)):
            spool.publish(topic, str(n))
            if n % 16 == 15:
                spool.sync()
                synced = n + 1
        while len(spool) and not flash.off and int(port):
            client.poll()
            spool.poll()
            client.wait(20)
    except OSError:
        assert flash.off
    vfs.umount("/flash")
    gc.collect()
    client.disconnect()
    with open(image, "wb") as f:
        f.write(flash.data)
    print(json.dumps({"synced": synced, "off": flash.off}))


main(*sys.argv[1:])
