# A device that does what it is told in JSON lines on stdin and tells what happens on stdout.

import json
import select
import sys

from umqtt_lite import MQTTClient

stdin = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)  # unbuffered: select sees it all


def tell(*event):
    print(json.dumps(event))


def message(name):
    return lambda topic, payload, retain: tell(
        name, str(topic, "utf8"), str(payload, "utf8"), retain
    )


def main(client_id, port, options):
    client = MQTTClient(client_id, "127.0.0.1", int(port), **json.loads(options))
    client.on_connect = lambda present: tell("connect", present)
    client.on_disconnect = lambda error: tell("disconnect", str(error))
    client.on_message = message("message")
    client.on_ack = lambda packet_id: tell("ack", packet_id)

    def obey(name, *args):
        if name == "publish":
            tell("publish", client.publish(*args))
        elif name == "handle":
            client.subscribe(args[0], message(args[1]), *args[2:])
        elif name == "subscribe":
            client.subscribe(args[0], None, *args[1:])
        else:
            getattr(client, name)(*args)
            tell(name)

    orders = select.poll()
    orders.register(sys.stdin, select.POLLIN)
    while True:
        client.poll()
        client.wait(5)
        if orders.poll(0):
            line = stdin.readline()
            if not line:
                return
            obey(*json.loads(line))


main(*sys.argv[1:])
