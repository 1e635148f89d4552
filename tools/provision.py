"""Give a board its name, Wi-Fi and broker, and see it come online.

On a terminal it asks; Enter keeps what the board has. With --config it takes that config.json, and
secrets.json and certificates from beside it. What the environment says goes before both:

    UMQTT_DEVICE UMQTT_PREFIX               the topics begin with <prefix>/<device>/
    UMQTT_SSID UMQTT_WIFI_PASSWORD          "" where the network is open
    UMQTT_COUNTRY                           two capital letters
    UMQTT_BROKER                            host, host:port, or several with commas between
    UMQTT_TLS UMQTT_CA                      true or false; a file, the authority's certificate
    UMQTT_USER UMQTT_PASSWORD

Everything else in the board's configuration stays. A new board gets that of boards/<board>/ with
the chip's own temperature for a sensor, which needs no wiring. The program comes with it where the
board has none, another, or lacks a driver. All is checked first, by the firmware's own code and at
the broker; the board takes all of it or nothing.
"""

import argparse
import contextlib
import getpass
import importlib
import json
import os
import queue
import re
import shlex
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

from firmware import config

from tools import broker, cable, deploy
from tools.cable import Cable
from tools.console import (
    BROKER,
    DONE,
    FAILED,
    TOOLS,
    USAGE,
    Failed,
    add_board,
    add_port,
    paint,
    printable,
    say,
    seconds,
)
from tools.draft import NTP, QUESTIONS, Draft, Question, beside, collect, reader
from tools.files import save_all
from tools.targets import Target, find

AT_BROKER = QUESTIONS[5:]
SENSORS = [{"type": "chip", "name": "chip"}]  # of a new board
NONE = "-"  # the answer that takes away what is there
LOOK = 0.1  # s between looking at what the broker and what the board say

# What a board prints that does not come online, and what to look at.
HINTS = (
    (r"wifi: wrong password", "the Wi-Fi password; a weak signal looks like that too"),
    (r"wifi: not found", "the SSID, and the distance; it must be 2.4 GHz, and not WPA3 only"),
    (r"wifi: no address", "the router's DHCP: the board is in the network, but has no address"),
    (r"wifi: ", "the distance to the access point"),
    (r"disconnected.*(credentials|not authorized) [45]$", "user and password at the broker"),
    (r"disconnected.*clock not set", f'a time server that the board can reach: "ntp": "{NTP}"'),
    (r"disconnected.*client cert", "the broker asks for a client certificate: tls.cert and .key"),
    (r"disconnected.*no TLS", "the certificates: `doctor` checks them"),
    (r"disconnected cannot find or reach", "the broker's address, as seen from the board"),
    (r"disconnected", "whether the board may reach the broker: firewall, guest network, port"),
    (r"safe mode|Traceback|Error", "the lines above; `doctor` shows the last crash"),
)


def ask(draft: Draft, questions: tuple[Question, ...]) -> None:
    """Ask what arises, each until the answer fits."""
    for question in questions:
        wrong = [""]
        while wrong and draft.asked(question.name):
            try:
                text = answer(question, draft.get(question.name))
                if text is not None:
                    draft.put(question.name, text)
                wrong = draft.own(question, draft.mistakes())
            except ValueError as error:
                wrong = [str(error)]
            for line in wrong:
                say(paint(f"  {line}", "red"))


def answer(question: Question, now: str | None) -> str | None:
    """What is typed; None for what stands. A secret is neither shown nor echoed."""
    if question.secret:
        there = "kept" if now else "none"
    else:
        there = now or ("none" if question.optional else "")
    if now and question.optional:
        there += f"; {NONE}: none"
    label = f"{question.text} [{there}]: " if there else f"{question.text}: "
    try:
        if question.secret:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)
                text = getpass.getpass(label)
        else:
            text = input(label).strip()
    except (EOFError, getpass.GetPassWarning):
        raise Failed("there is nobody to ask; nothing was changed", USAGE) from None
    if question.optional and text == NONE and now:
        return ""
    if not text:
        return "" if question.optional and now is None else None
    return text


# Where a configuration comes from


def fresh(target: Target) -> dict:
    """What a new board begins with: the example, but for what is somebody else's in it."""
    found = config.parse((target.folder / "config.json").read_bytes())
    if target.port == "linux":  # the desk's sensors and networks are simulated
        return found
    for name in ("broker", "networks"):
        found.pop(name, None)
    found.get("wifi", {}).pop("country", None)
    found["sensors"] = SENSORS
    return found


def begin(target: Target, own: dict[str, bytes], where: str) -> Draft:
    """What is to be changed: the board's own, unless that is still the example."""
    with contextlib.suppress(ValueError):
        example = config.parse((target.folder / "config.json").read_bytes())
        if config.parse(own.get("config.json", b"{}")) in (example, {}):
            own = own | {"config.json": json.dumps(fresh(target), indent=4).encode() + b"\n"}
    return Draft(own, target.name, where)


def prepare(args, target: Target, own: dict[str, bytes], where: str) -> tuple[Draft, bool]:
    """The configuration that is wanted, and whether somebody was asked. ConfigError, Failed."""
    if args.config:
        given = beside(args.config)
        kept = {name: own[name] for name in ("secrets.json",) if name in own}
        draft = Draft(kept | given, target.name, f"beside {args.config}")
    else:
        draft = begin(target, own, where)
    asks = not args.config and sys.stdin.isatty()
    given = draft.fill(os.environ)
    for question in QUESTIONS:
        if question.secret:  # no process that we start needs it
            os.environ.pop(f"UMQTT_{question.name.upper()}", None)
    if asks:
        converse(draft, given)
    elif not given and not args.config:
        raise Failed(
            "there is no terminal to ask on, and nothing in the environment (UMQTT_BROKER, ...): "
            "see --help",
            USAGE,
        )
    wrong = draft.mistakes()
    if not asks:
        told = [line for question in given for line in draft.own(question, wrong)]
        wrong = sum(given.values(), [line for line in wrong if line not in told])
    if wrong:
        raise config.ConfigError("\n".join(wrong))
    return draft, asks


def converse(draft: Draft, given: dict[Question, list[str]]) -> None:
    """Ask for all that was not given, or was wrong. ConfigError for what no answer mends."""
    if given:
        names = ", ".join(f"UMQTT_{question.name.upper()}" for question in given)
        say(f"from the environment: {names}")
    for line in sum(given.values(), []):
        say(paint(f"  {line}", "red"))
    lines = draft.mistakes()
    ours = [line for question in QUESTIONS for line in draft.own(question, lines)]
    hopeless = [line for line in lines if line not in ours]
    if hopeless:
        raise config.ConfigError("\n".join(hopeless))
    ask(draft, tuple(question for question in QUESTIONS if given.get(question) != []))


def reach(draft: Draft, asks: bool) -> tuple[dict, "Heard"]:
    """Listen at the broker to what the board will say. Failed, or asked again, if that fails."""
    while True:
        try:
            with draft.folder() as folder:
                settings = config.load(str(folder / "config.json"), None, draft.board)
                return settings, Heard(settings)
        except Failed as error:
            if error.code != BROKER:
                raise
            text = f"{error}\nNothing was changed on the board; --no-wait does not ask the broker"
            if not asks:
                raise Failed(text, BROKER) from None
            say(paint(text, "red"))
        ask(draft, AT_BROKER)


# Coming online


class Heard:
    """What a device says from now on, at the broker."""

    def __init__(self, settings: dict):
        self.base = f"{settings['prefix']}/{settings['device']}"
        self.messages: queue.SimpleQueue = queue.SimpleQueue()
        self.client = broker.connect(settings, [f"{self.base}/#"], self.messages.put)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def new(self) -> list[tuple[str, str]]:
        """(topic below the device's, text) of what has come, but for what was retained."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                message = self.messages.get_nowait()
                if not message.retain:
                    text = printable(message.payload.decode(errors="replace").rstrip())
                    found.append((message.topic.removeprefix(f"{self.base}/"), text))
        return found


class Printed:
    """What a board prints, in lines."""

    rest = b""

    def __init__(self, board: Cable):
        self.board = board

    def read(self, seconds: float) -> list[str]:
        serial = self.board.transport.serial
        with self.board.watch():
            serial.timeout = seconds
            *lines, self.rest = (self.rest + serial.read(4096)).split(b"\n")
        texts = [printable(line.decode(errors="replace").strip("\r\x04>")) for line in lines]
        return [text for text in texts if text.strip()]


def reading(kind: str, text: str) -> str:
    """A sensor's message with its units."""
    units = importlib.import_module(f"firmware.sensors.{kind}").VALUES
    try:
        found = json.loads(text)
        return "  ".join(
            f"{name} {found[name]} {units[name][0] or ''}".rstrip()
            for name in units
            if name in found
        )
    except (ValueError, TypeError):
        return text


def watch(board: Cable, settings: dict, heard: Heard, seconds: float) -> None:
    """Show the board coming online, until its first reading. Failed says what to look at."""
    kinds = {sensor["name"]: sensor["type"] for sensor in settings["sensors"]}
    printed = Printed(board)
    lines: list[str] = []
    wrong: dict[str, str] = {}
    online = bool(settings["sleep"])  # one that sleeps does not say so
    read = not kinds
    cut: Failed | None = None
    deadline = time.monotonic() + seconds
    while not (online and read) and time.monotonic() < deadline:
        new = []
        try:
            if cut:
                time.sleep(LOOK)
            else:
                new = printed.read(LOOK)
        except Failed as error:  # the USB of one that sleeps is gone
            cut = error
            if not settings["sleep"]:
                break
        for line in new:
            say(paint(f"  | {line}", "dim"))
        lines += new
        if any(line.startswith("ConfigError") for line in new):
            break
        for kind, text in heard.new():
            if kind == "status":
                online = text == "online"
                say(f"  {kind:12}{paint(text, 'green' if online else 'red')}")
            elif kind in kinds:
                read = True
                say(f"  {kind:12}{paint(reading(kinds[kind], text), 'green')}")
            elif kind.endswith("/error") and text:
                wrong[kind] = text
                say(f"  {kind:12}{paint(text, 'red')}")
    if online and read:
        return
    raise trouble(settings, seconds, lines, wrong, online, cut)


def trouble(settings, seconds, lines, wrong, online, cut) -> Failed:
    """Why there was no first reading."""
    device = settings["device"]
    stays = "The new configuration is on the board"
    if cut and not settings["sleep"]:
        return cut
    if online and not settings["sleep"]:
        what = "; ".join(f"{kind}: {text}" for kind, text in wrong.items()) or "none came"
        return Failed(
            f"{device} is online, but within {seconds:g} s there was no reading ({what}): look at "
            f"the wiring, and at sensors in its config.json. {stays}"
        )
    text = f"{device} did not come online within {seconds:g} s"
    for line in reversed(lines):
        for pattern, hint in HINTS:
            if re.search(pattern, line):
                code = BROKER if line.startswith("disconnected") else FAILED
                return Failed(f"{text}; it says: {line}\nLook at {hint}. {stays}", code)
    return Failed(
        f"{text}, and says nothing of why: press its reset button, or give it longer (--wait). "
        f"{stays}"
    )


def next_command(args, draft: Draft, settings: dict) -> str:
    """The monitor's, with what it needs to know."""
    if args.config:
        return f"{TOOLS} monitor --config {shlex.quote(str(args.config))}"
    host, port = settings["broker"]
    call = f"{TOOLS} monitor --broker {host}:{port} --prefix {settings['prefix']}"
    call += f" --device {settings['device']}"
    if settings["user"]:
        call += f" --user {shlex.quote(settings['user'])}"
    if settings["tls"]:
        call += f" --ca {shlex.quote(draft.ca)}" if settings["tls"]["ca"] else " --tls"
    return call


# The command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_board(parser)
    add_port(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="config.json, with secrets.json beside it: nothing is asked",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write config.json and secrets.json there, for `image`, and to no board",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=60,
        metavar="S",
        help="that the board has for its first reading (default: 60)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="neither ask the broker nor wait for the board"
    )


def run(args) -> int:
    target = find(args.board)
    if args.out:
        draft, _ = prepare(args, target, collect(reader(args.out)), f"in {args.out}")
        if not args.no_wait:
            try:
                Heard(draft.load()).close()
            except Failed as error:
                if error.code != BROKER:
                    raise
                say(paint(f"warning: {error}", "yellow"))
        files = draft.contents()
        save_all(args.out, files)
        say(f"{args.out}: {', '.join(files)}; secrets are for your eyes only (mode 600)")
        path = shlex.quote(str(args.out / "config.json"))
        say(f"next     {TOOLS} image --board {target.name} --config {path}")
        return DONE
    port = cable.find(args.port, target)
    with Cable(port) as board, ExitStack() as on_exit:
        board.check(target)
        draft, asks = prepare(args, target, collect(board.read), "on the board")
        settings, heard = draft.load(), None
        if not args.no_wait:
            settings, heard = reach(draft, asks)
            on_exit.callback(heard.close)
        with draft.folder() as folder:
            sent = deploy.deploy(board, target, folder / "config.json")
        say(deploy.told(sent))
        if heard:
            say(f"{settings['device']} starts:")
            heard.new()  # what its old program has said
            board.reset()
            watch(board, settings, heard, args.wait)
        else:
            board.reset()
    say(f"topics   {settings['prefix']}/{settings['device']}/#")
    say(f"next     {next_command(args, draft, settings)}")
    return DONE
