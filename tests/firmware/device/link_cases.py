# The link on simulated boards and Wi-Fi, in simulated time: plain functions, run by test_link.py.

import ports
from ports import CYW43, ESP32, MASK, clock, start

from wifi import AccessPoint, Air, Station

HOME = {"ssid": "home", "password": "secret", "address": None}
SHED = {"ssid": "shed", "password": "", "address": None}
BARN = {"ssid": "barn", "password": "", "address": None}
FIXED = {"ip": "10.0.0.9", "mask": "255.0.0.0", "gateway": "10.0.0.1", "dns": "10.0.0.2"}
PORTS = ESP32, CYW43


class Desk:
    """A board with nothing but the simulated station."""

    def __init__(self, faults=0):
        ports.air = Air(clock.ticks_ms)
        self.station = Station(ports.air, faults)
        self.lit = []

    def wifi(self):
        return self.station

    def led(self, on):
        self.lit.append(on)


class World:
    """A Link on a board, and what it tells."""

    def __init__(self, board, networks, **wifi):
        from link import Link

        options = {"hostname": None, "country": None, "power": "save"}
        options.update(wifi)
        settings = {"device": "kitchen", "networks": networks, "wifi": options}
        self.told = []  # (ms, up)
        self.polls = 0
        self.begin = clock.ms
        self.air = ports.air
        for network in networks:
            self.air.networks[network["ssid"]] = AccessPoint(network["password"] or None)
        self.link = Link(board, settings, self.tell)
        if board.wifi() and networks:
            driver = getattr(board.wifi(), "wlan", None)
            self.station = driver.station if driver else board.wifi()
        clock.slept = None

    def tell(self, up):
        if up:  # no name is looked up with an address that is not the network's
            net = self.air.networks[self.link.ssid].net
            ip = self.link.wifi.ip()
            assert ip == self.station.address and (ip == FIXED["ip"] or ip.startswith(net)), ip
        self.told.append((clock.ms - self.begin, up))

    def step(self):
        left = self.link.poll(clock.ticks_ms())
        assert left >= 0
        assert self.link.up == (self.told[-1][1] if self.told else False)
        self.polls += 1
        return left

    def run(self, seconds, late=0):
        """Poll when the link wants it, or every `late` ms if that is later, for so long."""
        end = clock.ms + seconds * 1000
        while clock.ms < end:
            clock.ms += min(max(self.step(), late), end - clock.ms)

    def until(self, up, within):
        """Poll until the link is up, or down. Returns the ms that it took."""
        begin = clock.ms
        while True:
            left = self.step()
            if self.link.up == up:
                return clock.ms - begin
            clock.ms += left
            assert clock.ms - begin <= within * 1000, "%s, %s" % (self.link.error, self.told)


def worlds(networks, **wifi):
    """The same for the simulated station and for the two boards with their drivers."""
    yield World(Desk(), networks, **wifi)
    for port in PORTS:
        yield World(start(port), networks, **wifi)


def at(world, ssid, **changes):
    for key in changes:
        setattr(world.air.networks[ssid], key, changes[key])


def test_joins_the_first_network():
    for world in worlds([HOME, SHED]):
        link = world.link
        assert not link.up and link.joins == 0
        world.until(True, 5)
        assert link.ssid == "home" and link.joins == 1 and link.error is None
        assert link.wifi.rssi() == -60
        # The state is looked at once a second, and nothing else is done.
        polls = world.polls
        world.run(100)
        assert world.polls - polls <= 102
        assert len(world.told) == 1


def test_led_shows_that_there_is_no_link():
    board = Desk()
    world = World(board, [HOME])
    world.until(True, 5)
    at(world, "home", on=False)
    world.until(False, 5)
    assert board.lit == [True, False, True]


def test_no_networks_no_wifi():
    class Board:
        def wifi(self):
            return None

    for board, networks in ((Desk(), []), (Board(), [HOME])):
        world = World(board, networks)
        assert world.link.up and world.link.wifi is None
        assert world.link.poll(clock.ticks_ms()) >= 1000
        world.link.restart()
        assert world.link.up and not world.told


def test_options():
    for power, esp32, cyw43 in (("full", 0, 0xA11140), ("save", 1, 0xA11142)):
        for port, pm in ((ESP32, esp32), (CYW43, cyw43)):
            world = World(start(port), [HOME], hostname="hall", country="DE", power=power)
            world.until(True, 5)
            assert ports.named == {"hostname": "hall", "country": "DE"}
            assert ports.wlan.pm == pm, ports.wlan.pm
    World(start(CYW43), [HOME]).step()
    assert ports.named == {"hostname": "kitchen"}


def test_static_address():
    for world in worlds([{"ssid": "home", "password": "secret", "address": FIXED}, SHED]):
        at(world, "home", dhcp=False)
        world.until(True, 5)
        assert world.link.wifi.ip() == "10.0.0.9"
        # The next network has DHCP again.
        at(world, "home", on=False)
        at(world, "shed", net="172.16.0.")
        world.until(False, 5)
        world.until(True, 30)
        assert world.link.wifi.ip() == "172.16.0.50"


def test_falls_back_to_the_second_network():
    for world in worlds([HOME, SHED, BARN]):
        at(world, "home", on=False)
        world.until(True, 20)
        assert world.link.ssid == "shed" and world.link.joins == 1
        # It stays there; once that is lost, the first has precedence.
        at(world, "home", on=True)
        world.run(300)
        assert world.link.ssid == "shed"
        at(world, "shed", on=False)
        world.until(False, 5)
        assert world.link.error == "lost (shed)"
        world.until(True, 5)
        assert world.link.ssid == "home" and world.link.error is None


def test_wrong_password_then_corrected():
    for world in worlds([HOME]):
        at(world, "home", password="other")
        world.run(60)
        assert world.link.error == "wrong password (home)", world.link.error
        assert not world.told
        at(world, "home", password="secret")
        world.until(True, 70)


def test_first_attempt_fails():
    for world in worlds([HOME, SHED]):
        world.station.faults = 1
        world.until(True, 8)
        assert world.link.ssid == "home"  # the fallback is not tried for it


def test_never_an_address():
    for world in worlds([HOME]):
        at(world, "home", dhcp=False)
        world.run(19)
        assert world.link.error is None and world.station.status() == "no address"
        world.run(3)
        assert world.link.error == "no address (home)"
        # A fresh attempt each time, not the old one for ever.
        at(world, "home", dhcp=True)
        world.until(True, 10)


def test_no_answer():
    world = World(Desk(), [HOME, SHED])
    station = world.station
    status, join, seen = station.status, station.join, []
    station.join = lambda *args: seen.append((clock.ms - world.begin, args[0])) or join(*args)
    station.status = lambda: "joining"
    world.run(300)
    # The first attempt is free; then rounds, with a back-off in between.
    first = [at for at, ssid in seen if ssid == "home"]
    assert [ssid for _, ssid in seen][:5] == ["home", "home", "shed", "home", "shed"]
    gaps = [(b - a) // 1000 for a, b in zip(first, first[1:])]
    assert gaps[:5] == [21, 42, 43, 45, 49], gaps
    assert world.link.error in ("no answer (home)", "no answer (shed)")
    station.status = status
    world.until(True, 100)


def test_back_off_ends_at_a_minute_and_with_a_link_that_lasted():
    world = World(Desk(), [HOME])
    station = world.station
    join, seen = station.join, []
    station.join = lambda *args: seen.append(clock.ms) or join(*args)
    at(world, "home", on=False)
    world.run(600)
    gaps = [(b - a) // 1000 for a, b in zip(seen, seen[1:])]
    assert gaps == sorted(gaps) and gaps[-2:] == [61, 61], gaps
    at(world, "home", on=True)
    world.until(True, 70)
    world.run(61)
    for ms in (3500, 4500, 6500):  # what does not last, backs off again
        at(world, "home", on=False)
        world.until(False, 5)
        at(world, "home", on=True)
        took = world.until(True, 10)
        assert took == ms, took


def test_router_restart():
    for world in worlds([HOME]):
        world.until(True, 5)
        for n in range(2, 12):
            at(world, "home", on=False)
            world.until(False, 5)
            assert world.link.error == "lost (home)"
            world.run(90)
            assert world.link.error == "not found (home)"
            at(world, "home", on=True)
            world.until(True, 70)
            assert world.link.joins == n
            world.run(61)


def test_stale_address():
    """The router comes back with other addresses, and gives them late."""
    for world in worlds([HOME]):
        world.until(True, 5)
        at(world, "home", on=False)
        world.until(False, 5)
        at(world, "home", on=True, net="10.1.1.", dhcp=False)
        world.run(15)
        assert not world.link.up and len(world.told) == 2
        at(world, "home", dhcp=True)
        world.until(True, 30)
        assert world.link.wifi.ip() == "10.1.1.50"


def test_lost_for_a_moment():
    """One look that fails is looked at again."""
    world = World(Desk(), [HOME])
    world.until(True, 5)
    station = world.station
    status, left = station.status, [1]
    station.status = lambda: "joining" if left and left.pop() else status()
    world.run(10)
    assert world.link.joins == 1 and len(world.told) == 1


def test_an_error_for_a_moment():
    """As on the CYW43, where a good authentication may follow a bad one."""
    world = World(Desk(), [HOME])
    station = world.station
    status, left = station.status, ["joining", "wrong password", "joining", "joining"]
    station.status = lambda: left.pop() if left else status()
    world.until(True, 3)
    assert not left


def test_esp32_never_connects_while_it_connects():
    """Wifi Internal Error: not once, over wrong passwords, missing networks and restarts."""
    world = World(start(ESP32), [HOME, SHED])
    driver = ports.wlan
    connect, errors = driver.connect, []

    def checked(*args):
        try:
            connect(*args)
        except OSError as e:
            errors.append(e)
            raise

    driver.connect = checked
    for changes in ({"password": "x"}, {"on": False}, {"password": "secret", "on": True}):
        at(world, "home", **changes)
        at(world, "shed", **changes)
        world.run(200)
    assert world.link.up and not errors
    assert driver.calls["connect"] > 10
    assert driver.reconnects == 0


def test_esp32_an_error_of_the_driver_is_an_attempt():
    for name in ("connect", "active"):
        for error in (OSError("Wifi Internal Error"), RuntimeError("Wifi Unknown Error 0x5001")):
            world = World(start(ESP32), [HOME])
            method = getattr(ports.wlan, name)

            def refuse(*args):
                raise error  # noqa: B023

            setattr(ports.wlan, name, refuse)
            world.run(30)
            assert world.link.error.startswith(str(error)), world.link.error
            setattr(ports.wlan, name, method)
            world.until(True, 70)


def test_esp32_status_202_stays():
    """The last attempt's error is not taken for the new one's."""
    world = World(start(ESP32), [HOME])
    at(world, "home", password="other")
    world.run(20)
    assert ports.wlan.status() == 202
    at(world, "home", password="secret")
    attempts = ports.wlan.calls["connect"]
    world.until(True, 70)
    assert ports.wlan.calls["connect"] - attempts <= 1
    assert not ports.wlan.blocked


def test_esp32_a_lost_lease_is_no_address():
    board = start(ESP32)
    world = World(board, [HOME])
    world.until(True, 5)
    ports.wlan.seen = lambda: None
    assert board.wifi().status() == "no address"
    world.until(False, 5)


def test_cyw43_radio_is_started_anew():
    """After 8 attempts in a row; never with "dhcp", which waits."""
    world = World(start(CYW43), [HOME])
    at(world, "home", on=False)
    world.run(60)
    assert ports.wlan.powered == 0
    world.run(600)
    assert ports.wlan.powered == world.link._fails // 8 >= 1


def test_restart():
    for world in worlds([HOME, SHED]):
        at(world, "home", on=False)
        world.until(True, 20)
        at(world, "home", on=True)
        world.link.restart()
        assert not world.link.up
        world.until(True, 5)
        assert world.link.joins == 2 and world.link.ssid == "home"


def test_days():
    """The ticks wrap after 12 days, and 6 are no longer told from less than none."""
    for world in worlds([HOME, SHED]):
        for day in range(1, 41):
            third = day // 8 % 3  # 8 days each: both are there, the second, none
            at(world, "home", on=third == 0)
            at(world, "shed", on=third < 2)
            world.run(86400, 5000)
            assert world.link.up == (third < 2), day
            if world.link.up:
                assert world.link.ssid == "home" if third == 0 else "shed"


def test_ticks_wrap():
    for ms in range(0, 4000, 97):
        clock.ms += MASK - (clock.ms & MASK) - ms
        world = World(Desk(), [HOME])
        world.run(6, 400)
        assert world.link.up, ms
        at(world, "home", on=False)
        world.run(6, 1700)
        assert not world.link.up, ms


def test_polled_late_or_often():
    world = World(Desk(), [HOME])
    for _ in range(300):
        world.step()  # without time, nothing happens twice
    assert world.station._state == "joining"
    clock.ms += 5 * 86400000  # a program that was busy
    world.step()
    world.until(True, 30)
