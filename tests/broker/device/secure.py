# Publish and receive one message over TLS, and tell of each failure until that works.

import json
import socket
import sys

import umqtt_lite
from umqtt_lite import stream, tls

resolve = stream.resolve


def tell(*event):
    print(json.dumps(event))


def read(name):
    if name:
        with open(name, "rb") as file:
            return file.read()


class Clock:
    """A clock that was never set."""

    @staticmethod
    def gmtime():
        return 2021, 1, 1, 0, 0, 0, 4, 1


def sockets():
    """As many are open, or more if one was closed."""
    sock = socket.socket()
    n = sock.fileno()
    sock.close()
    return n


def main(port, host="localhost", secure=True, clock=True, timeout=10, **files):
    if not clock:
        tls.time = Clock
    stream.resolve = lambda host, port: resolve("127.0.0.1", port)
    context = None
    if secure:
        verify = files.pop("verify", True)
        context = tls.context(verify=verify, **{k: read(v) for k, v in files.items()})
    client = umqtt_lite.MQTTClient("secure", host, port, ssl=context, timeout=timeout)
    done = []
    polls = 0

    def end(error):
        nonlocal polls
        client._backoff = 50  # the test cannot wait for minutes
        tell("disconnect", str(error), sockets(), polls)
        polls = 0

    def got(topic, payload, retain):
        tell("got", str(payload, "utf8"))
        done.append(True)

    client._backoff = 50
    client.on_disconnect = end
    client.subscribe("secure", got, 2)
    # retained: SUBSCRIBE may get to the broker after it
    client.publish("secure", b"x" * 400, True, 2)
    while not done:
        polls += 1
        client.poll()
        client.wait(0 if done else 1000)
    client.disconnect()


main(**json.loads(sys.argv[1]))
