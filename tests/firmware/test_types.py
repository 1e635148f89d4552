"""`make lint` finds a call that a board's port does not have: each of them, misspelt."""

import ast
import re

import pytest
from runtimes import ROOT
from tools import types

# What names hold in the boards' modules that comes from the port; a station keeps it as wlan.
PORT = {"machine", "network", "esp32", "Pin", "wlan"}
# The stubs take any keyword there.
UNCHECKED = {"config", "Counter"}


def calls(source):
    """Where the port's names are used: (line, column behind the dot, name), keywords too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            root = node.value
            name = root.attr if isinstance(root, ast.Attribute) else getattr(root, "id", "")
            if name in PORT and node.attr != "wlan":
                yield node.end_lineno, node.end_col_offset, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if getattr(node.func.value, "id", "") in PORT and node.func.attr not in UNCHECKED:
                for keyword in node.keywords:
                    yield keyword.lineno, keyword.col_offset + len(keyword.arg), keyword.arg


@pytest.mark.parametrize("board", ["esp32", "rp2040"])
def test_a_misspelt_call_fails(board, tmp_path):
    assert (ROOT / "build/stubs").exists(), "make test and make lint install the stubs"
    source = (ROOT / "boards" / board / "board.py").read_text()
    copies = {tmp_path / "as_it_is.py": None}
    (tmp_path / "as_it_is.py").write_text(source)
    for line, end, name in calls(source):
        lines = source.splitlines(keepends=True)
        lines[line - 1] = lines[line - 1][:end] + "x" + lines[line - 1][end:]
        copy = tmp_path / f"{name}_{line}_{end}.py"
        copy.write_text("".join(lines))
        copies[copy] = name, line
    assert len(copies) > 30
    result = types.check(board, *copies, quiet=True)
    assert result.returncode == 1
    found = {
        (file, int(line))
        for file, line in re.findall(r"^(\S+\.py):(\d+): error", result.stdout, re.M)
    }
    assert {file.split("/")[-1] for file, _ in found} == {
        copy.name for copy, mistake in copies.items() if mistake
    }, result.stdout


def test_every_board_is_checked():
    assert types.boards() == ["esp32", "rp2040", "unix"]
