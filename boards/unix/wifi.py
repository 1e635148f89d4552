"""A simulated Wi-Fi: access points that come and go, and a station with a board's face.

The desk's own Air takes every network with any password. A test makes one with a clock of its
own, changes the access points in `networks`, or gives a script: rows of [seconds, SSID, changes],
as in [[5, "home", {"on": false}], [20, "home", {"on": true}]].
"""

from time import ticks_diff, ticks_ms

_JOIN = 1500  # ms until an access point has answered, or not
_ADDRESS = 1000  # ms until DHCP has answered
_LOST = 3000  # ms without a beacon


class AccessPoint:
    """on: it is there; password: None takes any; dhcp: it gives addresses, in `net`."""

    def __init__(self, password=None, on=True, dhcp=True, net="192.168.1."):
        self.password = password
        self.on = on
        self.dhcp = dhcp
        self.net = net


class Air:
    """The access points, by SSID; one that nobody has described is there and takes anyone."""

    def __init__(self, now=ticks_ms, script=()):
        self.now = now
        self.networks = {}
        self._script = list(script)
        self._last = now()
        self._ms = 0  # since the beginning; the clock's ticks wrap

    def get(self, ssid) -> AccessPoint:
        """The access point as it is now."""
        now = self.now()
        self._ms += ticks_diff(now, self._last)
        self._last = now
        while self._script and self._script[0][0] * 1000 <= self._ms:
            _, name, changes = self._script.pop(0)
            for key in changes:
                setattr(self._find(name), key, changes[key])
        return self._find(ssid)

    def _find(self, ssid):
        if ssid not in self.networks:
            self.networks[ssid] = AccessPoint()
        return self.networks[ssid]


class Station:
    """What a board's wifi() returns. faults: attempts that will fail, as the first often does."""

    def __init__(self, air: Air, faults=0):
        self.air = air
        self.faults = faults
        self.address = None  # the IP address that it has now
        self.options = None  # of setup()
        self._state = "idle"
        self._since = air.now()

    def setup(self, hostname, country, power):
        self.options = hostname, country, power
        self.leave()

    def join(self, ssid, password, address=None):
        self._ssid = ssid
        self._password = password
        self._static = address
        self.address = None
        self._go("joining")

    def leave(self):
        self.address = None
        self._go("idle")

    def status(self) -> str:
        state = self._state
        if state in ("joining", "no address", "up"):
            point = self.air.get(self._ssid)
            ms = ticks_diff(self.air.now(), self._since)
            if state == "joining":
                if ms >= _JOIN:
                    self._go(self._answer(point))
            elif point.on:
                self._heard = self.air.now()
                if state == "no address" and ms >= _ADDRESS and point.dhcp:
                    self.address = point.net + "50"
                    self._go("up")
            elif ticks_diff(self.air.now(), self._heard) >= _LOST:
                self.address = None
                self._go("failed")
        return self._state

    def rssi(self):
        return -60 if self.status() in ("no address", "up") else None

    def ip(self):
        return self.address

    def _answer(self, point):
        self._heard = self.air.now()
        if self.faults:
            self.faults -= 1
            return "failed"
        if not point.on:
            return "not found"
        if point.password not in (None, self._password):
            return "wrong password"
        if self._static:
            self.address = self._static[0]
            return "up"
        return "no address"

    def _go(self, state):
        self._state = state
        self._since = self.air.now()
