"""Stands for MicroPython's own `dht`, which the unix port lacks: the same face, simulated."""


class DHT22:
    model = 22

    def __init__(self, pin):
        self.pin = pin
        self.buf = bytearray(5)
        pin.dht.model = self.model

    def measure(self):
        self.pin.dht.readinto(self.buf)
        if sum(self.buf[:4]) & 255 != self.buf[4]:
            raise Exception("checksum error")

    def humidity(self):
        return (self.buf[0] << 8 | self.buf[1]) / 10

    def temperature(self):
        value = ((self.buf[2] & 127) << 8 | self.buf[3]) / 10
        return -value if self.buf[2] & 128 else value


class DHT11(DHT22):
    model = 11

    def humidity(self):
        return self.buf[0]

    def temperature(self):
        return self.buf[2]
