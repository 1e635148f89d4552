# One case of what a program does with umqtt_lite.aio; tells what came of it in JSON lines.

import asyncio
import json
import sys

import umqtt_lite  # noqa: F401 (brings CPython its ticks)
from umqtt_lite import ConnectionLost
from umqtt_lite.aio import MQTTClient

COUNT = 20


def tell(*event):
    print(json.dumps(event))


async def collect(client, topic, count, size=64):
    got = []
    async for _, payload, _ in client.messages(topic, 1, size):
        got.append(int(payload))
        if len(got) == count:
            return got


async def ready(client, topic):
    """The second goes behind the SUBSCRIBE: it is answered when that is."""
    for _ in range(2):
        await client.publish(topic + "/ready", "", False, 1)


async def publish(client, topic):
    """Several tasks at each QoS; more than the outbox holds; iterated over in order."""
    tasks = [asyncio.create_task(collect(client, "%s/%d" % (topic, q), COUNT)) for q in range(3)]
    await client.connected()

    async def send(qos):
        for i in range(COUNT):
            await client.publish("%s/%d" % (topic, qos), "%d" % i + 200 * " ", False, qos)
        if qos:
            assert client.stats["acknowledged"] >= COUNT

    await ready(client, topic)
    await asyncio.gather(send(0), send(1), send(2))
    for task in tasks:
        assert await task == list(range(COUNT))


async def large(client, topic):
    """Large messages there and back, as fast as the socket takes them."""
    core = client
    done = []

    def take(topic, piece, offset, total, retain):
        if offset + len(piece) == total:
            done.append(total)

    core.subscribe(topic, take, 1, pieces=True)
    await ready(client, topic)
    with open(__file__, "rb") as source:
        for i in range(8):
            source.seek(0)
            core.publish_from(topic, source, 5000, False, 1)
            await client.publish(topic + "/ready", "", False, 1)
            while core.pending or len(done) <= i:
                await asyncio.sleep(0.01)


async def full(client, topic):
    """A full queue drops the oldest, and counts."""
    messages = client.messages(topic, 1, 3)
    await ready(client, topic)
    for i in range(8):
        await client.publish(topic, "%d" % i, False, 1)
    while client.stats["received"] < 8:
        await asyncio.sleep(0.01)
    assert client.stats["dropped"] == 5
    for i in range(5, 8):
        assert int((await messages.__anext__())[1]) == i
    client.unsubscribe(topic)
    async for _ in messages:
        raise AssertionError


async def cancelled(client, topic):
    """At each await; and the client goes on."""
    await client.connected()
    messages = client.messages(topic, 1)
    tasks = [
        asyncio.create_task(work)
        for work in (
            messages.__anext__(),
            client.disconnected(),
            client.publish(topic, "1", qos=1),
        )
    ]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    for task in tasks:
        try:
            await task
            raise AssertionError
        except asyncio.CancelledError:
            pass
    assert not client._waits.peek() and not client._line
    await client.publish(topic, "2", False, 2)
    assert client.stats["acknowledged"] == 2  # it stayed accepted


async def idle(client, topic):
    """It sleeps; a message wakes it."""
    polls = 0
    poll = client.poll

    def counted():
        nonlocal polls
        polls += 1
        poll()

    messages = client.messages(topic, 1)
    await ready(client, topic)
    client.poll = counted
    await asyncio.sleep(2)
    assert polls <= 40, polls
    polls = 0
    for _ in range(COUNT):
        await client.publish(topic, "1", False, 1)
        await messages.__anext__()
    assert polls <= 10 * COUNT, polls


async def reconnect(client, topic):
    """What is accepted while the connection is cut arrives; tasks that wait go on."""
    await client.connected()
    tell("cut")

    async def send(name):
        for i in range(COUNT):
            await client.publish(topic, "%s %d" % (name, i), False, 1)
            await asyncio.sleep(0.01)

    async def hurry():
        while True:
            await client.disconnected()
            client._backoff = 50
            await client.connected()
            tell("again")

    task = asyncio.create_task(hurry())
    await asyncio.gather(*[send(name) for name in "abc"])
    task.cancel()


async def leave(client, topic):
    """By an exception, with tasks that wait."""
    await client.connected()

    async def iterate():
        async for _ in client.messages(topic):
            pass
        return "ended"

    async def wait():
        await client.disconnected()
        try:
            await client.connected()
        except ConnectionLost:
            return "lost"

    tasks = [asyncio.create_task(iterate()), asyncio.create_task(wait())]
    await asyncio.sleep(0)
    try:
        async with client:
            await client.publish(topic + "/last", "x" * 900)
            raise ValueError
    except ValueError:
        pass
    assert await tasks[0] == "ended" and await tasks[1] == "lost"
    assert not client.up and not client._ear


async def main(case, port, topic):
    will = (topic + "/will", "vanished")
    async with MQTTClient(topic.replace("/", "-"), "127.0.0.1", int(port), will=will) as client:
        await globals()[case](client, topic)
    tell("done")


asyncio.run(main(*sys.argv[1:]))
