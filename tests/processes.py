"""Both ends of a broker test: the device under a runtime, and a paho-mqtt peer."""

import json
import subprocess
import threading
import time

import paho.mqtt.client as paho
from runtimes import ROOT, command, environment

PATIENCE = 20  # seconds


class Log:
    """What happened, in order, for one thread to write and another to await."""

    def __init__(self):
        self.entries = []
        self.changed = threading.Condition()

    def add(self, entry):
        with self.changed:
            self.entries.append(entry)
            self.changed.notify_all()

    def wait(self, done, timeout=PATIENCE):
        """Wait until done(entries) is true, and return that."""
        with self.changed:
            result = self.changed.wait_for(lambda: done(self.entries), timeout)
            assert result, f"not within {timeout} s; so far: {self.entries}"
            return result


class Device:
    """A device script, which prints JSON lines and obeys those it is sent."""

    def __init__(self, runtime, script, *args, heap="128k", **where):
        self.log = Log()
        self.process = subprocess.Popen(
            command(runtime, script, *map(str, args), heap=heap),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd=ROOT,
            env=environment(**where),
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.log.add(json.loads(line))
            except ValueError:
                self.log.add(line.decode(errors="replace"))  # a traceback, for example
        self.log.add(None)

    def tell(self, *words):
        self.process.stdin.write(json.dumps(words).encode() + b"\n")

    def events(self, name):
        return [event[1:] for event in self.log.entries if event and event[0] == name]

    def wait(self, name, *values, count=1):
        """Wait for the count-th event of that name and those first values."""

        wanted = [name, *values]
        seen = hits = 0

        def found(entries):
            nonlocal seen, hits
            new = entries[seen:]
            seen += len(new)
            hits += sum(entry[: len(wanted)] == wanted for entry in new if entry)
            assert hits >= count or None not in new, "the device ended:\n" + "".join(
                entry if isinstance(entry, str) else f"{entry}\n" for entry in entries[-99:]
            )
            return hits >= count

        self.log.wait(found)

    def finish(self):
        """The exit status, once it has ended by itself."""
        status = self.process.wait(PATIENCE)
        self.reader.join()
        return status

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()


class Peer:
    """A paho-mqtt client that keeps every message it receives as (topic, payload, qos, retain)."""

    def __init__(self, port, client_id="", clean_session=True):
        self.log = Log()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, clean_session=clean_session
        )
        self.client.reconnect_delay_set(0.05, 0.5)
        self.connections = Log()
        self.client.on_connect = lambda *args: self.connections.add(args[3])
        self.client.on_message = lambda client, userdata, message: self.log.add(
            (message.topic, message.payload, message.qos, message.retain)
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.connections.wait(len)

    @property
    def messages(self):
        return self.log.entries

    def subscribe(self, topic_filter, qos=2):
        done = threading.Event()
        self.client.on_subscribe = lambda *args: done.set()
        self.client.subscribe(topic_filter, qos)
        assert done.wait(PATIENCE), "no SUBACK"

    def publish(self, topic, payload, qos=0, retain=False, wait=True):
        info = self.client.publish(topic, payload, qos, retain)
        if wait:
            info.wait_for_publish(PATIENCE)

    def wait(self, count):
        """Wait until that many messages are here, and return all there are."""
        self.log.wait(lambda entries: len(entries) >= count)
        return self.messages

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


def until(done, timeout=PATIENCE):
    """Poll what nothing tells us about."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.01)
