# The crash guard on a stand-in for the board, from start to start; each is a module of its own.

import json
import os
import sys

PATH = "/tmp/crash-%s.json" % os.urandom(4).hex()


class Restart(BaseException):
    pass


held = [None]  # what a program keeps of the memory


class Board:
    def __init__(self, cause):
        self.cause = cause

    def reset_cause(self):
        return self.cause

    def reset(self):
        raise Restart(0)

    def deepsleep(self, ms):
        held[0] = None  # for the exception
        raise Restart(ms)


def fresh():
    for name in (PATH, PATH + ".new"):
        try:
            os.remove(name)
        except OSError:
            pass


def start(run, cause="hard"):
    """The module of this start, and what guard() did: returned (True, x), or a pause in ms."""
    sys.modules.pop("crash", None)
    import crash

    crash.left = None
    try:
        return crash, (True, crash.guard(lambda: run(crash), Board(cause), PATH))
    except Restart as e:
        return crash, e.args[0]


def broken(crash):
    raise ValueError("it broke")


def fine(crash):
    return 7


def kept():
    with open(PATH) as file:
        return json.load(file)


def lasting(seconds, then=fine):
    """A run in which so many seconds pass."""

    def run(crash):
        now = crash._mark
        for _ in range(seconds):
            now += 1000
            crash.left = crash.note_progress(now)
        crash.ticks_ms = lambda: now + 5000  # since the last call
        return then(crash)

    return run


def test_a_run_without_a_crash_leaves_nothing():
    fresh()
    crash, result = start(fine, "power")
    assert result == (True, 7)
    assert (crash.boots(), crash.safe(), crash.pending()) == (0, False, None)
    crash.well()
    crash.told()
    try:
        os.stat(PATH)
        raise AssertionError("it was written")
    except OSError:
        pass


def test_a_traceback_is_kept_and_told_once():
    fresh()
    assert start(lasting(70, broken))[1] == 0
    crash, _ = start(fine)
    found = json.loads(crash.pending())
    text = found.pop("crash")
    assert found == {"row": 1, "count": 1, "uptime": 75}
    assert text.endswith("ValueError: it broke\n") and "in broken" in text
    assert "Traceback" in text
    crash.told()
    assert crash.pending() is None
    crash, _ = start(fine)
    assert crash.pending() is None and crash.boots() == 1
    assert kept()["crash"] == text
    os.stat(PATH)


def test_safe_mode_and_pauses():
    fresh()
    seen = []
    for _ in range(12):
        crash, pause = start(broken)
        seen.append((crash.boots(), crash.safe(), pause))
    # the row is that at the end of each start
    pauses = [0, 0, 0, 10000, 20000, 40000, 80000, 160000, 300000, 300000, 300000, 300000]
    assert seen == [(i + 1, i >= 2, pauses[i]) for i in range(12)], seen
    crash, result = start(fine, "deepsleep")
    assert crash.safe() and result == (True, 7)
    assert json.loads(crash.pending())["count"] == 12


def test_a_watchdog_reset_is_a_crash():
    fresh()
    start(broken)
    crash, result = start(fine, "watchdog")
    assert result == (True, 7) and crash.boots() == 2
    found = json.loads(crash.pending())
    assert (found["crash"], found["count"], found["uptime"]) == ("watchdog", 2, 0)
    start(fine, "watchdog")
    assert start(fine, "watchdog")[1] == 10000  # the pause comes before the run
    crash, result = start(fine, "deepsleep")
    assert result == (True, 7) and crash.boots() == 4


def test_a_run_that_lasts_ends_the_row():
    fresh()
    start(broken)
    start(broken)
    start(lasting(599))
    assert start(fine)[0].boots() == 2
    crash, _ = start(lasting(601))
    assert crash.boots() == 0 and kept()["row"] == 0
    assert json.loads(crash.pending())["count"] == 2  # it is still to be told
    assert start(fine)[0].boots() == 0


def test_a_power_on_ends_the_row():
    fresh()
    for _ in range(5):
        start(broken)
    crash, result = start(fine, "power")
    assert result == (True, 7)
    assert not crash.safe() and crash.boots() == 0 and crash.pending()


def test_safe_mode_tries_the_whole_again():
    fresh()
    for _ in range(3):
        start(broken)
    crash, _ = start(lasting(3599))
    assert crash.safe() and crash.left == 1000
    crash, _ = start(lasting(3600))
    assert crash.left == 0  # the caller restarts, when what it has is acknowledged
    for _ in range(5):
        crash.note_progress(crash._mark + 1000)
    assert crash.boots() == 2
    crash, pause = start(broken)
    assert crash.boots() == 3 and pause == 0
    assert start(fine)[0].safe()


def test_a_long_uptime():
    """Longer than the ticks tell, with an hour between two calls."""
    fresh()

    def run(crash):
        from time import ticks_add

        now = crash._mark
        for _ in range(24 * 30):
            now = ticks_add(now, 3600000)
            assert crash.note_progress(now) == 3600000
        crash.ticks_ms = lambda: now
        broken(crash)

    start(run)
    assert kept()["uptime"] == 30 * 86400


def test_it_passes_what_is_meant_to_end_it():
    fresh()
    for error in (KeyboardInterrupt, SystemExit):

        def run(crash, error=error):
            raise error

        try:
            start(run)
            raise AssertionError(error)
        except error:
            pass
    assert start(fine)[0].boots() == 0


def deep(n):
    if n:
        deep(n - 1)
    raise ValueError('"\\' * 300 + "\xe9\n\x01")


def test_it_is_bounded():
    fresh()
    for n in (0, 1, 30):
        crash, _ = start(lambda crash, n=n: deep(n))
        assert os.stat(PATH)[6] <= 1024, os.stat(PATH)[6]
        assert len(crash.pending()) <= 1024
        text = kept()["crash"]
        assert 400 < len(text) <= 440 and text.endswith('"\\??\n?\n'), text

    def recursion(crash):
        recursion(crash)

    start(recursion)
    text = kept()["crash"]
    assert "RuntimeError: maximum recursion depth exceeded" in text
    assert text.startswith("  File"), text


def full(held):
    """A run that takes all memory there is, for held[0] to keep."""

    def run(crash):
        n = 4096
        while True:
            try:
                held[0] = held[0], bytearray(n)
            except MemoryError:
                if n < 4:
                    raise
                n //= 2

    return run


def test_no_memory():
    fresh()
    crash, pause = start(lambda crash: full([None])(crash))
    assert pause == 0
    assert "MemoryError" in kept()["crash"] and "in run" in kept()["crash"]


def test_no_memory_at_all():
    """Not even for a traceback or a file, as somebody holds all of it."""
    fresh()
    crash, pause = start(full(held))
    assert pause == 300000, pause


def test_a_damaged_file():
    fresh()
    start(broken)
    with open(PATH) as file:
        whole = file.read()
    for text in [whole[:i] for i in range(len(whole))] + [
        "[]",
        '{"row": "x", "count": null, "told": 3, "crash": 1, "other": {}}',
        "1",
        "null",
    ]:
        with open(PATH, "w") as file:
            file.write(text)
        crash, result = start(fine)
        assert result == (True, 7) and crash.boots() == 0, text


def test_power_fails_while_it_is_written():
    """Whatever there is of the new file, the old one counts."""
    fresh()
    start(broken)
    with open(PATH + ".new", "w") as file:
        file.write('{"row": 9')
    assert start(fine)[0].boots() == 1
    start(broken)
    assert start(fine)[0].boots() == 2


def test_nowhere_to_write():
    fresh()
    global PATH
    path, PATH = PATH, "/nowhere/crash.json"
    try:
        assert start(broken)[1] == 300000
    finally:
        PATH = path
