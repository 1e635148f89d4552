"""The drivers against simulated chips, under both runtimes: see device/drivers.py."""

import json
import subprocess
import sys
from pathlib import Path

import plain
import pytest
from runtimes import ROOT

PATH = Path(__file__).with_name("device") / "drivers.py"


@pytest.mark.parametrize("runtime, name", plain.tests(PATH))
def test_sensors(runtime, name):
    plain.check(PATH, runtime, name)


SAYS = """
import json, os
import firmware.sensors
found = {}
for name in sorted(os.listdir("firmware/sensors")):
    if name[0] != "_":
        module = __import__("firmware.sensors." + name[:-3], None, None, ("KEYS",))
        found[name[:-3]] = [[*module.KEYS], module.VALUES, module.Sensor.__doc__]
print(json.dumps(found))
"""


def test_the_host_can_ask_what_there_is():
    """The configuration is checked, and discovery made, where there is no MicroPython."""
    call = [sys.executable, "-c", SAYS]
    said = json.loads(subprocess.run(call, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    assert {*said} == {"adc", "bme280", "chip", "dht", "digital", "ds18b20", "pulse", "sht3x"}
    for keys, values, doc in said.values():
        assert values
        assert all(f"`{key}`" in doc for key in keys if key != "stuck")
