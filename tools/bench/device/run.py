# One measurement of one client: -m run CLIENT TASK PORT [ARGUMENT...]. Prints a number or JSON.

import gc
import json
import sys
from time import ticks_diff, ticks_us

LIBRARIES = {
    "lite": ("umqtt_lite",),
    "aio": ("asyncio", "umqtt_lite.aio"),
    "simple": ("umqtt.simple",),
}
SAMPLES = 20


def heap():
    gc.collect()
    return gc.mem_alloc()


def live(name, port):
    """Bytes that the library and one connected client hold."""
    a = heap()
    for library in LIBRARIES[name]:
        __import__(library)
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
    n = 20 if how == "one" else 260  # 20 times what is in flight
    if how == "receive":
        import bare

        source = bare.connect(port, b"from")
        adapter.subscribe(client)

        def work(client, n):
            bare.send(source, n)
            adapter.receive(client, n)

        settle = nothing
    else:
        work = getattr(adapter, how)
        settle = adapter.one  # the broker has taken all before it
    settle(client, 1)
    done = 0
    begin = ticks_us()
    while ticks_diff(ticks_us(), begin) < int(ms) * 1000:
        work(client, n)
        done += n
    settle(client, 1)
    print(done * 1000000 / ticks_diff(ticks_us(), begin))


def allocated(work, client, *args):
    """Bytes per round, when nothing is collected, from the difference of two counts of rounds.
    What a call gives back itself does not count."""
    used = []
    for n in SAMPLES, SAMPLES, 2 * SAMPLES:  # the first for what is allocated only once
        gc.collect()
        gc.disable()
        before = gc.mem_alloc()
        work(client, n, *args)
        used.append(gc.mem_alloc() - before)
        gc.enable()
    return (used[2] - used[1]) / SAMPLES


def allocations(name, port):
    adapter = __import__(name)
    client = adapter.connect(port)
    qos = (0, 1) if name == "simple" else (0, 1, 2)
    assert not allocated(nothing, client)
    found = {
        "publish": [allocated(adapter.send, client)]
        + [allocated(adapter.one, client, q) for q in qos[1:]],
    }
    if hasattr(adapter, "idle"):
        found["idle"] = allocated(adapter.idle, client)
    import bare

    source = bare.connect(port)
    adapter.subscribe(client)
    found["receive"] = [
        allocated(adapter.receive, client, lambda q=q: bare.one(source, 1, q)) for q in qos
    ]
    print(json.dumps(found))


def main(name, task, port, *args):
    globals()[task](name, int(port), *args)


main(*sys.argv[1:])
