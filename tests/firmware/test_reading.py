"""When a sensor is read and what of it is published, under both runtimes: device/readings.py."""

from pathlib import Path

import plain
import pytest

PATH = Path(__file__).with_name("device") / "readings.py"


@pytest.mark.parametrize("runtime, name", plain.tests(PATH))
def test_reading(runtime, name):
    plain.check(PATH, runtime, name)
