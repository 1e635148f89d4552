# Publish, poll and wait with the heap locked, when any allocation is a MemoryError.

import json
import sys
from time import ticks_diff, ticks_ms

from micropython import heap_lock, heap_unlock

from umqtt_lite import MQTTClient

received = [0]


def count(topic, payload, retain):
    received[0] += 1


def until(client, done):
    begin = ticks_ms()
    while not done():
        client.poll()
        client.wait(20)
        if ticks_diff(ticks_ms(), begin) > 15000:
            raise RuntimeError("nothing came")


def locked(client, done, publish=None, qos=0):
    heap_lock()
    try:
        if publish:
            for _ in range(5):
                client.publish(publish, b"a payload like any other", False, qos)
                client.poll()
        until(client, done)
    finally:
        heap_unlock()


def told(*event):
    print(json.dumps(event))
    sys.stdin.readline()


def main(port, topic):
    out = topic.encode() + b"/out"
    client = MQTTClient("locked", "127.0.0.1", int(port), retry=1)
    client.subscribe(topic + "/in", count, 1)
    until(client, lambda: received[0] == 1)
    told("listening")
    locked(client, lambda: received[0] == 11)
    for qos in (0, 1, 2):
        locked(client, lambda: client.pending == 0, out, qos)
    told("published")
    # until told otherwise the broker is not heard
    locked(client, lambda: client.pending == 0, out, 1)
    retried = client.stats["retried"]
    client.disconnect()

    client = MQTTClient("pinging", "127.0.0.1", int(port), keepalive=1)
    until(client, lambda: client.connected)
    begin = ticks_ms()
    locked(client, lambda: ticks_diff(ticks_ms(), begin) > 2500)
    told("done", retried, client.connected, client.stats["connects"])


main(*sys.argv[1:])
