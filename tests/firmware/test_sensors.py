"""The drivers against simulated chips, under both runtimes: see device/drivers.py."""

from pathlib import Path

import plain
import pytest

PATH = Path(__file__).with_name("device") / "drivers.py"


@pytest.mark.parametrize("runtime, name", plain.tests(PATH))
def test_sensors(runtime, name):
    plain.check(PATH, runtime, name)
