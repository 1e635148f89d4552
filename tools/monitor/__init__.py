"""Live view of what devices publish: a table, a chart of each value, and the log from serial.

    python -m tools monitor --broker 192.168.1.2 --user me
    python -m tools monitor --config boards/esp32/config.json --port /dev/ttyUSB0
    python -m tools monitor --csv readings.csv --seconds 3600 --plot readings.svg
    python -m tools monitor --plot night.png --from-file readings.csv --since 12h

Without a terminal, or with --plain, it prints one line a message. The password is asked for, or
taken from UMQTT_PASSWORD or, with --config, from the secrets.json beside that file. Ctrl-C ends
it.
"""

import argparse
import getpass
import os
import queue
import re
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from firmware import config

from tools.broker import connect
from tools.console import DONE, FOREVER, USAGE, Failed, paint, say, seconds
from tools.monitor import plot, record
from tools.monitor.devices import LARGEST, Devices, Told, utc

PASSWORD = "UMQTT_PASSWORD"
WAITING = 10_000  # messages that may wait to be taken
SLICE = 0.1  # s in which messages are taken before the screen's turn


def window(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 10080:
        raise argparse.ArgumentTypeError(f"{text} minutes; expected 0.1 to 10080")
    return value


def moment(text: str) -> float:
    """A time in ISO 8601, or how long ago: 90s, 15m, 12h, 2d."""
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if ago:
        return time.time() - float(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
    try:
        return record.epoch(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text}: expected a time as 2026-01-31T18:00, or how long ago as 90s, 15m, 12h, 2d"
        ) from None


def arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("what to listen to")
    where.add_argument("--broker", metavar="HOST[:PORT]", help="(default: localhost)")
    where.add_argument("--user", metavar="NAME")
    where.add_argument(
        "--tls", action="store_true", help="verified by the authorities of this machine"
    )
    where.add_argument(
        "--ca", type=Path, metavar="FILE", help="TLS, verified by this authority's certificate"
    )
    where.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="broker, prefix, device, TLS, user and password of a device's config.json",
    )
    where.add_argument("--prefix", help="topics begin with it (default: home)")
    where.add_argument(
        "--device",
        metavar="NAME",
        action="append",
        help="may be repeated; + is all of them (default: all, or that of --config)",
    )
    where.add_argument(
        "--port", help="show this serial port's log too: /dev/ttyACM0, COM3, socket://host:port"
    )
    how = parser.add_argument_group("how to show it")
    how.add_argument(
        "--minutes", type=window, default=10, help="that a chart reaches back (default: 10)"
    )
    how.add_argument("--plain", action="store_true", help="one line a message")
    how.add_argument(
        "--seconds", type=seconds, help="end after this time, and fail if no reading came"
    )
    into = parser.add_argument_group("what to keep")
    into.add_argument("--csv", type=Path, metavar="FILE", help="append all readings to a table")
    into.add_argument("--json", type=Path, metavar="FILE", help="append them as JSON lines")
    into.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw them at the end: .png or .svg"
    )
    into.add_argument(
        "--from-file", type=Path, metavar="FILE", help="draw what --csv or --json has kept"
    )
    for name in ("since", "until"):
        into.add_argument(
            f"--{name}",
            type=moment,
            metavar="TIME",
            help="of --from-file: 2026-01-31T18:00 (UTC), or how long ago: 90s, 15m, 12h, 2d",
        )
    into.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="draw the table at the end, as text"
    )


def run(args) -> int:
    if args.plot:
        plot.check(args.plot)
    if args.from_file:
        return from_file(args)
    if args.since is not None or args.until is not None:
        raise Failed("--since and --until belong to --from-file", USAGE)
    found = settings(args)
    with ExitStack() as on_exit:
        signals = [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
        for number in signals:
            on_exit.callback(signal.signal, number, signal.signal(number, leave))
        monitor = Monitor(args, found, on_exit)
        ended = True
        try:
            monitor.run()
        except KeyboardInterrupt:
            if not monitor.screen:
                raise
            ended = False
        except BrokenPipeError:  # whoever reads us has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ended = False
    monitor.leave_pictures()
    if ended:
        monitor.judge()
    return DONE


def leave(number, _frame):
    raise SystemExit(128 + number)


def from_file(args) -> int:
    """Draw what a file holds."""
    if not args.plot:
        raise Failed("--from-file needs --plot FILE, which it is to be drawn into", USAGE)
    points = plot.Points()
    bad = 0
    for value in record.read(args.from_file):
        if value is None:
            bad += 1
        elif (
            (args.since is None or value.time >= args.since)
            and (args.until is None or value.time <= args.until)
            and (not args.device or value.device in args.device or "+" in args.device)
        ):
            points.add([value])
    count = plot.draw(points, args.plot)
    damaged = f", {bad} damaged lines left out" if bad else ""
    first, last = min(points.points)[0], max(points.points)[0]
    when = [datetime.fromtimestamp(t, UTC).isoformat(" ", "seconds")[:-6] for t in (first, last)]
    say(f"{args.plot}: {count} values, {when[0]} to {when[1]} UTC{damaged}")
    return DONE


def settings(args) -> dict:
    """What firmware.config.load() returns, or what is needed of it, from the options."""
    if args.config:
        found = config.load(str(args.config))
        if found["user"]:
            found["password"] = os.environ.get(PASSWORD, found["password"])
    else:
        found = {
            "prefix": "home",
            "device": "+",
            "discovery": "homeassistant",
            "user": None,
            "password": None,
            "tls": False,
        }
    if args.tls or args.ca:
        tls = found["tls"] or {"cert": "", "key": ""}
        found["tls"] = tls | {"ca": str(args.ca.resolve()) if args.ca else "", "verify": True}
    if args.broker or not args.config:
        found["brokers"] = [address(args.broker or "localhost", 8883 if found["tls"] else 1883)]
    if args.prefix:
        found["prefix"] = args.prefix.strip("/")
    levels = found["prefix"].split("/")
    names = args.device or [found["device"]]
    if "" in levels or any(c in found["prefix"] for c in "+#\0"):
        raise Failed(
            f"--prefix {args.prefix!r}: expected levels of a topic, as home/upstairs", USAGE
        )
    if any(not name or (name != "+" and any(c in name for c in "+#/\0")) for name in names):
        raise Failed("--device: expected one level of a topic, or + for all of them", USAGE)
    found["names"] = ["+"] if "+" in names else list(dict.fromkeys(names))
    if args.user:
        found["user"] = args.user
        found["password"] = password(args.user)
    return found


def address(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and not parts.path and parts.username is None:
            return parts.hostname, parts.port or port
    except ValueError:
        pass
    if "@" in text:
        raise Failed(f"--broker takes no password: use --user, and {PASSWORD} if need be", USAGE)
    raise Failed(f"--broker {text}: expected host or host:port", USAGE)


def password(user: str) -> str:
    found = os.environ.get(PASSWORD)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise Failed(f"no terminal to ask for {user}'s password: set {PASSWORD}", USAGE)
    return getpass.getpass(f"{user}'s password: ")


class Monitor:
    """One run, from the connection to the last frame."""

    def __init__(self, args, found: dict, on_exit: ExitStack):
        self.args = args
        self.devices = Devices(found["prefix"], found["names"], args.minutes)
        self.events: queue.Queue = queue.Queue(WAITING)
        self.lost = 0
        self.screen = None
        self.view = None
        self.records: list = []
        for kind, path in ((record.Csv, args.csv), (record.Record, args.json)):
            if path:
                self.records.append(kind(path))
                on_exit.callback(self.records[-1].close)
        self.points = plot.Points() if args.plot else None
        if self.points:
            self.records.append(self.points)
        dumb = os.environ.get("TERM") in (None, "dumb") and os.name != "nt"
        live = sys.stdout.isatty() and not args.plain and not dumb
        if live or args.picture:
            from tools.monitor.view import Screen, View

            self.view = View(self.devices, port=args.port)
        if args.port:
            from tools.monitor.log import Log

            log = Log(
                args.port,
                lambda line: self.put("line", line),
                lambda wrong: self.put("port", wrong),
            )
            on_exit.callback(log.close)
        filters = self.devices.filters(found["discovery"] or None)
        client = connect(found, filters, self.hear, lambda wrong: self.put("broker", wrong))
        on_exit.callback(client.loop_stop)
        on_exit.callback(client.disconnect)
        if self.view:
            self.view.broker = f"{client.host}:{client.port}"  # of several, the one that answers
        if live:
            self.screen = on_exit.enter_context(Screen(self.view))

    def hear(self, message) -> None:
        """In the client's thread."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = f"{self.devices.prefix}/?"
        self.put("message", topic, message.payload[: LARGEST + 1], bool(message.retain))

    def put(self, kind: str, *event) -> None:
        try:
            self.events.put_nowait((kind, time.time(), *event))
        except queue.Full:
            self.lost += 1

    def run(self) -> None:
        """Until --seconds are over."""
        end = time.monotonic() + (self.args.seconds or FOREVER)
        changed = True
        while (left := end - time.monotonic()) > 0:
            if self.screen:
                if self.screen.draw(changed):
                    changed = False
                left = min(left, SLICE)
            changed |= self.take(left)

    def take(self, seconds: float) -> bool:
        """Wait for an event, and take what else is there, for a while. Whether there was one."""
        try:
            event = self.events.get(timeout=min(seconds, 1))
        except queue.Empty:
            return False
        until = time.monotonic() + SLICE
        while True:
            self.on_event(*event)
            if time.monotonic() > until:
                return True
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                return True

    def on_event(self, kind: str, when: float, *event) -> None:
        if self.view:
            self.view.lost = self.lost
        if kind == "message":
            told = self.devices.take(when, *event)
            if told is None:
                return
            for keeper in self.records:
                keeper.add(told.values)
            if not self.screen:
                self.print(told)
            return
        (text,) = event
        if self.view:
            if kind == "line":
                self.view.log.append(text)
            elif kind == "port":
                self.view.gone = text
            else:
                self.view.wrong = text
        if not self.screen:
            if kind == "line":
                told = Told(when, self.args.port, "serial", text, "dim")
            elif kind == "port":
                text = f"gone: {text}; trying again" if text else "is back"
                told = Told(when, self.args.port, "serial", text, "yellow")
            else:
                told = Told(when, "the", "broker", text or "is connected again", "yellow")
            self.print(told)

    def print(self, told: Told) -> None:
        note = paint("  (retained)", "yellow") if told.retained else ""
        text = paint(told.text, told.colour)
        say(f"{utc(told.time)}  {told.device}  {told.topic}  {text}{note}")

    def judge(self) -> None:
        """Failed if no reading came."""
        devices = self.devices
        if devices.readings:
            return
        seen = ", ".join(
            f"{name} ({devices.devices[name].availability(time.time()) or 'no status'})"
            for name in sorted(devices.devices)[:9]
        )
        where = f"{devices.prefix}/{','.join(devices.names)}"
        what = f"no reading of {where} in {self.args.seconds:g} s; "
        if seen:
            what += f"there is {seen}: are they running, and is their interval shorter?"
        else:
            what += "nothing else either: are --prefix and --device right, is the device on this"
            what += " broker, and may this user read its topics?"
        if devices.bad:
            what += f" {devices.bad} messages were not understood, last {devices.trouble}"
        raise Failed(what)

    def leave_pictures(self) -> None:
        if self.args.picture:
            from tools.monitor.view import picture

            picture(self.view, self.args.picture)
        if self.points and self.points.points:  # else judge() has the word
            plot.draw(self.points, self.args.plot)
