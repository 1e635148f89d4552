# One measurement of one client: -m run CLIENT TASK PORT [ARGUMENT...]. Prints a number or JSON.

import gc
import json
import sys
from time import ticks_diff, ticks_us

LIBRARIES = {"lite": "umqtt_lite", "simple": "umqtt.simple", "bare": "socket"}
SAMPLES = 20


def heap():
    gc.collect()
    return gc.mem_alloc()


def live(name, port):
    """Bytes that the library and one connected client hold."""
    a = heap()
    __import__(LIBRARIES[name])
    b = heap()
    adapter = __import__(name)
    c = heap()
    client = adapter.connect(port)
    d = heap()
    assert client
    print(b - a + d - c)


def loop(name, port, how, n):
    """Nothing but work, for an instrument outside to watch."""
    adapter = __import__(name)
    client = adapter.connect(port)
    adapter.one(client, 1)
    work = nothing if how == "nothing" else getattr(adapter, how)
    work(client, 10)
    work(client, int(n))


def nothing(client, n):
    while n:
        n -= 1


def rate(name, port, how, ms):
    """Messages per second."""
    adapter = __import__(name)
    client = adapter.connect(port)
    work = getattr(adapter, how)
    n = 2 if how == "one" else 260  # 20 times what is in flight
    adapter.one(client, 1)
    done = 0
    begin = ticks_us()
    while ticks_diff(ticks_us(), begin) < int(ms) * 1000:
        work(client, n)
        done += n
    adapter.one(client, 1)  # the broker has taken all before it
    print(done * 1000000 / ticks_diff(ticks_us(), begin))


def allocated(work, *args):
    """Bytes per call, when nothing is collected. What a call gives back itself does not count."""
    for _ in range(SAMPLES):
        work(*args)
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    for _ in range(SAMPLES):
        work(*args)
    used = gc.mem_alloc() - before
    gc.enable()
    return used / SAMPLES


def allocations(name, port):
    adapter = __import__(name)
    client = adapter.connect(port)
    qos = (0, 1, 2) if name == "lite" else (0, 1)
    assert not allocated(nothing, client, 1)
    found = {
        "publish": [allocated(adapter.send, client, 1)]
        + [allocated(adapter.one, client, 1, q) for q in qos[1:]],
        "idle": allocated(adapter.idle, client, 1),
    }
    import bare

    source = bare.connect(port)
    adapter.subscribe(client)
    bare.one(source, 1, 1)
    adapter.receive(client)

    def receive(q):
        bare.one(source, 1, q)
        adapter.receive(client)

    found["receive"] = [allocated(receive, q) for q in qos]
    print(json.dumps(found))


def main(name, task, port, *args):
    globals()[task](name, int(port), *args)


main(*sys.argv[1:])
