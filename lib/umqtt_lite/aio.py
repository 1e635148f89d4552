"""MQTTClient for asyncio: publish() to be awaited, messages() to iterate over.

    _run()      a task, the clock: poll() five times a second
    _run(io)    another for each connection: poll() when its socket can be read
    _write(io)  and another while something is to be written: poll() when it can be
    publish()   poll() in the task that awaits it

Tasks that wait are in the queue _waits, and look again after each poll().

One publish() allocates its coroutine; each wait, what asyncio notes down about it.
"""

from collections import deque
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from . import client
from .client import ConnectionLost
from .outbox import OutboxFull

try:
    from asyncio import core as loop  # type: ignore[attr-defined]

    pause = (None,)  # to be awaited: gives the task up, until it is in the loop's queue again
except ImportError:
    from .cpython import loop, pause

_TIMEOUT = const(4)  # index of _config
_TICK = const(200)  # ms


class MQTTClient(client.MQTTClient):
    """An MQTT client that works while `async with` lasts, and disconnects at its end.

    Arguments, hooks, error, stats, pending and link are those of the polled client; on_ack is
    taken, and `up` says whether the connection stands. An exception of a handler or hook goes to
    the exception handler of the event loop.

    An await that is cancelled takes nothing back: an accepted message stays accepted.
    ConnectionLost: disconnect(), or reconnect=False and no connection any more.
    """

    _clock = _ear = _pen = None  # tasks of _run() and _write()
    _heard = None  # the stream of the latter two

    def __init__(self, *args, **kwargs):
        client.MQTTClient.__init__(self, *args, **kwargs)
        self._waits = loop.TaskQueue()
        self._line = []  # tasks that publish, in turn; the first waits for room in the outbox
        self._unacked = set()  # packet identifiers
        self.on_ack = self._unacked.discard

    async def __aenter__(self):
        self.connect()
        if not self._clock:
            self._clock = loop.create_task(self._run())
            self._turn()
        return self

    async def disconnect(self, *args):
        """Write what is accepted, within `timeout`, then DISCONNECT, and close.

        Cancelled, it closes at once. What waits is woken: see ConnectionLost; messages() end.
        """
        t = self._clock
        n = ticks_add(ticks_ms(), self._config[_TIMEOUT])
        try:
            while t and self._new and self.up and ticks_diff(n, ticks_ms()) > 0:
                await self._look()
        finally:
            self._clock = None
            client.MQTTClient.disconnect(self, 0)
            self._turn()
            if t:
                t.cancel()
            await loop.sleep_ms(0)

    __aexit__ = disconnect

    async def publish(self, topic, payload, retain=False, qos=0):  # type: ignore[override]
        """Publish a message; QoS 1 or 2: until its handshake is complete, in any connection.

        Waits while the outbox is full, and is then in turn. ValueError or TypeError: it can never
        be sent.
        """
        t = loop.current_task()
        q = self._line
        q.append(t)
        try:
            while True:
                if q[0] is t:
                    try:
                        id = client.MQTTClient.publish(self, topic, payload, retain, qos)
                        break
                    except OutboxFull:
                        pass
                await self._look()
        finally:
            q.remove(t)
        if id:
            self._unacked.add(id)
        self._turn()
        await loop.sleep_ms(0)  # the acknowledgement may have come: let others have their turn
        while id in self._unacked:
            await self._look()

    def messages(self, topic_filter, qos=0, size=16):
        """Subscribe, and iterate: `async for topic, payload, retain in ...`, bytes and a bool.

        `size` messages wait at most. Another drops the oldest, and stats["dropped"] counts it.
        Ends after unsubscribe() or another subscription of the same filter, or disconnect();
        neither `break` nor cancellation ends it, as nothing tells of them.
        """
        return Messages(self, topic_filter, qos, size)

    async def connected(self, up=True):
        """Wait until the connection stands."""
        while self.up != up:
            await self._look()

    def disconnected(self):
        """Wait until it does not, or not yet."""
        return self.connected(False)

    async def _look(self):
        # wait for another poll()
        if not (self._clock and self._state):
            raise ConnectionLost(self.error or "disconnected")
        t = loop.current_task()
        self._waits.push(t)
        t.data = self._waits
        await pause  # type: ignore[misc]

    def _turn(self):
        if self._clock:
            try:
                self.poll()
            except Exception as e:  # of a handler
                loop.get_event_loop().call_exception_handler(
                    {"message": "MQTTClient", "exception": e, "future": self._clock}
                )
        s = self._io
        if s is not self._heard:
            self._heard = s
            for t in self._ear, self._pen:
                if t and t is not loop.current_task():
                    t.cancel()
            self._pen = None
            self._ear = s and loop.create_task(self._run(s))
        q = self._waits
        while q.peek():
            loop._task_queue.push(q.pop())
        # behind these, whose messages then go out together with acknowledgements
        if s and not self._pen and (self._new if self.up else self._hello):
            self._pen = loop.create_task(self._write(s))

    def _run(self, s=None):
        while self._clock and (not s or s is self._heard):
            if s and ticks_diff(self._due, ticks_ms()) > 0:
                yield loop._io_queue.queue_read(getattr(s, "sock", s))
            else:  # there may be more to read
                yield from loop.sleep_ms(0 if s else _TICK)
            self._turn()

    def _write(self, s):
        yield loop._io_queue.queue_write(getattr(s, "sock", s))
        self._pen = None
        self._turn()


class Messages:
    """What came for a topic filter, oldest first. Made by MQTTClient.messages()."""

    def __init__(self, client, topic_filter, qos, size):
        self._client = client
        self._size = size
        self._topic = None
        self._queue = deque((), size)
        client.subscribe(topic_filter, self._put, qos)
        self._sub = client._subs._list[-1]

    def _put(self, topic, payload, retain):
        if len(self._queue) == self._size:
            self._client._stats["dropped"] += 1
        if self._topic != topic:
            self._topic = bytes(topic)
        self._queue.append((self._topic, bytes(payload), retain))

    def __aiter__(self):
        return self

    async def __anext__(self):
        c = self._client
        try:
            while not self._queue:
                if self._sub not in c._subs._list:
                    raise ConnectionLost
                await c._look()
        except ConnectionLost:
            raise StopAsyncIteration
        return self._queue.popleft()
