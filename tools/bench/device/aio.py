# umqtt_lite.aio as run.py measures it; see lite.py. Its tasks stay in the loop between two runs.

import asyncio

from umqtt_lite.aio import MQTTClient

TOPIC = b"bench/t"
PAYLOAD = bytes(64)

messages = None


def connect(port):
    c = MQTTClient("aio", "127.0.0.1", port)
    asyncio.run(_connect(c))
    return c


async def _connect(c):
    await c.__aenter__()
    await c.connected()


def send(c, n):
    one(c, n, 0)


def one(c, n, qos=1):
    asyncio.run(_one(c, n, qos))


async def _one(c, n, qos):
    while n:
        await c.publish(TOPIC, PAYLOAD, False, qos)
        n -= 1


def subscribe(c):
    global messages
    messages = c.messages(TOPIC, 2, 300)
    asyncio.run(_subscribe(c))


async def _subscribe(c):
    for _ in range(2):
        await c.publish(b"bench/u", PAYLOAD, False, 1)


def receive(c, n, feed=None):
    asyncio.run(_receive(n, feed))


async def _receive(n, feed):
    if feed:
        feed()
    async for _ in messages:
        n -= 1
        if not n:
            break
        if feed:
            feed()
