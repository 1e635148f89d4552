"""Messages larger than memory, out and in, over a link that is cut in the middle of them."""

import random

import pytest
from proxy import Faults, Proxy
from secure import PEM, Authority, Secure
from tools.size import BUILD

SIZE = 1 << 20
RUN = {"heap": "64k", "lib": BUILD}
# Of the message on its way out, then on its way in
CUTS = [
    Faults({"up": 100}),
    Faults({"up": 300_001}, "reset"),
    Faults({"up": SIZE}),
    Faults({"down": 200_000}),
    Faults({"down": 700_000}, "reset"),
]


@pytest.fixture
def runtime():
    return "micropython"


@pytest.fixture
def link(own_broker):
    link = Proxy(own_broker.port)
    yield link
    link.stop()


@pytest.fixture
def secure(tmp_path):
    authority = Authority("ours")
    (tmp_path / "ca").write_bytes(authority.certificate.public_bytes(PEM))
    broker = Secure(tmp_path, authority.issue("127.0.0.1")).start()
    broker.link = Proxy(broker.secure, CUTS[1:4:2])
    yield broker
    broker.link.stop()
    broker.kill()


@pytest.mark.parametrize("own_broker", ["mosquitto"], indirect=True)
@pytest.mark.parametrize("qos", [1, 2])
def test_a_mebibyte_there_and_back(device, peer, own_broker, link, topic, tmp_path, qos):
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(random.Random(qos).randbytes(SIZE))
    subscriber = peer(own_broker.port)
    subscriber.subscribe(topic + "/#", qos)
    link.faults[:] = CUTS
    sender = device("large.py", link.port, topic, there, back, qos, **RUN)
    sender.wait("end", True)
    assert link.calm
    connects = sender.events("end")[0][2]
    assert connects > 3
    done = sender.events("done")
    assert done and all(event == [SIZE, True] for event in done)
    assert back.read_bytes() == there.read_bytes()
    messages = subscriber.wait(21)
    photos = [payload for name, payload, _, _ in messages if name == topic]
    assert all(photo == there.read_bytes() for photo in photos)
    if qos == 2:
        assert len(photos) == len(done) == 1
    small = [int(payload) for name, payload, _, _ in messages if name != topic]
    assert list(dict.fromkeys(small)) == list(range(1, 21))


def test_a_photo_without_faults(device, broker, topic, tmp_path):
    """Of a size that every broker takes by default."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(random.Random(0).randbytes(18_000))
    sender = device("large.py", broker.port, topic, there, back, 1, **RUN)
    sender.wait("end", True, 1, 1)
    assert back.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("runtime", ["micropython", "cpython"])
def test_over_tls(device, peer, secure, topic, tmp_path, runtime):
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(random.Random(3).randbytes(SIZE // 2))
    subscriber = peer(secure.port)
    subscriber.subscribe(topic, 1)
    where = RUN if runtime == "micropython" else {}
    sender = device("large.py", secure.link.port, topic, there, back, 1, tmp_path / "ca", **where)
    sender.wait("end", True)
    assert secure.link.calm
    assert back.read_bytes() == there.read_bytes()
    assert {payload for _, payload, _, _ in subscriber.wait(1)} == {there.read_bytes()}
