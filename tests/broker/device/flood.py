# Publish the numbers from 0 on, with as many in flight as the outbox holds.

import json
import sys

from umqtt_lite import MQTTClient, OutboxFull


def main(port, topic, qos, count):
    client = MQTTClient(
        topic.replace("/", "-"), "127.0.0.1", int(port), clean_session=False, retry=1
    )

    def hurry(error):
        client._backoff = 50  # the test cannot wait for minutes

    client.on_ack = lambda packet_id: print(json.dumps(["ack", packet_id]))
    hurry(None)
    client.on_disconnect = hurry
    number = 0
    while number < int(count) or client.pending:
        if number < int(count):
            try:
                client.publish(topic, str(number), qos=int(qos))
                number += 1
            except OutboxFull:
                pass
        client.poll()
        client.wait(5)
    client.disconnect()
    print(json.dumps(["done"]))


main(*sys.argv[1:])
