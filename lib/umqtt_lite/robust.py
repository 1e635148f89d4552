"""umqtt.robust's MQTTClient: that of simple.py, which connects again.

    from umqtt_lite.robust import MQTTClient     # the only line that a program changes

Where the broker has lost the session, reconnect() subscribes again.
"""

import time

from . import simple


class MQTTClient(simple.MQTTClient):
    DELAY = 2  # s between two attempts
    DEBUG = False  # to print what log() is told

    def delay(self, i):
        """Wait after the i-th attempt that failed."""
        time.sleep(self.DELAY)

    def log(self, in_reconnect, e):
        """Hear of an OSError, of reconnect() or of another call."""
        if self.DEBUG:
            print("mqtt reconnect:" if in_reconnect else "mqtt:", repr(e))

    def reconnect(self):
        """connect(False) until it succeeds."""
        i = 0
        while True:
            try:
                return self.connect(False)
            except OSError as e:
                self.log(True, e)
            i += 1
            self.delay(i)

    def publish(self, topic, msg, retain=False, qos=0):
        """publish() of simple.py until it succeeds."""
        return self._again(-1, simple.MQTTClient.publish, topic, msg, retain, qos)

    def wait_msg(self):  # type: ignore[override]
        """wait_msg() of simple.py until it succeeds."""
        return self._again(-1, simple.MQTTClient.wait_msg)

    def check_msg(self, attempts=2):
        """check_msg() of simple.py; reconnects after each attempt that fails."""
        return self._again(attempts, simple.MQTTClient.check_msg)

    def _again(self, attempts, call, *args):
        while attempts:
            try:
                return call(self, *args)
            except OSError as e:
                self.log(False, e)
            self.reconnect()
            attempts -= 1
