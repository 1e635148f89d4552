"""The cable to a board: which ports there are, and mpremote's connection through one of them."""

import ast
import contextlib
import errno
import io
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import serial
from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport
from serial.tools import list_ports

from tools import targets
from tools.console import CABLE, TOOLS, Failed
from tools.targets import Target

# Bytes written at once: what a board compiles for that must find room in its heap.
SMALLEST, LARGEST = 256, 2048
PATIENCE = 4  # seconds for an answer
NOISE = 30  # seconds for one among all else that comes
# A mount whose cable was cut would hang all that looks for files; and a file that mpremote was
# writing then is still open, in these names: its end would be written over the next one.
WHO = """\
import gc, os, sys
f = w = r = None
mounted = os.getcwd().startswith('/remote')
if mounted or sys.platform != 'linux': os.chdir('/')
if mounted: os.umount('/remote')
gc.collect()
i = sys.implementation
print((sys.platform, i.version, getattr(i, '_mpy', 0) & 255, getattr(i, '_machine', '?'),
 os.getcwd(), gc.mem_free()))
"""
HASHES = """\
import hashlib, binascii
def f(n):
 try:
  with open(n, 'rb') as s:
   h = hashlib.sha256()
   b = memoryview(bytearray(512))
   while 1:
    k = s.readinto(b)
    if not k: break
    h.update(b[:k])
  return binascii.hexlify(h.digest()).decode()
 except OSError: pass
for n in %r: print(repr(n), ':', repr(f(n)), ',')
"""
# Where a terminal controls no process, Ctrl-C is no signal: the desk's program looks for one each
# time that it feeds its watchdog; what comes behind it is the REPL's.
KEYS = """\
import os, select, sys
signals = not os.system('(stty isig < /dev/tty) 2> /dev/null')
class Keys:
 def __init__(self, dog):
  self.dog = dog
  self.keys = select.poll()
  self.keys.register(sys.stdin, select.POLLIN)
 def feed(self):
  self.dog.feed()
  while self.keys and self.keys.poll(0):
   if sys.stdin.buffer.read(1) == b'\\x03':
    self.keys = None
    raise KeyboardInterrupt
"""
# A soft reset would end the desk's process, and its raw REPL lets no Ctrl-C through.
DESK_RESET = (
    KEYS
    + """\
if 'lib' not in sys.path and '/lib' not in sys.path: sys.path.append('lib')
def listen():
 if signals: return
 import board
 watchdog = board.watchdog
 board.watchdog = lambda ms: Keys(watchdog(ms))
again = True
try:
 while again:
  sys.modules.clear()
  try:
   listen()
   exec(open('main.py').read(), {'__name__': '__main__'})
  except SystemExit as e: again = e.args and e.args[0] == 3
  else: again = False
finally: os.system('stty -isig')
"""
)


@dataclass(frozen=True)
class Port:
    device: str  # /dev/ttyACM0
    what: str  # how it calls itself
    boards: tuple[str, ...]  # what it may be


class Refused(Failed):
    """The board's own file system said no."""

    def __init__(self, port: str, error: OSError):
        reason = os.strerror(error.errno).lower()
        super().__init__(f"the board at {port} cannot use {error.strerror}: {reason}")
        self.errno = error.errno


def ports() -> list[Port]:
    """The serial ports that may be a board's: all that are on USB."""
    known = [targets.find(name) for name in targets.names()]
    found = []
    for one in list_ports.comports():
        if one.vid is not None:
            usb = f"{one.vid:04x}:{one.pid:04x}"
            boards = tuple(target.name for target in known if usb in target.usb)
            what = " ".join(filter(None, (one.manufacturer, one.product, one.serial_number)))
            found.append(Port(one.device, f"{what or one.description} ({usb})", boards))
    return sorted(found, key=lambda port: port.device)


def find(port: str | None, target: Target | None = None) -> str:
    """`port`, or that of the one board that is connected. Failed lists them if there are more."""
    if port:
        return port
    if target and target.port == "linux":
        raise Failed(
            f"the desk board has no port of its own: start one with `{TOOLS} desk` and "
            "name it with --port socket://127.0.0.1:PORT",
            CABLE,
        )
    found = ports()
    fitting = [one for one in found if target is None or target.name in one.boards] or found
    if len(fitting) == 1:
        return fitting[0].device
    if not found:
        raise Failed(
            "no board is connected: does the cable carry data, and is the driver of its USB chip "
            "there (CP210x, CH340)? A board elsewhere is named with --port",
            CABLE,
        )
    lines = [
        f"  {one.device}  {' or '.join(one.boards) or 'unknown'}: {one.what}" for one in fitting
    ]
    raise Failed("\n".join(["several boards are connected; name one with --port:", *lines]), CABLE)


def explain(port: str) -> str:
    """Why a port cannot be opened, which mpremote keeps to itself, and what to look at."""
    try:
        serial.serial_for_url(port, exclusive=None if "://" in port else True).close()
        return f"{port} could not be opened, but can be now: do this again"
    except ValueError:
        return f"{port} is no port: expected /dev/ttyACM0, COM3 or socket://host:port"
    except OSError as error:
        if "://" in port:
            return f"nothing answers at {port}: is the board's program running, with this port?"
        if error.errno == errno.ENOENT and re.fullmatch(r"[\w.]+:\d+", port):
            return f"there is no port {port}: did you mean socket://{port}?"
        if error.errno == errno.ENOENT:
            there = ", ".join(one.device for one in ports()) or "none on USB"
            return f"there is no port {port}: is the board connected? Ports: {there}"
        if error.errno == errno.EACCES:
            return (
                f"no permission for {port}: add yourself to its group with "
                "`sudo usermod -aG dialout $USER` (uucp on some systems), then log in again"
            )
        if error.errno in (errno.EBUSY, errno.EAGAIN):
            return f"{port} is in use: close the terminal, monitor or IDE that has it"
        return f"{port} cannot be opened: {error}"


class Transport(SerialTransport):
    """mpremote's, which would wait for ever while a board that was reset prints what it likes."""

    def read_until(
        self, min_num_bytes, ending, timeout=10, data_consumer=None, timeout_overall=None
    ):
        overall = timeout_overall or max(timeout or 0, NOISE)
        return super().read_until(min_num_bytes, ending, timeout, data_consumer, overall)


class Cable:
    """A board's raw REPL. Its program is interrupted, and stays so until reset().

    with Cable(port) as cable: ...

    Left by an exception, the board is reset, and its program goes on. Whatever goes wrong with the
    cable itself is a Failed with the code CABLE.
    """

    def __init__(self, port: str):
        self.port = port
        self.transport: Transport | None = None
        self.platform = ""  # until it is known

    def __enter__(self) -> "Cable":
        try:
            self.transport = Transport(self.port, timeout=PATIENCE)
        except (TransportError, ValueError):
            raise Failed(explain(self.port), CABLE) from None
        sock = getattr(self.transport.serial, "_socket", None)
        if sock:  # else each small write waits for an acknowledgement that is delayed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._interrupt()
            told = self.told(self.exec(WHO))
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        self.platform, version, self.mpy, self.machine, self.root, free = told
        self.version = ".".join(map(str, version[:3]))
        self.piece = min(max(free // 64, SMALLEST), LARGEST)
        return self

    def __exit__(self, _kind, error, _trace) -> None:
        if self.transport and self.transport.in_raw_repl:
            with contextlib.suppress(Exception):
                if error and getattr(error, "code", None) != CABLE:
                    self._interrupt()  # what it was about
                    self.reset()
                else:
                    self.transport.exit_raw_repl()
        self.close()

    def close(self) -> None:
        if self.transport:
            with contextlib.suppress(Exception):
                self.transport.close()
            self.transport = None

    def _interrupt(self) -> None:
        self.transport.in_raw_repl = True  # or on the way there: its program is to go on
        for attempt in (1, 2):  # some boards are reset when their port is opened, and start first
            try:
                with self.watch():
                    self.transport.enter_raw_repl(soft_reset=False, timeout_overall=PATIENCE)
                return
            except Failed:
                if attempt == 2:
                    raise

    @contextlib.contextmanager
    def watch(self, path: str | None = None) -> Iterator[None]:
        """Errors of mpremote and pyserial become Failed; what mpremote prints is left out."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except TransportExecError as error:
            raise Failed(f"the board at {self.port}: {last_line(error.error_output)}") from None
        except (TransportError, struct.error) as error:
            raise Failed(
                f"the board at {self.port} does not answer ({error}): has it MicroPython "
                "(`flash`)? Press its reset button, and look whether another program has the port",
                CABLE,
            ) from None
        except (ValueError, SyntaxError):
            raise Failed(
                f"the answer of the board at {self.port} makes no sense: does a thread or a timer "
                "of its program print? Reset it, and do this again"
            ) from None
        except OSError as error:  # pyserial's, too
            if path and error.args[1:] == (path,):  # mpremote's form of the board's
                raise Refused(self.port, error) from None
            raise Failed(
                f"the cable to {self.port} was cut ({error}): the board has its old program, or, "
                "if that was at the very end, the new one; connect it and do this again",
                CABLE,
            ) from None

    def check(self, target: Target) -> None:
        """Failed if another kind of board is there, or one with a MicroPython that is too old."""
        if self.platform != target.port:
            fitting = [n for n in targets.names() if targets.find(n).port == self.platform]
            hint = f": --board {' or '.join(fitting)}?" if fitting else ""
            raise Failed(f"the board at {self.port} is {self.machine}, not {target.name}{hint}")
        if tuple(map(int, self.version.split("."))) < (1, 22):
            raise Failed(
                f"the board at {self.port} has MicroPython {self.version}; 1.22 or later is "
                "needed: `flash` brings one"
            )

    # Running code

    def exec(self, code: str) -> str:
        """What the code prints. Failed if it raises."""
        with self.watch():
            return self.transport.exec(code).decode(errors="replace")

    def eval(self, expression: str):
        with self.watch():
            return self.transport.eval(expression)

    def told(self, text: str):
        """What the board has said, as a value."""
        with self.watch():
            return ast.literal_eval(text.strip())

    # Files

    def read(self, path: str) -> bytes | None:
        """None if there is none."""
        try:
            with self.watch(path):
                return bytes(self.transport.fs_readfile(path, chunk_size=self.piece))
        except Refused as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def write(self, path: str, data: bytes, advance: Callable[[int], None] | None = None) -> None:
        """Refused, with errno ENOSPC where the file system is full."""
        done = 0

        def tell(written: int, _size: int) -> None:
            nonlocal done
            if advance:
                advance(written - done)
            done = written

        with self.watch(path):
            self.transport.fs_writefile(path, data, self.piece, tell)

    def hashes(self, paths: list[str]) -> dict[str, str | None]:
        """SHA-256 of each file, in hex; None where there is none."""
        return self.told("{" + self.exec(HASHES % paths) + "}")

    # The program

    def reset(self) -> None:
        """Soft reset: boot.py and main.py run. What they print comes by lines()."""
        with self.watch():
            self.platform = self.platform or self.eval("__import__('sys').platform")
            if self.platform == "linux":
                self.transport.exec_raw_no_follow(DESK_RESET)
            else:
                self.transport.exit_raw_repl()
                self.transport.serial.write(b"\x04")
            self.transport.in_raw_repl = False

    def lines(self, seconds: float) -> Iterator[str]:
        """What the board prints, line by line, for so long."""
        deadline = time.monotonic() + seconds
        line = b""
        while (left := deadline - time.monotonic()) > 0:
            with self.watch():
                self.transport.serial.timeout = left
                piece = self.transport.serial.read(1)
            if piece == b"\n":
                yield line.decode(errors="replace").strip("\r\x04>")
                line = b""
            else:
                line += piece


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "an exception without a word"
