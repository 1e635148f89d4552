"""`deploy` onto a board on this desk, by the real mpremote."""

import json
import os
import subprocess
import sys

import pytest
from firmware import update
from runtimes import ROOT
from tools import build, deploy, desk, targets
from tools.cable import Cable
from tools.console import CABLE, Failed
from tools.desk import Board

UNIX = targets.find("unix")


def mpremote(board, *args):
    """What the real mpremote prints, as a user calls it."""
    call = [sys.executable, "-m", "mpremote", "connect", board.port, "resume", *args]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def configuration(broker, base, tmp_path):
    """A config.json whose device reaches the broker."""
    settings = json.loads((UNIX.folder / "config.json").read_text())
    prefix, device = base.split("/")
    settings |= {"broker": f"127.0.0.1:{broker.port}", "prefix": prefix, "device": device}
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def tree(tmp_path):
    """A program in two parts, and its next version."""
    old = {
        "main.py": b"print('old')\n" * 40,
        "lib/a.py": b"a = 1\n" * 300,
        "lib/sub/b.py": b"b = 1\n" * 900,
        "lib/gone.py": b"gone = 1\n",
    }
    new = {
        "main.py": b"print('new')\n" * 40,
        "lib/a.py": b"a = 2\n" * 300,
        "lib/sub/b.py": b"b = 1\n" * 900,
        "lib/more/c.py": b"c = 2\n" * 500,
        "lib/update.mpy": b"not the real one",
    }
    return old, new


def send(board, tree, remove=()):
    with Cable(board.port) as cable:
        return deploy.send(cable, tree, remove)


def test_a_bare_board_becomes_a_node_that_is_heard_of(
    tools, board, configuration, broker, base, peer, files
):
    (configuration.parent / "secrets.json").write_text(
        '{"user": "someone", "password": "x-secret"}'
    )
    watcher = peer(broker.port)
    watcher.subscribe(base + "/#")
    done = tools("deploy", "--board", "unix", "--port", board.port, "--config", configuration)
    assert done.returncode == 0, done.stdout
    assert "x-secret" not in done.stdout
    watcher.log.wait(lambda _: any(topic == base + "/air" for topic, *_ in watcher.messages))
    manifest = json.loads((ROOT / "build/unix/manifest.json").read_text())["files"]
    assert manifest.keys() >= {
        "main.py",
        "config.json",
        "lib/app.mpy",
        "lib/umqtt_lite/client.mpy",
    }
    for name in ("main.py", "lib/app.mpy", "lib/umqtt_lite/client.mpy"):
        assert manifest[name]["sha256"] in mpremote(board, "sha256sum", f":{name}")
    found = files(board)
    assert found["secrets.json"] == (configuration.parent / "secrets.json").read_bytes()
    assert found["config.json"] == configuration.read_bytes()
    assert {n for n in found if n.startswith("lib/")} == {n for n in manifest if n[:4] == "lib/"}


def test_only_what_changed_is_sent(tools, board, tmp_path, files):
    call = ("deploy", "--board", "unix", "--port", board.port)
    first = tools(*call)
    assert first.returncode == 0 and "files sent" in first.stdout, first.stdout
    assert "starts" in first.stdout
    again = tools(*call)
    assert again.returncode == 0 and "nothing to send" in again.stdout, again.stdout
    mpremote(board, "rm", ":lib/clock.mpy")
    again = tools(*call)
    assert "1 file sent" in again.stdout, again.stdout


def test_a_board_keeps_its_own_configuration(tools, board, configuration, files):
    call = ("deploy", "--board", "unix", "--port", board.port)
    own = json.loads(configuration.read_text())
    own["sensors"] = [{"type": "chip", "name": "chip"}]
    configuration.write_text(json.dumps(own))
    assert tools(*call, "--config", configuration).returncode == 0
    done = tools(*call)
    assert done.returncode == 0 and "nothing to send" in done.stdout, done.stdout
    found = files(board)
    assert json.loads(found["config.json"]) == own
    assert [n for n in found if n.startswith("lib/sensors/")] == [
        "lib/sensors/__init__.mpy",
        "lib/sensors/chip.mpy",
    ]


def test_old_files_go_and_those_of_others_stay(board, tree, files):
    old, new = tree
    send(board, old)
    with Cable(board.port) as cable:
        cable.write("lib/theirs.py", b"theirs")
        cable.write("config.old1", b"{}")
        sent = deploy.send(cable, new, ("lib/gone.py", "config.old1", "never/there"))
    assert sent.keys() == {"main.py", "lib/a.py", "lib/more/c.py", "lib/update.mpy"}
    assert files(board) == new | {"lib/theirs.py": b"theirs"}


@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_a_cut_cable_leaves_the_old_program_whole(board, tree, part, files):
    old, new = tree
    send(board, old)
    with Cable(board.port) as cable:  # what all of it takes
        before = board.taken
        deploy.send(cable, new, ("lib/gone.py",))
        total = board.taken - before
        deploy.send(cable, old, tuple(new.keys() - old.keys()))
        assert files(board) == old
    with (
        pytest.raises(Failed, match="was cut|does not answer") as caught,
        Cable(board.port) as cable,
    ):
        board.cut_after = int(total * part)
        deploy.send(cable, new, ("lib/gone.py",))
    assert caught.value.code == CABLE
    found = files(board)
    assert {name: found[name] for name in old} == old
    assert all(name.endswith((".new", ".tmp")) for name in found.keys() - old.keys())

    board.restart()
    sent = send(board, new, ("lib/gone.py",))
    assert files(board) == new
    come = [name for name, data in new.items() if found.get(f"{name}.new") == data]
    assert not sent.keys() & come  # what had come whole is not sent again
    if part > 0.7:
        assert come


def test_the_power_is_cut_at_each_step_of_the_change(tree, tmp_path, monkeypatch, files):
    """Afterwards main.py goes on with it: the new program, whole."""
    old, new = tree
    names = [name for name in new if old.get(name) != new[name]]
    monkeypatch.chdir(tmp_path)
    steps = len(names) + 2
    for cut in range(steps):
        for name, data in {**old, **{f"{name}.new": new[name] for name in names}}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        (tmp_path / "update.txt").write_text("".join(f"+{n}\n" for n in names) + "-lib/gone.py\n")
        left = cut

        def step(real):
            def counted(*args):
                nonlocal left
                if not left:
                    raise KeyboardInterrupt
                left -= 1
                real(*args)

            return counted

        with monkeypatch.context() as power, pytest.raises(KeyboardInterrupt):
            power.setattr(update.os, "rename", step(update.os.rename))
            power.setattr(update.os, "remove", step(update.os.remove))
            update.finish()
        update.finish()
        found = {
            path.relative_to(tmp_path).as_posix(): path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file()
        }
        assert found == new
        for name in found:
            (tmp_path / name).unlink()


def test_main_goes_on_with_what_the_power_cut_short(board, files):
    with Cable(board.port) as cable:
        deploy.send(
            cable,
            {
                "main.py": (build.FIRMWARE / "main.py").read_bytes(),
                "lib/update.py": (build.FIRMWARE / "update.py").read_bytes(),
                "lib/node.py": b"print('the old one')",
            },
        )
        cable.write("lib/node.py.new", b"print('the new one')")
        cable.write("update.txt", b"+lib/node.py\n-lib/other.py\n")
    board.restart()
    with Cable(board.port) as cable:
        assert cable.read("update.txt") is None
        assert cable.read("lib/node.py") == b"print('the new one')"


def test_a_folder_is_in_the_way(board, tree, files):
    """Seen before the last step, which could not be done then."""
    old, new = tree
    send(board, {"lib/more/c.py/theirs": b"1"} | old)
    with pytest.raises(Failed, match="lib/more/c.py is a folder"):
        send(board, new)
    assert files(board) == {"lib/more/c.py/theirs": b"1"} | old


def test_a_manifest_names_files_of_others(board):
    names = ["lib/a.mpy", "lib/sub/b.mpy", "secrets.json", "../a.mpy", "lib/../a.mpy", 1]
    with Cable(board.port) as cable:
        cable.write("manifest.json", json.dumps({"files": names[:5]}).encode())
        assert deploy.old_files(cable) == names[:2]
        cable.write("manifest.json", json.dumps({"files": names}).encode())
        assert deploy.old_files(cable) == []


def test_a_terminal_that_controls_no_process(tools, tmp_path, monkeypatch):
    """The plain unix port in some folder: Ctrl-C is no signal there, and the end is the end."""
    monkeypatch.setattr(desk, "_own_terminal", lambda inside: os.setsid())
    board = Board(tmp_path / "flash")
    board.call = board.call[:1]
    call = ("--board", "unix", "--port", board.port)
    with board:
        done = tools("deploy", *call)
        assert done.returncode == 0 and "disconnected" in done.stdout, done.stdout
        done = tools("run", *call, "--seconds", "1")
        assert done.returncode == 0 and done.stdout.count("disconnected") > 1, done.stdout
        done = tools("deploy", *call)
        assert done.returncode == 0 and "nothing to send" in done.stdout, done.stdout
        assert board.starts == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "lib",
        "main.py",
        "manifest.json",
    ]


@pytest.mark.parametrize("told", [True, False])
def test_a_full_file_system(tmp_path, tree, files, monkeypatch, told):
    """Seen beforehand, or only when the board says so."""
    old, _ = tree
    if not told:
        monkeypatch.setattr(deploy, "FREE", "10**9")
    with Board(tmp_path / "small", blocks=24) as board:
        send(board, old)
        with pytest.raises(Failed, match="is full.*Nothing was changed"):
            send(board, {"main.py": b"print(1)", "lib/a.py": bytes(90_000)})
        assert files(board) == old


def test_another_kind_of_board(tools, board, files):
    done = tools("deploy", "--board", "esp32", "--port", board.port)
    assert done.returncode == 1
    assert "not esp32: --board unix?" in done.stdout
    assert files(board) == {}


@pytest.mark.parametrize(
    "own, told",
    [
        (b'{"broker": "x"', "the board's own config.json: line 1: expected"),
        (b'{"sensors": [{"type": "bme380"}]}', "no sensor of type 'bme380'"),
    ],
)
def test_the_boards_own_configuration_is_wrong(tools, board, files, own, told):
    send(board, {"config.json": own})
    done = tools("deploy", "--board", "unix", "--port", board.port)
    assert done.returncode == 4
    assert told in done.stdout and "--config" in done.stdout
    assert files(board) == {"config.json": own}


def test_a_configuration_that_the_boards_secrets_do_not_serve(tools, board, files, tmp_path):
    """It is refused; a bare board, which has none, is told."""
    call = ("deploy", "--board", "unix", "--port", board.port)
    own = {"broker": "127.0.0.1", "networks": [{"ssid": "home"}], "sensors": []}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(own))
    for there in ({}, {"secrets.json": b'{"networks": {"other": "12345678"}}'}):
        send(board, there)
        done = tools(*call, "--config", path)
        assert done.returncode == 4 and "networks[0].ssid: no password" in done.stdout
        assert files(board) == there
    send(board, {"config.json": path.read_bytes()})
    done = tools(*call)
    assert done.returncode == 4 and "`provision` asks for it" in done.stdout, done.stdout
