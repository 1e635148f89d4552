# umqtt_lite as run.py measures it. The other clients' files have the same functions.

from umqtt_lite import MQTTClient, OutboxFull

TOPIC = b"bench/t"
PAYLOAD = bytes(64)
OTHER = bytes(63)

received = 0


def connect(port):
    c = MQTTClient("lite", "127.0.0.1", port)
    while not c.connected:
        step(c)
    return c


def step(c):
    c.wait(1000)
    c.poll()
    if c.error:
        raise c.error


def send(c, n):
    while n:
        try:
            c.publish(TOPIC, PAYLOAD)
            n -= 1
        except OutboxFull:
            c.wait(1000)
        c.poll()


def send_other(c, n):
    """With a payload of another length than the last."""
    while n:
        c.publish(TOPIC, OTHER if n & 1 else PAYLOAD)
        n -= 1
        c.poll()


def one(c, n, qos=1):
    """One at a time."""
    while n:
        c.publish(TOPIC, PAYLOAD, False, qos)
        n -= 1
        c.poll()
        while c.pending:
            step(c)


def many(c, n):
    """QoS 1, with as many in flight as there is room for."""
    while n:
        try:
            c.publish(TOPIC, PAYLOAD, False, 1)
            n -= 1
        except OutboxFull:
            step(c)
    while c.pending:
        step(c)


def idle(c, n):
    while n:
        c.poll()
        n -= 1


def subscribe(c):
    c.subscribe(TOPIC, count, 2)
    for _ in range(2):  # the second goes behind the SUBSCRIBE: it is answered when that is
        c.publish(b"bench/u", PAYLOAD, False, 1)
        while c.pending:
            step(c)


def count(topic, payload, retain):
    global received
    received += 1


def receive(c, n, feed=None):
    """Take n messages, each after feed(), if there is one."""
    end = received + n
    while received < end:
        if feed:
            feed()
        n = received
        while n == received:
            step(c)
