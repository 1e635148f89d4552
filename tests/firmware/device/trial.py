# A change of the configuration, with the power cut at every program and erase operation of it.
#
#     trial.py LAST SCENARIO    LAST: "half" if the last operation is done by half

import gc
import json
import os
import sys

import nor
import vfs

import config
import remote

PATH = "/flash/config.json"
OLD = {"interval": 1, "broker": ["host%050d" % n for n in range(20)]}  # some blocks
FILES = ["config.json", "secrets.json"]


class Run:
    """What a device does until its power fails, and what it knows then."""

    def __init__(self, half):
        self.device = nor.Flash(32, 512)
        self.device.half = half
        self.resets = 0
        vfs.mount(self.device, "/flash")
        for name, content in (("config", OLD), ("secrets", {"user": "u"})):
            with open("/flash/%s.json" % name, "w") as file:
                json.dump(content, file)
        self.stop()
        self.sure = 1  # the interval that it has to be in the end; None: either

    def stop(self):
        vfs.umount("/flash")
        gc.collect()  # files that could not be closed

    def start(self):
        vfs.mount(self.device, "/flash")
        config.load(PATH)
        self.said = remote.boot_check(PATH, self.reset)
        self.settings = config.load(PATH)
        return self.said, self.settings["interval"]

    def restart(self):
        self.stop()
        return self.start()

    def reset(self):
        self.resets += 1

    def change(self):
        assert remote.propose({"interval": 10}, self.settings)["interval"] == 10
        remote.begin(PATH)
        assert self.restart() == ("trial", 10)

    def confirm(self):
        self.sure = None
        remote.confirm()
        self.sure = 10


def confirmed(run):
    run.change()
    run.confirm()
    assert run.restart() == (None, 10)


def started_again(run):
    run.change()
    assert run.restart() == ("trial", 10)
    assert run.restart() == ("rolled back", 1)
    assert run.restart() == (None, 1)


def too_late(run):
    run.change()
    assert remote.poll(1000) == 300000
    assert remote.poll(300999) == 1
    assert remote.poll(301000) == 0 and run.resets == 1
    assert run.restart() == ("rolled back", 1)
    assert remote.poll(301000) > 0
    assert not remote.rollback()
    assert run.restart() == (None, 1)


def without_restart(run):
    """Carried out at once; the first acknowledgement confirms."""
    remote.propose({"interval": 10}, run.settings)
    remote.begin(PATH, run.reset)
    try:
        remote.propose({"interval": 20}, run.settings)
        raise AssertionError
    except config.ConfigError as error:
        assert "on trial" in str(error)
    run.confirm()
    remote.confirm()  # does nothing
    assert run.restart() == (None, 10)


def check(run):
    """What a device finds whose power has failed, and how it ends when it never gets online."""
    first = run.start()
    assert first in ((None, 1), (None, 10), ("trial", 10), ("rolled back", 1)), first
    for _ in range(3):
        last = run.restart()
    assert last[0] is None and last[1] in ((run.sure,) if run.sure else (1, 10)), last
    assert sorted(os.listdir("/flash")) == FILES, os.listdir("/flash")
    run.stop()


def main(last, name):
    scenario = globals()[name]
    k = 0
    while True:
        run = Run(last == "half")
        run.start()
        run.device.left = k
        try:
            scenario(run)
        except OSError:
            assert run.device.off
        except config.ConfigError as error:
            assert run.device.off, error
        run.stop()
        off = run.device.off
        run.device.off = False
        run.device.left = -1
        try:
            check(run)
        except Exception:
            print("cut at operation %d" % k)
            raise
        if not off:
            break
        k += 1
    print(k)


main(*sys.argv[1:])
