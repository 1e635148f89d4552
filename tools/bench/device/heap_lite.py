# The program whose smallest heap is looked for: 50 messages out, 10 in.

import sys

from umqtt_lite import MQTTClient

received = 0


def count(topic, payload, retain):
    global received
    received += 1


def publish(c, topic):
    c.publish(topic, bytes(64), False, 1)
    while c.pending:
        c.wait(1000)
        c.poll()
        if c.error:
            raise c.error


c = MQTTClient("heap", "127.0.0.1", int(sys.argv[1]))
for _ in range(50):
    publish(c, "bench/out")
c.subscribe("bench/in", count, 1)
while received < 10:
    publish(c, "bench/in")
c.disconnect()
print("ok")
