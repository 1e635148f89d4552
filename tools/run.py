"""Run the firmware from the working tree; on this desk where no board is named.

On the desk: against a broker of its own, with simulated sensors, until Ctrl-C.

With --board or --port, on that board: the tree is compiled and mounted there through the cable, so
that nothing is written to its flash. When a source or the configuration changes, the program is
stopped and started anew. The configuration is the board's own; with --config, or where the board
has none, it is one of this machine. Ctrl-C starts the board's own program again.

In this loop a crash ends in a traceback and is not counted; a reset or a deep sleep of the program
leaves the board awake, and then it is started again.
"""

import codecs
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from firmware.config import ConfigError
from mpremote.transport import TransportError

from tools import cable, deploy
from tools.build import FIRMWARE, LIB, MPY, beside, build, check, modules, sensors
from tools.cable import Cable
from tools.console import (
    CABLE,
    CONFIG,
    DONE,
    FOREVER,
    ROOT,
    USAGE,
    Failed,
    add_board,
    add_config,
    add_port,
    paint,
    say,
    seconds,
)
from tools.demo import demo
from tools.targets import Target, find

LOOK = 0.5  # seconds between two looks at the sources
AGAIN = 3  # seconds until Ctrl-C is sent once more
LOST = 0.5  # ... after the mount was used: one that meets its traffic is lost
PATIENCE = 15  # seconds for the program to end
BACK = 5  # seconds for a port on USB to be there again after a reset
MOUNT = "/remote"  # mpremote's
# What a board prints when it was reset in earnest: ESP32's ROM, MicroPython.
RESET = re.compile(r"\brst:0x[0-9a-f]+ \(|^MPY: soft reboot|^MicroPython .* on \d{4}-.*; ")

# Runs on the board once it is mounted. Without a soft reset, which would end the timer that feeds
# the watchdog of the program before: start() goes on with that until the new one has begun.
# What mpremote's mount leaves behind, on the desk 5 KB for 249 bytes of a file, must not scatter
# what stays: the threshold has it collected.
SETUP = """\
import gc, os, sys
gc.threshold(8192)
os.chdir(%r)
path = sys.path[:]
feeder = ended = None
def keys(on): pass
def dog(watched): return watched
def start(config, cause):
 global feeder, ended
 feeder = getattr(sys.modules.get('board'), '_feeder', None) or feeder
 ended = None
 sys.modules.clear()
 sys.path[:] = ['/remote/lib'] + path
 gc.collect()
 halt = None
 keys(True)
 try:
  import board, crash
  halt = board.halt
  watchdog = board.watchdog
  def begin(ms):
   global feeder
   if feeder: feeder.deinit()
   feeder = None
   return dog(watchdog(ms))
  def stop(code):
   global ended
   ended = code
   halt(code)
  def end(how):
   global ended
   ended = how
   raise SystemExit
  board.CONFIG = config
  board.watchdog = begin
  board.halt = stop
  board.reset = lambda: end('reset')
  board.deepsleep = end
  board.reset_cause = lambda: cause
  crash.guard = lambda run, board, path: run()
  import node
 except SystemExit as e:
  if ended is None: ended = 'reset'
 finally:
  if halt and ended not in (0, 2):
   try: halt(0)
   except SystemExit: pass
  keys(False)
  sys.path[:] = path
def leave():
 gc.threshold(-1)
 sys.modules.clear()
"""
# A cable that was cut has left the mount there.
UNMOUNT = """\
import os
try: os.umount('/remote')
except OSError: pass
"""
# The desk's terminal makes a signal of Ctrl-C, or hands on all bytes as the mount needs them.
DESK = f"""\
{cable.KEYS}
import termios
if not signals: dog = Keys
def keys(on):
 on = on and signals
 t = termios.tcgetattr(0)
 t[3] = t[3] | 1 if on else t[3] & ~1
 termios.tcsetattr(0, termios.TCSANOW, t)
class micropython:
 def kbd_intr(c): keys(c == 3)
"""


class Program:
    """The firmware on a board, from a folder of this machine that is mounted there.

    mpremote's own transport runs it: the connection stays open from one start to the next (to open
    it resets some boards), and what goes wrong is told apart.
    """

    def __init__(self, board: Cable, folder: Path):
        self.board = board
        self.folder = folder
        self.running = False
        self.reset = False  # the board was, in earnest: the mount is gone
        self.line = ""  # the last one that it has printed, as far as it has come

    def mount(self) -> None:
        self.board.exec(UNMOUNT)
        with self.board.watch():
            self.board.transport.mount_local(str(self.folder))
        self.board.exec(SETUP % self.board.root)
        if self.board.platform == "linux":
            self.board.exec(DESK)

    def unmount(self) -> None:
        self.board.exec("leave()")
        with self.board.watch():
            self.board.transport.umount_local()

    def start(self, config: str, cause: str) -> None:
        vars(self.board.transport.cmd).pop("path_check", None)
        with self.board.watch():
            self.board.transport.exec_raw_no_follow(f"start({config!r}, {cause!r})")
        self.running = True
        self.part = 0  # 0: what it prints, 1: the traceback it ends with
        self.asked = False  # to end: its traceback, if it has one, says only that
        self.line = ""
        self.text = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self) -> bool:
        """Serve the mount, and show what has come. False if nothing has."""
        data = b""
        with self.board.watch():
            serial = self.board.transport.serial
            busy = serial.orig_serial.inWaiting() > 0
            try:
                while self.running and len(data) < 4096 and serial.inWaiting():
                    byte = serial.read(1)
                    if byte == b"\x04":
                        self.part += 1
                        self.running = self.part < 2
                    elif not (self.part and self.asked):
                        data += byte
            except LookupError:  # no such command of the mount, or half of one
                raise TransportError("noise on the line") from None
        if data:
            self.show(self.text.decode(data).replace("\r", ""))
        self.served = busy and not data
        return busy

    def show(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        *lines, self.line = (self.line + text).split("\n")
        if any(RESET.search(line) for line in lines):
            self.running = False
            self.reset = True

    def stop(self) -> None:
        """Ctrl-C. Returns when it has ended."""
        deadline = time.monotonic() + PATIENCE
        again = 0.0
        self.asked = True
        self.board.transport.cmd.path_check = no_module  # while it loads, most Ctrl-C are lost
        while self.running:
            now = time.monotonic()
            if now > deadline:
                raise Failed(
                    f"the program at {self.board.port} does not end: press the reset button", CABLE
                )
            if now > again:
                again = now + AGAIN
                with self.board.watch():
                    self.board.transport.serial.write(b"\x03")
            if not self.step():
                time.sleep(0.001)
            elif self.served:
                again = min(again, now + LOST)
        if self.reset:
            self.revive()

    def revive(self) -> None:
        """After a reset, when the board's own program has begun: back to the raw REPL."""
        self.reset = False
        transport = self.board.transport
        transport.serial = transport.serial.orig_serial
        transport.mounted = False
        for line in self.board.lines(1):
            say(line)
        for left in (2, 1, 0):  # it may still be starting, when Ctrl-C is lost
            try:
                with self.board.watch():
                    transport.enter_raw_repl(soft_reset=False, timeout_overall=3)
                break
            except Failed:
                if not left:
                    raise
        self.mount()

    def end(self):
        """How it has ended: 0, 2 (a mistake in the configuration), None (a crash), "reset", or
        the ms of a deep sleep."""
        return self.board.eval("ended")


def no_module(path: str) -> None:
    """Takes the place of the mount's check of paths: what is imported now is not there."""
    if "/lib/" in path:
        raise OSError(errno.ENOENT, "")


class Loop:
    """Stage the tree, start it, and look for changes, until the time is over or Ctrl-C."""

    def __init__(self, target: Target, config: Path | None, source: bool, seconds: float | None):
        self.target = target
        self.config = config  # of this machine
        self.source = source
        self.deadline = time.monotonic() + (seconds or FOREVER)
        self.signal = 0
        self.seen = self.stamps()

    def catch(self, number: int, _frame) -> None:
        if self.signal:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.signal = number

    @property
    def over(self) -> bool:
        return bool(self.signal) or time.monotonic() > self.deadline

    def stamps(self) -> dict[Path, int]:
        """When each file that the program is made of was changed."""
        files = [
            file for root in (LIB, FIRMWARE, self.target.folder) for file in root.rglob("*.py")
        ]
        if self.config:
            files += [self.config, *self.config.parent.glob("*.json")]
        found = {}
        for file in files:
            try:
                found[file] = file.stat().st_mtime_ns
            except OSError:  # an editor is at it
                pass
        return found

    def changed(self) -> list[str]:
        """What has changed since the last call."""
        now = self.stamps()
        files = sorted(f for f in now.keys() | self.seen.keys() if now.get(f) != self.seen.get(f))
        self.seen = now
        return [
            (file.relative_to(ROOT) if file.is_relative_to(ROOT) else file).as_posix()
            for file in files
        ]

    def wait(self, step=lambda: False, seconds: float = FOREVER) -> list[str]:
        """Call step() until it is over, until step() returns None, or until something changed,
        which is returned."""
        look = time.monotonic() + LOOK
        end = time.monotonic() + seconds
        busy = 0.0
        while not self.over and (now := time.monotonic()) < end:
            moved = step()
            if moved is None:
                break
            if moved:
                busy = now
            time.sleep(0 if moved else 0.001 if now - busy < 0.2 else 0.02)
            if now > look:
                look = now + LOOK
                if found := self.changed():
                    return found
        return []

    def stage(self, folder: Path, own: bytes | None) -> None:
        """Compile the tree, and put it into the folder that is mounted.

        Secrets go there, never into build/: it is a temporary one, and for no one else to read.
        """
        if own is None:
            check(self.config, self.target)
            self.compile(folder, self.config)
            for name, data in beside(self.config).items():
                (folder / name).write_bytes(data)
            shutil.copy(self.config, folder / "config.json")
            return
        with tempfile.TemporaryDirectory() as other:
            path = Path(other) / "config.json"
            path.write_bytes(own)
            try:
                self.compile(folder, path)
            except (ConfigError, Failed) as error:
                text = str(error).replace(str(path), "the board's config.json")
                raise Failed(text, getattr(error, "code", CONFIG)) from None

    def compile(self, folder: Path, config: Path) -> None:
        tree = build(self.target, config)
        shutil.rmtree(folder / "lib", ignore_errors=True)
        if not self.source:
            shutil.copytree(tree / "lib", folder / "lib")
            return
        for root, file in modules(self.target, sensors(config)).values():
            copy = folder / "lib" / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)

    def run(self, board: Cable, own: bytes | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            program = Program(board, Path(folder))
            program.mount()
            try:
                self.turns(program, own)
            except (ConfigError, Failed) as error:
                if getattr(error, "code", CONFIG) != CABLE:
                    program.unmount()
                raise
            program.stop()
            program.unmount()

    def turns(self, program: Program, own: bytes | None) -> None:
        folder = MOUNT if own is None else program.board.root.rstrip("/")
        config = f"{folder}/config.json"
        cause, why = "power", "start"
        while not self.over:
            if why and not self.prepare(program.folder, own):
                why = tell(self.wait())
                continue
            program.start(config, cause)
            cause, why = self.follow(program)

    def prepare(self, folder: Path, own: bytes | None) -> bool:
        """Stage; False if there is a mistake, which is shown."""
        try:
            self.stage(folder, own)
        except (ConfigError, Failed) as error:
            if own is not None and getattr(error, "code", CONFIG) == CONFIG:
                raise  # no change here makes it right
            if not self.over:  # Ctrl-C ends the compiler, too
                note(f"{error}\n-- waiting for a change", "red")
            return False
        return True

    def follow(self, program: Program) -> tuple[str, str]:
        """Until it is to be started again: the cause, and what has changed."""

        def step():
            moved = program.step()
            return moved if program.running else None

        found = self.wait(step)
        if program.reset:
            if program.line:
                say()
            note("the board was reset, and its own program began; starting the tree's again")
            program.revive()
            return "watchdog", ""
        if found or self.over:
            program.stop()
            return "power", tell(found)
        how = program.end()
        if how == "reset":
            note("the program resets the board: it is started again")
            return "hard", ""
        if how not in (0, 2, None):
            note(f"deep sleep for {how / 1000:g} s: the board stays awake, and waits")
            found = self.wait(seconds=how / 1000)
            return "power" if found else "deepsleep", tell(found)
        note(f"the program {'crashed' if how is None else 'ended'}; waiting for a change")
        return "power", tell(self.wait())


def note(text: str, colour: str = "yellow") -> None:
    say(paint(f"-- {text}", colour))


def tell(found: list[str]) -> str:
    """Say what has changed."""
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    note(f"{found[0]}{more} changed: built and started again")
    return found[0]


def is_back(port: str) -> bool:
    """Whether a port that went away was a board on USB that was reset: then it is there again."""
    deadline = time.monotonic() + BACK
    while "://" not in port and time.monotonic() < deadline:
        time.sleep(0.5)
        if port in [one.device for one in cable.ports()]:
            return True
    return False


def on_board(args, target: Target) -> int:
    port = cable.find(args.port, target)
    loop = Loop(target, args.config, args.source, args.seconds)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), loop.catch)
    connected = False
    while True:
        try:
            with Cable(port) as board:
                connect(board, loop, args, first=not connected)
                connected = True
                own = None if args.config else board.read("config.json")
                if own is None and not loop.config:
                    loop.config = target.folder / "config.json"
                    loop.seen = loop.stamps()
                loop.run(board, own)
                note(f"{board.machine} goes on with its own program:")
                deploy.start(board)
                return DONE if loop.signal in (0, signal.SIGINT) else 128 + loop.signal
        except Failed as error:
            if error.code != CABLE or not connected or loop.over or not is_back(port):
                raise
            note("the board was reset: starting the tree's program again")


def connect(board: Cable, loop: Loop, args, first: bool) -> None:
    """Failed if it is not a board for the tree."""
    board.check(loop.target)
    if board.mpy != MPY and not args.source:
        raise Failed(
            f"the MicroPython at {board.port} does not read .mpy files of version {MPY}: "
            "--source mounts the sources"
        )
    if first:
        end = "Ctrl-C" + (f", or after {args.seconds:g} s" if args.seconds else "")
        note(f"{board.machine}, MicroPython {board.version}, runs the working tree; end: {end}")


def arguments(parser) -> None:
    add_board(parser, "unix")
    add_port(parser)
    add_config(parser)
    parser.add_argument("--seconds", type=seconds, help="end after this time (default: Ctrl-C)")
    board = parser.add_argument_group("on a board")
    board.add_argument(
        "--source", action="store_true", help="mount sources, which the board compiles itself"
    )
    desk = parser.add_argument_group("on the desk, without --port")
    desk.add_argument("--broker", help="host:port of a broker (default: one for this run)")
    desk.add_argument("--micropython", help="the unix port (default: the one beside Python)")


def run(args) -> int:
    target = find(args.board)
    if target.port == "linux" and not args.port:
        if args.config:
            os.environ["UMQTT_CONFIG"] = str(args.config.resolve())
        return demo(args)
    if args.broker:
        raise Failed("--broker is for the desk; a board has it in its configuration", USAGE)
    return on_board(args, target)
