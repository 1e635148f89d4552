"""A photo to flash and back, in a small heap."""

import hashlib
import random

import pytest
from tools.size import BUILD, sizes

SIZE = 200_000


@pytest.fixture
def runtime():
    return "micropython"


@pytest.mark.parametrize("own_broker", ["mosquitto"], indirect=True)
@pytest.mark.parametrize("qos", [1, 2])
def test_photo_to_littlefs_and_back(device, peer, own_broker, topic, tmp_path, qos):
    photo = random.Random(qos).randbytes(SIZE)
    watch = peer(own_broker.port)
    watch.subscribe(f"{topic}/out", qos)
    watch.subscribe(f"{topic}/n", 1)
    watch.publish(f"{topic}/in", photo, qos, retain=True)
    sizes()
    camera = device(
        "photo.py", tmp_path / "flash", own_broker.port, topic, qos, heap="64k", lib=BUILD
    )
    camera.wait("end", True, SIZE, hashlib.sha256(photo).hexdigest())
    assert camera.finish() == 0
    messages = watch.wait(31)
    assert [payload for name, payload, _, _ in messages if name.endswith("out")] == [photo]
    assert [int(p) for name, p, _, _ in messages if name.endswith("n")] == list(range(30))
    programmed, erases, heap = camera.events("end")[0][3:]
    print(f"{programmed} bytes programmed, {erases} blocks erased, {heap} bytes of heap in use")
    # appended, not copied
    assert programmed < 1.1 * SIZE and erases < 1.5 * SIZE / 4096
