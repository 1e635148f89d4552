# When the next attempt to connect is made, and to whom.

from scripted import Broker, h, listen

from umqtt_lite import ConnectionLost, MQTTClient, ProtocolError
from umqtt_lite import client as module

SCHEDULE = 1, 2, 4, 8, 16, 32, 60, 60, 60  # s
NOWHERE = "no." * 90 + "such"  # longer than a name may be: no name server is asked
MASK = 0x3FFFFFFF


class World:
    """A clock that the test moves, luck of its choice, and a record of look-ups and attempts."""

    def __init__(self, luck=255):
        self.luck = luck
        self.ms = MASK - 70000  # the ticks have 30 bits, and wrap soon
        self.lookups = []
        self.attempts = []
        self.seen = 0  # attempts that were expected
        self.addresses = []

    def __enter__(self):
        self.stream = module.stream
        names = "os", "stream", "ticks_ms", "ticks_add", "ticks_diff"
        self.kept = [(name, getattr(module, name)) for name in names]
        module.os = module.stream = self
        for name in names[2:]:
            setattr(module, name, getattr(self, name))
        return self

    def __exit__(self, *error):
        for name, value in self.kept:
            setattr(module, name, value)

    # For the client

    def ticks_ms(self):
        return self.ms & MASK

    def ticks_add(self, ticks, delta):
        return ticks + delta & MASK

    def ticks_diff(self, later, earlier):
        return (later - earlier + 0x20000000 & MASK) - 0x20000000

    def urandom(self, n):
        return bytes([self.luck] * n)

    def poll(self):
        return self.stream.poll()

    def resolve(self, host, port):
        self.lookups.append((host, port))
        address = self.stream.resolve(host, port)
        self.addresses.append((address, (host, port)))
        return address

    def connect(self, address, ssl, host):
        (target,) = [target for known, target in self.addresses if known is address]
        assert host == target[0]
        self.attempts.append(target)
        return self.stream.connect(address, ssl, host)

    # For the tests

    def broker(self, *hosts):
        """A scripted broker behind hosts that are tried first."""
        broker = Broker()
        if hosts:
            hooks = broker.client.on_connect, broker.client.on_disconnect
            broker.client = MQTTClient("c", list(hosts) + [("127.0.0.1", broker.port)])
            broker.client.on_connect, broker.client.on_disconnect = hooks
        return broker

    def expect_attempt(self, broker, delay, made=None):
        """The next attempt is made after `delay` ms and no sooner. made: the list that tells."""
        made = self.attempts if made is None else made
        assert len(made) - self.seen in (0, not delay), "at once, not after %d ms" % delay
        if delay:
            for ms in (0, delay - 1):
                self.ms += ms
                for _ in range(3):
                    broker.client.poll()
                assert len(made) == self.seen, "before its %d ms" % delay
            self.ms += 1
        if len(made) == self.seen:
            broker.client.poll()
        self.seen += 1
        assert len(made) == self.seen, "not after %d ms" % delay


def fail(broker):
    """Step until the connection, or the attempt, has failed."""
    broker.until(lambda: "disconnect" in [event[0] for event in broker.events], "on_disconnect")
    return broker.take()[-1][1]


def accept_and_drop(broker):
    broker.start()
    broker.drop()
    return fail(broker)


def stay_silent(world, broker):
    """TCP is accepted, and CONNACK never comes."""
    broker.accept()
    broker.packet()
    world.ms += 9999
    broker.run(5)
    assert not broker.take()
    world.ms += 1
    return fail(broker)


def check_schedule(world, broker, fail, delays):
    world.expect_attempt(broker, 0)
    for delay in delays:
        error = fail(broker)
        assert isinstance(error, ConnectionLost), repr(error)
        world.expect_attempt(broker, delay)
    broker.close()


def full(luck):
    return [1000 * s * luck // 256 for s in SCHEDULE]


def nobody(world):
    broker = world.broker()
    broker.listener.close()
    return broker


def test_nobody_listens():
    for luck in (255, 200, 128, 64, 1):
        with World(luck) as world:
            check_schedule(world, nobody(world), fail, full(luck))


def test_no_delay_but_the_schedule_goes_on():
    for n in range(len(SCHEDULE)):
        with World(0) as world:
            broker = nobody(world)
            world.expect_attempt(broker, 0)
            for _ in range(n):
                fail(broker)
                world.expect_attempt(broker, 0)
            world.luck = 255
            fail(broker)
            world.expect_attempt(broker, full(255)[n])


def test_luck_of_each_delay():
    lucks = 255, 3, 100, 0, 255, 77, 254, 128, 9
    with World() as world:
        broker = nobody(world)
        world.expect_attempt(broker, 0)
        for s, luck in zip(SCHEDULE, lucks):
            world.luck = luck
            fail(broker)
            world.expect_attempt(broker, 1000 * s * luck // 256)


def test_accepted_and_dropped():
    for luck in (255, 100, 0):
        with World(luck) as world:
            check_schedule(world, world.broker(), accept_and_drop, full(luck))


def test_no_connack():
    for luck in (255, 100, 0):
        with World(luck) as world:
            broker = world.broker()
            check_schedule(world, broker, lambda broker: stay_silent(world, broker), full(luck))


def check_lasting(seconds, first):
    """After three failures and a connection that lasted, the schedule goes on with `first` s."""
    with World() as world:
        broker = Broker(keepalive=0)
        world.expect_attempt(broker, 0)
        for s in (1, 2, 4):
            accept_and_drop(broker)
            world.expect_attempt(broker, 1000 * s * 255 // 256)
        broker.start()
        for _ in range(seconds):
            world.ms += 1000
            broker.client.poll()
        for s in (first, 2 * first):
            broker.drop()
            fail(broker)
            world.expect_attempt(broker, 1000 * s * 255 // 256)
            broker.start()
        broker.close()


def test_a_connection_that_lasted():
    # The client looks once a minute whether it did.
    check_lasting(121, 1)
    check_lasting(3600, 1)


def test_a_connection_that_did_not_last():
    check_lasting(1, 8)
    check_lasting(59, 8)


def test_hosts_in_turn():
    with World() as world:
        hosts = []
        for _ in range(2):
            listener, port = listen()
            listener.close()
            hosts.append(("127.0.0.1", port))
        broker = world.broker(*hosts)
        hosts.append(("127.0.0.1", broker.port))
        broker.listener.close()
        check_schedule(world, broker, fail, full(255))
        assert world.attempts == (hosts * 4)[:10], world.attempts
        assert world.lookups == world.attempts


def test_error_in_any_step():
    # Messages of one poll, then a malformed packet.
    for n in range(10):
        with World() as world:
            broker = world.broker()
            world.expect_attempt(broker, 0)
            broker.start()
            broker.run(5)
            broker.take()
            broker.conn.send(h("30 04 00 01 74 78") * n + b"\0\0")
            broker.client.poll()
            assert broker.events[:n] == [("message", b"t", b"x", False)] * min(n, 8)
            assert isinstance(fail(broker), ProtocolError)
            world.expect_attempt(broker, 996)
            broker.close()


def test_no_such_name():
    with World() as world:
        broker = world.broker()
        broker.client = MQTTClient("c", NOWHERE, 1884)
        broker.client.on_disconnect = lambda error: broker.events.append(("disconnect", error))
        for delay in [0] + full(255):
            world.expect_attempt(broker, delay, world.lookups)
            error = fail(broker)
            assert isinstance(error, ConnectionLost), repr(error)
            assert NOWHERE + ":1884" in str(error), error
        assert not world.attempts
        broker.close()


def test_name_that_cannot_be_one():
    client = MQTTClient("c", "no..such", 1884)
    client.poll()
    assert isinstance(client.error, ConnectionLost)
    assert "no..such:1884" in str(client.error)


def test_one_attempt_in_one_poll():
    """With a hook, and no luck, it could go on for ever."""
    with World(0) as world:
        failures = []
        client = MQTTClient("c", NOWHERE, 1884)
        client.on_disconnect = failures.append
        for n in range(1, 4):
            client.poll()
            assert len(failures) == len(world.lookups) == n


def test_second_host_when_the_name_of_the_first_is_unknown():
    with World() as world:
        broker = world.broker((NOWHERE, 1884))
        broker.client.poll()
        assert NOWHERE in str(fail(broker))
        world.expect_attempt(broker, 996)
        broker.start()
        assert world.lookups == [(NOWHERE, 1884), ("127.0.0.1", broker.port)]
        # It serves: there is no way back to the first.
        for s in (2, 4):
            broker.drop()
            fail(broker)
            world.expect_attempt(broker, 1000 * s * 255 // 256)
            broker.start()
        assert len(world.lookups) == 2
        broker.close()


def test_no_look_up_without_a_link():
    with World() as world:
        broker = world.broker()
        broker.client.link = False
        for ms in (0, 1, 1000, 60000, 86400000):
            world.ms += ms
            broker.run(2)
        assert not world.lookups and not broker.events
        broker.client.link = True
        world.expect_attempt(broker, 0)
        # Nor after a failure, however long ago it was.
        broker.listener.close()
        fail(broker)
        broker.client.link = False
        for ms in (1000, 60000, 86400000):
            world.ms += ms
            broker.run(2)
        assert len(world.lookups) == 1
        broker.client.link = True
        world.expect_attempt(broker, 0)
        assert len(world.lookups) == 2
        broker.close()


def test_address_is_kept_as_long_as_it_serves():
    with World() as world:
        broker = world.broker()
        world.expect_attempt(broker, 0)
        for s in (1, 2, 4):
            accept_and_drop(broker)
            world.expect_attempt(broker, 1000 * s * 255 // 256)
            assert len(world.lookups) == 1
        stay_silent(world, broker)
        world.expect_attempt(broker, 7968)
        assert len(world.lookups) == 2
        accept_and_drop(broker)
        world.expect_attempt(broker, 15937)
        assert len(world.lookups) == 2
        broker.close()
