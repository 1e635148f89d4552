"""Stands for MicroPython's own `onewire`, which the unix port lacks: the same face, on a Wire."""

from simulated import crc8


class OneWireError(Exception):
    pass


class OneWire:
    SEARCH_ROM = 0xF0
    MATCH_ROM = 0x55
    SKIP_ROM = 0xCC

    def __init__(self, pin):
        self._wire = pin.wire

    def reset(self, required=False):
        found = self._wire.reset()
        if required and not found:
            raise OneWireError
        return found

    def readbit(self):
        return self._wire.slot(1)

    def writebit(self, value):
        self._wire.slot(value)

    def readbyte(self):
        value = 0
        for i in range(8):
            value |= self.readbit() << i
        return value

    def writebyte(self, value):
        for i in range(8):
            self.writebit(value >> i & 1)

    def readinto(self, buf):
        for i in range(len(buf)):
            buf[i] = self.readbyte()

    def write(self, buf):
        for byte in buf:
            self.writebyte(byte)

    def select_rom(self, rom):
        self.reset()
        self.writebyte(self.MATCH_ROM)
        self.write(rom)

    def crc8(self, data):
        return crc8(data)

    def scan(self):
        """At most 255 ROMs: a walk down the tree of their bits, first where it is 0."""
        found = []
        paths = [(0, 0)]  # (bits, how many) that lead to a branch not taken yet
        while paths and len(found) < 255 and self.reset():
            rom, known = paths.pop()
            self.writebyte(self.SEARCH_ROM)
            for i in range(64):
                bit, complement = self.readbit(), self.readbit()
                if bit and complement:
                    break  # nobody answers
                if i < known:
                    bit = rom >> i & 1
                elif not bit and not complement:
                    paths.append((rom | 1 << i, i + 1))
                rom |= bit << i
                self.writebit(bit)
            else:
                found.append(bytearray(rom.to_bytes(8, "little")))
        return found
