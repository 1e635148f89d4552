"""The desk's hardware: chips at register level on simulated buses, and what is at the pins.

Has the faces of machine.I2C, machine.Pin and machine.ADC, as far as the drivers use them; dht.py,
onewire.py and ds18x20.py beside this file stand for MicroPython's own, which its unix port lacks.
All chips are in one `room`. Each has a `fault`: None, "absent", "stuck", or what its class names.

    I2C(options).chips[address]
    Pin(n).wire.chips, Pin(n).dht, Pin(n).level
    ADC(n).level
    Pulses(n).rate, .count, .bits

The same pin or bus is always the same object; clear() makes all of them new. Nothing here sleeps:
a conversion takes its time by ticks_ms, which a test may replace.
"""

import random
import time

ENODEV = 19
ETIMEDOUT = 110


def ticks_ms():
    return time.ticks_ms()


def after(ms):
    return time.ticks_add(ticks_ms(), ms)


def due(at):
    """Whether that time has come; None never does."""
    return at is not None and time.ticks_diff(ticks_ms(), at) >= 0


class Walk:
    """A value that wanders about `mean` and stays within `reach` of it."""

    def __init__(self, mean, reach):
        self.mean = mean
        self.reach = reach
        self.offset = random.uniform(-reach, reach) / 2

    def __call__(self):
        # The pull back equals the largest step at the edge: it cannot get out.
        self.offset = self.offset * 0.95 + random.uniform(-self.reach, self.reach) / 20
        return self.mean + self.offset


class Room:
    """°C, %, hPa."""

    temperature = Walk(21.5, 4)
    humidity = Walk(45, 15)
    pressure = Walk(1013, 20)


room = Room()
_things = {}


def clear():
    _things.clear()


def _same(key, make):
    if key not in _things:
        _things[key] = make()
    return _things[key]


# What boards/unix/board.py asks for


def Pin(n, pull=None):
    return _same(n, Line)


def OneWire(n):
    import onewire

    return onewire.OneWire(Pin(n))


def I2C(options):
    return _same("i2c %d" % options["id"], Bus)


def ADC(n):
    return _same("adc %d" % n, Level)


def Pulses(n):
    return _same("pulses %d" % n, Counter)


# At the pins


class Line:
    """An input whose level changes every 10 s, unless `level` says what it is."""

    IN = OPEN_DRAIN = PULL_UP = PULL_DOWN = 0
    level = None

    def __init__(self):
        self.wire = Wire()
        self.dht = DHT()

    def init(self, *args):
        pass

    def value(self):
        return ticks_ms() // 10000 & 1 if self.level is None else self.level


class Level:
    def __init__(self):
        self.level = Walk(40000, 8000)

    def read_u16(self):
        return min(max(int(self.level() + random.uniform(-50, 50)), 0), 65535)


class Counter:
    """A counter of `bits` that gets `rate` pulses per second."""

    rate = 4
    bits = 32

    def __init__(self):
        self.count = 0
        self._last = ticks_ms()

    def value(self):
        n = time.ticks_diff(ticks_ms(), self._last) * self.rate // 1000
        if n:
            self.count += n
            self._last = ticks_ms()
        return self.count & (1 << self.bits) - 1


class DHT:
    """A DHT11 or DHT22, whichever is asked for. Faults: "CRC", "low" (the line is held low)."""

    model = 22
    fault = None
    _frame = None

    def readinto(self, buf):
        """What machine.dht_readinto of MicroPython does."""
        if self.fault == "absent":
            raise OSError(ETIMEDOUT)
        if self.fault != "stuck" or not self._frame:
            t, h = room.temperature(), room.humidity()
            if self.model == 11:
                data = (int(h), 0, int(t), 0)
            else:
                t, h = round(t * 10), round(h * 10)
                sign = 0x80 if t < 0 else 0
                data = (h >> 8, h & 255, abs(t) >> 8 | sign, abs(t) & 255)
            self._frame = bytes(data) + bytes((sum(data) & 255,))
        buf[:] = bytes(5) if self.fault == "low" else self._frame
        if self.fault == "CRC":
            buf[4] ^= 0x10


# I2C


class Bus:
    """A bus with a BME280 and an SHT3x."""

    def __init__(self):
        self.chips: dict = {0x76: BME280(), 0x44: SHT3x()}

    def _chip(self, address):
        chip = self.chips.get(address)
        if not chip or chip.fault == "absent":
            raise OSError(ENODEV)
        return chip

    def scan(self):
        return sorted(a for a in self.chips if self.chips[a].fault != "absent")

    def writeto(self, address, data, stop=True):
        self._chip(address).write(bytes(data))
        return len(data)

    def readfrom(self, address, n, stop=True):
        return self._chip(address).read(n)

    def writeto_mem(self, address, register, data, *, addrsize=8):
        self._chip(address).write(bytes((register,)) + bytes(data))

    def readfrom_mem(self, address, register, n, *, addrsize=8):
        chip = self._chip(address)
        chip.write(bytes((register,)))
        return chip.read(n)

    def readfrom_into(self, address, buf, stop=True):
        buf[:] = self.readfrom(address, len(buf))

    def readfrom_mem_into(self, address, register, buf, *, addrsize=8):
        buf[:] = self.readfrom_mem(address, register, len(buf))


def search(function, target, size):
    """The raw value below `size` for which a rising or falling function comes next to target."""
    rising = function(size - 1) > function(0)
    low, high = 0, size - 1
    while low < high:
        middle = (low + high) // 2
        if (function(middle) < target) == rising:
            low = middle + 1
        else:
            high = middle
    return low


class BME280:
    """Bosch's BST-BME280-DS002: registers, forced mode, and the inverse of its section 8.1.

    Set `id` to 0x58, and it is a BMP280. Faults: "reset" (it forgets what it measured), "high"
    (full scale), "blank" (no calibration).
    """

    T = (27504, 26435, -1000)
    P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
    H = (75, 360, 0, 325, 50, 30)

    id = 0x60
    fault = None

    def __init__(self):
        self.registers = bytearray(256)
        self._at = 0
        self._until = None  # the end of a conversion
        self._humid = 0  # ctrl_hum, as it is in force
        self._reset()

    def _reset(self):
        self.registers[0xF2:] = bytes(14)
        self.registers[0xF7:0xFF] = b"\x80\0\0\x80\0\0\x80\0"

    def _calibrate(self):
        h = self.H
        words = self.T + self.P
        data = b"".join([(n & 0xFFFF).to_bytes(2, "little") for n in words]) + bytes((0, h[0]))
        self.registers[0x88:0xA2] = data
        h4, h5 = h[3] & 0xFFF, h[4] & 0xFFF
        tail = (h4 >> 4, h4 & 15 | (h5 & 15) << 4, h5 >> 4, h[5] & 255)
        self.registers[0xE1:0xE8] = bytes((h[1] & 255, h[1] >> 8 & 255, h[2]) + tail)
        if self.fault == "blank":
            self.registers[0x88:0xE8] = bytes(0x60)
        self.registers[0xD0] = self.id

    def write(self, data):
        if len(data) == 1:
            self._at = data[0]
        for i in range(0, len(data) - 1, 2):
            self._set(data[i], data[i + 1])

    def _set(self, register, value):
        if register == 0xE0 and value == 0xB6:
            self._reset()
        elif 0xF2 <= register <= 0xF5:
            self.registers[register] = value
            if register == 0xF4:
                self._humid = self.registers[0xF2] & 7
                if value & 3:  # the longest that section 9.1 allows, rounded up
                    self._until = after(10)

    def read(self, n):
        if self.fault == "reset":
            self._reset()
        elif due(self._until):
            self._until = None
            self._convert()
        self._calibrate()
        data = bytes(self.registers[self._at : self._at + n])
        self._at += n
        return data

    def _convert(self):
        control = self.registers[0xF4]
        self.registers[0xF4] = control & 0xFC  # asleep again
        if self.fault == "stuck":
            return
        t = search(self.temperature, room.temperature(), 1 << 20)
        fine = self.fine(t)
        p = search(lambda raw: self.pressure(raw, fine), room.pressure() * 100, 1 << 20)
        h = search(lambda raw: self.humidity(raw, fine), room.humidity(), 1 << 16)
        if self.fault == "high":
            t = 0xFFFFF
        if not control >> 5:
            t = 0x80000
        if not control >> 2 & 7:
            p = 0x80000
        if not self._humid:
            h = 0x8000
        data = (p >> 12, p >> 4 & 255, p << 4 & 255, t >> 12, t >> 4 & 255, t << 4 & 255)
        self.registers[0xF7:0xFF] = bytes(data + (h >> 8, h & 255))

    # section 8.1, in floating point

    def fine(self, raw):
        a = (raw / 16384 - self.T[0] / 1024) * self.T[1]
        return a + (raw / 131072 - self.T[0] / 8192) ** 2 * self.T[2]

    def temperature(self, raw):
        return self.fine(raw) / 5120

    def pressure(self, raw, fine):
        """Pa"""
        p = self.P
        a = fine / 2 - 64000
        b = a * a * p[5] / 32768 + a * p[4] * 2
        b = b / 4 + p[3] * 65536
        a = (p[2] * a * a / 524288 + p[1] * a) / 524288
        a = (1 + a / 32768) * p[0]
        q = (1048576 - raw - b / 4096) * 6250 / a
        return q + (p[8] * q * q / 2147483648 + q * p[7] / 32768 + p[6]) / 16

    def humidity(self, raw, fine):
        h = self.H
        a = fine - 76800
        b = raw - (h[3] * 64 + h[4] / 16384 * a)
        c = 1 + h[5] / 67108864 * a * (1 + h[2] / 67108864 * a)
        b = b * h[1] / 65536 * c
        return b * (1 - h[0] * b / 524288)


class SHT3x:
    """Sensirion's SHT3x-DIS: single shot without clock stretching, high repeatability.

    Faults: "CRC", "high" (full scale), "reset" (it forgets what it was asked for).
    """

    fault = None
    _data = None
    _until = None

    def write(self, data):
        if data == b"\x24\x00" and self.fault != "reset":
            self._until = after(15)

    def read(self, n):
        # It does not acknowledge the header while it has nothing.
        if not due(self._until):
            raise OSError(ENODEV)
        self._until = None
        if self.fault != "stuck" or not self._data:
            t = round((room.temperature() + 45) / 175 * 65535)
            h = round(room.humidity() / 100 * 65535)
            if self.fault == "high":
                t = 65535
            self._data = self._word(t) + self._word(h)
        data = bytearray(self._data)
        if self.fault == "CRC":
            data[4] ^= 1
        return bytes(data[:n])

    def _word(self, value):
        # with the remainder of its division by the polynomial, first byte inverted: section 4.12
        rest = (value ^ 0xFF00) << 8
        for i in range(15, -1, -1):
            if rest >> i + 8 & 1:
                rest ^= 0x131 << i
        return bytes((value >> 8, value & 255, rest))


# One-wire


def crc8(data):
    """Maxim's CRC-8: polynomial 0x31, its lowest bit first."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8C if crc & 1 else 0)
    return crc


class Wire:
    """A bus: in each time slot the line is low if the master or any chip pulls it low."""

    short = False  # held low

    def __init__(self):
        self.chips = [DS18B20(0x1234)]

    def reset(self):
        """True if a chip answers, or seems to."""
        found = self.short
        for chip in self.chips:
            found |= chip.reset()
        return found

    def slot(self, bit):
        """The master writes `bit`, or a 1 to read. Returns what is on the line."""
        for chip in self.chips:
            bit &= chip.out
        bit &= not self.short
        for chip in self.chips:
            chip.take(bit)
        return bit


class DS18B20:
    """Maxim's 19-7487: ROM commands, conversion, scratchpad.

    Faults: "CRC", "high" (beyond its range), "reset" (85 °C, as after power-on).
    """

    def __init__(self, serial):
        rom = b"\x28" + serial.to_bytes(6, "little")
        self.rom = rom + bytes((crc8(rom),))
        self.fault = None
        self.out = 1  # what it sends in the next slot
        self._protocol = None
        self._value = 85 * 16
        self._until = None

    def reset(self):
        """True: a presence pulse."""
        self.out = 1
        self._protocol = None
        if self.fault == "absent":
            return False
        self._protocol = self._serve()
        self.out = next(self._protocol)
        return True

    def take(self, bit):
        if self._protocol:
            try:
                self.out = self._protocol.send(bit)
            except StopIteration:
                self._protocol = None
                self.out = 1

    def _serve(self):
        # each yield is a slot: what it sends, and then what is on the line
        command = yield from self._byte()
        if command == 0xF0:  # Search ROM
            for i in range(64):
                bit = self.rom[i // 8] >> i % 8 & 1
                yield bit
                yield 1 - bit
                if (yield 1) != bit:
                    return
        elif command == 0x55:  # Match ROM
            for i in range(64):
                if (yield 1) != self.rom[i // 8] >> i % 8 & 1:
                    return
        elif command != 0xCC:  # Skip ROM
            return
        command = yield from self._byte()
        if command == 0x44:  # Convert T
            self._until = after(750)
        elif command == 0xBE:  # Read Scratchpad
            for byte in self._scratchpad():
                for i in range(8):
                    yield byte >> i & 1

    def _byte(self):
        value = 0
        for i in range(8):
            value |= (yield 1) << i
        return value

    def _scratchpad(self):
        if due(self._until):
            self._until = None
            if self.fault != "stuck":
                self._value = round((150 if self.fault == "high" else room.temperature()) * 16)
        if self.fault == "reset":
            self._value = 85 * 16
        data = (self._value & 0xFFFF).to_bytes(2, "little") + b"\x4b\x46\x7f\xff\x0c\x10"
        crc = crc8(data) ^ (self.fault == "CRC")
        return data + bytes((crc,))
