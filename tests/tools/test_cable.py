"""Finding a board, and what is said when it cannot be reached."""

import fcntl
import os
import pty
import socket
import threading
from multiprocessing import get_context

import pytest
from serial.tools.list_ports_common import ListPortInfo
from tools import cable, targets
from tools.cable import Cable
from tools.console import CABLE, Failed

PICO = ("/dev/ttyACM0", 0x2E8A, 0x0005, "Board in FS mode")
ESP32 = ("/dev/ttyUSB0", 0x10C4, 0xEA60, "CP2102 USB to UART Bridge Controller")
OTHER = ("/dev/ttyACM9", 0x1234, 0x0001, "Modem")
BUILT_IN = ("/dev/ttyS0", None, None, "n/a")


@pytest.fixture
def connected(monkeypatch):
    """Lets pyserial list these ports."""

    def connect(*listed):
        found = []
        for device, vid, pid, product in listed:
            found.append(ListPortInfo(device))
            found[-1].vid, found[-1].pid, found[-1].product = vid, pid, product
        monkeypatch.setattr(cable.list_ports, "comports", lambda: found)

    return connect


@pytest.mark.parametrize(
    "listed, board, port",
    [
        ([PICO, BUILT_IN], None, "/dev/ttyACM0"),
        ([PICO, ESP32], "esp32", "/dev/ttyUSB0"),
        ([PICO, OTHER], "rp2040", "/dev/ttyACM0"),
        ([OTHER], "rp2040", "/dev/ttyACM9"),  # an adapter that is not known
    ],
)
def test_the_one_board_is_found(connected, listed, board, port):
    connected(*listed)
    assert cable.find(None, board and targets.find(board)) == port


@pytest.mark.parametrize(
    "listed, board, told",
    [
        ([], "esp32", "no board is connected"),
        ([BUILT_IN], None, "no board is connected"),
        ([PICO, ESP32], None, "several boards.*ttyACM0  rp2040: Board in FS mode.*ttyUSB0  esp32"),
        ([PICO, PICO], "rp2040", "several boards"),
        ([PICO], "unix", "python -m tools desk"),
    ],
)
def test_there_is_not_one(connected, listed, board, told):
    connected(*listed)
    with pytest.raises(Failed, match=f"(?s){told}") as caught:
        cable.find(None, board and targets.find(board))
    assert caught.value.code == CABLE


@pytest.fixture
def terminal():
    """A port of this machine, with nothing behind it."""
    ends = pty.openpty()
    yield os.ttyname(ends[1])
    for end in ends:
        os.close(end)


def refused(port):
    with pytest.raises(Failed) as caught, Cable(port):
        pass
    assert caught.value.code == CABLE
    return str(caught.value)


def test_a_port_that_is_not_there(connected):
    connected(PICO)
    assert "no port /dev/ttyACM7" in refused("/dev/ttyACM7")
    assert "/dev/ttyACM0" in refused("/dev/ttyACM7")
    assert "is no port" in refused("soket://127.0.0.1:1")


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "nothing answers at socket://" in refused(f"socket://127.0.0.1:{port}")


def test_a_port_in_use(terminal):
    other = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert "is in use" in refused(terminal)
    os.close(other)


def test_a_port_without_permission(terminal):
    def look(result):
        os.setuid(65534)
        result.put(refused(terminal))

    os.chmod(terminal, 0o600)
    if os.getuid():  # its owner's own permission is taken away
        os.chmod(terminal, 0)
        assert "dialout" in refused(terminal)
        return
    context = get_context("fork")
    result = context.Queue()
    process = context.Process(target=look, args=(result,))
    process.start()
    assert "dialout" in result.get(timeout=20)
    process.join()


def test_something_else_answers():
    """A modem, say: it is no MicroPython."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            host = server.accept()[0]
            with host:
                while host.recv(64):
                    host.sendall(b"ERROR\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        told = refused(f"socket://127.0.0.1:{server.getsockname()[1]}")
        assert "does not answer" in told and "`flash`" in told
        thread.join()


def test_a_board_raises(board):
    with Cable(board.port) as cable:
        with pytest.raises(Failed, match="ZeroDivisionError"):
            cable.exec("1 / 0")
        assert cable.eval("1 + 1") == 2
        assert cable.read("nowhere") is None
        with pytest.raises(Failed, match="cannot use no/where: no such file"):
            cable.write("no/where", b"")
    assert cable.transport is None


CHATTY = b"import time\nwhile True:\n    print('ali' + 've')\n    time.sleep(0.05)\n"


@pytest.fixture
def chatty(board):
    """A board whose program prints all the time."""
    with Cable(board.port) as cable:
        cable.write("main.py", CHATTY)
        cable.reset()
    return board


def goes_on(board):
    with socket.create_connection(board.server.getsockname()[:2]) as host, host.makefile() as text:
        host.settimeout(10)
        return any(line == "alive\n" for line in text)


def test_ctrl_c_has_the_program_go_on(chatty, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    assert goes_on(chatty)
    for step in ("told", "hashes"):  # while it connects, and later
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Cable, step, interrupted)
            with Cable(chatty.port) as cable:
                cable.hashes(["main.py"])
        assert goes_on(chatty)


def test_a_board_that_was_reset_is_not_waited_for_for_ever(chatty, monkeypatch):
    monkeypatch.setattr(cable, "NOISE", 1)
    with Cable(chatty.port) as one:
        chatty.restart()
        assert b"alive" in one.transport.read_until(1, b"no such end", timeout=1)


def test_an_answer_makes_no_sense(board):
    with Cable(board.port) as one, pytest.raises(Failed, match="makes no sense"):
        one.told("noise (1, 2)")
