"""The README's examples run as written, but for the broker's address and what a desk lacks."""

import re

import pytest
from processes import Device, until
from runtimes import ROOT
from secure import PEM, Authority, Secure

PROGRAM = re.compile(r"^##+ (.+?)$|^```python\n(.+?)^```", re.DOTALL | re.MULTILINE)
# Once a machine has been to sleep, it wakes at the beginning of its program.
MACHINE = """\
import os


class RTC:
    def memory(self, data=None):
        if data is None:
            try:
                with open("rtc", "rb") as file:
                    return file.read()
            except OSError:
                return b""
        with open("rtc", "wb") as file:
            file.write(data)


def deepsleep(ms):
    print('["asleep", %d]' % ms)
    raise SystemExit
"""
NTPTIME = "def settime(): pass\n"
OURS = Authority("ours")


def examples():
    """Each section's program."""
    found = {}
    for title, program in PROGRAM.findall((ROOT / "README.md").read_text()):
        if title:
            section = title
        else:
            assert section not in found
            found[section] = program
    return found


EXAMPLES = examples()


@pytest.fixture
def broker(tmp_path):
    broker = Secure(tmp_path, OURS.issue("127.0.0.1"))
    yield broker.start()
    broker.kill()


@pytest.fixture
def example(broker, tmp_path):
    """Starts a section's program in an empty folder, changed by some replacements."""
    devices = []
    (tmp_path / "machine.py").write_text(MACHINE)
    (tmp_path / "ntptime.py").write_text(NTPTIME)

    def start(section, port=broker.port, **replace):
        program = EXAMPLES[section].replace('"192.168.1.2"', f'"127.0.0.1", {port}')
        for old, new in replace.items():
            assert old in program
            program = program.replace(old, new)
        script = tmp_path / "main.py"
        script.write_text(
            f"import os, sys\nos.chdir({str(tmp_path)!r})\nsys.path.insert(0, '.')\n{program}"
        )
        devices.append(Device("micropython", script, heap="256k"))
        return devices[-1]

    yield start
    for device in devices:
        device.stop()


def printed(device, text):
    """Wait for a line that it prints."""
    device.log.wait(lambda entries: text + "\n" in entries or None in entries)
    assert text + "\n" in device.log.entries, device.log.entries


def test_using_the_library(example, broker, peer):
    watch = peer(broker.port)
    watch.subscribe("kitchen/#")
    watch.publish("kitchen/light", "on", 1, retain=True)
    device = example("Using the library")
    printed(device, "light: b'on'")
    until(lambda: ("kitchen/temperature", b"21.5", 1, False) in watch.messages)
    device.stop()
    until(lambda: ("kitchen/status", b"offline", 0, False) in watch.messages)


def test_flash_spool(example, broker, peer):
    watch = peer(broker.port)
    watch.subscribe("kitchen/#")
    example("The flash spool", **{'"/spool"': '"spool"'})
    assert watch.wait(1)[0] == ("kitchen/temperature", b"21.5", 1, False)


def test_deep_sleep(example, broker, peer):
    watch = peer(broker.port)
    watch.subscribe("shed/temperature")
    for i in range(3):
        device = example("Deep sleep")
        device.wait("asleep", 60000)
        assert device.finish() == 0
        assert len(watch.wait(i + 1)) == i + 1
        watch.publish("shed/light", "off", 1)
        if i:
            printed(device, "light: b'off'")


def test_large(example, broker, peer, tmp_path):
    log = bytes(range(256)) * 20
    (tmp_path / "log.txt").write_bytes(log)
    watch = peer(broker.port)
    watch.subscribe("door/log")
    watch.publish("door/update", log[1:], 1, retain=True)
    device = example("Messages larger than memory")
    assert watch.wait(1)[0] == ("door/log", log, 1, False)
    printed(device, f"update: {len(log) - 1}")
    assert (tmp_path / "update.bin").read_bytes() == log[1:]


def test_tls(example, broker, peer, tmp_path):
    (tmp_path / "ca.pem").write_bytes(OURS.certificate.public_bytes(PEM))
    watch = peer(broker.port)
    watch.subscribe("kitchen/#")
    example("TLS", broker.secure)
    assert watch.wait(1)[0] == ("kitchen/temperature", b"21.5", 1, False)


def test_umqtt_simple(example, broker, peer):
    watch = peer(broker.port)
    watch.subscribe("kitchen/state")
    watch.publish("kitchen/light", "on", retain=True)
    device = example("Coming from umqtt.simple")
    printed(device, "light: b'on'")
    assert watch.wait(1)[0] == ("kitchen/state", b"on", 1, False)


def test_asyncio(example, broker, peer):
    watch = peer(broker.port)
    watch.subscribe("kitchen/temperature")
    watch.publish("kitchen/light", "on", 1, retain=True)
    device = example("With asyncio")
    printed(device, "light: b'on'")
    assert watch.wait(1)[0] == ("kitchen/temperature", b"21.5", 1, False)


def test_no_other():
    tried = {
        "Using the library",
        "The flash spool",
        "Deep sleep",
        "Messages larger than memory",
        "TLS",
        "Coming from umqtt.simple",
        "With asyncio",
    }
    assert set(EXAMPLES) == tried
