# umqtt.simple as run.py measures it; see lite.py.

from umqtt.simple import MQTTClient

TOPIC = b"bench/t"
PAYLOAD = bytes(64)


def connect(port):
    c = MQTTClient("simple", "127.0.0.1", port, keepalive=60)
    c.connect()
    return c


def send(c, n):
    while n:
        c.publish(TOPIC, PAYLOAD)
        n -= 1


def one(c, n, qos=1):
    while n:
        c.publish(TOPIC, PAYLOAD, False, qos)
        n -= 1


def idle(c, n):
    while n:
        c.check_msg()
        n -= 1


def subscribe(c):
    c.set_callback(count)
    c.subscribe(TOPIC, 1)


def count(topic, payload):
    pass


def receive(c, n, feed=None):
    while n:
        if feed:
            feed()
        c.wait_msg()
        n -= 1
