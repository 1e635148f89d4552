"""Storms by seed: what was accepted arrives, whatever befalls link and broker.

A storm again:  make test ARGS="'tests/faults/test_storms.py::test_storm[mosquitto-17]'"
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from brokers import Denying, Iotcore, Mosquitto
from storm import Storm

AT_ONCE = 8  # they mostly wait
STORMS = [
    *(("mosquitto", seed) for seed in range(150)),
    *(("clean", seed) for seed in range(20)),
    *(("takeover", seed) for seed in range(10)),
    *(("killed", seed) for seed in range(10)),
    *(("denied", seed) for seed in range(10)),
    *(("iotcore", seed) for seed in range(31) if seed != 26),  # on which rumqttd always panics
]


KINDS = {"iotcore": Iotcore, "denied": Denying}  # of broker; Mosquitto otherwise
OWN = {"killed", "iotcore"}  # have a broker for each storm
PANICS = 3  # of rumqttd, iotcore's broker, which now and then cannot stand quick reconnections
MEANWHILE = {"takeover": [Storm.take_over], "killed": [Storm.kill]}


class Weather:
    """Runs the storms that are asked for, several at once."""

    def __init__(self, folder, storms):
        self.folder = folder
        kinds = {kind for kind, _ in storms} - OWN
        self.brokers = {kind: self.start(kind, kind) for kind in kinds}
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.results = {storm: self.pool.submit(self.run, *storm) for storm in storms}

    def start(self, kind, name):
        folder = self.folder / name
        folder.mkdir()
        return KINDS.get(kind, Mosquitto)(folder).start()

    def run(self, kind, seed):
        name = f"{kind}-{seed}"
        if kind in self.brokers:
            return self.rage(self.brokers[kind], kind, name)
        for attempt in range(PANICS + 1):
            broker = self.start(kind, f"{name}-{attempt}")
            try:
                return self.rage(broker, kind, name)
            except AssertionError:
                if attempt == PANICS or "panicked" not in broker.log():
                    raise
            finally:
                broker.kill()

    def rage(self, broker, kind, name):
        storm = Storm(broker, name, clean=kind == "clean", killed=kind == "killed")
        try:
            storm.run(*MEANWHILE.get(kind, []))
        finally:
            storm.stop()

    def stop(self):
        self.pool.shutdown(cancel_futures=True)
        for broker in self.brokers.values():
            broker.kill()


@pytest.fixture(scope="module")
def weather(request, tmp_path_factory):
    items = [item for item in request.session.items if item.path == request.path]
    storms = [item.callspec.params["storm"] for item in items]
    weather = Weather(tmp_path_factory.mktemp("storms"), storms)
    yield weather
    weather.stop()


@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: f"{storm[0]}-{storm[1]}")
def test_storm(weather, storm):
    weather.results[storm].result()
