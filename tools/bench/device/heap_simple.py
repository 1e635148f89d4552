# What heap_lite.py does, with umqtt.simple.

import sys

from umqtt.simple import MQTTClient

received = 0


def count(topic, payload):
    global received
    received += 1


c = MQTTClient("heap", "127.0.0.1", int(sys.argv[1]), keepalive=60)
c.set_callback(count)
c.connect()
for _ in range(50):
    c.publish("bench/out", bytes(64), False, 1)
c.subscribe("bench/in", 1)
while received < 10:
    n = received
    c.publish("bench/in", bytes(64), False, 1)
    while received == n:
        c.wait_msg()
c.disconnect()
print("ok")
