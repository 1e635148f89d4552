"""Look at everything between a board and its broker: what is well, and what mends the rest.

The cable, MicroPython, flash and heap, the program, the configuration, the last crash, clock,
Wi-Fi, and the broker from here and from the board. Nothing is changed; the board's program is
interrupted, and starts anew at the end. The exit code is that of the first FAIL.
"""

import argparse
import ast
import contextlib
import datetime
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from cryptography import x509
from firmware import config

from tools import broker, cable, deploy
from tools.build import BLOCK, MPY, version
from tools.cable import Cable
from tools.console import (
    BROKER,
    CABLE,
    CONFIG,
    DONE,
    FAILED,
    TOOLS,
    Failed,
    add_board,
    add_config,
    add_port,
    paint,
    printable,
    say,
)
from tools.draft import Draft, beside, collect
from tools.programs import PATIENCE
from tools.targets import Target, find

DAYS = 30  # that a certificate should last
FREE = 16384  # bytes of heap that a program at work should have left
LARGEST = 4096  # bytes of it in one, for what TLS and the buffers want
TLS_HEAP = 40960  # bytes that mbedtls takes for a connection
DRIFT = 60  # s between two clocks that are right
TRY = 20  # s that the board has to reach the broker; a handshake takes a few
LEVELS = {"ok": "green", "warn": "yellow", "FAIL": "red"}

MOUNTED = """\
try:
 import vfs
 print(repr([repr(f) for f, p in vfs.mount() if p == '/']))
except (ImportError, TypeError): print([])
"""
# Bytes free, in use, and in the largest block
HEAP = """\
import gc
gc.collect()
f, a = gc.mem_free(), gc.mem_alloc()
gc.disable()
n = f
while n > 31:
 try:
  bytearray(n)
  break
 except MemoryError: n -= n >> 5
gc.enable()
gc.collect()
try:
 import esp32
 n = max([h[2] for h in esp32.idf_heap_info(esp32.HEAP_DATA)] + [n])
 f += sum([h[1] for h in esp32.idf_heap_info(esp32.HEAP_DATA)])
except ImportError: pass
print((f, a, n))
"""
WIFI = """\
try:
 import network
 w = network.WLAN()
 try: r = w.status('rssi')
 except Exception: r = None
 print(repr((w.active(), w.isconnected(), w.status(), r, w.ifconfig()[0])))
except (ImportError, AttributeError): print(None)
"""
# As node.py does it, with a client identifier of its own: the device's session stays its own.
REACH = """\
import sys, time, gc
if 'lib' not in sys.path and '/lib' not in sys.path: sys.path.append('lib')
def f():
 import board, config
 s = config.load(board.CONFIG, board.getenv, board.NAME)
 t = s['tls']
 c = None
 if t:
  from umqtt_lite.tls import context
  d = board.CONFIG[:board.CONFIG.rfind('/') + 1]
  p = []
  for k in ('ca', 'cert', 'key'): p.append(open(d + t[k], 'rb').read() if t[k] else None)
  c = context(p[0], p[1], p[2], verify=t['verify'])
 from umqtt_lite import MQTTClient
 gc.collect()
 n = s['prefix'] + '-' + s['device'] + '-doctor'
 for b in s['brokers']:
  m = MQTTClient(n.replace('/', '-'), [b], user=s['user'], password=s['password'], ssl=c,
   reconnect=False)
  e = time.ticks_add(time.ticks_ms(), %d)
  while not m.connected and not m.error and time.ticks_diff(e, time.ticks_ms()) > 0:
   m.poll()
   m.wait(100)
  r = None if m.connected else ' '.join([str(a) for a in m.error.args]) if m.error else 'timeout'
  m.disconnect(1000)
  print(repr((b, r)), ',')
f()
"""


@dataclass(frozen=True)
class Finding:
    check: str
    level: str  # ok, warn, FAIL
    text: str
    remedy: str = ""
    code: int = DONE


class Doctor:
    """Keeps what was found, and shows it at once unless it is to be JSON."""

    def __init__(self, target: Target, port: str | None, quiet: bool):
        self.target = target
        self.port = port  # as it was given
        self.quiet = quiet
        self.manifest: dict = {}  # the board's; {} if it has none
        self.findings: list[Finding] = []

    def call(self, command: str) -> str:
        """Another command for the same board, to be typed."""
        return f"{TOOLS} {command} --board {self.target.name}" + (
            f" --port {self.port}" if self.port else ""
        )

    def tell(self, finding: Finding) -> None:
        self.findings.append(finding)
        if not self.quiet:
            text = finding.text.replace("\n", f"\n{'':20}")
            level = paint(f"{finding.level:6}", LEVELS[finding.level])
            say(f"{level}{finding.check:14}{text}")
            if finding.remedy:
                say(f"{'':18}> {finding.remedy}")

    def ok(self, check: str, text: str) -> None:
        self.tell(Finding(check, "ok", text))

    def warn(self, check: str, text: str, remedy: str) -> None:
        self.tell(Finding(check, "warn", text, remedy))

    def fail(self, check: str, text: str, remedy: str = "", code: int = FAILED) -> None:
        self.tell(Finding(check, "FAIL", text, remedy, code))

    def attempt(self, check: str, look: Callable[[], None]) -> None:
        """One check; a board that cannot answer it does not end the others."""
        try:
            look()
        except Failed as error:
            if error.code == CABLE:
                raise
            self.fail(check, str(error), code=error.code)
        except (ValueError, SyntaxError, TypeError):
            self.fail(check, "the board's answer makes no sense", "reset it, and do this again")

    # The board

    def ports(self, port: str | None) -> str:
        """The port to use. Failed where there is none, or more than one."""
        for one in cable.ports():
            self.ok("port", f"{one.device}  {' or '.join(one.boards) or 'unknown'}: {one.what}")
        return cable.find(port, self.target)

    def board(self, board: Cable) -> None:
        """All that the board itself knows."""
        self.ok("cable", f"{board.port}: the raw REPL answers")
        self.micropython(board)
        self.manifest = _manifest(board)
        for name in ("flash", "heap", "program", "update", "crash", "clock", "wifi"):
            self.attempt(name, lambda name=name: getattr(self, name)(board))

    def micropython(self, board: Cable) -> None:
        try:
            board.check(self.target)
        except Failed as error:
            self.fail("micropython", str(error))
            return
        told = f"{board.machine}, MicroPython {board.version}, .mpy {board.mpy}"
        if board.mpy != MPY:
            remedy = f"`flash` brings MicroPython {self.target.micropython}"
            self.fail("micropython", f"{told}; the program needs .mpy {MPY}", remedy)
        else:
            self.ok("micropython", told)

    def flash(self, board: Cable) -> None:
        size, count, free = board.eval(
            "(lambda s: (s[0], s[2], s[3]))(__import__('os').statvfs('/'))"
        )
        kind = "".join(ast.literal_eval(board.exec(MOUNTED).strip()))
        name = "littlefs" if "Lfs" in kind else "FAT" if "Fat" in kind else "file system"
        told = f"{name}, {free * size // 1024:,} of {count * size // 1024:,} KiB free"
        files = self.manifest.get("files", {})
        blocks = sum(-(-file["size"] // BLOCK) for file in files.values()) + deploy.SPARE
        need = blocks * BLOCK
        if name == "FAT":
            remedy = "erase the flash and bring MicroPython anew (`flash`): that makes a littlefs"
            self.warn("flash", f"{told}: a power cut can damage it", remedy)
        elif files and need > free * size:
            self.warn(
                "flash",
                f"{told}; an update of all files needs {need // 1024:,}",
                "remove files that are not the program's (`mpremote ls`), or a smaller spool",
            )
        elif not free:
            self.fail("flash", f"{told}", "remove files (`mpremote ls`, `mpremote rm`)")
        else:
            room = f": room for an update of all files, {need // 1024:,} KiB" if files else ""
            self.ok("flash", told + room)

    def heap(self, board: Cable) -> None:
        free, used, block = ast.literal_eval(board.exec(HEAP).strip())
        told = f"{free:,} bytes free, {block:,} in one, {used:,} in use (program stopped)"
        if free < FREE or block < LARGEST:
            remedy = "fewer sensors, no discovery or spool; or a board with more memory"
            self.warn("heap", told, remedy)
        elif free < TLS_HEAP and _uses_tls(board):
            self.warn("heap", f"{told}; TLS takes some {TLS_HEAP:,}", "a board with more memory")
        else:
            self.ok("heap", told)

    def program(self, board: Cable) -> None:
        found = self.manifest
        files = found.get("files", {})
        remedy = self.call("deploy")
        if not files:
            self.fail("program", "there is none, or its manifest.json is damaged", remedy)
            return
        own = {"config.json"}  # which may change
        there = board.hashes([name for name in files if name not in own])
        wrong = [name for name, hash in there.items() if hash != files[name]["sha256"]]
        has = found.get("version")
        if wrong:
            names = ", ".join(wrong[:4]) + (" ..." if len(wrong) > 4 else "")
            what = f"{len(wrong)} of {len(there)} files are missing or damaged: {names}"
            self.fail("program", what, remedy)
        elif found.get("board") != self.target.name:
            what = f"that of {found.get('board')}, not of {self.target.name}"
            self.fail("program", what, f"another --board, or {remedy}")
        elif has != (here := version()):
            self.warn("program", f"version {has}, whole; here is {here}", remedy)
        else:
            self.ok("program", f"version {has}, {len(there)} files, whole")

    def update(self, board: Cable) -> None:
        if board.hashes(["update.txt"])["update.txt"]:
            remedy = "nothing: the start at the end of this finishes it"
            self.warn("update", "the power was cut in the last step of one", remedy)
        new = [name for name in deploy.cable_new(board) if name not in deploy.TRIAL]
        if new:
            what = f"one was cut short: {len(new)} new files wait; the old program is whole"
            self.warn("update", what, self.call("deploy"))
        trial = [name for name, hash in board.hashes(list(deploy.TRIAL)).items() if hash]
        if trial:
            what = f"a change of the configuration is on trial ({', '.join(trial)})"
            self.warn("update", what, "nothing: it ends by itself, within 5 minutes of a start")

    def crash(self, board: Cable) -> None:
        data = board.read("crash.json")
        if data is None:
            self.ok("crash", "none so far")
            return
        found = json.loads(data)
        last = printable(cable.last_line(str(found.get("crash", ""))))
        told = f"{found.get('count')} in all, the last after {found.get('uptime')} s: {last}"
        if found.get("row", 0) >= 3:
            remedy = "mend that, then `deploy` or `provision`: a lasting run ends safe mode"
            self.warn("crash", f"{told}\n{found['row']} in a row: safe mode", remedy)
        elif found.get("row"):
            remedy = f"the whole: mpremote connect {board.port} resume cat :crash.json"
            self.warn("crash", told, remedy)
        else:
            self.ok("crash", told)

    def clock(self, board: Cable) -> None:
        now = _clock(board)
        off = now - time.time()
        when = datetime.datetime.fromtimestamp(now, datetime.UTC)
        told = f"{when:%Y-%m-%d %H:%M:%S} UTC"
        remedy = '"ntp": "pool.ntp.org" in config.json, or a time server of your own'
        if when.year < 2024:
            told = f"not set ({told})"
            if _uses_tls(board):
                self.warn("clock", f"{told}: no certificate is valid then", remedy)
            else:
                self.ok("clock", f"{told}; only TLS and time stamps need it")
        elif abs(off) > DRIFT:
            self.warn("clock", f"{told}: {off:+,.0f} s from this machine's", remedy)
        else:
            self.ok("clock", told)

    def wifi(self, board: Cable) -> None:
        found = ast.literal_eval(board.exec(WIFI).strip())
        if found is None:
            self.ok("wifi", "this board has none of its own")
            return
        active, connected, status, rssi, ip = found
        if connected:
            told = f"{ip}, {rssi} dBm" if rssi is not None else ip
            if rssi is not None and rssi < -80:
                self.warn("wifi", f"{told}: weak", "nearer to the access point, or an aerial")
            else:
                self.ok("wifi", told)
        else:
            told = "not connected" if active else "not started"
            remedy = "SSID, password, distance: `provision` shows what the board says of them"
            self.warn("wifi", f"{told}, status {status}", remedy)

    def reach(self, board: Cable) -> None:
        """The broker as the board sees it, with what the board has for it."""
        with board.watch():
            out, error = board.transport.exec_raw(REACH % (TRY * 1000), timeout=3 * TRY)
        told = ast.literal_eval(f"[{out.decode()}]")
        if error:
            last = printable(cable.last_line(error.decode(errors="replace")))
            what = f"not tried: {last}"
            self.fail("from board", what, "what is wrong above", CONFIG)
        for (host, port), wrong in told:
            if wrong is None:
                self.ok("from board", f"{host}:{port} lets the board in")
            else:
                text = printable(wrong)
                self.fail("from board", f"{host}:{port}: {text}", _look(text), BROKER)

    # The configuration, and the broker from here

    def config(self, draft: Draft, where: str) -> dict | None:
        """What the firmware makes of it."""
        try:
            settings = draft.load()
        except (config.ConfigError, Failed) as error:
            lines = str(error).split("\n")
            if "secrets.json" not in draft.files and self.target.port != "linux":
                lines.append("there is no secrets.json")
            remedy = f"{where}, or `provision`"
            self.fail("config", "\n".join(lines), remedy, CONFIG)
            return None
        told = (
            f"{settings['prefix']}/{settings['device']}, {_count(settings['sensors'], 'sensor')}"
        )
        if "secrets.json" not in draft.files:
            told += ", no secrets.json"
        if not settings["sensors"]:
            self.warn("config", told, "without sensors nothing is read: name some in config.json")
        else:
            self.ok("config", told)
        return settings

    def drivers(self, board: Cable, settings: dict) -> None:
        """Of the sensors that the board's configuration names."""
        kinds = {sensor["type"] for sensor in settings["sensors"]}
        there = board.hashes([f"lib/sensors/{kind}.mpy" for kind in sorted(kinds)])
        if self.manifest and (gone := [name for name, hash in there.items() if not hash]):
            remedy = self.call("deploy")
            self.fail("drivers", f"not on the board: {', '.join(gone)}", remedy)

    def broker(self, draft: Draft, settings: dict, now: float | None) -> None:
        """Each broker from this machine; `now` is the board's clock."""
        tls = settings["tls"] or {}
        for name in filter(None, map(tls.get, ("ca", "cert"))):
            self.certificates(name, draft.files[name], now)
        for address in settings["brokers"]:
            host, port = address
            try:
                socket.create_connection(address, PATIENCE).close()
            except OSError as error:
                self.fail("broker", f"{host}:{port} {broker.explain(error)}", code=BROKER)
                continue
            self.ok("broker", f"{host}:{port} answers")
            with draft.folder() as folder:
                path = str(folder / "config.json")
                one = config.load(path, None, draft.board) | {"brokers": [address]}
                if not one["tls"] or self.tls(one, now):
                    self.enter(one)

    def tls(self, settings: dict, now: float | None) -> bool:
        """The broker's certificate: its dates, then its signature and name. Whether it will do."""
        host, port = address = settings["brokers"][0]
        where = f"{host}:{port}"
        verify = settings["tls"]["verify"]
        try:
            data = _certificate(address, settings | {"tls": settings["tls"] | {"verify": False}})
            if not self.valid("tls", where, x509.load_der_x509_certificate(data), now):
                return False
            if verify:
                _certificate(address, settings)
        except OSError as error:
            self.fail("tls", f"{where} {broker.explain(error)}", code=BROKER)
            return False
        if verify:
            self.ok("tls", f"{where} bears that name, and the authority's signature")
        else:
            what = f"{where} is not verified: whoever poses as it gets the password"
            self.warn("tls", what, '"tls": true, with the authority\'s certificate in ca.pem')
        return True

    def enter(self, settings: dict) -> None:
        """CONNECT with the account, and read what the device would say."""
        host, port = settings["brokers"][0]
        topics = f"{settings['prefix']}/{settings['device']}/#"
        try:
            client = broker.connect(settings, [topics], lambda message: None)
        except Failed as error:
            self.fail("account", str(error), code=error.code)
            return
        client.disconnect()
        client.loop_stop()
        who = settings["user"] or "one without a name"
        self.ok("account", f"{host}:{port} lets {who} in, and read {topics}")

    def certificates(self, name: str, data: bytes, now: float | None) -> None:
        """The dates of those in a file."""
        pem = b"-----BEGIN CERTIFICATE" in data
        try:
            load = x509.load_pem_x509_certificates
            found = load(data) if pem else [x509.load_der_x509_certificate(data)]
        except ValueError as error:
            self.fail(name, f"no certificate that can be used: {error}", code=CONFIG)
            return
        for one in found:
            self.valid(name, one.subject.rfc4514_string(), one, now)

    def valid(self, check: str, name: str, one: x509.Certificate, now: float | None) -> bool:
        """Whether it is, by this machine's clock; `now` is the board's."""
        begin, end = one.not_valid_before_utc, one.not_valid_after_utc
        here = datetime.datetime.now(datetime.UTC)
        left = (end - here).days
        told = f"{name}: valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
        code = BROKER if check == "tls" else CONFIG
        renew = "renew it there" if check == "tls" else "get the authority's new one"
        valid = begin <= here <= end
        if here > end:
            self.fail(check, f"{told}: it has expired", renew, code)
        elif here < begin:
            remedy = f"this machine's clock ({here:%Y-%m-%d}), or {renew}"
            self.fail(check, f"{told}: not yet", remedy, code)
        elif now is not None and now < begin.timestamp():
            remedy = '"ntp" in config.json, and a time server that the board can reach'
            self.warn(check, f"{told}; by the board's clock not yet", remedy)
        elif left < DAYS:
            self.warn(check, f"{told}: {left} days left", renew)
        else:
            self.ok(check, f"{told}, {left:,} days left")
        return valid


def _manifest(board: Cable) -> dict:
    try:
        found = json.loads(board.read("manifest.json") or b"{}")
        return found if isinstance(found.get("files"), dict) else {}
    except (ValueError, AttributeError):
        return {}


def _count(found: list, what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _uses_tls(board: Cable) -> bool:
    try:
        return bool(config.parse(board.read("config.json") or b"{}").get("tls"))
    except ValueError:
        return False


def _certificate(address: tuple[str, int], settings: dict) -> bytes:
    """That of the broker, in DER. OSError, if the handshake fails."""
    context = broker.tls_context(settings)
    with (
        socket.create_connection(address, PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=address[0]) as link,
    ):
        return link.getpeercert(True)


def _clock(board: Cable) -> float:
    """s since 1970; a board may count from 2000."""
    now, year = board.eval("(__import__('time').time(), __import__('time').gmtime(0)[0])")
    return now + (946684800 if year == 2000 else 0)


def _look(text: str) -> str:
    """What to look at, by what the board's client says."""
    for pattern, hint in (
        (r"^(credentials|not authorized)", "user and password in secrets.json"),
        (r"clock not set", "a time server that the board can reach: ntp in config.json"),
        (r"client cert", "tls.cert and tls.key: the broker wants a client certificate"),
        (r"expired|future", "the dates above, and the board's clock"),
        (r"CN|match", "the name in the broker's certificate: the board must use that one"),
        (r"signed", "ca.pem: it is not the authority of the broker's certificate"),
        (r"no TLS", "whether TLS is spoken on that port"),
        (r"cannot find", "the Wi-Fi, and the name of the broker: an address needs no DNS"),
        (r"Refused|client_id", "the broker's rules for client identifiers"),
    ):
        if re.search(pattern, text):
            return hint
    return "port and TLS; whether the board may reach it: guest network, firewall"


# The command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_board(parser)
    add_port(parser)
    add_config(parser)
    parser.add_argument(
        "--no-board", action="store_true", help="look at the configuration and the broker only"
    )
    parser.add_argument("--json", action="store_true", help="a list of findings, for scripts")


def examine(doctor: Doctor, args) -> None:
    """All checks, in order. Failed ends them: there is no more to be had."""
    now = None
    if args.no_board:
        path = args.config or doctor.target.folder / "config.json"
        draft = Draft(beside(path), doctor.target.name, f"beside {path}")
        settings = doctor.config(draft, str(path))
        if settings:
            doctor.broker(draft, settings, now)
        return
    with Cable(doctor.ports(args.port)) as board:
        doctor.board(board)
        with contextlib.suppress(Failed):
            now = _clock(board)
        own = collect(board.read)
        draft = settings = None
        if "config.json" not in own:
            remedy = doctor.call("provision")
            doctor.fail("config", "there is none on the board", remedy, CONFIG)
        else:
            draft = Draft(own, doctor.target.name, "on the board")
            settings = doctor.config(draft, "the one on the board")
            if settings:
                doctor.attempt("drivers", lambda: doctor.drivers(board, settings))
        whole = settings is not None
        if args.config:
            draft = Draft(beside(args.config), doctor.target.name, f"beside {args.config}")
            settings = doctor.config(draft, str(args.config))
        if settings:
            doctor.broker(draft, settings, now)
        if whole:
            doctor.attempt("from board", lambda: doctor.reach(board))
        board.reset()


def run(args) -> int:
    doctor = Doctor(find(args.board), args.port, args.json)
    try:
        examine(doctor, args)
    except Failed as error:
        doctor.fail("cable" if error.code == CABLE else "config", str(error), code=error.code)
        if error.code == CABLE and args.config:
            args.no_board = True
            with contextlib.suppress(Failed):
                examine(doctor, args)
    if args.json:
        say(json.dumps([asdict(finding) for finding in doctor.findings], indent=1))
    failures, warnings = (
        [finding for finding in doctor.findings if finding.level == level]
        for level in ("FAIL", "warn")
    )
    if not args.json:
        say(f"\n{_count(failures, 'failure')}, {_count(warnings, 'warning')}")
    return failures[0].code if failures else DONE
