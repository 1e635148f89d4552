"""What is known of crashes: a bounded file, which tells the next start how to go about it.

    {"row": 2, "count": 7, "uptime": 86400, "told": false, "crash": "Traceback ..."}

row     crashes without a run that lasted in between
count   all there ever were
uptime  s, of the newest; 0 if it was the watchdog's
told    it was published
crash   the end of its traceback, or "watchdog"

At most 1 KB, written beside it and renamed: whenever power fails, the old or the new one is whole.

A crash is an exception that leaves run(), or a reset by the watchdog. The device restarts at once;
three in a row lead to safe mode, and each one there to a deep sleep before it: 10 s, 20 s, and so
on to 5 min. A run of 10 min ends the row, and so does a power-on. After an hour of safe mode the
whole is tried again; one crash, and it is safe mode again.

A traceback holds names and lines, no values; but the text of an exception is in it: put no secret
into one.
"""

import io
import json
import os
import sys
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

_TEXT = const(440)  # bytes of a traceback: some ten lines. In JSON they may double
_SAFE = const(3)  # crashes in a row
_LASTED = const(600)  # s
_RETRY = const(3600)  # s of safe mode
_PAUSE = const(10000)  # ms
_DOUBLINGS = const(5)  # of that, to
_LONGEST = const(300000)  # ms
_IDLE = const(3600000)  # ms between two calls of note_progress()

_path = ""
_state: dict = {"row": 0, "count": 0, "uptime": 0, "told": True, "crash": ""}
_up = 0  # s since the start, up to
_mark = ticks_ms()  # ... these ticks


class _End(io.IOBase):
    # keeps the end of what is written to it
    text = b""

    def write(self, data):
        self.text = (self.text + data)[-_TEXT:]
        return len(data)


def guard(run, board, path="crash.json"):
    """Return what run() returns; if it raises, note the crash and restart the board.

    KeyboardInterrupt and SystemExit pass. Where a crash cannot be written it is not counted
    either: the pause is the longest then.
    """
    global _path
    _path = path
    try:
        with open(path) as file:
            for key, value in json.load(file).items():
                if key in _state and isinstance(value, type(_state[key])):
                    _state[key] = value
    except (OSError, ValueError, AttributeError):  # there is none, or it is damaged
        pass
    cause = board.reset_cause()
    if cause == "power":
        if _state["row"]:
            _row(0)
    elif cause == "watchdog":
        _note(b"watchdog", board)
    try:
        return run()
    except Exception as e:
        sys.print_exception(e)  # type: ignore[attr-defined]
        try:  # what run() had is garbage now, but for what globals hold
            end = _End()
            sys.print_exception(e, end)  # type: ignore[attr-defined]
            note_progress(ticks_ms())
            _note(end.text, board)
        except MemoryError:
            board.deepsleep(_LONGEST)
    board.reset()
    return 1


def boots() -> int:
    """Crashes in a row before this start."""
    return _state["row"]


def safe() -> bool:
    """Whether to run nothing but link, commands and diagnostics. To be asked at the start."""
    return _state["row"] >= _SAFE


def note_progress(now) -> int:
    """A part of the loop, to be called at least once in an hour while all goes well.

    Returns the ms until there is something to do; 0: safe mode has lasted, restart.
    """
    global _up, _mark
    n = ticks_diff(now, _mark) // 1000
    _up += n
    _mark = ticks_add(_mark, n * 1000)
    if not _state["row"]:
        return _IDLE
    left = (_RETRY if safe() else _LASTED) - _up
    if left > 0:
        return min(left * 1000, _IDLE)
    n = safe()
    well()
    if not n:
        return _IDLE
    _up = 0  # the row that is left goes on until the restart
    return 0


def well():
    """This run has lasted: the row ends. In safe mode, the next start tries the whole again."""
    if _state["row"]:
        _row(_SAFE - 1 if safe() else 0)


def pending():
    """What is to be published of the newest crash, JSON of at most 1 KB; None: nothing."""
    if _state["told"]:
        return None
    found = dict(_state)
    del found["told"]
    return json.dumps(found).encode()


def told():
    """It is published, which is written down."""
    if not _state["told"]:
        _state["told"] = True
        _save()


def _row(row):
    _state["row"] = row
    _save()


def _note(text, board):
    # a crash, and the pause after it
    text = bytearray(text)
    if len(text) == _TEXT:  # it begins within a line
        text = text[text.find(b"\n", 0, 99) + 1 :]
    for i in range(len(text)):
        if not 31 < text[i] < 127 and text[i] != 10:
            text[i] = 63
    _state["row"] += 1
    _state["count"] += 1
    _state["uptime"] = _up
    _state["told"] = False
    _state["crash"] = text.decode()
    n = _state["row"] - _SAFE - 1 if _save() else _DOUBLINGS
    if n >= 0:
        board.deepsleep(min(_PAUSE << min(n, _DOUBLINGS), _LONGEST))


def _save():
    # whether it is written
    try:
        with open(_path + ".new", "w") as file:
            json.dump(_state, file)
        os.rename(_path + ".new", _path)
        return True
    except OSError as e:
        print(_path, e)
