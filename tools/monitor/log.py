"""What a board prints on its serial port. Nothing is ever written to it.

DTR and RTS end up both asserted, as a terminal has them: TinyUSB (RP2040) sends nothing without
DTR. An ESP32's auto-reset circuit resets on RTS without DTR, so they are never changed in an order
that has that in between.
"""

import codecs
import os
import re
import threading
from collections.abc import Callable

from tools.console import CABLE, Failed
from tools.monitor.devices import clean

BAUD = 115200
AGAIN = 1  # s between two attempts to open a port that went away
LONGEST = 400  # characters of a line
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")


def open_port(name: str):
    """The port, open for this process alone. Raises OSError."""
    import serial

    port = serial.serial_for_url(name, BAUD, timeout=0.2, do_not_open=True, exclusive=True)
    if os.name == "nt":  # its drivers set both one after the other, in either order
        port.dtr = port.rts = False
    port.open()
    if os.name == "nt":
        port.dtr = True
        port.rts = True
    return port


def close_port(port) -> None:
    try:
        port.rts = False
        port.dtr = False
    except OSError:  # it has no such lines, or is gone
        pass
    try:
        port.close()
    except OSError:
        pass


class Log(threading.Thread):
    """Calls on_line(text) for each line, and on_change with what is wrong with the port, or ""."""

    def __init__(
        self, name: str, on_line: Callable[[str], None], on_change: Callable[[str], None]
    ):
        super().__init__(daemon=True)
        self.port_name = name
        self.on_line = on_line
        self.on_change = on_change
        self.ended = threading.Event()
        try:
            self.port = open_port(name)
        except (OSError, ValueError) as error:
            raise Failed(f"{name} cannot be opened: {reason(error)}", CABLE) from None
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                if self.port is None:
                    self.port = open_port(self.port_name)
                    self.on_change("")
                self.read()
            except OSError as error:  # SerialException is one
                if self.port is not None:
                    close_port(self.port)
                    self.port = None
                self.on_change(reason(error))
                self.ended.wait(AGAIN)
        if self.port is not None:
            close_port(self.port)

    def read(self) -> None:
        """Read lines until the end; OSError when the port goes away."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        while not self.ended.is_set():
            data = self.port.read(max(1, min(self.port.in_waiting, 4096)))
            rest += decode(data)
            *whole, rest = re.split(r"\r*\n", rest)
            if len(rest) > LONGEST:
                whole, rest = [*whole, rest], ""
            for line in whole:
                self.on_line(clean(ESCAPES.sub("", line.replace("\t", "    ")), LONGEST))

    def close(self) -> None:
        self.ended.set()
        self.join(2)


def reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, PermissionError) or "Permission denied" in text:
        return "no permission: your user may have to be in the group dialout (or uucp)"
    if "exclusively lock" in text or "busy" in text.lower():
        return "it is in use: end the other program that has it"
    if isinstance(error, FileNotFoundError) or "No such file" in text:
        return "there is no such port: is the cable in?"
    return clean(text, 200)
