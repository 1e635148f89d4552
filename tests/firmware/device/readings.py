# When a sensor is read, and what of it is published. Plain functions for either runtime: plain.py.

import gc
import sys
import time

import simulated
import umqtt_lite  # noqa: F401 (what CPython lacks of MicroPython)
from reading import Reading
from sensors import SensorError

ticks_add, ticks_diff = time.ticks_add, time.ticks_diff


class board:
    pin = simulated.Pin
    onewire = simulated.OneWire
    i2c = simulated.I2C
    adc = simulated.ADC
    pulses = simulated.Pulses


class Fake:
    """A sensor type of the tests: what it raises or returns, and how long it takes."""

    result = {"x": 1}  # or an exception
    takes = 0
    blocks = 0  # ms, in start()
    made = 0

    class Sensor:
        def __init__(self, board, options):
            Fake.made += 1

        def start(self):
            Fake.desk.now = self.began = ticks_add(Fake.desk.now, Fake.blocks)
            return Fake.takes

        def read(self):
            assert ticks_diff(Fake.desk.now, self.began) >= Fake.takes
            if isinstance(Fake.result, Exception):
                raise Fake.result
            return Fake.result


sys.modules["sensors.fake"] = Fake


class Desk:
    """Readings in a time of its own. `log` has (s since the start, what, ...)."""

    def __init__(self, *entries, start=0, late=0):
        Fake.result = {"x": 1}
        Fake.takes = Fake.blocks = Fake.made = 0
        Fake.desk = self
        simulated.clear()
        simulated.ticks_ms = lambda: self.now
        self.start = self.now = start
        self.late = late  # ms that the loop comes round later than asked
        self.polls = 0
        self.log = []
        self.readings = [self.reading(entry) for entry in entries]

    def reading(self, options):
        options = dict(options)
        options.setdefault("type", "fake")
        options.setdefault("name", options["type"])
        options.setdefault("interval", 10)
        return Reading(board, options, self.publish, self.error)

    def at(self):
        return ticks_diff(self.now, self.start) / 1000

    def publish(self, name, values):
        self.log.append((self.at(), name, dict(values)))

    def error(self, name, text):
        self.log.append((self.at(), name + "/error", text))

    def run(self, seconds):
        """Poll all of them whenever the first one asks for it, up to but not at the end."""
        end = ticks_add(self.now, int(seconds * 1000))
        while True:
            left = 1 << 28
            for reading in self.readings:
                wait = reading.poll(self.now)
                assert wait > 0, wait
                left = min(left, wait)
            self.polls += 1
            left += self.late
            if ticks_diff(end, self.now) <= left:
                self.now = end
                return self
            self.now = ticks_add(self.now, left)

    def jump(self, seconds):
        self.now = ticks_add(self.now, int(seconds * 1000))

    def taken(self, what="fake"):
        """What was said of that since the last call."""
        found = [entry for entry in self.log if entry[1] == what]
        self.log = [entry for entry in self.log if entry[1] != what]
        return found

    def xs(self):
        return [entry[2]["x"] for entry in self.taken()]

    def times(self):
        return [entry[0] for entry in self.taken()]

    def feed(self, *values):
        """Each in one reading. Returns what was published, None where nothing was."""
        found = []
        for value in values:
            Fake.result = {"x": value}
            self.run(10)
            found += self.xs() or [None]
        return found


# When


def test_every_interval():
    assert Desk({"interval": 10}).run(35).times() == [0, 10, 20, 30]
    assert Desk({"interval": 0.1}).run(0.35).times() == [0, 0.1, 0.2, 0.3]


def test_one_poll_for_each_reading():
    assert Desk({"interval": 60}).run(3599).polls == 60


def test_no_drift():
    """However late the loop, as long as it is less than an interval."""
    desk = Desk({"interval": 10}, late=700)
    desk.run(3000)
    times = desk.times()
    assert len(times) == 300
    assert all(0 <= t - 10 * n < 0.8 for n, t in enumerate(times))


def test_missed_readings_are_not_made_up_for():
    desk = Desk({"interval": 10})
    desk.run(15)
    desk.jump(100)
    desk.run(25)
    assert desk.times() == [0, 10, 115, 125, 135]


def test_conversion():
    desk = Desk({"interval": 10})
    Fake.takes = 750
    desk.run(35)
    assert desk.times() == [0.751, 10.751, 20.751, 30.751]
    assert desk.polls == 12


def test_conversion_takes_its_time():
    """From start() on, not from a `now` that was some time ago."""
    desk = Desk({"interval": 10})
    Fake.takes = 750
    Fake.blocks = 300
    assert desk.run(35).times() == [1.051, 11.051, 21.051, 31.051]


def test_a_conversion_longer_than_the_interval():
    desk = Desk({"interval": 0.5})
    Fake.takes = 750
    assert desk.run(4).times() == [0.751, 2.002, 3.253]


def test_ticks_wrap():
    desk = Desk(
        {"interval": 10, "values": {"x": {"change": 1, "max": 30}}}, start=ticks_add(0, -15000)
    )
    assert desk.run(95).times() == [0, 30, 60, 90]


def test_a_clock_that_jumps():
    desk = Desk({"interval": 10})
    desk.run(15)
    desk.log.clear()
    for jump in (-5000, 5000, -100000, 100000):
        desk.jump(jump)
        desk.run(25)
        assert 2 <= len(desk.taken()) <= 3, jump


def test_weeks_without_a_change():
    """Longer than ticks_diff can tell on a board, and no earlier than `min` says."""
    desk = Desk({"interval": 43200, "values": {"x": {"change": 1, "min": 60}}})
    desk.run(86400 * 30)
    Fake.result = {"x": 2}
    desk.run(43200)
    assert desk.xs() == [1, 2]


# What


def one(*args, **options):
    options["interval"] = 10
    desk = Desk({"values": {"x": options}})
    return desk.feed(*args)


def test_calibration():
    assert one(10, -5.5, scale=2, offset=-0.5) == [19.5, -11.5]
    assert one(1, 0) == [1, 0]
    assert type(one(1)[0]) is int


def test_rounding():
    assert one(21.23456) == [21.23]
    assert one(21.23456, round=None) == [21.23]
    assert one(21.23456, round=1) == [21.2]
    assert one(21.6, round=0) == [22]
    assert type(one(21.6, round=0)[0]) is int
    assert one(21.23456, round=4) == [21.2346]


def test_median():
    found = one(1, 9, 2, 100, 3, 4, 5, filter=("median", 3))
    assert found == [1, 5, 2, 9, 3, 4, 4]
    found = one(5, 1, 4, 100, filter=("median", 4))
    assert found == [5, 3, 4, 4.5]


def test_mean():
    assert one(2, 4, 6, 8, 0, filter=("mean", 4)) == [2, 3, 4, 5, 4.5]


def test_a_window_is_bounded():
    desk = Desk({"values": {"x": {"filter": ("mean", 1000)}}})
    desk.feed(*range(100))
    assert len(desk.readings[0]._windows["x"]) == 32


def test_change():
    found = one(20, 20.4, 20.49, 20.5, 20.1, 20, 20.6, change=0.5)
    assert found == [20, None, None, 20.5, None, 20, 20.6]
    # what floats make of 0.1 is no reason
    assert one(21.2, 21.3, 21.4, 21.5, change=0.1) == [21.2, 21.3, 21.4, 21.5]


def test_minimum_interval():
    assert one(1, 2, 3, 4, 5, 5, 5, min=30) == [1, None, None, 4, None, None, 5]
    assert one(1, 2, 2, 2, 2, change=1, min=30) == [1, None, None, 2, None]


def test_maximum_interval():
    assert one(1, 1, 1, 1, 1, change=1, max=30) == [1, None, None, 1, None]
    assert one(1, 1, 1, 1, 1, change=1, max=25) == [1, None, 1, None, 1]  # never longer
    assert one(1, 1, 1, change=1, max=5) == [1, 1, 1]


def test_values_go_together():
    """All of a reading, as soon as one of them is due."""
    desk = Desk({"values": {"x": {"change": 1}, "y": {"change": 5}}})
    found = []
    for x, y in ((0, 0), (0, 4), (1, 4), (1, 8), (1, 9)):
        Fake.result = {"x": x, "y": y}
        desk.run(10)
        found.append([entry[2] for entry in desk.taken()])
    assert found == [[{"x": 0, "y": 0}], [], [{"x": 1, "y": 4}], [], [{"x": 1, "y": 9}]]


def test_asked_for():
    desk = Desk({"interval": 60, "values": {"x": {"change": 10, "min": 600}}})
    desk.run(5)
    desk.readings[0].read()
    desk.run(5)
    assert desk.times() == [0, 5]
    Fake.takes = 100
    desk.readings[0].read()
    desk.run(0.05)
    desk.readings[0].read()  # it is on its way
    desk.run(100)
    assert desk.times() == [10.101]


def test_set():
    desk = Desk({"interval": 600})
    desk.run(20)
    reading = desk.readings[0]
    reading.set({"interval": 30})
    assert desk.run(45).times() == [0, 30, 60]
    reading.set({"interval": 1})  # one that is overdue then
    assert desk.run(2.5).times() == [65, 66, 67]
    reading.set({"interval": 600})
    assert desk.run(1000).times() == [667]
    reading.set({"values": {"x": {"scale": 3, "filter": ("mean", 3)}}})
    desk.run(600)
    reading.set({"values": {"x": {"offset": 1}}})
    desk.run(600)
    assert desk.xs() == [3, 4]


def test_set_changes_one_value_only():
    """The configuration's checker gives values without options one dict for all of them."""
    plain = {"scale": 1, "offset": 0}
    desk = Desk({"values": {"x": plain, "y": plain}})
    Fake.result = {"x": 1, "y": 1}
    desk.readings[0].set({"values": {"x": {"scale": 5}}})
    assert desk.run(1).taken()[0][2] == {"x": 5, "y": 1}
    assert plain["scale"] == 1


# What goes wrong


def test_whatever_is_raised_is_told_once():
    class Odd(Exception):
        pass

    cases = (
        (OSError(5), "no answer: "),
        (SensorError("CRC", "long wire?"), "CRC: long wire?"),
        (SensorError("CRC"), "CRC"),
        (Odd("what"), "Odd: what"),
        (MemoryError("x"), "MemoryError: x"),
        (KeyError("pin"), "KeyError: "),
    )
    for error, text in cases:
        desk = Desk({})
        desk.run(15)
        assert desk.taken("fake/error") == [(0, "fake/error", None)]
        Fake.result = error
        desk.run(100)
        told = desk.taken("fake/error")
        assert [entry[0] for entry in told] == [20]
        assert told[0][2].startswith(text), told
        reading = desk.readings[0]
        assert reading.error == told[0][2]
        assert reading.errors == 6  # at 20, 22, 26, 34, 50, 82
        Fake.result = {"x": 1}
        desk.run(100)
        assert desk.taken("fake/error") == [(146, "fake/error", None)]
        assert reading.error is None and reading.errors == 6 and Fake.made == 7
        assert desk.times() == [0, 10, 146, 156, 166, 176, 186, 196, 206]


def test_another_error_is_told():
    desk = Desk({})
    Fake.result = SensorError("range", "x 1")
    desk.run(1)
    Fake.result = SensorError("range", "x 2")
    desk.run(2)
    Fake.result = OSError(19)
    desk.run(4)
    assert [entry[2][:5] for entry in desk.taken("fake/error")] == ["range", "no an"]


def test_it_is_tried_again_with_a_limit():
    desk = Desk({})
    Fake.result = OSError(5)
    desk.run(86400)
    assert Fake.made == 6 + (86400 - 62) // 64
    assert desk.readings[0].errors == Fake.made
    assert len(desk.log) == 1
    # and at once when somebody asks
    Fake.result = {"x": 7}
    desk.readings[0].read()
    assert desk.run(0.001).xs() == [7]


def test_no_such_type():
    desk = Desk({"type": "nonsense"})
    desk.run(10)
    assert "ImportError" in desk.log[0][2] or "ModuleNotFound" in desk.log[0][2]


def test_no_hook_for_errors():
    desk = Desk()
    reading = Reading(board, {"name": "a", "type": "fake", "interval": 1}, desk.publish)
    Fake.result = OSError(5)
    assert reading.poll(0) == 2000
    Fake.result = {"x": 1}
    assert reading.poll(2000) == 1000
    assert desk.taken("a")


def test_no_nan_is_published():
    nan, inf = float("nan"), float("inf")
    for bad in (nan, inf, -inf):
        desk = Desk({"values": {"x": {"filter": ("mean", 3)}}})
        desk.run(10)
        Fake.result = {"x": bad}
        desk.run(1)
        Fake.result = {"x": 2}
        desk.run(9)
        assert desk.taken() == [(0, "fake", {"x": 1}), (12, "fake", {"x": 1.5})]
        assert "range: x is not a number" in [entry[2] for entry in desk.log]
    assert one(1e30, scale=1e9) == [None]


def test_recovery_is_published():
    """Even what has not changed."""
    desk = Desk({"values": {"x": {"change": 5}}})
    desk.run(15)
    Fake.result = OSError(5)
    desk.run(10)
    Fake.result = {"x": 1}
    desk.run(10)
    assert desk.xs() == [1, 1]


def test_filters_outlive_a_single_failure_only():
    desk = Desk({"values": {"x": {"filter": ("mean", 2)}}})
    assert desk.feed(2) == [2]
    Fake.result = OSError(5)
    desk.run(1)
    Fake.result = {"x": 4}
    desk.run(9)
    assert desk.xs() == [3]
    Fake.result = OSError(5)
    desk.run(600)
    Fake.result = {"x": 100}
    desk.run(64)
    assert desk.xs()[0] == 100


def test_stuck():
    desk = Desk({"stuck": 60})
    desk.run(1)
    Fake.result = {"x": 5}
    desk.run(600)
    assert len(desk.taken()) == 7  # 0, and 10 to 60
    told = desk.taken("fake/error")
    assert [entry[0] for entry in told] == [0, 70]
    assert told[1][2] == "stuck: the same values for 60 s"
    Fake.result = {"x": 6}
    desk.run(100)
    assert desk.taken("fake/error")[0][2] is None
    assert desk.xs()


# With the drivers and the simulated chips

AIR = {"type": "bme280", "i2c": {"id": 0, "scl": 1, "sda": 2}, "address": 0x76}
SHT = {"type": "sht3x", "i2c": {"id": 0, "scl": 1, "sda": 2}, "address": 0x44}
PROBE = {"type": "ds18b20", "pin": 4}
DHT = {"type": "dht", "pin": 5}


def test_only_what_is_configured_is_imported():
    for name in ("bme280", "sht3x", "ds18b20"):
        sys.modules.pop("sensors." + name, None)
    Desk(SHT).run(1)
    assert "sensors.sht3x" in sys.modules
    assert "sensors.bme280" not in sys.modules and "sensors.ds18b20" not in sys.modules


def test_one_that_fails_stops_no_other():
    def lose(chip):
        chip.fault = "absent"

    def damage(chip):
        chip.fault = "CRC"

    def overshoot(chip):
        chip.fault = "high"

    for broken, breaks in ((0, lose), (1, damage), (2, overshoot), (3, damage)):
        desk = Desk(AIR, SHT, PROBE, DHT)
        desk.run(15)
        bus = board.i2c(AIR["i2c"]).chips
        chips = (bus[0x76], bus[0x44], board.pin(4).wire.chips[0], board.pin(5).dht)
        breaks(chips[broken])
        desk.log.clear()
        desk.run(100)
        chips[broken].fault = None
        for i, name in enumerate(("bme280", "sht3x", "ds18b20", "dht")):
            assert len(desk.taken(name)) == (0 if i == broken else 10), name
            assert len(desk.taken(name + "/error")) == (i == broken)
        desk.run(100)
        assert [entry[2] for entry in desk.log if "error" in entry[1]] == [None]


def test_a_chip_that_is_stuck():
    desk = Desk(dict(SHT, stuck=60))
    desk.run(1)
    board.i2c(SHT["i2c"]).chips[0x44].fault = "stuck"
    desk.run(200)
    told = desk.taken("sht3x/error")
    assert [entry[2] for entry in told] == [None, "stuck: the same values for 60 s"]
    board.i2c(SHT["i2c"]).chips[0x44].fault = None
    desk.run(100)
    assert desk.taken("sht3x/error")[0][2] is None


def test_a_contact_is_published_at_once():
    entry = {"type": "digital", "pin": 6, "debounce": 50, "interval": 600}
    desk = Desk(dict(entry, values={"state": {"change": 1, "min": 300}}))
    pin = board.pin(6)
    pin.level = 0
    desk.run(100)
    found = []
    for level in (1, 0, 1):
        pin.level = level
        desk.run(5)
    found = desk.taken("digital")
    assert [entry[2]["state"] for entry in found] == [0, 1, 0, 1]
    for entry in found[1:]:
        assert 0.04 < entry[0] % 5 < 0.11
    pin.level = 0
    desk.run(0.03)
    pin.level = 1
    desk.run(500)
    assert not desk.taken("digital")  # too short


def test_pulses_per_interval():
    desk = Desk({"type": "pulse", "pin": 7, "interval": 10, "values": {"rate": {"scale": 60}}})
    counter = board.pulses(7)
    counter.rate = 0
    for count in (0, 20, 0, 5):
        counter.count += count
        desk.run(10)
    found = [entry[2] for entry in desk.taken("pulse")]
    assert found == [
        {"count": 0, "total": 0},
        {"count": 20, "total": 20, "rate": 120},
        {"count": 0, "total": 20, "rate": 0},
        {"count": 5, "total": 25, "rate": 30},
    ]


def test_a_day_with_faults():
    """Of a sensor that comes and goes, beside one that is well; memory stays as it was."""
    desk = Desk(SHT, dict(DHT, interval=60))
    chip = board.i2c(SHT["i2c"]).chips[0x44]
    faults = (None, "CRC", None, "absent", "high", None, "reset")
    used = []
    for hour in range(24):
        chip.fault = faults[hour % len(faults)]
        seen = [0, 0]
        for _ in range(12):
            desk.run(300)
            seen[0] += len(desk.taken("dht"))
            seen[1] += len(desk.taken("sht3x"))
            desk.log.clear()
        assert seen[0] == 60
        assert 350 < seen[1] <= 360 if not chip.fault else not seen[1], (hour, seen)
        gc.collect()
        if hasattr(gc, "mem_alloc"):
            used.append(gc.mem_alloc())
    assert not used or max(used[12:]) <= max(used[:12]) + 256, used
