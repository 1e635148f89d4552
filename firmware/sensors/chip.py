"""The chip's own temperature, which is that of a board at work: some degrees above the room's."""

from . import within

VALUES = {"temperature": ("°C", "temperature")}
KEYS = {"stuck": (0, (0, "number 1 86400 seconds"))}


class Sensor:
    """Reads board.temperature()."""

    def __init__(self, board, options):
        self._board = board

    def start(self):
        return 0

    def read(self):
        return {"temperature": within("temperature", self._board.temperature(), -40, 125)}
