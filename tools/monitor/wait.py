"""Waiting for one device to be heard of, for the commands that have just started it."""

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tools.broker import connect
from tools.monitor.devices import Devices

MOMENT = 1  # s


class Listener:
    """What one device has said since, retained messages not counted."""

    def __init__(self, settings: dict):
        self.name = settings["device"]
        self.devices = Devices(settings["prefix"], [self.name])
        self.messages: queue.SimpleQueue = queue.SimpleQueue()
        filters = self.devices.filters(settings.get("discovery") or None)
        self.client = connect(settings, filters, self.messages.put)

    def wait(self, seconds: float) -> dict | None:
        """Wait for its first reading. None if nothing came in that time, else

        status    "online", or None where it has not said so (one that sleeps never does); it may
                  come behind the first reading, within a moment
        sensor    the reading's, or None: it is online, but no reading came
        values    {name: (value, unit)}
        errors    {sensor: what is wrong with it}
        """
        found: dict = {"status": None, "sensor": None, "values": {}, "errors": {}}
        heard = False
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.messages.get(timeout=left)
            except queue.Empty:
                break
            told = self.devices.take(
                time.time(), message.topic, message.payload, bool(message.retain)
            )
            if told is None or told.retained:
                continue
            device = self.devices.device(self.name)
            found["errors"] = device.errors
            if told.topic == "status":
                found["status"] = "online" if told.text == "online" else None
                heard = heard or told.text == "online"
            else:
                heard = True
            if told.values and not found["sensor"]:
                found["sensor"] = told.topic
                found["values"] = {v.name: (v.value, v.unit) for v in told.values}
                deadline = min(deadline, time.monotonic() + MOMENT)
            if found["sensor"] and found["status"]:
                break
        return found if heard else None


@contextmanager
def listening(settings: dict) -> Iterator[Listener]:
    """A Listener that hears from now on: open it before the device is started."""
    listener = Listener(settings)
    try:
        yield listener
    finally:
        listener.client.disconnect()
        listener.client.loop_stop()
