"""What was accepted against what arrived.

A message is numbered from 0 for each QoS, and its payload follows from both, so that any other
payload is noticed.
"""

import collections


def payload(qos, number):
    size = number * 37 % 120
    return b"%d %d %s" % (qos, number, (b"%d" % number * size)[:size])


def large(name, size):
    """A payload of any size, of which no two parts are alike."""
    text = b"".join(b"%s %d, " % (name.encode(), i) for i in range(size // len(name) + 1))
    return text[:size]


def entry(data):
    """QoS and number of a payload."""
    data = bytes(data)
    qos, number = map(int, data.split(b" ")[:2])
    assert data == payload(qos, number), f"not what was published: {data}"
    return qos, number


def check(sent, arrived, once=(0, 2), in_order=(0, 1, 2), lossy=False, excused=()):
    """sent: how many messages at each QoS; arrived: entries in order.

    once, in_order: the QoS at which none may arrive twice, and first arrivals keep their order;
    lossy: some of QoS 1 and 2 may be missing; excused: entries that may arrive twice."""
    for qos, count in enumerate(sent):
        numbers = [number for level, number in arrived if level == qos]
        times = collections.Counter(numbers)
        firsts = list(times)
        assert set(firsts) <= set(range(count)), f"QoS {qos}: arrived, but never published"
        if qos in in_order:
            assert firsts == sorted(firsts), f"QoS {qos}: out of order: {firsts}"
        if qos and not lossy:
            lost = set(range(count)) - set(firsts)
            assert not lost, f"QoS {qos}: lost {sorted(lost)} of {count}"
        if qos in once:
            twice = [n for n in firsts if times[n] > 1 and (qos, n) not in excused]
            assert not twice, f"QoS {qos}: more than once: {twice}"


def complete(sent, arrived):
    """Whether all that must arrive has arrived."""
    have = set(arrived)
    return all((qos, n) in have for qos in range(1, len(sent)) for n in range(sent[qos]))
