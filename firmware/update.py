"""The last step of an update: what has come takes the place of what was there.

New files come as <name>.new beside the old ones. When all are there, whole, the journal is:

    update.txt      +lib/app.mpy    lib/app.mpy.new is renamed
                    -lib/old.mpy    is removed

Up to then the old program is what runs. From then on the new one is: a power cut in here leaves
the journal, and the next start goes on with it.
"""

import os

_ENOENT = 2  # errno, the same on all ports: it was done before the power cut


def finish(journal: str = "update.txt"):
    """Do what the journal says, then remove it. OSError: the file system is damaged."""
    with open(journal) as file:
        for line in file:
            name = line[1:].rstrip("\n")
            try:
                if line[0] == "+":
                    os.rename(name + ".new", name)
                else:
                    os.remove(name)
            except OSError as e:
                if e.errno != _ENOENT:
                    raise
    os.remove(journal)
