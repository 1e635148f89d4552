"""MQTTClient for asyncio: publish() to be awaited, messages() to iterate over.

    _run      a task that sleeps until the polled client's next deadline
    _listen   one for each connection, that waits on its socket
    publish   in whatever task it is awaited

call poll(), by way of _step(). Whatever waits, sleeps: wake() ends that, of a task in

    _waits    task: the packet identifier, or the Messages, that it waits for
    _room     tasks that publish, in turn; the first waits for room in the outbox

One publish() allocates its coroutine; each wait on the socket, what asyncio notes down about it.
"""

from collections import deque
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from . import client
from .client import ConnectionLost
from .outbox import OutboxFull

try:
    from asyncio import core as loop  # type: ignore[attr-defined]

    def wake(t):
        # Not the running task, nor one that is cancelled; one that is awake keeps its place
        q = t.data
        if q is None and ticks_diff(t.ph_key, ticks_ms()) > 0:
            q = loop._task_queue
        if q and t is not loop.cur_task and (t.data is None or q is loop._io_queue):
            q.remove(t)
            loop._task_queue.push(t)

except ImportError:
    from .cpython import loop, wake


async def _fail(e):
    raise e


_TIMEOUT = const(4)  # index of _config
_SECOND = const(1000)
_MINUTE = const(60000)


class MQTTClient:
    """An MQTT client that works while `async with` lasts, and disconnects at its end.

    Arguments are those of the polled client, client.MQTTClient. That is `core`, with hooks, error,
    stats, pending and link; on_ack is taken. An exception of a handler or hook goes to the
    exception handler of the event loop.

    An await that is cancelled takes nothing back: an accepted message stays accepted.
    ConnectionLost: disconnect(), or reconnect=False and no connection any more.
    """

    _clock = _ear = _io = None  # tasks of _run() and _listen(), and the stream of the latter
    _state = 0  # of the core, when it was seen last
    _due = 0  # when _run() goes on

    def __init__(self, *args, **kwargs):
        self.core = client.MQTTClient(*args, **kwargs)
        self.core.on_ack = self._acked
        self._waits = {}
        self._room = []

    async def __aenter__(self):
        self.core.connect()
        if not self._clock:
            self._clock = loop.create_task(self._run())
        return self

    async def disconnect(self, *args):
        """Write what is accepted, within `timeout`, then DISCONNECT, and close.

        Cancelled, it closes at once. What waits is woken: see ConnectionLost; messages() end.
        """
        c = self.core
        n = ticks_add(ticks_ms(), c._config[_TIMEOUT])
        try:
            while c._new and c.connected and ticks_diff(n, ticks_ms()) > 0:
                await loop.sleep_ms(5)
        finally:
            if c._new:
                c._close(0)  # disconnect() would wait
            c.disconnect()
            t = self._clock
            self._clock = None
            self._step()
            if t:
                wake(t)
                while not t.done() or self._ear and not self._ear.done():
                    await loop.sleep_ms(0)

    __aexit__ = disconnect

    async def publish(self, topic, payload, retain=False, qos=0):
        """Publish a message; QoS 1 or 2: until its handshake is complete, in any connection.

        Waits while the outbox is full, and is then in turn. ValueError or TypeError: it can never
        be sent.
        """
        t = loop.current_task()
        q = self._room
        q.append(t)
        try:
            while True:
                if q[0] is t:
                    try:
                        id = self.core.publish(topic, payload, retain, qos)
                        break
                    except OutboxFull:
                        pass
                await self._nap()
        finally:
            q.remove(t)
            if q:
                wake(q[0])
        q = self._waits
        q[t] = id
        try:
            self._step()
            while q[t]:
                await self._nap()
        finally:
            del q[t]

    def messages(self, topic_filter, qos=0, size=16):
        """Subscribe, and iterate: `async for topic, payload, retain in ...`, bytes and a bool.

        `size` messages wait at most. Another drops the oldest, and stats["dropped"] counts it.
        Ends after unsubscribe() or another subscription of the same filter, or disconnect();
        neither `break` nor cancellation ends it, as nothing tells of them.
        """
        return Messages(self, topic_filter, qos, size)

    def subscribe(self, topic_filter, handler=None, qos=0):
        """Declare a subscription with a handler: see the polled client."""
        self.core.subscribe(topic_filter, handler, qos)
        self._wake()

    def unsubscribe(self, topic_filter):
        """End a subscription."""
        self.subscribe(topic_filter, None, -1)

    async def connected(self, up=True):
        """Wait until the connection stands."""
        while self.core.connected != up:
            await self._wait(None)

    def disconnected(self):
        """Wait until it does not, or not yet."""
        return self.connected(False)

    def _nap(self):
        # to be awaited, until wake()
        if not (self._clock and self.core._state):
            raise ConnectionLost(self.core.error)
        return loop.sleep_ms(_MINUTE)

    async def _wait(self, what):
        t = loop.current_task()
        self._waits[t] = what
        try:
            await self._nap()
        finally:
            del self._waits[t]

    def _wake(self):
        # all
        for q in self._waits, self._room, (self._clock, self._ear):
            for t in q:
                if t:
                    wake(t)

    def _acked(self, id):
        q = self._waits
        for t in q:
            if q[t] == id:
                q[t] = 0
                wake(t)
        if self._room:
            wake(self._room[0])

    def _step(self):
        c = self.core
        n = c._new
        if self._clock:
            try:
                c.poll()
            except Exception as e:  # of a handler
                loop.create_task(_fail(e))
            if ticks_diff(c._due, self._due) < 0:
                wake(self._clock)
        if c._state != self._state:
            self._state = c._state
            self._wake()
            if self._io is not c._io:
                self._io = c._io
                if c._io:
                    self._ear = loop.create_task(self._listen(c._io))
        if n:
            if not c._new:
                if self._room:
                    wake(self._room[0])
            elif c.connected:
                wake(self._ear)  # to wait until it can be written

    async def _run(self):
        c = self.core
        while self._clock:
            self._step()
            n = _SECOND
            now = ticks_ms()
            if c._io or c._state and c.link:
                n = max(min(n, ticks_diff(c._due, now)), 0)
            self._due = ticks_add(now, n)
            await loop.sleep_ms(n)

    def _listen(self, s):
        c = self.core
        q = loop._io_queue
        while c._io is s:
            n = c._new if c.connected else c._hello
            yield (q.queue_write if n else q.queue_read)(getattr(s, "sock", s))
            self._step()


class Messages:
    """What came for a topic filter, oldest first. Made by MQTTClient.messages()."""

    def __init__(self, client, topic_filter, qos, size):
        self._client = client
        self._size = size
        self._topic = None
        self._queue = deque((), size)
        client.subscribe(topic_filter, self._put, qos)
        self._sub = client.core._subs._list[-1]

    def _put(self, topic, payload, retain):
        c = self._client
        if len(self._queue) == self._size:
            c.core._stats["dropped"] += 1
        if self._topic != topic:
            self._topic = bytes(topic)
        self._queue.append((self._topic, bytes(payload), retain))
        for t in c._waits:
            if c._waits[t] is self:
                wake(t)

    def __aiter__(self):
        return self

    async def __anext__(self):
        c = self._client
        while not self._queue:
            try:
                if self._sub not in c.core._subs._list:
                    raise ConnectionLost
                await c._wait(self)
            except ConnectionLost:
                raise StopAsyncIteration
        return self._queue.popleft()
