"""What runs at power-on: the rest of an update that was cut short, then the program."""

import os

try:
    os.stat("update.txt")
except OSError:
    pass
else:
    import update

    update.finish()

import node  # noqa: E402, F401
