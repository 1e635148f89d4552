"""Plain test functions in a file that both runtimes can import, as those of tests/lib, for pytest.

    @pytest.mark.parametrize("runtime, name", plain.tests(PATH))
    def test(runtime, name):
        plain.check(PATH, runtime, name)

One process per file and runtime runs them all, with firmware/ and boards/unix to import from.
"""

import ast
import functools
import os
import subprocess

from runtimes import ROOT, RUNTIMES, command

MARK = "\x1e"  # as tests/lib/runner.py has it
FOLDERS = [ROOT / "lib", ROOT / "firmware", ROOT / "boards/unix"]


@functools.cache
def names(path):
    functions = [node for node in ast.parse(path.read_text()).body if hasattr(node, "args")]
    return [f.name for f in functions if f.name.startswith("test_")]


def tests(path):
    return [(runtime, name) for name in names(path) for runtime in RUNTIMES]


@functools.cache
def results(path, runtime):
    """What each function printed, and how it ended."""
    folders = os.pathsep.join(map(str, [*FOLDERS, path.parent]))
    output = subprocess.run(
        command(runtime, ROOT / "tests/lib/runner.py", path.stem, heap="256k"),
        input="".join(name + "\n" for name in names(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": folders, "MICROPYPATH": folders + os.pathsep + ".frozen"},
    ).stdout
    found, rest = {}, output
    for name in names(path):
        said, mark, rest = rest.partition(MARK)
        result, _, rest = rest.partition("\n")
        found[name] = (said, result if mark else "the process ended")
    return found


def check(path, runtime, name):
    said, result = results(path, runtime)[name]
    assert result == "passed", said
