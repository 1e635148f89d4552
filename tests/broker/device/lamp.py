# A lamp that takes on, off and toggle, and publishes what it is; programs of umqtt.simple's style.

import json
import sys

kind, way, client_id, port, topic = sys.argv[1:]
if kind == "robust":
    from umqtt_lite.robust import MQTTClient
else:
    from umqtt_lite.simple import MQTTClient

lit = False


def tell(*event):
    print(json.dumps(event))


def on_message(t, msg):
    global lit
    lit = not lit if msg == b"toggle" else msg == b"on"
    tell("lamp", lit)
    client.publish(topic + "/state", b"on" if lit else b"off", qos=1)


options = {}
if kind == "true":
    options = {"ssl": True, "ssl_params": {"server_hostname": "localhost"}}
elif kind == "context":
    from umqtt_lite.tls import context

    options = {"ssl": context(None, verify=False)}
client = MQTTClient(client_id, b"127.0.0.1", int(port), keepalive=5, **options)
client.DELAY = 0.05
client.set_callback(on_message)
tell("connect", bool(client.connect(kind != "robust")))
client.subscribe(topic + "/set", 1)
client.publish(topic + "/state", b"ready", True, 1)
while True:
    if way == "wait":
        client.wait_msg()
    elif way == "press":
        # a button beside it, pressed by whoever sends a line
        press = json.loads(sys.stdin.readline())
        tell("pressed")
        client.publish(topic + "/button", press[0], True, press[1])
        tell("published", press[0])
    else:
        import select

        poller = select.poll()
        poller.register(client.sock, select.POLLIN)
        poller.poll(50)
        client.check_msg()
