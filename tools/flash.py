"""Erase a board, write an image onto it, verify it, and wait until the board is heard of.

ESP32, S3, C3: over the serial port, by esptool. The chip and the size of its flash are compared
with the image's before anything is erased; what was written is verified by its MD5.

RP2040, RP2350: onto the drive that the chip shows while it is in its bootloader, or by picotool
where no drive is mounted. A board with MicroPython goes there by itself; else hold BOOTSEL while
you plug it in. The chip starts the program once it has all of it, and the drive vanishes.

With --keep-files only MicroPython is written: an update that leaves configuration, secrets and
program as they are. Then the board is waited for: on its serial port, or with --config at its
broker.
"""

import contextlib
import errno
import os
import shutil
import string
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mpremote.transport import TransportError

from tools import cable, targets
from tools.cable import Cable
from tools.console import CABLE, TOOLS, USAGE, Failed, add_board, add_port, progress, say
from tools.deploy import start
from tools.image import IMAGES, SUFFIX
from tools.targets import Target

BAUD = 460800
WAIT = 30  # seconds to be heard of
DRIVE_WAIT = 15  # seconds for a drive to come, or to vanish
PICOTOOL_AFTER = 5  # seconds without one
POLL = 0.1
PIECE = 64 * 1024  # bytes on a drive between two looks at it
NVS, FILES = 0x02, (0x81, 0x82, 0x83)  # subtypes of data partitions that --keep-files keeps
STARTS = (0, 0x1000)  # where in a file the bootloader of an ESP32 may be
DRIVES = {"RPI-RP2": "rp2040", "RP2350": "rp2350"}  # Board-ID in INFO_UF2.TXT
INFO = "INFO_UF2.TXT"
REFUSED = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)
BOOTSEL = "hold BOOTSEL while you plug the board in, and run this again"


def arguments(parser) -> None:
    add_board(parser)
    add_port(parser)
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="default: the newest one in build/images/"
    )
    parser.add_argument(
        "--keep-files", action="store_true", help="write MicroPython only; the files stay"
    )
    parser.add_argument(
        "--drive", type=Path, metavar="FOLDER", help="where an RP2040's drive is (default: found)"
    )
    parser.add_argument(
        "--baud", type=int, default=BAUD, help=f"for an ESP32; less for a bad cable ({BAUD})"
    )
    parser.add_argument(
        "--wait", type=float, default=WAIT, metavar="SECONDS", help=f"0: do not ({WAIT})"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="of this device: take its image, and wait for it at its broker",
    )


def run(args) -> int:
    target = targets.find(args.board)
    if target.port not in SUFFIX:
        raise Failed(f"{target.name} takes no image: `deploy` brings the program there", USAGE)
    if not args.config:
        wait_on_serial(*write(args, target, args.image or newest(target)), args.wait)
        return 0
    from firmware import config

    from tools.monitor.wait import listening

    settings = config.load(str(args.config), None, target.name)
    image = args.image or newest(target, args.config, settings["device"])
    with listening(settings) as listener:
        write(args, target, image)
        found = listener.wait(args.wait) if args.wait else {"status": None, "sensor": None}
    if found is None:
        raise Failed(
            "written and verified, but the broker heard nothing of "
            f"{settings['prefix']}/{settings['device']} in {args.wait:g} s: is this the "
            "configuration in the image? What the board says: "
            f"`{TOOLS} doctor --board {target.name}`"
        )
    if found["sensor"]:
        shown = "  ".join(f"{value} {unit}".strip() for value, unit in found["values"].values())
        say(f"heard     {settings['device']}: {found['sensor']} {shown}")
    elif found["status"]:
        say(f"heard     {settings['device']} is {found['status']}")
    return 0


def newest(target: Target, config: Path | None = None, device: str = "*") -> Path:
    """The newest image of a board in build/images/, or of a device also beside its configuration,
    where `fleet` makes it. Failed if the configuration is newer."""
    pattern = f"{target.name}-*-{device}.{SUFFIX[target.port]}"
    images = [*IMAGES.glob(pattern), *(config.parent.glob(pattern) if config else ())]
    found = max(images, key=lambda path: path.stat().st_mtime, default=None)
    again = f"`{TOOLS} image --board {target.name}`"
    if config:
        again = f"{again[:-1]} --config {config}`"
    if found is None:
        raise Failed(f"there is no image {pattern} in build/images: make one with {again}")
    if config:
        for path in (config, config.with_name("secrets.json")):
            if path.exists() and path.stat().st_mtime > found.stat().st_mtime:
                raise Failed(f"{path} is newer than {found.name}: make that again with {again}")
            if path.exists() and not holds(found, path):
                raise Failed(f"{found.name} is not made from {path}: make that again with {again}")
    return found


def holds(image: Path, file: Path) -> bool:
    """Whether a file is in an image. Its first block stands there in one piece."""
    data = image.read_bytes()
    if data[:4] == b"UF2\n":
        data = b"".join(data[start + 32 : start + 288] for start in range(0, len(data), 512))
    return file.read_bytes()[:4000] in data


def write(args, target: Target, path: Path) -> tuple[Target, str | None, set[str]]:
    """Write the image; returns the target, the port and all ports that there were before."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Failed(f"the image {path} cannot be read: {error.strerror}") from None
    say(f"image     {path}, {len(data):,} bytes")
    before = {one.device for one in cable.ports()}
    flash = flash_esp32 if target.port == "esp32" else flash_rp2
    return target, flash(target, path, data, args), before


@contextmanager
def interrupted(text: str, begun: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Ctrl-C ends the command, but not without a word on what it leaves."""
    try:
        yield
    except KeyboardInterrupt:
        if begun():
            print(f"flash: interrupted: {text}", file=sys.stderr)
        raise


# ESP32


def read_esp32(target: Target, path: Path, data: bytes):
    """(chip, offset in the flash, content from there, what it is) of an image."""
    from esptool import CHIP_DEFS

    from tools.image import esp32

    for begin in STARTS:
        if data[begin : begin + 1] == bytes([esp32.IMAGE_MAGIC]) and not data[:begin].strip(
            b"\xff"
        ):
            break
    else:
        if data[:4] == b"UF2\n":
            raise Failed(f"{path} is for another board: a UF2 file, and {target.name} takes .bin")
        raise Failed(f"{path} is no image: `{TOOLS} image` makes one")
    number = struct.unpack("<H", data[begin + 12 : begin + 14].ljust(2, b"\xff"))[0]
    chips = {build.chip for build in target.builds.values()}
    chip = next((name for name in chips if CHIP_DEFS[name].IMAGE_CHIP_ID == number), None)
    if chip is None:
        other = esp32.CHIPS.get(number, f"chip {number}")
        raise Failed(f"{path} is for {other}, and {target.name} is {', '.join(sorted(chips))}")
    offset = CHIP_DEFS[chip].BOOTLOADER_FLASH_OFFSET
    if begin > offset:
        raise Failed(f"{path} is no image: its bootloader is at {begin:#x}")
    return chip, offset, data[begin:], esp32.read(data[begin:], chip, str(path))


def pieces(offset: int, data: bytes, kept: list) -> list[tuple[int, bytes]]:
    """What is to be written of `data` at `offset`, without the partitions that are kept."""
    found = []
    begin = offset
    for partition in sorted(kept, key=lambda partition: partition.offset):
        found.append((begin, data[begin - offset : max(partition.offset - offset, 0)]))
        begin = partition.end
    found.append((begin, data[begin - offset :]))
    return [(at, piece) for at, piece in found if piece]


def files_place(partitions: list, flash_size: int) -> tuple[int, int]:
    """Offset and size of the files: the partition "vfs", or what is behind the last one."""
    for one in partitions:
        if one.name == "vfs":
            return one.offset, one.size
    last = max(one.end for one in partitions)
    return last, flash_size - last


def flash_esp32(target: Target, path: Path, data: bytes, args) -> str:
    """Returns the port."""
    from esptool import FatalError, cmds
    from esptool.util import flash_size_bytes

    from tools.image import esp32

    chip, offset, data, found = read_esp32(target, path, data)
    port = cable.find(args.port, target)
    log = quiet()
    esp = None
    half = f"the board at {port} is half written and does not start: run this again"
    try:
        with interrupted(half, lambda: log.begun):
            esp = connect(port)
            name = esp.CHIP_NAME.replace("-", "").lower()
            if name != chip:
                raise Failed(
                    f"wrong chip: {path} is for {chip}, and the board at {port} is {name}. "
                    "Nothing was changed; `image --build NAME` makes one for it"
                )
            if (
                esp.secure_download_mode
                or esp.get_secure_boot_enabled()
                or esp.get_flash_encryption_enabled()
            ):
                raise Failed(
                    f"the {name} at {port} is locked (secure boot, flash encryption or secure "
                    "download mode): it takes only images of whoever has locked it. Nothing was "
                    "changed"
                )
            esp = cmds.run_stub(esp)
            if args.baud != esp.ESP_ROM_BAUD:
                esp.change_baud(args.baud)
            cmds.attach_flash(esp)
            size = flash_size_bytes(cmds.detect_flash_size(esp))
            if size is None:
                raise Failed(
                    f"the flash of the board at {port} does not tell its size: defective?"
                )
            need = max(found.flash_size, offset + len(data), *(p.end for p in found.partitions))
            if need > size:
                raise Failed(
                    f"flash too small: {path} needs {need / 2**20:g} MB, and the {name} at {port} "
                    f"has {size / 2**20:g} MB. Nothing was changed; `image --flash-size` makes "
                    "one for it"
                )
            say(f"board     {name} at {port}, {size // 2**20} MB of flash")
            kept = []
            if args.keep_files:
                kept = [
                    one
                    for one in found.partitions
                    if one.kind == esp32.DATA and one.subtype in (NVS, *FILES)
                ]
                table = esp.read_flash(esp32.TABLE, esp32.TABLE_SIZE)
                same_place(port, table, found.partitions, size)
            esp.WRITE_FLASH_ATTEMPTS = 1  # once more is a run of this command, by who is there
            if not args.keep_files:
                say("erase     all of it, which takes up to a minute")
            log.writing = True
            cmds.write_flash(esp, pieces(offset, data, kept), erase_all=not args.keep_files)
            log.writing = log.begun = False
            say("verified  by MD5")
    except (FatalError, OSError, struct.error, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        if "chip revision" in reason:
            raise Failed(f"wrong chip at {port}: {reason}. Nothing was changed") from None
        if not log.begun:
            raise Failed(
                f"the board at {port} stops answering ({reason}). Nothing was changed: look at "
                "the cable, and run this again, perhaps with a lower --baud",
                CABLE,
            ) from None
        if "MD5" in reason or "empty" in reason:
            raise Failed(
                f"verification failed ({reason}): the board at {port} does not start. Run this "
                "again, with a lower --baud; if that fails too, its flash is worn out or defective"
            ) from None
        raise Failed(f"cut in the middle ({reason}): {half}", CABLE) from None
    finally:
        if esp:
            if not log.begun:  # the old program, or the new one, starts
                with contextlib.suppress(FatalError, OSError):
                    cmds.reset_chip(esp, "hard-reset")
            esp._port.close()
    return port


def same_place(port: str, table: bytes, partitions: list, size: int) -> None:
    """Failed if the files of the board are elsewhere than the new MicroPython looks for them."""
    from tools.image import esp32

    again = "Nothing was changed: run this without --keep-files, which erases everything"
    try:
        there = files_place(esp32.read_table(table), size)
    except ValueError:
        raise Failed(
            f"the board at {port} has no MicroPython whose files to keep. {again}"
        ) from None
    new = files_place(partitions, size)
    if there != new:
        raise Failed(
            f"the files of the board at {port} are {there[1]:,} bytes at {there[0]:#x}, and this "
            f"MicroPython looks for {new[1]:,} at {new[0]:#x}. {again}"
        )


def connect(port: str):
    """esptool's loader of the chip at this port; its own class tells which. Failed if none is."""
    from esptool import FatalError, cmds

    try:
        return cmds.detect_chip(port)
    except (FatalError, OSError) as error:
        text = str(error)
        if "Could not open" in text or isinstance(error, OSError):
            raise Failed(cable.explain(port), CABLE) from None
        reason = text.split("\n")[0].rstrip(".").rpartition(": ")[2]
        raise Failed(
            f"the bootloader of the board at {port} does not answer ({reason}): hold BOOT, press "
            "and let go EN (or RST), let go BOOT, and run this again; look also whether the cable "
            "carries data. Nothing was changed",
            CABLE,
        ) from None


def quiet():
    """Have esptool say nothing but how far it is; returns its logger.

    `begun`: since `writing`, a stage has begun; those of write_flash() are erasing and writing.
    """
    from esp_pylib.logger import EspLog, EspLogBase

    class Log(EspLogBase):
        writing = begun = False

        def print(self, *args, **kwargs):
            pass

        err = warn = note = hint = debug = set_verbosity = progress_bar = print

        def stage(self, finish=False):
            self.begun = self.writing and (self.begun or not finish)

        @contextmanager
        def progress(self, total, *_, **__):
            with progress("writing", total) as advance:
                yield Task(advance)

    class Task:
        def __init__(self, advance):
            self.update = lambda advance=1, description=None, tell=advance: tell(advance)

    mine = Log()
    EspLog.set_logger(mine)
    return mine


# RP2040 and RP2350


def read_rp2(target: Target, path: Path, data: bytes, keep_files: bool) -> tuple[str, bytes]:
    """(chip, the UF2 file to be written) of an image."""
    from tools.image import uf2

    if len(data) < uf2.SIZE or uf2.HEADER.unpack_from(data)[:2] != uf2.MAGIC:
        if data[:1] == b"\xe9" or data[:4] == b"\xff" * 4:
            raise Failed(f"{path} is for another board: an ESP32's, and {target.name} takes .uf2")
        raise Failed(f"{path} is no image: `{TOOLS} image` makes one")
    chips = {build.chip for build in target.builds.values()}
    family = uf2.HEADER.unpack_from(data, len(data) // uf2.SIZE * uf2.SIZE - uf2.SIZE)[-1]
    chip = next((name for name in chips if uf2.FAMILIES[name] == family), None)
    if chip is None:
        other = uf2.NAMES.get(family, f"family {family:#x}")
        raise Failed(f"{path} is for {other}, and {target.name} is {', '.join(sorted(chips))}")
    errata, pages = uf2.read(data, chip, str(path))
    if keep_files:
        place = [one.offset for one in uf2.info(uf2.flash(pages)).devices]
        if not place:
            raise Failed(
                f"{path} does not tell where its files are. MicroPython's own .uf2 has none, and "
                "leaves those of the board without --keep-files"
            )
        end = uf2.FLASH + min(place)
        pages = {address: page for address, page in pages.items() if address < end}
        data = uf2.write(errata, pages, chip)
    return chip, data


def flash_rp2(target: Target, path: Path, data: bytes, args) -> str | None:
    """Returns the port, if one was named or used."""
    chip, data = read_rp2(target, path, data, args.keep_files)
    port = args.port
    drive = find_drive(args.drive, chip)
    if drive is None:
        port = port or running(target)
        if port:
            bootloader(port, target)
            seconds = PICOTOOL_AFTER if shutil.which("picotool") else DRIVE_WAIT
            drive = until(lambda: find_drive(args.drive, chip), seconds)
    if drive:
        copy(data, drive, chip)
    elif args.drive is None and shutil.which("picotool"):
        picotool(data)
    else:
        raise no_drive(args.drive, port)
    return port


def until(condition: Callable, seconds: float):
    """What the condition returns as soon as that is true, or else at the end."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(POLL)
    return found


def mounted() -> dict[Path, str]:
    """Where a drive may be: its folder, and the device where it is known."""
    if os.name == "nt":
        return {Path(f"{letter}:\\"): "" for letter in string.ascii_uppercase}
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return dict.fromkeys(Path("/Volumes").glob("*"), "")
    return {
        Path(folder.encode().decode("unicode_escape")): device
        for device, folder, kind, *_ in lines
        if kind == "vfat"
    }


def board_id(folder: Path) -> str | None:
    """Of the bootloader whose drive this is; None if it is none."""
    try:
        text = (folder / INFO).read_text(errors="replace")
    except OSError:
        return None
    ids = [line.partition(":")[2].strip() for line in text.splitlines() if "Board-ID:" in line]
    return ids[0] if ids else None


def find_drive(folder: Path | None, chip: str) -> Path | None:
    """`folder`, or the one drive of a chip's bootloader; None while there is none."""
    found = {one: name for one in ([folder] if folder else mounted()) if (name := board_id(one))}
    if not folder:
        found = {one: name for one, name in found.items() if name in DRIVES}
    if not found:
        return None
    fitting = [one for one, name in found.items() if DRIVES.get(name) == chip]
    if len(fitting) == 1:
        return fitting[0]
    lines = [f"  {one}  {DRIVES.get(name, name)}" for one, name in found.items()]
    if fitting:
        text = "several boards are in their bootloader; name one with --drive:"
        raise Failed("\n".join([text, *lines]), CABLE)
    raise Failed("\n".join([f"wrong chip: the image is for {chip}, and there is", *lines]))


def no_drive(folder: Path | None, port: str | None) -> Failed:
    labels = [name for name in DRIVES if Path("/dev/disk/by-label", name).exists()]
    if folder:
        why = f"{folder} is no drive of a bootloader: there is no {INFO}"
    elif labels:
        why = (
            f"the drive {labels[0]} is there, but not mounted: `udisksctl mount -b "
            f"/dev/disk/by-label/{labels[0]}`, or install picotool"
        )
    elif port:
        why = (
            f"the board at {port} was sent to its bootloader, but no drive came; plugged in anew, "
            "it has its old program"
        )
    else:
        why = "no board: neither a drive (RPI-RP2 or RP2350) nor a port is there"
    return Failed(f"{why}. Nothing was changed; {BOOTSEL}", CABLE)


def running(target: Target) -> str | None:
    """The port of the one such board that runs MicroPython. Failed if there are several."""
    if any(target.name in one.boards for one in cable.ports()):
        return cable.find(None, target)
    return None


def bootloader(port: str, target: Target) -> None:
    with Cable(port) as board:
        if board.platform != target.port:
            board.check(target)  # of any version
        say(f"board     {board.machine} at {port}, goes to its bootloader")
        with contextlib.suppress(OSError, TransportError):  # it goes before it has answered
            board.transport.exec_raw_no_follow("import machine\nmachine.bootloader()")


def gone(drive: Path) -> bool:
    """A drive that was pulled may be in the list of mounts for a while, its files in the cache."""
    device = mounted().get(drive)
    return board_id(drive) is None or bool(device and not Path(device).exists())


def copy(data: bytes, drive: Path, chip: str) -> None:
    """Onto the drive, in the order of the blocks, until it vanishes."""
    say(f"board     {chip} in its bootloader, at {drive}")
    half = f"the board holds a half program: {BOOTSEL}"
    done = 0
    try:
        with interrupted(half), progress("writing", len(data)) as advance:
            with open(drive / "image.uf2", "wb") as file:
                for begin in range(0, len(data), PIECE):
                    file.write(data[begin : begin + PIECE])
                    file.flush()
                    done = file.tell()
                    advance(PIECE)
                    os.fsync(file.fileno())
                    if done < len(data) and gone(drive):
                        raise OSError("the drive has vanished")
    except OSError as error:
        if done < len(data):
            reason = (error.strerror or str(error)).lower()
            if error.errno in REFUSED and not done:
                half = "is it mounted for you, and to be written? Nothing was changed"
            raise Failed(
                f"{drive} took {done:,} of {len(data):,} bytes ({reason}): {half}", CABLE
            ) from None
        # else the chip started, and took its drive away, before we were told of the last write
    with interrupted(half):
        if not until(lambda: gone(drive), DRIVE_WAIT):
            raise Failed(
                f"all is written, but the drive {drive} is still there: its bootloader has not "
                f"taken it, so {half}, with another cable or port",
                CABLE,
            )
    say("verified  the chip has all blocks, and starts")


def picotool(data: bytes) -> None:
    """Write, verify and start by picotool, which needs no drive."""
    say("board     in its bootloader; picotool writes and verifies")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.uf2")
        path.write_bytes(data)
        half = f"the board may hold a half program: {BOOTSEL}"
        with interrupted(half):
            done = subprocess.run(
                ["picotool", "load", "-v", "-x", str(path)], capture_output=True, text=True
            )
    if done.returncode:
        told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Failed(
            f"picotool: {told[-1] if told else done.returncode}. If it began, {half}", CABLE
        )
    say("verified  by picotool")


# What comes after


def wait_on_serial(target: Target, port: str | None, before: set[str], seconds: float) -> None:
    """Until MicroPython answers; then the board starts anew and its first lines are shown.

    On `port`, or where there is none (any more) on the one that came: a chip's own USB goes by
    another name in its bootloader.
    """
    if not seconds:
        return
    deadline = time.monotonic() + seconds
    why = "no port came"
    while time.monotonic() < deadline:
        new = [one.device for one in cable.ports() if target.name in one.boards]
        for name in filter(None, (port, *(set(new) - before))):
            try:
                with Cable(name) as board:
                    say(f"heard     {board.machine}, MicroPython {board.version}, starts:")
                    start(board)
                    return
            except Failed as error:
                why = str(error)
        time.sleep(POLL)
    raise Failed(
        f"written and verified, but nothing is heard of the board in {seconds:g} s: press its "
        f"reset button, then `{TOOLS} doctor`. The last attempt: {why}",
        CABLE,
    )
