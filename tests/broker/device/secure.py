# Publish and receive one message over TLS, or tell why that is not possible.

import json
import ssl
import sys

from umqtt_lite import MQTTClient


def main(port, ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED  # MicroPython's default verifies nothing
    with open(ca, "rb") as file:
        context.load_verify_locations(cadata=file.read())
    client = MQTTClient("secure", "localhost", int(port), ssl=context, reconnect=False)
    done = []

    def end(error):
        print(json.dumps(["disconnect", str(error)]))
        done.append(True)

    def got(topic, payload, retain):
        print(json.dumps(["got", str(payload, "utf8")]))
        client.disconnect()

    client.on_disconnect = end
    client.subscribe("secure", got, 2)
    # retained: SUBSCRIBE may get to the broker after it
    client.publish("secure", b"x" * 400, True, 2)
    while not done:
        client.poll()
        client.wait(1000)


main(*sys.argv[1:])
