# One case of what a program does with umqtt_lite.aio. In JSON lines it says what is to be done to
# its link or broker, and that it is done.

import asyncio
import gc
import json
import sys
import time

import umqtt_lite
from umqtt_lite import ConnectionLost
from umqtt_lite.aio import MQTTClient
from umqtt_lite.tls import context

COUNT = 20
FLOOD = 4000
MICROPYTHON = sys.implementation.name == "micropython"
CASE, PORT, TOPIC = sys.argv[1], int(sys.argv[2]), sys.argv[3]

raised = []  # what asyncio's exception handler was told
wakes = 0  # rounds of the event loop


def tell(*event):
    print(json.dumps(event))


def ask(*order):
    """Have it done; nothing happens here meanwhile."""
    tell(*order)
    sys.stdin.readline()


def new(name="", port=PORT, kind=MQTTClient, **options):
    if len(sys.argv) > 4:
        with open(sys.argv[4], "rb") as file:
            options["ssl"] = context(file.read())
    return kind(TOPIC.replace("/", "-") + name, "127.0.0.1", port, **options)


def hurry(client):
    client._backoff = 50  # the test cannot wait for minutes


def start(*work):
    return [asyncio.create_task(w) for w in work]


async def until(done):
    """What nothing tells about."""
    while not done():
        await asyncio.sleep(0.01)


async def ready(client):
    """The second goes behind the SUBSCRIBE: it is answered when that is."""
    for _ in range(2):
        await client.publish("ready", "", False, 1)


async def take(messages, count):
    """Payloads."""
    got = []
    while len(got) < count:
        got.append((await messages.__anext__())[1])
    return got


async def rest(messages):
    """Payloads up to its end."""
    got = []
    async for _, payload, _ in messages:
        got.append(payload)
    return got


async def error(work, kind):
    """Await what is to raise that; its text."""
    try:
        await work
    except kind as e:
        return str(e)
    raise AssertionError("no %s" % kind)


async def cancel(*tasks):
    await asyncio.sleep(0)  # they begin
    for task in tasks:
        task.cancel()
    for task in tasks:
        await error(task, asyncio.CancelledError)


async def flooded(client, done=None, pause=0.1):
    """Publish until the link takes no more, but for a little after a second, if asked again.
    Returns the tasks that go on until `done` is set."""
    done = done or asyncio.Event()
    n = 0

    async def send():
        nonlocal n
        while not done.is_set():
            n += 1
            await client.publish(TOPIC, "%d" % (n - 1) + 1000 * " ")

    ask("deaf")
    tasks = start(send(), send(), send())
    sent = -1
    while sent < n:
        sent = n
        await asyncio.sleep(pause)
    assert client.up
    return tasks


def memory():
    """What is in use: bytes, or tasks."""
    gc.collect()
    if MICROPYTHON:
        return gc.mem_alloc()
    return sum(isinstance(o, asyncio.Task) for o in gc.get_objects())


def count_wakes():
    place = asyncio.core._io_queue if MICROPYTHON else asyncio.get_running_loop()._selector
    name = "wait_io_event" if MICROPYTHON else "select"
    wait = getattr(place, name)

    def counted(*args):
        global wakes
        wakes += 1
        return wait(*args)

    setattr(place, name, counted)


async def publish():
    """Several tasks at each QoS; more than the outbox holds; iterated over in order."""
    async with new() as client:
        queues = [client.messages("%s/%d" % (TOPIC, q), q, 64) for q in range(3)]
        await ready(client)
        published = 2

        async def send(qos):
            nonlocal published
            for i in range(COUNT):
                await client.publish("%s/%d" % (TOPIC, qos), "%d" % i + 200 * " ", False, qos)
                published += qos > 0
                assert published <= client.stats["acknowledged"]

        await asyncio.gather(send(0), send(1), send(2))
        for queue in queues:
            assert [int(n) for n in await take(queue, COUNT)] == list(range(COUNT))


async def large():
    """Large messages there and back, as fast as the socket takes them."""
    done = []

    def take(topic, piece, offset, total, retain):
        if offset + len(piece) == total:
            done.append(total)

    async with new() as client:
        client.subscribe(TOPIC, take, 1, pieces=True)
        await ready(client)
        with open(__file__, "rb") as source:
            for i in range(8):
                source.seek(0)
                client.publish_from(TOPIC, source, 5000, False, 1)
                await client.publish(TOPIC + "/ready", "", False, 1)
                await until(lambda n=i: len(done) > n and not client.pending)


async def queue():
    """Full, it drops the oldest, and counts. A filter has one."""
    async with new() as client:
        messages = client.messages(TOPIC, 1, 3)
        await ready(client)
        for i in range(8):
            await client.publish(TOPIC, "%d" % i, False, 1)
        await until(lambda: client.stats["received"] == 8)
        assert client.stats["dropped"] == 5
        assert await take(messages, 1) == [b"5"]
        task = start(rest(messages))[0]
        await asyncio.sleep(0)
        client.unsubscribe(TOPIC)
        assert await task == [b"6", b"7"]
        task = start(rest(client.messages(TOPIC)))[0]
        await asyncio.sleep(0)
        messages = client.messages(TOPIC)
        assert await task == []
        await ready(client)
        await client.publish(TOPIC, "", True)
        async for message in messages:
            assert message == (TOPIC.encode(), b"", False)
            assert [type(part) for part in message] == [bytes, bytes, bool]
            break


async def idle():
    """It sleeps; a message wakes it, about as soon as it wakes the polled client."""
    async with new() as client:
        messages = client.messages(TOPIC, 1)
        await ready(client)
        n = wakes
        await asyncio.sleep(1)
        assert wakes - n <= 20, wakes - n
        n = wakes
        times = []
        for _ in range(COUNT):
            begin = time.ticks_ms()
            await client.publish(TOPIC, "", False, 1)
            await messages.__anext__()
            times.append(time.ticks_diff(time.ticks_ms(), begin))
        assert wakes - n <= 20 * COUNT, wakes - n
    polled = new("polled", kind=umqtt_lite.MQTTClient)
    polled_times = []
    got = 0

    def count(*message):
        nonlocal got
        got += 1

    def send(topic, awaited):
        begin = time.ticks_ms()
        n = got + awaited
        polled.publish(topic, "", False, 1)
        while got < n or polled.pending:
            polled.wait(100)
            polled.poll()
        return time.ticks_diff(time.ticks_ms(), begin)

    polled.subscribe(TOPIC, count, 1)
    send("ready", 0)
    send("ready", 0)
    for _ in range(COUNT):
        polled_times.append(send(TOPIC, 1))
    polled.disconnect()
    middle = COUNT // 2
    assert sorted(times)[middle] <= sorted(polled_times)[middle] + 5, (times, polled_times)


async def still():
    """Clients that can do nothing do not spin."""
    full, unheard = new("full", outbox=2048), new("unheard")
    others = [new("mute"), new("refused", 1), new("unlinked")]
    others[2].link = False
    done = asyncio.Event()
    async with full, unheard:
        await full.connected()
        await unheard.connected()
        senders = await flooded(full, done)
        for client in others:
            await client.__aenter__()
        wait = [client.publish(TOPIC, "", False, 1) for client in [unheard] + others]
        tasks = start(wait[0], *[error(w, ConnectionLost) for w in wait[1:]])
        await asyncio.sleep(0)
        n = wakes - 3 * full.stats["sent"]  # the link may take some more
        await asyncio.sleep(1)
        n = wakes - 3 * full.stats["sent"] - n
        done.set()
        ask("listen")
        assert n <= 100, n
        for client in others:
            await client.disconnect()
        await asyncio.gather(*tasks, *senders)


async def order():
    """A link that takes no more, and several publishers: who calls first is accepted first."""
    async with new(outbox=2048) as client:
        await client.connected()
        done = asyncio.Event()
        tasks = await flooded(client, done)
        sent = client.stats["sent"]
        ask("listen")
        await until(lambda: client.stats["sent"] > sent + COUNT)
        done.set()
        await asyncio.gather(*tasks)
        return client.stats["sent"]


async def flood():
    """What comes without end starves nobody: who takes it, publishes, or does something else."""
    async with new() as client:
        messages = client.messages(TOPIC)
        await ready(client)
        ask("flood", FLOOD)
        for i in range(FLOOD):
            assert await take(messages, 1) == [b"%d" % i]

        messages = client.messages(TOPIC, 0, 64)
        await ready(client)
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def send():
            for _ in range(100):
                await client.publish(TOPIC + "/out", 200 * " ")
                await asyncio.sleep(0)
            return client.stats["received"]

        ask("flood", FLOOD)
        tasks = start(turn(), send())
        for i in range(FLOOD):
            assert await take(messages, 1) == [b"%d" % i]
        assert turns >= FLOOD // 40, turns
        assert await tasks[1] < 2 * FLOOD
        await cancel(tasks[0])


async def cancelled():
    """At each await; what is accepted stays so, what is not has left nothing behind."""
    async with new("watch") as watch:
        seen = watch.messages(TOPIC, 1, 64)
        await ready(watch)
        client = new()
        client.link = False
        async with client:
            tasks = start(
                client.connected(),
                *[client.publish(TOPIC, "%d" % i + 280 * " ", False, 1) for i in range(7)],
            )
            await asyncio.sleep(0)
            assert client.stats["sent"] == 3
            await cancel(tasks[0], tasks[2], tasks[4], tasks[6])  # the latter two wait for room
            assert client.pending == client.stats["sent"] == 3
            client.link = True
            await asyncio.gather(tasks[1], tasks[3], tasks[5], tasks[7])
            assert [int(n) for n in await take(seen, 5)] == [0, 1, 2, 4, 6]

            messages = client.messages(TOPIC, 2)
            await ready(client)
            await cancel(*start(client.disconnected(), messages.__anext__()))
            for qos in 1, 2:
                ask("mute")
                acknowledged = client.stats["acknowledged"]
                await cancel(*start(client.publish(TOPIC, "%d" % qos, False, qos)))
                ask("heard")
                assert await take(messages, 1) == await take(seen, 1) == [b"%d" % qos]
                await until(lambda n=acknowledged: client.stats["acknowledged"] > n)

            async def first():  # whose acknowledgement makes room for the next, cancelled now
                await client.publish("none", 900 * " ", False, 1)
                tasks[1].cancel()

            tasks = start(
                first(), *[client.publish("none", 900 * " ", False, 1) for _ in range(2)]
            )
            await tasks[0]
            await error(tasks[1], asyncio.CancelledError)
            await tasks[2]

            ask("mute")
            acknowledged = client.stats["acknowledged"]
            task = start(client.publish("none", "", False, 1))[0]
            await asyncio.sleep(0)
            task.cancel()
            ask("heard")
            while acknowledged == client.stats["acknowledged"]:  # before it has its turn
                await client.publish("none", "")
            await error(task, asyncio.CancelledError)

            got = []  # cancelled at any moment, whoever takes messages loses none
            task = start(*[client.publish(TOPIC, "%d" % i, False, 1) for i in range(10)])
            while len(got) < 10:
                try:
                    got.append(int((await asyncio.wait_for(messages.__anext__(), 0.0005))[1]))
                except asyncio.TimeoutError:  # noqa: UP041 (MicroPython's own)
                    pass
            assert got == list(range(10))
            await asyncio.gather(*task)
            assert client.pending == 0

            kept = []
            for _ in range(3):
                ask("mute")
                for _ in range(COUNT):
                    publish = client.publish("none", "", False, 1)
                    await cancel(*start(client.disconnected(), messages.__anext__(), publish))
                ask("heard")
                await until(lambda: not client.pending)
                kept.append(memory())
            assert kept[2] - kept[1] < COUNT * (64 if MICROPYTHON else 1), kept


async def leave():
    """By an exception, and by cancellation: it flushes, and disconnects."""
    async with new("watch", inbox=2048) as watch:
        seen = watch.messages(TOPIC, 1)
        await ready(watch)
        client = new(will=(TOPIC, "will"))
        ends = []
        client.on_disconnect = ends.append

        async def stay(end):
            async with client:
                await client.connected()
                waits.extend(start(rest(client.messages("other")), wait()))
                await client.publish(TOPIC, "last" + 900 * " ")
                await end

        async def wait():
            await client.disconnected()
            return await error(client.connected(), ConnectionLost)

        async def fail():
            await asyncio.sleep(0)
            raise ValueError

        waits = []
        for how in range(3):
            if how == 0:
                await error(stay(fail()), ValueError)
            elif how == 1:
                task = start(stay(asyncio.Event().wait()))[0]
                await until(lambda: waits)
                await cancel(task)
            else:
                await stay(client.disconnect())
            assert not client.up and ends == [None], ends
            ends.clear()
            assert (await asyncio.gather(*waits))[0] == []
            waits.clear()
            assert (await take(seen, 1))[0][:4] == b"last"
            await ready(watch)
            await watch.publish(TOPIC, "end", False, 1)
            assert await take(seen, 1) == [b"end"]


async def aborted():
    """Cancelled while it flushes, disconnect() closes at once: no DISCONNECT, so the will."""
    async with new("watch") as watch:
        seen = watch.messages(TOPIC + "/will", 1)
        await ready(watch)
        client = new(outbox=2048, will=(TOPIC + "/will", "will"))
        ends = []
        client.on_disconnect = ends.append

        async def stay():
            async with client:
                await client.connected()
                tasks.extend(start(*[error(t, ConnectionLost) for t in await flooded(client)]))

        tasks = []
        task = start(stay())[0]
        await until(lambda: tasks)
        begin = time.ticks_ms()
        await cancel(task)
        assert time.ticks_diff(time.ticks_ms(), begin) < 5000  # half its timeout
        assert not client.up and len(ends) < 2
        await asyncio.gather(*tasks)
        ask("listen")
        assert await take(seen, 1) == [b"will"]


async def told_cancelled(late=False):
    """on_disconnect hears of the end of a flush that is cut short, too."""
    client = new(outbox=2048, timeout=1)
    ends = []
    client.on_disconnect = ends.append
    async with client:
        await client.connected()
        tasks = await flooded(client, pause=1.1 if late else 0.1)
        tasks = start(*[error(task, ConnectionLost) for task in tasks])
        task = start(client.disconnect())[0]
        if late:
            await task
        else:
            await cancel(task)
    await asyncio.gather(*tasks)
    assert ends == [None], ends


async def told_late():
    """So it is when there was no time for all."""
    await told_cancelled(True)


async def again():
    """A client object works in one `async with` after another."""
    client = new()
    ends = []
    client.on_disconnect = ends.append
    for i in range(3):
        async with client:
            messages = client.messages(TOPIC, 1)
            await ready(client)
            if i:
                assert await take(messages, 1) == [b"left"]
            await client.publish(TOPIC, "%d" % i, False, 1)
            assert await take(messages, 1) == [b"%d" % i]
        assert not client.up and ends == [None] * (i + 1)
        await client.disconnected()
        await client.disconnect()
        assert await rest(messages) == [] and len(ends) == i + 1
        await error(client.connected(), ConnectionLost)
        await error(client.publish(TOPIC, "left", True, 1), ConnectionLost)  # but accepted
        assert client.pending == 1


async def once():
    """reconnect=False: whatever waits for the connection has its end with it."""
    client = new(reconnect=False)
    ends = []
    client.on_disconnect = ends.append
    for i in range(2):
        async with client:
            messages = client.messages(TOPIC, 1)
            await ready(client)
            waits = start(client.disconnected(), rest(messages))
            ask("mute")
            waits += start(client.publish(TOPIC, "", False, 1))
            await asyncio.sleep(0)
            ask("drop")
            await waits[0]
            assert await waits[1] == []
            reason = str(client.error)
            assert await error(waits[2], ConnectionLost) == reason
            assert await error(client.connected(), ConnectionLost) == reason
            ask("heard")
        assert [type(e) for e in ends] == [ConnectionLost] * (i + 1) and str(ends[i]) == reason
    async with new("refused", 1, reconnect=False) as client:
        assert "127.0.0.1:1" in await error(client.connected(), ConnectionLost)


async def raising():
    """Handlers and hooks that raise end nothing; asyncio is told."""
    async with new() as client:

        def fail(*args):
            raise ValueError(args[0])

        client.on_connect = client.on_disconnect = client.on_message = fail
        client.subscribe(TOPIC + "/handler", fail)
        client.subscribe(TOPIC + "/hook")
        messages = client.messages(TOPIC, 1)
        await ready(client)
        assert len(raised) == 1
        for name in "/handler", "/hook", "":
            await client.publish(TOPIC + name, name)
        await until(lambda: len(raised) == 3)
        hurry(client)
        ask("drop")
        await client.disconnected()
        await client.connected()
        await ready(client)
        assert len(raised) == 5
        await client.publish(TOPIC, "last", False, 1)
        assert await take(messages, 2) == [b"", b"last"]
        client.on_disconnect = None
    assert not [e for e in raised if not isinstance(e, ValueError)]
    raised.clear()


async def impossible():
    """What can never be sent raises, in its turn, and the next one goes on."""
    async with new() as client:
        messages = client.messages(TOPIC, 1)
        await ready(client)
        sent = client.stats["sent"]
        ask("mute")
        works = [client.publish(TOPIC, "%d" % i + 280 * " ", False, 1) for i in range(6)]
        bad = [
            client.publish(*args)
            for args in (
                (TOPIC + "/#", ""),
                (TOPIC, "", False, 3),
                (TOPIC, 1024 * "x"),
                (TOPIC, None),
            )
        ]
        tasks = start(*works[:4], *bad, *works[4:])
        await asyncio.sleep(0)
        assert client.pending == 3
        ask("heard")
        for task in tasks[4:8]:
            await error(task, (ValueError, TypeError))
        await asyncio.gather(*tasks[:4], *tasks[8:])
        assert [int(n) for n in await take(messages, 6)] == list(range(6))
        assert client.stats["sent"] == sent + 6 and client.pending == 0
        for args in ((TOPIC, "", False, 3), (TOPIC, 1024 * "x")):
            await error(client.publish(*args), ValueError)
        await client.publish(TOPIC, "", False, 1)


async def two():
    """Clients do not disturb one another."""
    async with new("a") as a:
        await a.connected()
        async with new("b") as b:
            queues = [c.messages(TOPIC + name, 1, 64) for c, name in ((a, "/a"), (b, "/b"))]
            await ready(a)
            await ready(b)

            async def send(client, to):
                for i in range(COUNT):
                    await client.publish(TOPIC + to, "%d" % i, False, 1)

            async def exchange():
                await asyncio.gather(send(a, "/b"), send(b, "/a"))
                for queue in queues:
                    assert [int(n) for n in await take(queue, COUNT)] == list(range(COUNT))

            await exchange()
            b.link = False
            ask("drop")  # the newest: b's
            await b.disconnected()
            task = start(b.publish(TOPIC, "", False, 1))[0]
            await a.publish(TOPIC + "/a", "alone", False, 1)  # with the same packet identifier
            assert await take(queues[0], 1) == [b"alone"]
            await ready(a)
            assert not task.done()
            b.link = True
            await task
            await ready(b)
            await exchange()
            assert (a.stats["connects"], b.stats["connects"]) == (1, 2)


async def restarts():
    """The broker goes and comes while tasks publish, and nothing is lost."""
    async with new() as client:
        hurry(client)
        published = 0

        async def send(name):
            nonlocal published
            for i in range(COUNT):
                await client.publish(TOPIC, "%s %d" % (name, i), False, 1)
                published += 1
                assert published <= client.stats["acknowledged"]

        async def order():
            for i in range(2):
                await until(lambda n=i: client.stats["acknowledged"] > (n + 1) * COUNT)
                tell("restart")
                await client.disconnected()
                hurry(client)
                await client.connected()

        await asyncio.gather(order(), *[send(name) for name in "abcd"])
    return COUNT


async def main():
    count_wakes()
    asyncio.get_event_loop().set_exception_handler(
        lambda loop, context: raised.append(context.get("exception") or context["message"])
    )
    result = await globals()[CASE]()
    assert not raised, raised
    tell("done", result)


asyncio.run(main())
