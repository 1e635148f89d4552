"""Programs of this machine that the tools start: MicroPython's unix port, a broker."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tools.console import BROKER, Failed

PATIENCE = 5  # seconds for anything on this machine to start, answer or end


class NoMicroPython(Failed):
    """There is none on this machine: its wheel is for a few platforms only."""


def find_micropython(name: str | None) -> str:
    """The one named, here or by MICROPYTHON; else the one beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("micropython")
    name = (
        name
        or os.environ.get("MICROPYTHON")
        or (str(beside) if beside.exists() else "micropython")
    )
    path = shutil.which(name)
    if path is None:
        raise NoMicroPython(
            f"no MicroPython at {name}: name yours with --micropython PATH, or MICROPYTHON=PATH"
        )
    return os.path.abspath(path)


def iotcore(host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "iotcore", "--listen", host, "--port", str(port)]


def start_broker(on_exit: ExitStack, command=iotcore) -> tuple[str, int]:
    """The address of a broker of our own, on a free loopback port, that ends with `on_exit`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = address = free.getsockname()
    call = command(host, port)
    broker = subprocess.Popen(
        call,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C reaches all processes of a session; the broker must outlive the firmware.
        start_new_session=True,
    )
    on_exit.callback(end_process, broker)
    deadline = time.monotonic() + PATIENCE
    while broker.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return address
        time.sleep(0.02)
    raise Failed(f"the broker does not start; this says why: {shlex.join(call)}", BROKER)


def end_process(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
