"""umqtt_lite.aio in an event loop, against real brokers."""

import signal

import pytest
from brokers import Mosquitto
from proxy import Proxy
from secure import PEM, Authority, Secure

CASES = ("publish", "large", "queue", "idle", "leave", "again")
# Where it does not matter how a broker answers
ALONE = ("still", "flood", "cancelled", "aborted", "once", "raising", "impossible", "two")


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path)
    yield broker.start()
    broker.kill()


@pytest.fixture
def run(device, peer, topic):
    """Runs a case, and does what it asks for. Returns what that returns, and a peer that has
    subscribed to the topic in a session that lasts."""
    links = []

    def run(case, broker, port=None, *ca):
        link = Proxy(port or broker.port)
        links.append(link)
        watch = peer(broker.port, "watch", clean_session=False)
        watch.subscribe(topic, 1)

        def flood(count):
            link.call(link.heard.clear)
            for i in range(count):
                watch.publish(topic, i, wait=i == count - 1)
            link.call(link.heard.set)

        def restart():
            broker.kill(signal.SIGTERM)
            broker.start()

        orders = {
            "mute": lambda: link.call(link.heard.clear),
            "heard": lambda: link.call(link.heard.set),
            "deaf": lambda: link.call(link.taken.clear),
            "listen": lambda: link.call(link.taken.set),
            "drop": link.drop,
            "flood": flood,
            "restart": restart,
        }
        aio = device("aio.py", case, link.port, topic, *ca, heap="256k" if ca else "128k")
        done = 0  # of what it has told
        while not aio.events("done"):
            aio.log.wait(lambda entries: entries[done:])  # noqa: B023 (called at once)
            entry = aio.log.entries[done]
            done += 1
            if entry is None:
                aio.wait("done")  # says how it ended
            if entry[0] in orders:
                orders[entry[0]](*entry[1:])
                aio.tell("go on")
        assert aio.finish() == 0
        return aio.events("done")[0][0], watch

    yield run
    for link in links:
        link.stop()


@pytest.mark.parametrize("case", CASES)
def test_case(case, run, broker):
    run(case, broker)


@pytest.mark.parametrize("case", ALONE)
def test_alone(case, run, mosquitto):
    run(case, mosquitto)


def test_order(run, mosquitto):
    sent, watch = run("order", mosquitto)
    arrived = [int(payload) for _, payload, *_ in watch.wait(sent)]
    assert arrived == list(range(sent))


def test_restarts(run, mosquitto):
    count, watch = run("restarts", mosquitto)
    watch.log.wait(lambda entries: len({payload for _, payload, *_ in entries}) == 4 * count)
    for name in b"abcd":
        arrived = [p for _, p, *_ in watch.messages if p[0] == name]
        assert list(dict.fromkeys(arrived)) == [b"%c %d" % (name, i) for i in range(count)]


@pytest.mark.parametrize("case", ["told_cancelled", "told_late"])
def test_told(case, run, mosquitto):
    run(case, mosquitto)


@pytest.mark.parametrize("case", ["still", "flood"])
def test_tls(case, run, tmp_path):
    """What has been decrypted is handed over, with no event of the socket; and nothing spins."""
    authority = Authority("ours")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate.public_bytes(PEM))
    broker = Secure(tmp_path, authority.issue("127.0.0.1")).start()
    run(case, broker, broker.secure, ca)
    broker.kill()
