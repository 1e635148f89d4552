"""The crash guard, under MicroPython: the functions of device/crash_try.py."""

from pathlib import Path

import pytest
from cases import answers, names

CASES = Path(__file__).with_name("device") / "crash_try.py"


@pytest.mark.parametrize("name", names(CASES))
def test_crash(name):
    said = answers(CASES)[name]
    assert not said, said
