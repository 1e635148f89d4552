"""Link: the Wi-Fi supervisor, polled like the client."""

from time import ticks_add, ticks_diff

from micropython import const

# States
_STOPPED = const(0)  # the radio is to be started
_PAUSED = const(1)  # out of any network, until the next attempt is due
_JOINING = const(2)
_UP = const(3)

# ms
_LOOK = const(250)  # between two looks at an attempt
_WATCH = const(1000)  # between two looks at a link that is up
_DEADLINE = const(20000)  # of an attempt, address included
_STALE = const(10000)  # the last attempt's error is not the new one's for so long
_PAUSE = const(1000)  # after leaving a network, before the next attempt
_MINUTE = const(60000)  # the longest back-off; a link that lasted so long ends it
_NEVER = const(3600000)

_RESTART = const(8)  # attempts that failed in a row, then the radio is started anew

_FINE = const(("idle", "joining", "no address", "up"))  # what a station says while all goes well
_ERRORS = (OSError, RuntimeError)  # ESP32's driver has the latter for what it has no name for


class Link:
    """Keeps the board on one of the known networks, in order of preference.

    settings    config.load's: "networks" and "wifi", and "device" as the host name if none is set
    on_change   called with `up` when it has changed: client.link is to follow. With no networks,
                or no Wi-Fi on the board, the link is up from the beginning, and it is not called

    Every attempt has a deadline of 20 s. After each round through all networks, and after a link
    that did not last, it backs off: 1 s at first, 60 s in the end. A link that is lost begins with
    the first network again. Nothing waits but the driver, in the steps that join a network (some
    200 ms on the CYW43) and start the radio (some 1 s).
    """

    up = False
    error = None  # what went wrong last: "wrong password (home)"; None while up
    ssid = None  # of the last attempt
    joins = 0  # times that the link has come up
    wifi = None  # the board's station, for rssi() and ip()

    _state = _STOPPED
    _due = None  # time of the next step
    _which = 0  # index of the network
    _fails = 0  # attempts since the link was up
    _backoff = _PAUSE
    _spare = True  # the first attempt after power-up often fails: it does not count
    _seen = None  # the station's status at the last look, and
    _stale = None  # at the beginning of the attempt

    def __init__(self, board, settings, on_change=None):
        self._board = board
        self._settings = settings
        self._on_change = on_change
        if settings["networks"]:
            self.wifi = board.wifi()
        self.up = not self.wifi

    def poll(self, now) -> int:
        """One step at the time `now`, in ticks_ms. Returns the ms until there is another to make.

        Not to be left alone for more than 6 days: the ticks wrap.
        """
        if not self.wifi:
            return _NEVER
        if self._due is not None:
            left = ticks_diff(self._due, now)
            if left > 0:
                return left
        try:
            left = self._step(now)
        except _ERRORS as e:
            left = self._fail(now, str(e))
        self._due = ticks_add(now, left)
        return left

    def restart(self):
        """Begin anew at the next poll(): the link claims to be up, but nothing passes."""
        if self.wifi:
            self._state = _STOPPED
            self._which = 0
            self._due = None
            self._change(False)

    def _step(self, now):
        state = self._state
        wifi = self.wifi
        network = self._settings["networks"][self._which]
        if state == _STOPPED:
            w = self._settings["wifi"]
            wifi.setup(w["hostname"] or self._settings["device"], w["country"], w["power"])
            self._board.led(True)  # behind it: on a Pico W the radio has the LED
            self._state = _PAUSED
            return 0
        if state == _PAUSED:
            address = network["address"]
            if address:
                address = tuple(address[key] for key in ("ip", "mask", "gateway", "dns"))
            self.ssid = network["ssid"]
            self._since = now
            self._state = _JOINING
            wifi.join(self.ssid, network["password"], address)
            self._stale = self._seen = wifi.status()
            return _LOOK

        seen = self._seen
        self._seen = status = wifi.status()
        age = ticks_diff(now, self._since)
        if status == "up":
            if state != _UP:
                self._state = _UP
                self._since = now
                self._spare = False
                self.joins += 1
                self.error = None
                self._change(True)
            elif age > _MINUTE:
                self._fails = 0
                self._backoff = _PAUSE
            return _WATCH
        # One look may fall on a moment's change: two tell.
        if state == _UP:
            return self._fail(now, "lost") if seen != "up" else _LOOK
        if status != self._stale:
            self._stale = None
        if age >= _DEADLINE:
            return self._fail(now, status if status == "no address" else "no answer")
        if status not in _FINE and status == seen and (not self._stale or age >= _STALE):
            return self._fail(now, status)
        return _LOOK

    def _fail(self, now, why):
        why = "%s (%s)" % (why, self.ssid or "radio")
        if why != self.error:
            print("wifi:", why)
        self.error = why
        self._change(False)
        try:
            self.wifi.leave()
        except _ERRORS:
            pass
        self._fails += 1
        n = self._which + (not self._spare)
        self._spare = False
        if self._state == _UP or n == len(self._settings["networks"]):
            n = 0
            left = self._backoff
            self._backoff = min(2 * left, _MINUTE)
        else:
            left = _PAUSE
        self._which = n
        if self._state != _STOPPED:
            self._state = _PAUSED if self._fails % _RESTART else _STOPPED
        return left

    def _change(self, up):
        if self.up != up:
            self.up = up
            self._board.led(not up)
            if self._on_change:
                self._on_change(up)
