"""The application: sensor -> publish -> poll, and commands back. It waits in `wait` only."""

import json
import time

from micropython import const

import config
from umqtt_lite import MQTTClient, OutboxFull

_ANSWERS = const(8)  # answers that wait for room in the outbox, at most
_PAYLOAD = const(64)  # bytes; no command is longer
_TOO_LONG = f"at most {_PAYLOAD} bytes"
_LAST_WORD = const(2000)  # ms that `close` gives to "offline"


class CommandError(Exception):
    """A command that is not carried out: (name, what is allowed)."""


class App:
    """Publishes what `sensor.read()` returns, as JSON, and takes commands.

    `settings` is what config.load returns. Topics, under <prefix>/<device>/:
    env (readings), status (retained online or offline), cmd/<name>, response.
    """

    def __init__(self, settings: dict, sensor):
        base = settings["prefix"] + "/" + settings["device"] + "/"
        self.sensor = sensor
        self.interval = int(settings["interval"] * 1000)  # ms
        self.dropped = 0  # readings and answers given up for newer ones while the outbox was full
        self._env = (base + "env").encode()
        self._status = (base + "status").encode()
        self._response = (base + "response").encode()
        self._commands = {"interval": self._set_interval}
        self._last = time.ticks_add(time.ticks_ms(), -self.interval)  # the first is due now
        # What waits for room in the outbox.
        self._online = False
        self._online_id = 0  # of the last `online`, until it is acknowledged
        self._answers: list = []
        self._reading = b""

        host, port = settings["broker"]
        client = MQTTClient(
            base[:-1].replace("/", "-"),  # as unique as the topics must be
            host,
            port,
            settings["user"],
            settings["password"],
            settings["keepalive"],
            will=(self._status, b"offline", True, 1),
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_ack = self._on_ack
        client.on_skip = self._on_skip
        client.subscribe(base + "cmd/+", self._on_command, 1)
        self.client = client

    def run(self):
        """Step for ever."""
        while True:
            self.step()

    def step(self):
        """Read if it is time, poll, hand over what waits; sleep if there is nothing to do."""
        left = self.interval - time.ticks_diff(time.ticks_ms(), self._last)
        if left <= 0:
            self._read(left)
        self.client.poll()
        if not self._send():  # else poll writes it first
            self.client.wait(max(left, 0))

    def close(self):
        """Publish `offline` and disconnect; without a connection the will has said it."""
        self._online = False
        self._answers.clear()
        self._reading = b""
        client = self.client
        start = time.ticks_ms()
        while client.connected and time.ticks_diff(time.ticks_ms(), start) < _LAST_WORD:
            try:
                client.publish(self._status, b"offline", True, 1)
                break
            except OutboxFull:
                client.poll()
                client.wait(100)
        client.disconnect()

    def _read(self, left: int):
        # From when it was due, so that intervals don't drift, unless a whole one was missed.
        late = -left
        now = time.ticks_ms()
        self._last = now if late >= self.interval else time.ticks_add(now, -late)
        try:
            reading = json.dumps(self.sensor.read()).encode()
        except Exception as error:  # a sensor must not stop the rest
            print("sensor:", repr(error))
            return
        if self._reading:
            self._drop()
        self._reading = reading

    def _send(self) -> bool:
        """Move what waits into the outbox, as far as there is room. True if anything moved."""
        publish = self.client.publish
        moved = False
        try:
            if self._online:
                self._online_id = publish(self._status, b"online", True, 1)
                self._online = False
                moved = True
            while self._answers:
                publish(self._response, self._answers[0], False, 1)
                self._answers.pop(0)
                moved = True
            if self._reading:
                publish(self._env, self._reading, False, 1)
                self._reading = b""
                moved = True
        except OutboxFull:
            pass  # the next acknowledgement makes room and ends `wait`
        return moved

    def _on_connect(self, session_present: bool):
        print("connected")
        # One that still is in the outbox goes out again by itself: don't fill it with them.
        self._online = not self._online_id

    def _on_ack(self, packet_id: int):
        if packet_id == self._online_id:
            self._online_id = 0

    def _on_disconnect(self, error):
        print("disconnected", *(error.args if error else ()))
        self._online = False  # said anew by the next connect

    def _on_skip(self, topic, size: int):
        answer = self._new_answer(topic)
        self._refuse(answer, "TooLong", _TOO_LONG)
        self._answer(answer)

    def _on_command(self, topic, payload, retain: bool):
        answer = self._new_answer(topic)
        name = answer["command"]
        try:
            if retain:
                raise CommandError("Retained", "publish it without retain")
            if name not in self._commands:
                known = ", ".join(sorted(self._commands))
                raise CommandError("UnknownCommand", "the commands are " + known)
            if len(payload) > _PAYLOAD:
                raise CommandError("TooLong", _TOO_LONG)
            self._commands[name](bytes(payload), answer)
            answer["ok"] = True
        except CommandError as error:
            self._refuse(answer, *error.args)
        except Exception as error:  # nothing that arrives stops the loop
            self._refuse(answer, type(error).__name__, "nobody foresaw this: please report it")
        self._answer(answer)

    def _new_answer(self, topic) -> dict:
        return {"command": bytes(topic).decode().split("/")[-1][:32], "ok": False}

    def _refuse(self, answer: dict, error: str, expected: str):
        answer["error"] = error
        answer["expected"] = expected

    def _answer(self, answer: dict):
        print("command", answer["command"], answer.get("error", "ok"))
        if len(self._answers) == _ANSWERS:
            self._answers.pop(0)
            self._drop()
        self._answers.append(json.dumps(answer).encode())

    def _drop(self):
        self.dropped += 1
        print(f"outbox full: {self.dropped} dropped so far, the newest waits")

    def _set_interval(self, payload: bytes, answer: dict):
        try:
            value = json.loads(payload)
            if isinstance(value, dict):
                value = value["interval"]
            seconds = config.interval(value)
        except (ValueError, KeyError, TypeError):
            raise CommandError("BadInterval", config.INTERVAL + ' or {"interval": number}')
        self.interval = int(seconds * 1000)
        answer["interval"] = seconds
