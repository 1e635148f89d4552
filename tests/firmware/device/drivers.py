# The drivers, on simulated chips. Plain functions for either runtime: tests/plain.py.

import simulated
import umqtt_lite  # noqa: F401 (what CPython lacks of MicroPython)
from sensors import SensorError, adc, bme280, chip, dht, digital, ds18b20, pulse, sht3x
from simulated import BME280, DS18B20, SHT3x

I2C = {"i2c": {"id": 0}}
clock = 0
simulated.ticks_ms = lambda: clock


class board:
    pin = simulated.Pin
    onewire = simulated.OneWire
    i2c = simulated.I2C
    adc = simulated.ADC
    pulses = simulated.Pulses

    @staticmethod
    def temperature():
        return simulated.room.temperature() + 9


def raised(kind, function, *args):
    """What the function raises: for a SensorError its kind, for an OSError its number."""
    try:
        function(*args)
    except (SensorError, OSError) as error:
        if error.args[0] == kind:
            return error.args
        raise
    raise AssertionError("nothing was raised")


def near(found, wanted, by):
    assert abs(found - wanted) <= by, (found, wanted)


def room(temperature=21.5, humidity=45.0, pressure=1013.0):
    """A fresh simulation, with the air as given."""
    simulated.clear()
    simulated.room.temperature = lambda: temperature
    simulated.room.humidity = lambda: humidity
    simulated.room.pressure = lambda: pressure


def measure(sensor):
    """start(), wait as long as it says and no longer, read()."""
    global clock
    clock += sensor.start()
    return sensor.read()


def check_air(sensor, t, h, p=None):
    values = measure(sensor)
    near(values["temperature"], t, 0.02)
    near(values["humidity"], h, 0.1)
    if p:
        near(values["pressure"], p, 0.1)
    assert len(values) == (3 if p else 2)


# BME280


def test_bme280_worked_figures():
    """Of BST-BMP280-DS001, section 3.12: its formulas are the same."""
    fine = bme280.t_fine(519888, (27504, 26435, -1000))
    assert fine == 128422
    assert bme280.temperature(fine) == 2508
    p = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
    # 100653.27 Pa there, of the formula in floating point: t_fine loses 0.01 Pa as an integer.
    assert bme280.pressure(415148, fine, p) == 25767233
    near(BME280().pressure(415148, BME280().fine(519888)), 100653.27, 0.005)


def test_bme280_integers_agree_with_section_8_1():
    c = BME280()
    for h in (BME280.H, (0, 350, 0, -300, -50, 30), (75, 380, 10, 330, 0, -30)):
        c.H = h
        for raw in range(380000, 700000, 39999):
            fine = bme280.t_fine(raw, c.T)
            near(bme280.temperature(fine) / 100, c.temperature(raw), 0.01)
            for raw in range(15000, 45000, 2999):
                wanted = min(max(c.humidity(raw, fine), 0), 100)
                near(bme280.humidity(raw, fine, h) / 1024, wanted, 0.05)
            for raw in range(250000, 600000, 49999):
                near(bme280.pressure(raw, fine, c.P) / 256, c.pressure(raw, fine), 0.5)


def test_bme280_reads_the_room():
    for t, h, p in ((21.5, 45, 1013), (-39.5, 5, 301), (84, 95, 1099), (0, 99, 950)):
        room(t, h, p)
        sensor = bme280.Sensor(board, I2C)
        check_air(sensor, t, h, p)
        check_air(sensor, t, h, p)


def test_bme280_signs_of_the_calibration():
    """dig_H4 and H5 have 12 bits and a sign."""
    room()
    i2c = board.i2c(I2C["i2c"])
    i2c.chips[0x77] = BME280()
    i2c.chips[0x77].H = (75, 180, 0, -325, -50, -30)
    simulated.room.humidity = lambda: 90
    check_air(bme280.Sensor(board, {"i2c": {"id": 0}, "address": 0x77}), 21.5, 90, 1013)


def bme280_with(fault):
    """A sensor whose chip gets that fault once it is found, and the chip."""
    room()
    sensor = bme280.Sensor(board, I2C)
    found = board.i2c(I2C["i2c"]).chips[0x76]
    measure(sensor)
    found.fault = fault
    return sensor, found


def test_bme280_absent():
    sensor, found = bme280_with("absent")
    raised(19, sensor.start)
    raised(19, sensor.read)
    raised(19, bme280.Sensor, board, I2C)
    found.fault = None
    check_air(sensor, 21.5, 45, 1013)


def test_bme280_wrong_chip():
    sensor, found = bme280_with(None)
    for id, name in ((0x58, "BMP280"), (0x61, "BME680"), (0xFF, "0xff")):
        found.id = id
        assert name in raised("wrong chip", bme280.Sensor, board, I2C)[1]


def test_bme280_without_calibration():
    bme280_with("blank")
    raised("calibration", bme280.Sensor, board, I2C)


def test_bme280_beyond_its_range():
    sensor, found = bme280_with("high")
    assert "temperature 187" in raised("range", measure, sensor)[1]
    found.fault = None
    for name, value in (("temperature", 85.1), ("temperature", -40.1), ("pressure", 299)):
        room(**{name: value})
        assert name in raised("range", measure, bme280.Sensor(board, I2C))[1]


def test_bme280_reset_between():
    sensor, found = bme280_with("reset")
    raised("reset", measure, sensor)
    found.fault = None
    check_air(sensor, 21.5, 45, 1013)


def test_bme280_too_early():
    """What it measured before the first conversion is not a reading."""
    room()
    sensor = bme280.Sensor(board, I2C)
    sensor.start()
    raised("reset", sensor.read)


# SHT3x


def test_sht3x_worked_figures():
    """Of the data sheet: section 4.12, table 20, and the ends of 4.13."""
    assert sht3x.crc(b"\xbe\xef") == 0x92
    assert sht3x.crc(b"\xbe\xef\x92") == 0
    assert sht3x.temperature(0) == -4500 and sht3x.temperature(65535) == 13000
    assert sht3x.humidity(0) == 0 and sht3x.humidity(65535) == 10000
    for raw in range(0, 65536, 1311):
        near(sht3x.temperature(raw) / 100, -45 + 175 * raw / 65535, 0.00501)
        near(sht3x.humidity(raw) / 100, 100 * raw / 65535, 0.00501)


def test_sht3x_reads_the_room():
    for t, h in ((21.5, 45), (-39.9, 0), (124.9, 100)):
        room(t, h)
        sensor = sht3x.Sensor(board, I2C)
        check_air(sensor, t, h)
        check_air(sensor, t, h)


def test_sht3x_faults():
    room()
    sensor = sht3x.Sensor(board, I2C)
    found = board.i2c(I2C["i2c"]).chips[0x44]
    for fault, kind in (("absent", 19), ("CRC", "CRC"), ("high", "range"), ("reset", 19)):
        found.fault = fault
        raised(kind, measure, sensor)
        found.fault = None
        check_air(sensor, 21.5, 45)
    sensor.start()
    raised(19, sensor.read)  # too early: the chip has nothing yet
    board.i2c(I2C["i2c"]).chips[0x45] = SHT3x()
    check_air(sht3x.Sensor(board, {"i2c": {"id": 0}, "address": 0x45}), 21.5, 45)


def test_sht3x_every_flipped_bit():
    room()
    sensor = sht3x.Sensor(board, I2C)
    measure(sensor)
    good = board.i2c(I2C["i2c"]).chips[0x44]._data
    for bit in range(48):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        board.i2c(I2C["i2c"]).chips[0x44].read = lambda n, data=data: bytes(data)
        raised("CRC", sensor.read)


# DS18B20

PIN = {"pin": 4}


def test_ds18b20_reads_the_room():
    for t in (21.5, -0.0625, -55, 125, 0, 85.0625):
        room(t)
        sensor = ds18b20.Sensor(board, PIN)
        assert measure(sensor) == {"temperature": t}
        assert measure(sensor) == {"temperature": t}


def test_ds18b20_worked_figures():
    """Of Maxim's 19-7487, table 1."""
    room()
    sensor = ds18b20.Sensor(board, PIN)
    measure(sensor)
    found = board.pin(4).wire.chips[0]
    for raw, t in ((0x0191, 25.0625), (0x00A2, 10.125), (0x0008, 0.5), (0xFFF8, -0.5)):
        found._value = raw
        assert sensor.read() == {"temperature": t}
    for raw, t in ((0xFF5E, -10.125), (0xFE6F, -25.0625), (0xFC90, -55), (0x07D0, 125)):
        found._value = raw
        assert sensor.read() == {"temperature": t}


def test_ds18b20_several_on_one_bus():
    room()
    wire = board.pin(4).wire
    wire.chips = [DS18B20(serial) for serial in (1, 2, 3, 0x800000000001, 0xFFFFFFFFFFFF)]
    roms = sorted(chip.rom for chip in wire.chips)
    found = ds18b20.Sensor(board, {"pin": 4, "rom": roms[0].hex()})
    assert sorted(map(bytes, found._driver.scan())) == roms
    names = raised("several", ds18b20.Sensor, board, PIN)[1]
    for rom in roms:
        assert rom.hex() in names
        assert measure(ds18b20.Sensor(board, {"pin": 4, "rom": rom.hex()})) == {
            "temperature": 21.5
        }
    # One that converts does not disturb another.
    found.start()
    others = [chip for chip in wire.chips if chip._until is not None]
    assert [chip.rom for chip in others] == [roms[0]]


def test_ds18b20_faults():
    room()
    sensor = ds18b20.Sensor(board, PIN)
    found = board.pin(4).wire.chips[0]
    faults = (("absent", "absent"), ("CRC", "CRC"), ("high", "range"), ("reset", "reset"))
    for fault, kind in faults:
        found.fault = fault
        raised(kind, measure, sensor)
        found.fault = None
        assert measure(sensor) == {"temperature": 21.5}


def test_ds18b20_leaves_the_bus():
    global clock
    room()
    wire = board.pin(4).wire
    sensor = ds18b20.Sensor(board, PIN)
    clock += sensor.start()
    wire.chips[0].fault = "absent"
    raised("absent", sensor.read)
    raised("absent", ds18b20.Sensor, board, PIN)
    wire.chips = [DS18B20(7)]  # another probe than the one that is configured
    assert "rom" in raised("absent", measure, sensor)[1]
    wire.chips = []
    raised("absent", sensor.start)


def test_ds18b20_bus_held_low():
    """It looks like a probe at 0 °C, with a CRC that is right."""
    global clock
    room()
    wire = board.pin(4).wire
    sensor = ds18b20.Sensor(board, PIN)
    clock += sensor.start()
    wire.short = True
    raised("short", sensor.read)
    raised("short", sensor.start)
    raised("short", ds18b20.Sensor, board, PIN)


def test_ds18b20_warm():
    """85 °C is what it has after power-on, unless it comes from near."""
    t = 84.9375
    room()
    simulated.room.temperature = lambda: t
    sensor = ds18b20.Sensor(board, PIN)
    measure(sensor)
    t = 85
    assert measure(sensor) == {"temperature": 85}
    raised("reset", measure, ds18b20.Sensor(board, PIN))


# DHT


def test_dht_reads_the_room():
    for t, h in ((21.5, 45.0), (-0.3, 1.0), (-39.9, 99.9), (80.0, 100.0)):
        room(t, h)
        values = measure(dht.Sensor(board, PIN))
        near(values["temperature"], t, 0.01)
        near(values["humidity"], h, 0.01)
    room(21.7, 45.2)
    values = measure(dht.Sensor(board, {"pin": 4, "model": "DHT11"}))
    assert values == {"temperature": 21, "humidity": 45}


def test_dht_faults():
    for model in ("DHT11", "DHT22"):
        room()
        sensor = dht.Sensor(board, {"pin": 4, "model": model})
        found = board.pin(4).dht
        for fault, kind in (("absent", 110), ("CRC", "CRC"), ("low", "range")):
            found.fault = fault
            raised(kind, measure, sensor)
            found.fault = None
            measure(sensor)
    room(80.1)
    assert "temperature" in raised("range", measure, dht.Sensor(board, PIN))[1]
    room(61)
    assert "to 60" in raised("range", measure, dht.Sensor(board, {"pin": 4, "model": "DHT11"}))[1]


# The board's own


def test_chip():
    room()
    assert measure(chip.Sensor(board, {})) == {"temperature": 30.5}
    room(200)
    raised("range", measure, chip.Sensor(board, {}))


def test_adc():
    room()
    levels = [0, 65535, 65535, 0]
    board.adc(3).read_u16 = lambda: levels.pop()
    near(measure(adc.Sensor(board, {"pin": 3, "samples": 4}))["value"], 50, 0.001)
    levels = [65535] * 8
    near(measure(adc.Sensor(board, {"pin": 3}))["value"], 100, 0.001)


def test_pulse():
    room()
    counter = board.pulses(5)
    counter.rate = 0
    counter.count = 7
    sensor = pulse.Sensor(board, {"pin": 5})

    def values(count, now):
        counter.count += count
        sensor.poll(now)
        return measure(sensor)

    assert values(0, 0) == {"count": 0, "total": 0}
    assert values(30, 2000) == {"count": 30, "total": 30, "rate": 15}
    assert values(0, 3000) == {"count": 0, "total": 30, "rate": 0}


def test_pulse_counters_that_wrap():
    for bits in (16, 30, 32):
        room()
        counter = board.pulses(5)
        counter.rate = 0
        counter.bits = bits
        counter.count = (1 << bits) - 10
        sensor = pulse.Sensor(board, {"pin": 5})
        sensor.poll(0)
        for total in range(4, 40, 4):
            counter.count += 4
            assert measure(sensor) == {"count": 4, "total": total}


def test_digital():
    room()
    pin = board.pin(6)
    pin.level = 1
    sensor = digital.Sensor(board, {"pin": 6, "pull": "up", "invert": True, "debounce": 50})
    assert sensor.poll(0) == 25
    assert measure(sensor) == {"state": 0}
    # bounces, then stays
    for now in range(0, 200, 20):
        pin.level ^= 1
        assert sensor.poll(now)
    pin.level = 0
    looks = []
    for now in range(200, 300, 25):
        looks.append(sensor.poll(now))
    assert looks == [25, 25, 0, 25]
    assert measure(sensor) == {"state": 1}
    # a clock that goes back keeps it from nothing
    pin.level = 1
    assert [sensor.poll(now) for now in (300, -9000)] == [25, 0]
    pin.level = 0
    sensor = digital.Sensor(board, {"pin": 6, "debounce": 0})
    pin.level = 1
    assert [sensor.poll(n) for n in (0, 1)] == [0, 10]
    assert measure(sensor) == {"state": 1}


# What each module says of itself


def test_values():
    """A sensor reads what its module says, no more and no less."""
    room()
    options = {"i2c": {"id": 0}, "pin": 4}
    for module in (adc, bme280, chip, dht, digital, ds18b20, pulse, sht3x):
        sensor = module.Sensor(board, options)
        if hasattr(sensor, "poll"):
            sensor.poll(0)
            measure(sensor)
            sensor.poll(1000)
        assert sorted(measure(sensor)) == sorted(module.VALUES)
