"""Make one file that takes a bare board to a running node: MicroPython and all of its files.

The firmware is MicroPython's published file: the pinned one, downloaded once, or --firmware FILE.
The files are what `build` makes, secrets.json, and the certificates that the configuration names;
so the image is as secret as they are. It is read back before it is put in place.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

from firmware import config

from tools import targets
from tools.console import CONFIG, ROOT, TOOLS, USAGE, Failed, add_board, add_config, say
from tools.files import save
from tools.image import filesystem, firmware
from tools.image.filesystem import BLOCK

IMAGES = ROOT / "build" / "images"
OLDEST = (1, 22)  # of MicroPython
SUFFIX = {"esp32": "bin", "rp2": "uf2"}
MIB = 1024 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    add_board(parser)
    add_config(parser)
    parser.add_argument("--build", metavar="NAME", help="MicroPython's build, RPI_PICO2_W, ...")
    parser.add_argument(
        "--firmware", type=Path, metavar="FILE", help="MicroPython's .bin or .uf2 for it"
    )
    parser.add_argument("--sha256", type=digest, metavar="HEX", help="of that FILE: to check it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: in build/images/)")
    esp32 = parser.add_argument_group("esp32")
    esp32.add_argument(
        "--flash-size", type=size, metavar="4MB", help="the flash's (default: as in the firmware)"
    )
    rp2 = parser.add_argument_group("rp2040, where the firmware does not tell it")
    rp2.add_argument("--fs-offset", type=size, metavar="N", help="the file system's in the flash")
    rp2.add_argument("--fs-size", type=size, metavar="N", help="the file system's")


def digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("expected 64 digits of a SHA-256")
    return text.lower()


def size(text: str) -> int:
    """4MB, 848K, 0x12c000, 4096"""
    found = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([kKmM]?)[bB]?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected bytes as 4MB, 848K or 0x12c000, not {text!r}")
    return int(found[1], 0) << {"": 0, "k": 10, "m": 20}[found[2].lower()]


def run(args) -> int:
    from tools.build import beside, build, check

    target = targets.find(args.board)
    name = target.build(args.build).name
    if args.sha256 and not args.firmware:
        raise Failed("--sha256 is of the file that --firmware names", USAGE)
    place = (args.fs_offset, args.fs_size)
    if place != (None, None) if target.port == "esp32" else args.flash_size:
        raise Failed("--flash-size is for an esp32, --fs-offset for an rp2040", USAGE)
    if place.count(None) == 1:
        raise Failed("--fs-offset and --fs-size go together", USAGE)
    path = args.config or target.folder / "config.json"
    folder = path.resolve().parent
    if folder != target.folder and folder.parent == targets.BOARDS:
        raise Failed(f"{path} is for {folder.name}, not for {target.name}", CONFIG)
    check(path, target)
    extra = beside(path)
    if "secrets.json" not in extra:
        say(f"no secrets.json beside {path}: the image has no passwords; `provision` brings them")
    device = config.parse(path.read_bytes()).get("device", "desk")
    out = args.out or IMAGES / f"{target.name}-{name}-{device}.{SUFFIX[target.port]}"
    made = image(
        target,
        name,
        build(target, path),
        extra,
        args.firmware,
        out,
        sha256=args.sha256,
        flash_size=args.flash_size,
        place=place,
    )
    which = f"--config {args.config}" if args.config and not args.out else f"--image {made}"
    say(f"flash it  {TOOLS} flash --board {target.name} {which}")
    say(f"      or  {how(target.build(name).chip, made)}")
    return 0


def image(
    target: targets.Target,
    build_name: str | None,
    tree: Path,
    extra: dict[str, bytes],
    firmware_file: Path | None,
    out: Path,
    *,
    sha256: str | None = None,
    flash_size: int | None = None,
    place: tuple[int | None, int | None] = (None, None),
) -> Path:
    """Write the image of the device tree `tree` and the files `extra` to `out`, and return that.

    `firmware_file`: MicroPython's, or None for the pinned one; `sha256`: what it must have;
    `flash_size`: of an ESP32; `place`: offset and size of an RP2's file system where the firmware
    does not tell them. All in bytes. Raises Failed; then nothing is written.
    """
    build = target.build(build_name)
    if firmware_file:
        name, data = firmware_file.name, firmware.given(firmware_file, sha256)
    else:
        name, data = firmware.pinned(build, target.micropython)
    files = tree_files(target, tree) | extra
    say(f"firmware  {name}, {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…")
    say(f"files     {len(files)} of {sum(map(len, files.values())):,} bytes")
    make = {"esp32": esp32_image, "rp2": rp2_image}[target.port]
    made, lines = make(build, name, data, files, flash_size, place)
    save(out, made)
    for line in lines:
        say(line)
    say(f"image     {out}, {len(made):,} bytes" + (", with its secrets" if extra else ""))
    return out


def tree_files(target: targets.Target, tree: Path) -> dict[str, bytes]:
    """The device tree; Failed if it is not one for this board, or not as its manifest says."""
    again = f"run `{TOOLS} build --board {target.name}`"
    try:
        manifest = json.loads((tree / "manifest.json").read_bytes())
        listed, board = manifest["files"], manifest["board"]
        if board != target.name:
            raise Failed(f"{tree} is built for {board}, not for {target.name}: {again}", CONFIG)
        files = {name: (tree / name).read_bytes() for name in [*listed, "manifest.json"]}
        hashes = {name: listed[name]["sha256"] for name in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{tree} is no device tree ({error!r}): {again}") from error
    for name, sha256 in hashes.items():
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            raise Failed(f"{tree / name} is not as the manifest says: {again}")
    if "main.py" not in files:
        raise Failed(f"{tree} has no main.py: {again}")
    return files


def esp32_image(
    build: targets.Build,
    name: str,
    data: bytes,
    files: dict[str, bytes],
    flash_size: int | None,
    place: object,
) -> tuple[bytes, list[str]]:
    """(the image, what is where), from a firmware's `name` and `data`."""
    from tools.image import esp32

    found = esp32.read(data, build.chip, name)
    too_old(name, found.version)
    flash_size = flash_size or found.flash_size
    if flash_size not in (MIB << n for n in range(8)):
        raise Failed(f"{flash_size} bytes is no size of a flash: 2MB, 4MB, 8MB, 16MB, ...", USAGE)
    vfs = esp32.files_partition(found, flash_size, name)
    blocks = vfs.size // BLOCK
    made = esp32.write(
        data, build.chip, found, flash_size, vfs, filesystem.make(files, "esp32", blocks)
    )

    again = esp32.read(made[found.bootloader :], build.chip, "the image made")
    if vfs not in again.partitions or again.flash_size != flash_size:
        raise Failed("the image made has not the partitions or flash size that it should have")
    same(filesystem.read(made[vfs.offset :], "esp32", blocks), files)
    lines = [
        f"   {found.bootloader:#9x}  bootloader, for {flash_size // MIB} MB of flash or more",
        f"   {esp32.TABLE:#9x}  partition table",
        *(
            f"   {p.offset:#9x}  {describe(p, found.banner, len(files))}, {p.size // 1024} KiB"
            for p in again.partitions
        ),
    ]
    return made, lines


def describe(partition, banner: str, files: int) -> str:
    if partition.kind == 0:
        return f"{partition.name}: {banner}"
    return f"{partition.name}: {files} files" if partition.name == "vfs" else partition.name


def rp2_image(
    build: targets.Build,
    name: str,
    data: bytes,
    files: dict[str, bytes],
    flash_size: object,
    place: tuple[int | None, int | None],
) -> tuple[bytes, list[str]]:
    """As esp32_image()."""
    from tools.image import uf2

    errata, pages = uf2.read(data, build.chip, name)
    program = uf2.flash(pages)
    found = uf2.info(program)
    if found.program and found.program != "MicroPython":
        raise Failed(f"{name} is for {build.chip.upper()}, but it is {found.program}")
    if found.board and found.board != build.board:
        raise Failed(
            f"{name} is for the board {found.board}, not for {build.board} ({build.name}): "
            "--build names another"
        )
    if version := re.match(r"v(\d+)\.(\d+)\.(\d+)", found.version):
        too_old(name, tuple(map(int, version.groups())))
    told = [device[1:] for device in found.devices if device.name == "MicroPython"]
    if not told and None in place:
        raise Failed(
            f"{name} does not tell where its file system is (binary info): is it MicroPython? "
            "Then say it with --fs-offset and --fs-size"
        )
    offset, length = told[0] if told else place
    if None not in place and (offset, length) != place:
        raise Failed(
            f"{name} has its file system at {offset:#x}, of {length // 1024}K: "
            "leave out --fs-offset and --fs-size"
        )
    if offset % BLOCK or length % BLOCK or not 2 * BLOCK <= length <= uf2.FLASH_END - uf2.FLASH:
        raise Failed(f"{name}: no file system can be at {offset:#x}, of {length:,} bytes")
    if offset < len(program):
        raise Failed(
            f"{name}: the file system at {offset:#x} would overwrite the program, "
            f"which ends at {len(program):#x}"
        )
    blocks = length // BLOCK
    content = filesystem.make(files, "rp2", blocks)
    for start in range(0, len(content), uf2.PAGE):
        pages[uf2.FLASH + offset + start] = content[start : start + uf2.PAGE]
    made = uf2.write(errata, pages, build.chip)

    again = uf2.flash(uf2.read(made, build.chip, "the image made")[1])
    if again[: len(program)] != program or uf2.info(again) != found:
        raise Failed("the image made has not the program that it should have")
    same(filesystem.read(again[offset:], "rp2", blocks), files)
    lines = [
        f"   {0:#9x}  {found.program or 'program'} {found.version} for "
        f"{found.board or build.chip}, {len(program) // 1024} KiB",
        f"   {offset:#9x}  {len(files)} files, {length // 1024} KiB",
    ]
    return made, lines


def too_old(name: str, version: tuple[int, ...]) -> None:
    if version < OLDEST:
        raise Failed(f"{name} is MicroPython {'.'.join(map(str, version))}: 1.22 is the oldest")


def same(found: dict[str, bytes], files: dict[str, bytes]) -> None:
    wrong = sorted(
        name for name in found.keys() | files.keys() if found.get(name) != files.get(name)
    )
    if wrong:
        raise Failed(f"read back from the image, these files differ: {', '.join(wrong)}")


def how(chip: str, out: Path) -> str:
    if chip.startswith("esp32"):
        return f"esptool --chip {chip} write-flash 0x0 {out}"
    return f"hold BOOTSEL, plug it in, and copy {out} to the drive that appears"
