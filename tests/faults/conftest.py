"""The devices run the library as .mpy: they have 64 KiB of heap."""

import pytest
from tools.size import sizes


@pytest.fixture(scope="package", autouse=True)
def library():
    sizes()
