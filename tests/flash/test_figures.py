"""What the spool may cost: its size, and what it hands to the file system."""

from runtimes import ROOT, command
from tools import size
from tools.bench import measure

MICROPYTHON = command("micropython", ROOT)[0]


def test_size():
    assert size.sizes()["spool"] <= 2500


def test_bytes_on_flash():
    """For 1,000 readings of 64 bytes in batches of 16; littlefs itself adds its copies."""
    measure.build()
    found = measure.flash(MICROPYTHON)
    assert found["handed"] <= 1.2
    # The alternatives are worse: see README
    assert found["store"][0] <= 175_000 and found["store"][1] <= 70
    assert 0 < found["drain"][0] <= 10_000 and found["drain"][1] <= 5
