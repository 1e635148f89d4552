# What the boards' modules make of their ports: plain functions, run by test_link.py.

import os
import sys

from ports import CYW43, ESP32, Pin, Registers, Reset, Timer, clock, start


def raises(error, call, *args):
    try:
        call(*args)
    except error:
        return
    raise AssertionError("no " + error.__name__)


def test_identity():
    for port in (ESP32, CYW43):
        assert start(port).identity() == "e6610102"


def test_esp32_reset_causes():
    names = "unknown", "power", "hard", "watchdog", "deepsleep", "soft"
    for cause, name in enumerate(names):
        assert start(ESP32, cause).reset_cause() == name


def test_rp2040_reset_causes():
    """Every reset that is asked for looks like the watchdog's, but for the mark."""
    for address, machine in ((0x4005800C, "Pico W with RP2040"), (0x400D800C, "2 W with RP2350")):
        sys.modules["sys"] = machine_named(machine)
        try:
            kept = Registers()
            board = start(CYW43, 1, kept)
            assert board.reset_cause() == "power"
            raises(Reset, board.reset)
            assert list(kept) == [address] and kept[address]
            board = start(CYW43, 3, kept)
            assert board.reset_cause() == "hard"
            raises(Reset, board.deepsleep, 100)
            assert start(CYW43, 3, kept).reset_cause() == "deepsleep"
            board = start(CYW43, 3, kept)
            assert board.reset_cause() == "hard"  # no mark: machine.reset()
            board.watchdog(8000)
            assert start(CYW43, 3, kept).reset_cause() == "watchdog"
            board.watchdog(8000)
            board.halt(0)  # not by a crash
            assert start(CYW43, 3, kept).reset_cause() == "hard"
        finally:
            sys.modules["sys"] = sys


def machine_named(name):
    class Named:
        class implementation:
            _machine = name

    return Named


def test_halt():
    for port in (ESP32, CYW43):
        board = start(port)
        for code in (0, 2):
            board.halt(code)
        raises(Reset, board.halt, 1)
        dog = board.watchdog(1500)
        board.halt(0)  # it is fed on, for who is at the REPL
        for _ in range(9):
            Timer.running.tick()
        dog.feed()


def test_watchdog_is_never_longer_than_the_chip_can():
    board = start(CYW43)
    assert board.watchdog(60000).timeout == 8388
    assert board.watchdog(5000).timeout == 5000
    assert start(ESP32).watchdog(60000).timeout == 60000


def test_rp2040_sleeps_through_its_watchdog():
    """In pieces, each fed; and the whole time, whatever wakes the chip early."""
    for watchdog in (False, True):
        for early in (None, lambda ms: ms // 3, lambda ms: 0):
            board = start(CYW43)
            board.wifi()
            sys.modules["machine"].early = early
            if watchdog:
                board.watchdog(8000)
            clock.slept = 0
            begin = clock.ms
            raises(Reset, board.deepsleep, 30000)
            assert 30000 <= clock.ms - begin < 30100
            assert board.wifi().wlan.powered == 1
            if not early:
                assert clock.slept < 100


def test_esp32_deep_sleep():
    board = start(ESP32)
    slept = []
    sys.modules["machine"].deepsleep = slept.append
    board.deepsleep(60000)
    driver = board.wifi().wlan
    driver.active(True)
    board.deepsleep(70000)
    assert slept == [60000, 70000] and not driver.on


def test_memory():
    name = "build/memory_test.bin"
    for port in (ESP32, CYW43):
        board = start(port)
        board._MEMORY = name
        assert board.load() == b""
        for data in (b"x", b"\0" * 2048, b""):
            board.save(data)
            assert board.load() == data
        board.save(b"")
    raises(OSError, os.stat, name)


def test_settime():
    for port, moment in ((ESP32, 946684800 + 86399), (CYW43, 86399)):
        board = start(port)
        board.settime(moment)
        # gmtime is the unix port's, with the epoch of RP2040: 86,399 s after either epoch.
        y, m, d, _, *rest = sys.modules["machine"].datetime
        assert (y, m, d, rest) == (1970, 1, 1, [23, 59, 59, 0])


def test_temperature():
    board = start(ESP32)
    chip = sys.modules["esp32"]
    chip.raw_temperature = lambda: 122
    assert board.temperature() == 50
    chip.mcu_temperature = lambda: 41
    assert board.temperature() == 41

    class ADC:
        CORE_TEMP = 4

        def __init__(self, channel):
            assert channel == 4

        def read_u16(self):
            return int(0.706 * 65535 / 3.3)

    board = start(CYW43)
    sys.modules["machine"].ADC = ADC
    assert abs(board.temperature() - 27) < 0.1


def test_pulses():
    counters = []

    class Counter:
        FALLING = 2

        def __init__(self, unit, pin, edge, filter_ns):
            counters.append((unit, pin.n, edge))

    for port in (ESP32, CYW43):
        board = start(port)
        found = board.pulses(14)
        for _ in range(3):
            found._count(None)
        assert found.value() == 3
        assert board.pulses(14) is found  # made again after a failure, it goes on
    board = start(ESP32)
    sys.modules["machine"].Counter = Counter
    sys.modules["esp32"].PCNT = True
    board.pulses(4), board.pulses(5), board.pulses(4)
    assert counters == [(0, 4, 2), (1, 5, 2)]


def test_pins_and_buses():
    made = []

    class I2C:
        def __init__(self, n, scl, sda, freq):
            made.append((n, scl.n, sda.n, freq))

    for port in (ESP32, CYW43):
        board = start(port)
        sys.modules["machine"].I2C = I2C
        board.i2c({"id": 1, "scl": 22, "sda": 21})
        board.i2c({"id": 0, "scl": 5, "sda": 4, "freq": 400000})
        assert board.pin(3, "up").pull == Pin.PULL_UP and board.pin(3).pull is None
        board.led(True)
    assert made == [(1, 22, 21, 100000), (0, 5, 4, 400000)] * 2
