"""The firmware on this desk, against a real broker, and what a subscriber receives of it."""

import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import paho.mqtt.client as mqtt
from firmware import config

from tools.broker import connect
from tools.console import FOREVER, ROOT, Failed, paint, printable, say
from tools.monitor.devices import UNITS
from tools.programs import PATIENCE, end_process, find_micropython, start_broker

BOARD = ROOT / "boards" / "unix"
OTHERS = ("status", "info", "diagnostics", "response", "crash")  # topics that are no sensors
HEAP = "256k"  # the desk takes twice what a board of 32 bits takes
RESET = 3  # exit code of a firmware that is to be started again
WIDTH = 12  # of the column of topics


def subscribe(settings: dict, events: queue.SimpleQueue) -> mqtt.Client:
    """A subscriber to all of the device's topics that puts ("message", message) into events."""
    return connect(
        settings,
        [f"{topics(settings)}/#", discovery(settings)],
        lambda message: events.put(("message", message)),
    )


def start_firmware(micropython: str, settings: dict, events: queue.SimpleQueue):
    """The firmware; puts ("line", text, colour) and ("end", exit code) into events."""
    path = [ROOT / "lib", ROOT / "firmware", BOARD, ".frozen"]
    host, port = settings["broker"]
    process = subprocess.Popen(
        [micropython, "-X", f"heapsize={HEAP}", str(ROOT / "firmware" / "main.py")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # we pass Ctrl-C on, once
        env={
            **os.environ,
            "MICROPYPATH": os.pathsep.join(map(str, path)),
            "UMQTT_BROKER": f"{host}:{port}",
        },
    )

    def read(stream, colour):
        for line in stream:
            events.put(("line", line.rstrip(), colour))

    readers = [
        threading.Thread(target=read, args=pair, daemon=True)
        for pair in ((process.stdout, "dim"), (process.stderr, "red"))
    ]

    def watch():
        for reader in readers:
            reader.join()
        events.put(("end", process.wait()))

    for thread in [*readers, threading.Thread(target=watch, daemon=True)]:
        thread.start()
    return process


def topics(settings: dict) -> str:
    return f"{settings['prefix']}/{settings['device']}"


def discovery(settings: dict) -> str:
    """The filter of the device's own discovery topics."""
    root = settings.get("discovery") or "homeassistant"
    return f"{root}/+/{topics(settings).replace('/', '-')}/+/config"


def number(value, unit: str) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{text:>7} {unit}".rstrip()


def diagnostics(found: dict) -> str:
    """The diagnostics in one line; counters that are 0 are left out."""
    shown = [] if found["rssi"] is None else [f"{found['rssi']} dBm"]
    shown += [
        f"up {found['uptime']} s",
        f"heap {found['heap_free'] / 1024:.1f} KiB, {found['heap_block'] / 1024:.1f} in one",
        f"loop {found['loop_ms']} ms",
    ]
    shown += [
        f"{found[name]} {name}"
        for name in ("reconnects", "retries", "drops", "spool")
        if found[name]
    ]
    return "  ".join(shown)


class Run:
    """One run of the firmware, from the first message to the last."""

    def __init__(self, settings: dict, events: queue.SimpleQueue):
        self.events = events
        self.base = topics(settings)
        self.units: dict[tuple[str, str], str] = {}  # (sensor, value): as discovery told
        self.readings = 0
        self.status = ""  # what the firmware says of itself in this run
        self.told = False  # diagnostics have come
        self.code: int | None = None  # the firmware's exit code
        self.signal = 0

    def show(self, topic: str, text: str, colour: str, note: str = "") -> None:
        now = time.time()
        clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03}"
        line = f"{paint(clock, 'dim')}  {topic:{WIDTH}}  {paint(text, colour)}"
        say(line + paint(note, "yellow"))

    def on_message(self, message: mqtt.MQTTMessage) -> None:
        kind = message.topic.removeprefix(self.base + "/")
        text = printable(message.payload.decode(errors="replace"))
        colour = "cyan"
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        try:
            if kind == message.topic:
                kind, text = "discovery", self.entity(message.topic, found)
            elif kind == "diagnostics":
                text = diagnostics(found)
                self.told = True
            elif kind == "info":
                text = (
                    "{version} on {board}, MicroPython {micropython}, reset: {reset_cause}".format(
                        **found
                    )
                )
            elif "/" not in kind and kind not in OTHERS:
                self.readings += not message.retain
                text = self.reading(kind, found)
                colour = "green"
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # then it is shown as it came
        if kind == "status":
            if not message.retain:
                self.status = text
            colour = "green" if text == "online" else "red"
        elif kind.endswith("/error"):
            if not text:
                return
            colour = "red"
        self.show(kind, text, colour, "  (retained)" if message.retain else "")

    def reading(self, sensor: str, found: dict) -> str:
        """A reading with its units."""
        known = list(UNITS)
        names = sorted(found, key=lambda name: known.index(name) if name in known else len(known))
        return "  ".join(
            number(found[name], self.units.get((sensor, name), UNITS.get(name, name)))
            for name in names
            if name != "time"
        )

    def entity(self, topic: str, found: dict | None) -> str:
        """A discovery message in short; remembers its unit."""
        _, component, _, name, _ = topic.rsplit("/", 4)
        if found is None:
            return f"{name:22} removed"
        unit = "on/off" if component == "binary_sensor" else found.get("unit_of_meas", "")
        sensor = found["stat_t"].removeprefix("~/")
        if component == "sensor" and unit:
            self.units[sensor, name.removeprefix(sensor + "_")] = unit
        return f"{name:22} {unit:6} {found.get('dev_cla', '')}".rstrip()

    def step(self, timeout: float) -> None:
        """Take one event, or let `timeout` seconds pass."""
        try:
            kind, *event = self.events.get(timeout=max(timeout, 0))
        except queue.Empty:
            return
        if kind == "message":
            self.on_message(*event)
        elif kind == "line":
            self.show("(firmware)", *event)
        elif kind == "end":
            self.code = event[0]
        else:
            self.signal = event[0]

    def until(self, condition, seconds: float) -> bool:
        """Take events until the condition holds. False if it does not within `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.step(left)
        return True


def demo(args) -> int:
    """Run until Ctrl-C or args.seconds are over. Returns the exit code; raises Failed."""
    events: queue.SimpleQueue = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: events.put(("signal", number)))
    with ExitStack() as on_exit:
        return show(args, events, on_exit)


def show(args, events: queue.SimpleQueue, on_exit: ExitStack) -> int:
    overrides = {"UMQTT_BROKER": args.broker} if args.broker else {}
    environment = {**os.environ, **overrides}
    path = environment.get("UMQTT_CONFIG") or str(BOARD / "config.json")
    settings = config.load(path, environment.get)
    micropython = find_micropython(args.micropython)
    if not args.broker:
        settings["brokers"] = [start_broker(on_exit)]
    settings["broker"] = settings["brokers"][0]
    host, port = settings["broker"]
    base = topics(settings)

    subscriber = subscribe(settings, events)
    on_exit.callback(subscriber.loop_stop)
    on_exit.callback(subscriber.disconnect)

    say(f"broker   {host}:{port}" + ("" if args.broker else "  (iotcore, for this run)"))
    say(f"topics   {base}/... and {discovery(settings)}")
    say(f"command  {command(host, port, f'{base}/cmd/interval', '1')}")
    say("end      Ctrl-C" + (f", or after {args.seconds:g} s" if args.seconds else "") + "\n")

    shown = Run(settings, events)
    started = time.monotonic()
    firmware = start_firmware(micropython, settings, events)
    on_exit.callback(lambda: end_process(firmware))
    deadline = started + (args.seconds or FOREVER)

    def ended():
        return shown.signal or shown.code is not None

    shown.until(lambda: ended() or shown.told, deadline - time.monotonic())
    if shown.told and not ended():  # then it takes commands
        subscriber.publish(f"{base}/cmd/read", json.dumps({"id": "make run"}), 1)
    while shown.until(ended, deadline - time.monotonic()) and shown.code == RESET:
        shown.code = None
        firmware = start_firmware(micropython, settings, events)
    lasted = time.monotonic() - started
    crashed = shown.code is not None
    interrupted, shown.signal = shown.signal, 0

    if not crashed:
        firmware.send_signal(signal.SIGINT)
        # A second Ctrl-C does not wait.
        if not shown.until(ended, PATIENCE):
            say(paint(f"the firmware did not end within {PATIENCE} s of Ctrl-C: killed", "red"))
    end_process(firmware)
    if shown.status == "online":  # the last word, or after a crash the will, is on its way
        shown.until(lambda: shown.signal or shown.status == "offline", PATIENCE)

    plural = "" if shown.readings == 1 else "s"
    say(f"\n{shown.readings} reading{plural} in {lasted:.1f} s")
    if crashed:
        raise Failed(f"the firmware ended by itself, exit code {shown.code}: see its lines above")
    if shown.code != 0 and shown.status:  # one that was still starting knows no Ctrl-C
        raise Failed(f"the firmware did not end cleanly, exit code {shown.code}")
    if interrupted == signal.SIGINT:
        return 0
    if interrupted:
        return 128 + interrupted
    if not shown.readings:
        raise Failed(
            "no reading arrived: is the interval in config.json shorter than this run?"
            if shown.status
            else "no reading arrived, and the firmware never came online: see its lines above"
        )
    return 0


def command(host: str, port: int, topic: str, payload: str) -> str:
    """What to type in another terminal to publish a message."""
    if shutil.which("mosquitto_pub"):
        return f"mosquitto_pub -h {host} -p {port} -t {topic} -m {payload}"
    call = f"single('{topic}', '{payload}', hostname='{host}', port={port})"
    return f'{shlex.quote(sys.executable)} -c "from paho.mqtt.publish import single; {call}"'
