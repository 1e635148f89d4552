"""Bring the program onto a board over the cable: only what changed, all of it or nothing.

New files come beside the old ones; when all are there, whole, one step on the board puts them in
their places (firmware/update.py). So a cable that is cut leaves the old program, and what has come
is not sent again. Then the board starts anew, and its first lines are shown.

Without --config the board keeps its own configuration, and gets the drivers that this names; a
board without one gets that of boards/<board>/. With --config it gets that one, and secrets.json
and certificates from beside it.
"""

import errno
import json
import re
from hashlib import sha256
from pathlib import Path

from tools import cable
from tools.build import BLOCK, MPY, beside, build, check
from tools.cable import Cable, Refused
from tools.console import (
    CONFIG,
    ROOT,
    Failed,
    add_board,
    add_config,
    add_port,
    progress,
    say,
)
from tools.files import private
from tools.targets import Target, find

SPARE = 2  # blocks that the file system itself needs
# A change of the configuration that is on trial on the board ends with a new one.
TRIAL = ("config.new", *(f"config.old{n}" for n in range(4)))
NEW = """\
import os
def f(d):
 for e in os.ilistdir(d or '.'):
  n = d + '/' + e[0] if d else e[0]
  if n.endswith('.new'): print(repr(n), end=',')
  elif e[1] == 0x4000 and n[:4] in ('lib', 'lib/'): f(n)
f('')
"""
FOLDERS = """\
import os
for n in %r:
 try:
  if os.stat(n)[0] & 0x4000: print(repr(n), end=',')
 except OSError: pass
"""
FREE = "(lambda s: s[0] * s[3])(__import__('os').statvfs('.'))"
FINISH = (ROOT / "firmware/update.py").read_text() + "\nfinish()\n"


def send(cable: Cable, files: dict[str, bytes], remove: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Make files of the board, by path from its root, be as given, and others not be there.

    Returns what was sent. Whatever raises Failed has changed nothing.
    """
    if cable.hashes(["update.txt"])["update.txt"]:  # the power was cut in the last step of one
        cable.exec(FINISH)
    wanted = {name: sha256(data).hexdigest() for name, data in files.items()}
    come = [name for name in cable_new(cable) if name not in TRIAL]
    there = cable.hashes([*wanted, *remove, *come])
    changed = {name: data for name, data in files.items() if there[name] != wanted[name]}
    gone = [name for name in remove if there[name]]
    if not changed and not gone:
        remove_files(cable, come)
        return {}
    todo = {
        name: data for name, data in changed.items() if there.get(f"{name}.new") != wanted[name]
    }
    remove_files(cable, [name for name in come if name.removesuffix(".new") not in changed])
    for name in cable.told(f"[{cable.exec(FOLDERS % list(changed))}]"):
        raise Failed(
            f"{name} is a folder on the board at {cable.port}, where a file belongs; look into it "
            f"(`mpremote ls :{name}`), and remove it (`mpremote rm -r :{name}`)"
        )
    make_folders(cable, changed)
    try:
        room = cable.eval(FREE)
        blocks = sum(-(-len(data) // BLOCK) for data in todo.values()) + SPARE
        if blocks * BLOCK > room:
            raise full(cable, blocks * BLOCK, room)
        with progress("sending", sum(map(len, todo.values()))) as advance:
            for name, data in todo.items():
                cable.write(f"{name}.new", data, advance)
        # These two go on with the others after a power cut, whatever was there before
        order = sorted(changed, key=lambda name: (name != "lib/update.mpy", name != "main.py"))
        lines = [f"+{name}\n" for name in order] + [f"-{name}\n" for name in gone]
        journal = "".join(lines).encode()
        cable.write("update.tmp", journal)
        come = {f"{name}.new": wanted[name] for name in changed}
        come["update.tmp"] = sha256(journal).hexdigest()
        for name, there in cable.hashes(list(come)).items():
            if there != come[name]:
                raise Failed(f"{name} did not arrive whole at {cable.port}: do this again")
    except Refused as error:
        remove_files(cable, [*(f"{name}.new" for name in changed), "update.tmp"])
        if error.errno == errno.ENOSPC:
            raise full(cable, sum(map(len, todo.values())), cable.eval(FREE)) from None
        raise
    cable.exec("import os\nos.rename('update.tmp', 'update.txt')\n" + FINISH)
    return todo


def full(cable: Cable, need: int, room: int) -> Failed:
    return Failed(
        f"the file system of the board at {cable.port} is full: {need:,} bytes are needed and "
        f"{room:,} free. Nothing was changed; remove files (`mpremote ls`, `mpremote rm`), or a "
        "spool that is no longer used"
    )


def cable_new(cable: Cable) -> list[str]:
    """What has come and was not put in its place."""
    return cable.told(f"[{cable.exec(NEW)}]")


def remove_files(cable: Cable, names: list[str]) -> None:
    if names:
        cable.exec(f"import os\nfor n in {names!r}:\n try: os.remove(n)\n except OSError: pass")


def make_folders(cable: Cable, names) -> None:
    folders = sorted({str(parent) for name in names for parent in Path(name).parents} - {"."})
    if folders:
        cable.exec(f"import os\nfor n in {folders!r}:\n try: os.mkdir(n)\n except OSError: pass")


def old_files(cable: Cable) -> list[str]:
    """What the last deploy has put into lib/; no file of somebody else's, whatever is said."""
    try:
        found = json.loads(cable.read("manifest.json") or b"{}").get("files", ())
        return [name for name in found if re.fullmatch(r"lib(/\w+)+\.mpy", name)]
    except (ValueError, AttributeError, TypeError):
        return []


def start(cable: Cable, lines: int = 3, seconds: float = 1.5) -> bool:
    """Reset the board and show its first lines. False if its configuration keeps it from work."""
    cable.reset()
    for line in cable.lines(seconds):
        if line.strip():
            say(f"  {line}")
            lines -= 1
        if line.startswith("ConfigError: "):
            return False
        if not lines:
            break
    return True


def arguments(parser) -> None:
    add_board(parser)
    add_port(parser)
    add_config(parser)


def deploy(cable: Cable, target: Target, path: Path | None) -> dict[str, bytes]:
    """Returns what was sent."""
    if cable.mpy != MPY:
        raise Failed(
            f"the MicroPython at {cable.port} does not read .mpy files of version {MPY}: `flash` "
            f"brings {target.micropython}"
        )
    own = None if path else cable.read("config.json")
    extra = {}
    if own is None:
        extra = beside(path or target.folder / "config.json")
        if path and "secrets.json" not in extra:
            check_with(cable.read("secrets.json"), path, target)
        path = path or target.folder / "config.json"
        tree = build(target, path)
    else:
        try:
            with private({"config.json": own}) as folder:
                tree = build(target, folder / "config.json")
        except Failed as error:
            if error.code != CONFIG:
                raise
            text = f"the board's own {error}\nProvision it, or give another with --config"
            raise Failed(text, CONFIG) from None
    files = {
        file.relative_to(tree).as_posix(): file.read_bytes()
        for file in sorted(tree.rglob("*"))
        if file.is_file()
    }
    remove = [name for name in old_files(cable) if name not in files]
    if own is None:
        remove += TRIAL
    return send(cable, files | extra, tuple(remove))


def check_with(secrets: bytes | None, path: Path, target: Target) -> None:
    """The firmware's own check of a configuration that comes to a board which has its secrets."""
    files = beside(path) | {path.name: path.read_bytes(), "secrets.json": secrets or b"{}"}
    with private(files) as folder:
        check(folder / path.name, target)


def told(sent: dict[str, bytes]) -> str:
    if not sent:
        return "nothing to send: all is there"
    plural = "" if len(sent) == 1 else "s"
    return f"{len(sent)} file{plural} sent, {sum(map(len, sent.values())):,} bytes"


def run(args) -> int:
    target = find(args.board)
    if args.config:
        check(args.config, target)
    with Cable(cable.find(args.port, target)) as board:
        board.check(target)
        say(told(deploy(board, target, args.config)))
        say(f"{board.machine}, MicroPython {board.version}, starts:")
        if not start(board):
            raise Failed(
                "the program is there, its configuration is not whole: `provision` asks for it",
                CONFIG,
            )
    return 0
