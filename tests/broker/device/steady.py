# Do one thing again and again with the heap locked, when any allocation is a MemoryError.
# CPython, which has no such lock, tells instead which functions of the library ran.

import json
import sys
import time

from umqtt_lite import MQTTClient

PAYLOAD = b"a payload like any other"
TIMES = 5

count = 0
ran = set()
secure = {}  # with TLS


def lock():
    if sys.implementation.name == "micropython":
        import micropython

        micropython.heap_lock()
    else:
        sys.setprofile(note)


def unlock():
    if sys.implementation.name == "micropython":
        import micropython

        micropython.heap_unlock()
    else:
        sys.setprofile(None)


def note(frame, event, arg):
    code = frame.f_code
    package, _, name = code.co_filename.rpartition("/")
    if event == "call" and package.endswith("umqtt_lite"):
        ran.add((name.replace(".py", ""), code.co_name))


def tell(*event):
    print(json.dumps(event))


def ask(*event):
    tell(*event)
    sys.stdin.readline()


def step(client):
    client.wait(20)
    client.poll()
    if client.error:
        raise client.error


def until(client, done):
    begin = time.ticks_ms()
    while not done():
        step(client)
        if time.ticks_diff(time.ticks_ms(), begin) > 15000:
            raise RuntimeError("nothing came")


def spend(client, ms):
    begin = time.ticks_ms()
    while time.ticks_diff(time.ticks_ms(), begin) < ms:
        step(client)


def locked(client, work):
    lock()
    try:
        work()
    finally:
        unlock()
    if not client.connected or client.stats["connects"] != 1:
        raise RuntimeError("the connection did not last")


def publish(port, topic, qos):
    client = MQTTClient("steady", "127.0.0.1", port, **secure)

    def work():
        for _ in range(TIMES):
            client.publish(topic, PAYLOAD, False, qos)
            while client.pending:
                step(client)
        for _ in range(TIMES):  # and all at once
            client.publish(topic, PAYLOAD, False, qos)
        while client.pending:
            step(client)

    work()
    locked(client, work)


def retry(port, topic, qos):
    client = MQTTClient("steady", "127.0.0.1", port, retry=1)
    client.publish(topic, PAYLOAD, False, qos)
    until(client, lambda: not client.pending)
    ask("deaf")

    def work():
        client.publish(topic, PAYLOAD, False, qos)
        spend(client, 1500)

    locked(client, work)
    ask("retried", client.stats["retried"])

    def finish():
        while client.pending:
            step(client)

    locked(client, finish)


def ping(port, topic, qos):
    client = MQTTClient("steady", "127.0.0.1", port, keepalive=1)
    until(client, lambda: client.connected)
    locked(client, lambda: spend(client, 2500))  # longer than the broker would wait


def receive(port, topic, qos, **options):
    client = MQTTClient("steady", "127.0.0.1", port, **options, **secure)

    def taken(topic, payload, retain=False):
        global count
        count += 1

    client.on_skip = taken
    client.subscribe(topic, taken, qos)
    until(client, lambda: count == 1)
    tell("listening")

    def work():
        while count < 1 + TIMES:
            step(client)

    locked(client, work)


def skip(port, topic, qos):
    """Messages that are larger than the inbox."""
    receive(port, topic, qos, inbox=64)


def main(port, topic, case, qos, ca=None):
    if ca:
        from umqtt_lite.tls import context

        with open(ca, "rb") as file:
            secure["ssl"] = context(file.read())
    globals()[case](int(port), topic.encode(), int(qos))
    tell("done", sorted(ran))


main(*sys.argv[1:])
