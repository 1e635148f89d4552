# Cut the power at every program and erase operation of a scenario, look at what a new start finds.
#
#     cuts.py LAST [twice]    LAST: "half" if the last operation is done by half
#
# The client is the real one, but nothing connects it: `up` is set, and acknowledgements
# take their message out of its outbox. It stays alive over a cut, as the broker's view of it.

import gc
import json
import sys

import nor
import vfs

from umqtt_lite import MQTTClient, OutboxFull
from umqtt_lite.packet import end, packet_id
from umqtt_lite.spool import Spool

BLOCKS = 40
BLOCK = 512
BEHIND = 1024  # bytes that the saved position may be behind


def payload(n):
    return b"%d:" % n + bytes([n & 255]) * 40


class Run:
    """What a device does until its power fails, and what it knows then."""

    def __init__(self, device):
        self.device = device
        self.where = {}  # number: position of its record
        self.synced = 0  # numbers below it are confirmed by sync()
        self.acknowledged = set()
        self.final = set()  # acknowledged before the last sync()
        self.floor = 0  # what stands before it may be dropped
        self.next = 0

    def boot(self):
        vfs.mount(self.device, "/flash")
        self.client = MQTTClient("c", "127.0.0.1")
        self.spool = Spool(self.client, "/flash/spool", size=4096, buffer=256, hold=100000)
        if self.spool.error:
            raise self.spool.error

    def note(self):
        """Before anything that writes: what it may drop."""
        segs = self.spool._segs
        self.floor = segs[1] if len(segs) > 16 else segs[0]

    def publish(self, count):
        for _ in range(count):
            self.note()
            n = self.next
            self.spool.publish("t", payload(n))
            self.next += 1
            self.where[n] = self.spool._segs[-1] + len(self.spool._out) - 9 - 1 - len(payload(n))

    def sync(self):
        self.note()
        self.spool.sync()
        self.synced = self.next
        self.final = set(self.acknowledged)

    def poll(self):
        self.note()
        self.spool.poll()
        if self.spool.error:
            raise self.spool.error

    def flight(self):
        """(packet identifier, number) of what the client was fed and is not acknowledged."""
        out = self.client._out
        found = []
        i = 0
        while i < len(out):
            k = end(out, i)
            data = bytes(out[i:k])
            data = data[data.find(b"\x00\x01t") + 5 :]
            n = int(data.split(b":")[0])
            assert data == payload(n), "%d: %r" % (n, data)
            found.append((packet_id(out, i), n))
            i = k
        return found

    def acknowledge(self, count):
        for pid, n in self.flight()[:count]:
            out = self.client._out
            i = 0
            while packet_id(out, i) != pid:
                i = end(out, i)
            out[i : end(out, i)] = b""
            self.acknowledged.add(n)

    def feed(self, count, each):
        """Acknowledge that many, so many at a time."""
        self.client.up = True
        while count > 0:
            self.poll()
            self.acknowledge(min(each, count))
            count -= each
        self.poll()
        self.client.up = False


def scenario(run):
    run.boot()
    run.publish(10)
    run.sync()
    run.publish(6)
    run.sync()
    run.feed(5, 1)
    run.sync()
    run.publish(3)
    run.feed(9, 2)
    run.publish(2)
    run.feed(4, 4)  # from RAM too
    # longer than flash holds
    for _ in range(16):
        run.publish(6)
        run.sync()
    assert run.spool.dropped > 5
    run.feed(45, 3)
    run.publish(7)
    run.sync()
    run.feed(3, 3)
    run.publish(7)
    run.feed(1000, 8)
    assert len(run.spool) == 0
    run.publish(2)
    run.sync()
    run.feed(2, 1)
    assert len(run.spool) == 0 and run.spool.skipped == 0


def delivered(run):
    """All that the spool feeds, acknowledged in time."""
    found = []
    run.client.up = True
    while len(run.spool):
        run.poll()
        found += [n for _, n in run.flight()]
        run.acknowledge(100)
    return found


def recovery(run):
    """The first that a new start does."""
    run.boot()
    run.next = 500
    run.feed(6, 1)
    run.publish(4)
    run.sync()
    run.feed(20, 5)


def check(before, device, between=None):
    run = Run(device)
    run.boot()
    found = delivered(run)
    if between:
        # a start after the first cut, cut too
        acknowledged = between.acknowledged
        new = [n for n in found if n >= 500]
        assert new == sorted(set(new)) and all(n < between.next for n in new), new
        assert set(range(500, between.synced)) - acknowledged <= set(new), new
        assert not set(found) & between.final
        found = [n for n in found if n < 500]
    assert found == sorted(set(found)), "order: %r" % found
    wanted = {
        n
        for n in range(before.synced)
        if n not in before.acknowledged and before.where[n] >= before.floor
    }
    if between:
        wanted -= between.acknowledged
    lost = wanted - set(found)
    assert not lost, "lost %r of %r" % (lost, found)
    again = set(found) & before.final
    assert not again, "again, although synced: %r" % again
    assert all(n <= before.next for n in found), found
    if not between:
        # what is delivered again is what the saved position may be behind
        again = [before.where[n] for n in found if n in before.acknowledged]
        head = [before.where[n] for n in found if n not in before.acknowledged]
        head = head or [max(before.where.values(), default=0)]
        assert not again or head[0] - again[0] <= BEHIND + 8 * 60, (again, head)
    assert run.spool.skipped == 0
    run.spool.sync()
    # and it works on
    run.next = 1000
    run.publish(7)
    run.sync()
    run.publish(3)
    vfs.umount("/flash")
    run.boot()
    assert delivered(run) == list(range(1000, 1007))
    vfs.umount("/flash")


def cut(k, half, work):
    """A device that lost its power at the k-th operation of work(run), and the run; or None."""
    device = nor.Flash(BLOCKS, BLOCK)
    device.half = half
    run = Run(device)
    return crash(k, run, work), run


def crash(k, run, work):
    """Whether the power failed at the k-th operation of work(run)."""
    device = run.device
    device.left = k
    try:
        work(run)
    except (OSError, OutboxFull):
        assert device.off
    vfs.umount("/flash")
    gc.collect()  # files that could not be closed
    off = device.off
    device.off = False
    device.left = -1
    return off


def main(last, twice=""):
    k = cuts = 0
    while True:
        off, run = cut(k, last == "half", scenario)
        if not off:
            break
        try:
            j = 0
            while twice:
                # not every one: it would take minutes
                data = bytes(run.device.data)
                again = Run(run.device)
                off = crash(j, again, recovery)
                if not off:
                    run.device.data[:] = data
                    break
                check(run, run.device, again)
                run.device.data[:] = data
                cuts += 1
                j += 1 + k % 5
            check(run, run.device)
        except Exception:
            print("cut at operation %d" % k)
            raise
        cuts += 1
        k += 7 if twice else 1
    print(json.dumps({"cuts": cuts, "operations": k}))


main(*sys.argv[1:])
