"""A board on this desk: MicroPython's unix port behind a TCP socket, with a flash of its own.

All other commands take it with --board unix --port socket://127.0.0.1:PORT. As a board does at
power-on, it starts main.py, and has a REPL. Its only file system is a littlefs in a file.
"""

import contextlib
import os
import pty
import select
import socket
import subprocess
import termios
import threading
import tty
from pathlib import Path

from tools.console import ROOT, TOOLS, say
from tools.programs import end_process, find_micropython

BOOT = Path(__file__).with_name("boot.py")
BLOCKS = 212  # of 4 KiB: as many as a Pico W has
HEAP = "256k"  # twice what a board of 32 bits takes
RESTART = (0, 3)  # exit codes: deep sleep and Ctrl-D, reset


class Board:
    """The board and its cable; a thread carries bytes between the TCP socket and the terminal.

    with Board(flash) as board: ... board.port ... One host at a time; what the board prints while
    there is none is lost.
    """

    def __init__(
        self, flash: Path, port: int = 0, micropython: str | None = None, blocks: int = BLOCKS
    ):
        self.flash = flash
        self.call = [
            find_micropython(micropython),
            *("-X", f"heapsize={HEAP}", "-i", str(BOOT), str(flash.resolve()), str(blocks)),
        ]
        self.server = socket.create_server(("127.0.0.1", port))
        self.port = f"socket://127.0.0.1:{self.server.getsockname()[1]}"
        self.host: socket.socket | None = None
        self.cut_after: int | None = None  # bytes from the host until the cable is pulled
        self.taken = 0  # bytes from the host
        self.starts = 0
        self.process: subprocess.Popen | None = None
        self.terminal = -1
        self.wake, self.waker = os.pipe()
        self.ended = False
        self.thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self):
        self.power_on()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        os.write(self.waker, b"x")
        self.thread.join()
        self.power_off()
        self.server.close()
        os.close(self.wake)
        os.close(self.waker)

    def power_on(self) -> None:
        self.terminal, inside = pty.openpty()
        tty.setraw(inside)
        self.process = subprocess.Popen(
            self.call,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            cwd=self.flash.resolve().parent,
            preexec_fn=lambda: _own_terminal(inside),
            env={key: value for key, value in os.environ.items() if key != "MICROPYPATH"},
        )
        os.close(inside)
        self.starts += 1

    def power_off(self) -> None:
        end_process(self.process)
        os.close(self.terminal)

    def restart(self) -> None:
        """Cut the power; it comes again at once."""
        self.process.kill()

    def cut(self) -> None:
        """Pull the cable."""
        if host := self.host:
            with contextlib.suppress(OSError):
                host.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        if self.host:
            self.host.close()
            self.host = None

    def _carry(self) -> None:
        while not self.ended:
            sources = [self.wake, self.terminal, self.host or self.server]
            ready, _, _ = select.select(sources, [], [])
            if self.terminal in ready:
                self._from_board()
            if self.server in ready:
                self.host = self.server.accept()[0]
                self.host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            elif self.host in ready:
                self._from_host()
        self._hang_up()

    def _from_board(self) -> None:
        try:
            data = os.read(self.terminal, 4096)
        except OSError:  # the process has ended
            data = b""
        if not data:
            code = self.process.wait()
            os.close(self.terminal)
            if code not in RESTART:
                say(f"the desk board ended with exit code {code}, and starts again")
            self.power_on()
        elif self.host:
            try:
                self.host.sendall(data)
            except OSError:
                self._hang_up()

    def _from_host(self) -> None:
        try:
            data = self.host.recv(4096)
        except OSError:
            data = b""
        if self.cut_after is not None:
            data = data[: self.cut_after]
            self.cut_after -= len(data)
            if not self.cut_after:
                self.cut_after = None
                os.write(self.terminal, data)
                data = b""
        self.taken += len(data)
        if data:
            os.write(self.terminal, data)
        else:
            self._hang_up()


def _own_terminal(inside: int) -> None:
    import fcntl

    os.setsid()
    fcntl.ioctl(inside, termios.TIOCSCTTY, 0)


def arguments(parser) -> None:
    parser.add_argument("--tcp", type=int, default=0, metavar="PORT", help="default: a free one")
    parser.add_argument(
        "--flash",
        type=Path,
        metavar="FILE",
        default=ROOT / "build" / "desk.flash",
        help="holds the file system; made if it is not there (default: build/desk.flash)",
    )
    parser.add_argument(
        "--blocks", type=int, default=BLOCKS, help="of 4 KiB, of a new flash (default: 212)"
    )
    parser.add_argument("--micropython", help="the unix port (default: the one beside Python)")


def run(args) -> int:
    args.flash.parent.mkdir(parents=True, exist_ok=True)
    with Board(args.flash, args.tcp, args.micropython, args.blocks) as board:
        say(f"port     {board.port}")
        say(f"try      {TOOLS} deploy --board unix --port {board.port}")
        say("end      Ctrl-C")
        threading.Event().wait()
    return 0
