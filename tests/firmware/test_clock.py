"""The clock, under MicroPython, in a time of its own: the functions of device/clock_try.py."""

from pathlib import Path

import pytest
from cases import answers, names

CASES = Path(__file__).with_name("device") / "clock_try.py"


@pytest.mark.parametrize("name", names(CASES))
def test_clock(name):
    said = answers(CASES)[name]
    assert not said, said
