# Take what comes to a topic, in a session that outlives its connections.

import json
import sys

from umqtt_lite import MQTTClient


def main(port, topic, qos):
    client = MQTTClient(topic.replace("/", "-"), "127.0.0.1", int(port), clean_session=False)

    def hurry(error):
        client._backoff = 50  # the test cannot wait for minutes

    hurry(None)
    client.on_disconnect = hurry
    client.on_message = lambda topic, payload, retain: print(json.dumps(["got", int(payload)]))
    client.subscribe(topic, None, int(qos))
    while True:
        client.poll()
        client.wait(1000)


main(*sys.argv[1:])
