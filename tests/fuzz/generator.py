"""What a hostile broker sends, from a seed: right packets, damaged ones and noise."""

import random

from fuzz.reference import (
    SUBSCRIBE,
    frame,
    integer,
    string,
)

TOPICS = (
    "in/a",
    "in/a/x",
    "in/b/c/d",
    "in",
    "in/y",
    "out/y",
    "/y",
    "$SYS/y",
    "$SYS/a/b",
    "ü/€/😀",
    "ü/€",
    "nobody",
    "in/" + "long/" * 12 + "x",
    "in/" + "longer/" * 80,
)
BAD_TOPICS = (
    b"",
    b"in/+",
    b"in/#",
    b"in/\0",
    b"in/\x80",
    b"in/\xc3",
    b"in/\xe2\x82",
    b"in/\xe2\x82a",
    b"in/\xc0\x80",
    b"in/\xe0\x80\xaf",
    b"in/\xed\xa0\x80",
    b"in/\xf0\x80\x80\xaf",
    b"in/\xf4\x90\x80\x80",
    b"in/\xff",
)
# Chosen by hand, or found by a run; each is sent to a connected client. The verdict is the
# reference's, not noted down here.
NASTY = tuple(
    bytes.fromhex(data)
    for data in (
        "00 00",
        "f0 00",
        "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63",
        "20 02 00 00",
        "20 02 01 00",
        "82 06 00 01 00 01 74 00",
        "a2 05 00 01 00 01 74",
        "c0 00",
        "e0 00",
        "42 02 00 01",
        "60 02 00 01",
        "6f 02 00 01",
        "40 00",
        "40 01 01",
        "40 03 00 01 00",
        "50 02 00 00",
        "62 02 00 00",
        "70 80 80 00",
        "40 82 80 00 00 07",
        "40 82 80 80 80 00 00 01",
        "d0 01 00",
        "d0 80 00",
        "d0 80 80 00",
        "90 02 00 01",
        "90 03 00 01 03",
        "90 03 ff fe 80",
        "90 06 ff fe 00 01 02 80",
        "90 c8 04 ff fe " + "00 " * 582,
        "90 c8 04 00 00 " + "80 " * 582,
        "b0 02 00 00",
        "b0 02 ff fe",
        "30 00",
        "30 02 00 01",
        "30 03 00 00 78",
        "30 03 00 01 74",
        "30 04 ff ff 74 78",
        "32 04 00 01 74 00",
        "32 05 00 01 74 00 01",
        "32 05 00 01 74 00 00",
        "34 06 00 01 74 00 00 78",
        "36 06 00 01 74 00 01 78",
        "38 04 00 01 74 78",
        "39 04 00 01 74 78",
        "3e 06 00 01 74 00 01 78",
        "30 84 80 00 00 01 74 78",
        "30 84 80 80 00 00 01 74 78",
        "30 80 80 80 80 01",
        "30 ff ff ff ff 7f",
        "30 ff ff ff 7f 00 00",
        "30 ff ff 7f 00 01 74",
        "32 ff 03 02 00 " + "74 " * 509,
        "32 ff 03 01 fb " + "74 " * 507 + "00 00",
        "32 80 04 01 fc " + "74 " * 508 + "00 01",
        "32 81 04 01 fd " + "ff " * 509 + "00 01",
        "62 02 00 07 34 06 00 01 74 00 07 78 3c 06 00 01 74 00 07 78 62 02 00 07",
        "50 02 ff fe 70 02 ff fe 40 02 ff fe",
    )
)
# One more than the client can keep apart
FLOOD = b"".join(frame(0x34, string(b"in/a"), integer(500 + i), b"flood") for i in range(33))


def message(rng, inward, count):
    """A PUBLISH; `count` makes its payload a new one."""
    qos = rng.randrange(3)
    topic = rng.choice(TOPICS).encode() if rng.random() < 0.985 else rng.choice(BAD_TOPICS)
    room = inward.inbox - len(topic) - 2 - 2 * bool(qos)
    kind = rng.random()
    if kind < 0.6:
        size = rng.randrange(24)
    elif kind < 0.75:
        size = rng.randrange(56, 72)  # pieces are of 64 bytes at most
    elif kind < 0.87:
        size = max(0, room + rng.randrange(-6, 7))
    elif kind < 0.98:
        size = rng.randrange(100, 3000)
    elif kind < 0.9995:
        size = rng.randrange(3000, 70000)
    else:
        size = rng.randrange(2097100, 2300000)  # four bytes of remaining length
    payload = (b"%d " % count + bytes(256) * (size // 256 + 1))[:size]
    bits = qos * 2 + rng.randrange(2) + (8 * rng.randrange(2) if qos else 0)
    pid = b""
    if qos == 1:
        pid = integer(rng.randrange(1, rng.choice((5, 65536))))
    elif qos == 2:
        ids = sorted(inward.ids)
        if ids and rng.random() < 0.3 + (len(ids) > 28) * 0.67:
            pid = integer(rng.choice(ids))  # a repetition
        else:
            pid = integer(rng.randrange(1, 300))
    return frame(0x30 | bits, string(topic), pid, payload)


def right(rng, outward):
    """An acknowledgement that the client waits for, if there is any."""
    waiting = [pid for pid in outward.flight if outward.flight[pid].owed]
    asked = list(outward.requests)
    pick = rng.random()
    code = rng.choice((0, 1, 2, 0x80))
    if asked and (pick < 0.3 or not waiting):
        pid = asked[int(pick * 997) % len(asked)]
        kind, count = outward.requests[pid]
        if kind != SUBSCRIBE:
            return frame(0xB0, integer(pid))
        if pick < 0.02:
            count += code % 3 or -1
        return frame(0x90, integer(pid), bytes([code]) * max(count, 1))
    if not waiting:
        return b""
    pid = waiting[int(pick * 997) % len(waiting)]
    flight = outward.flight[pid]
    first = 0x40
    if flight.qos == 2:
        first = 0x70 if pid in outward.released else 0x50
    return frame(first, integer(pid))


def stray(rng, outward):
    """An acknowledgement for nothing, or of the wrong kind."""
    first = rng.choice((0x40, 0x50, 0x70, 0x90, 0xB0))
    known = list(outward.flight) + list(outward.requests)
    pid = rng.choice((1, 65535, rng.randrange(1, 65536)))
    if known and rng.random() < 0.6:
        pid = known[rng.randrange(len(known))]
    return frame(first, integer(pid), b"\0" * rng.randrange(1, 4) if first == 0x90 else b"")


def release(rng, inward):
    ids = sorted(inward.ids)
    pid = rng.choice(ids) if ids and rng.random() < 0.9 else rng.randrange(1, 65536)
    return frame(0x62, integer(pid))


def valid(rng, inward, outward, count):
    kind = rng.random()
    data = b""
    if kind < 0.35:
        data = right(rng, outward)
    elif kind < 0.45:
        data = stray(rng, outward)
    elif kind < 0.6:
        data = release(rng, inward)
    elif kind < 0.64:
        data = b"\xd0\0"
    return data or message(rng, inward, count)


def mutate(rng, data, other):
    """Damage to a packet; `other` lends its bytes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = min(rng.randrange(len(data)), rng.choice((1, 6, 20, 1 << 20))) if data else 0
        kind = rng.randrange(9)
        if not data:
            data += other
        elif kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data += rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            data[1 % len(data)] = max(0, min(255, data[1 % len(data)] + rng.randrange(-3, 4)))
        elif kind == 5:
            data *= 2
        elif kind == 6:
            to = rng.randrange(len(data))
            data[at], data[to] = data[to], data[at]
        elif kind == 7:
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data[at:at] = other
    return bytes(data)


def packet(rng, inward, outward, count, wild):
    """The next one: mostly right, else damaged or noise; `wild` is how often."""
    pick = rng.random() / wild
    data = valid(rng, inward, outward, count)
    if pick > 1:
        return data
    if pick < 0.7:
        return mutate(rng, data, valid(rng, inward, outward, count))
    if pick < 0.85:
        return rng.choice(NASTY)
    if pick < 0.88:
        return FLOOD
    return rng.randbytes(rng.randrange(1, 40))


def connack(rng, clean):
    """The answer to CONNECT; None: there is none."""
    present = rng.random() < (0.05 if clean else 0.7)
    good = frame(0x20, bytes([present]), b"\0")
    pick = rng.random()
    if pick < 0.85:
        return good
    if pick < 0.88:
        return frame(0x20, bytes([rng.randrange(2), rng.randrange(1, 6)]))
    if pick < 0.91:
        return frame(0x20, rng.randbytes(2))
    if pick < 0.95:
        return mutate(rng, good, frame(0x30, string(b"t")))
    if pick < 0.97:
        return rng.choice(NASTY)
    if pick < 0.99:
        return rng.randbytes(rng.randrange(1, 20))
    return None if pick < 0.992 else b""


def cut(rng, data):
    """Pieces in which it is written."""
    kind = rng.random()
    if kind < 0.4 or len(data) > 20000:
        return [data]
    if kind < 0.5 and len(data) < 200:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 5)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def seeded(*seed):
    return random.Random("/".join(map(str, seed)))
