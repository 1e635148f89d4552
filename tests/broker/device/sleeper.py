# Go to a deep sleep with messages in flight, or wake from it; a file stands for the RTC memory.

import json
import sys
import time

from umqtt_lite.sleep import MQTTClient


def tell(*event):
    print(json.dumps(event))


def main(order, port, name, path):
    memory = b""
    if order == "wake":
        with open(path, "rb") as file:
            memory = file.read()
        with open(path, "wb"):
            pass
    client = MQTTClient(name, "127.0.0.1", int(port), clean_session=False, snapshot=memory)
    tell("begin", client.pending, str(client.error))
    client.on_connect = lambda present: tell("connect", present)
    client.on_message = lambda topic, payload, retain: tell("message", str(payload, "utf8"))
    client.on_ack = lambda packet_id: tell("ack", packet_id)
    client.subscribe(name + "/in", None, 2)

    def until(done):
        while not done():
            client.wait(20)
            client.poll()

    if order == "sleep":
        until(lambda: client.connected and not client._asked)
        tell("deaf")
        sys.stdin.readline()
        for qos in (2, 1):
            for i in range(3):
                client.publish(name, "%d %d" % (qos, i), False, qos)
        until(lambda: not client._new)
        client.publish(name, "1 unwritten", False, 1)
        client.publish(name, "2 unwritten", False, 2)
        with open(path, "wb") as file:
            file.write(client.snapshot())
        tell("asleep")
        time.sleep(60)  # until it is killed
    until(lambda: not client.pending)
    tell("done")
    until(lambda: False)


main(*sys.argv[1:])
