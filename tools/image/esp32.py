"""ESP32 and its kin: MicroPython's .bin is the flash from the bootloader on, in one piece.

    bootloader          at 0x1000 on ESP32, at 0 on ESP32-S3 and ESP32-C3
    partition table     at 0x8000
    the program         in its partition of type app
    the files           in the data partition "vfs"

Since 1.26 MicroPython's table does not name "vfs": it takes what is behind the last partition, up
to the end of the flash that it finds, and refuses a file system of another size there. The image
names it, so that it is the same partition on whatever flash is large enough.
"""

import hashlib
import re
import struct
from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple

from esptool import CHIP_DEFS, FatalError, merge_bin
from esptool.bin_image import LoadFirmwareImage

from tools.console import Failed
from tools.image.filesystem import BLOCK

TABLE = 0x8000  # flash offset of the partition table
TABLE_SIZE = 0xC00
ENTRY = struct.Struct("<2sBBII16sI")
MAGIC = b"\xaa\x50"
MAGIC_MD5 = b"\xeb\xeb" + b"\xff" * 14
APP, DATA, FAT = 0, 1, 0x81
IMAGE_MAGIC = 0xE9
CHIPS = {0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 12: "ESP32-C2", 13: "ESP32-C6"}
BANNER = re.compile(rb"MicroPython v(\d+)\.(\d+)\.(\d+)[ -~]* on \d{4}-\d\d-\d\d")
PORT = b"flashbdev.py"  # a module that only this port has in its program
AUTOMATIC = (1, 26)  # since then "vfs" need not be in the table
MIB = 1024 * 1024


class Partition(NamedTuple):
    kind: int
    subtype: int
    offset: int
    size: int
    name: str
    flags: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size

    def pack(self) -> bytes:
        return ENTRY.pack(MAGIC, *self[:4], self.name.encode(), self.flags)


def read_table(data: bytes) -> list[Partition]:
    """The partitions; ValueError if it is no table, or not whole."""
    partitions = []
    for offset in range(0, min(len(data), TABLE_SIZE) - 31, 32):
        entry = data[offset : offset + 32]
        if entry[:16] == MAGIC_MD5:
            if entry[16:] != hashlib.md5(data[:offset]).digest():
                raise ValueError("its checksum is wrong")
            return partitions
        magic, kind, subtype, start, size, name, flags = ENTRY.unpack(entry)
        if magic != MAGIC:
            break
        text = name.split(b"\0")[0].decode(errors="replace")
        partitions.append(Partition(kind, subtype, start, size, text, flags))
    raise ValueError("it has no end" if partitions else "there is none")


def pack_table(partitions: list[Partition]) -> bytes:
    data = b"".join(partition.pack() for partition in partitions)
    return (data + MAGIC_MD5 + hashlib.md5(data).digest()).ljust(TABLE_SIZE, b"\xff")


class Firmware(NamedTuple):
    banner: str  # "MicroPython v1.29.0 on 2026-08-24"
    version: tuple[int, ...]
    bootloader: int  # its offset in the flash
    flash_size: int  # by the header
    partitions: list[Partition]


def _load(chip: str, data: bytes, what: str):
    """Check a bootloader or program with esptool; Failed says what is wrong."""
    with redirect_stdout(StringIO()):
        try:
            image = LoadFirmwareImage(chip, data)
        except (FatalError, struct.error, TypeError, RuntimeError, KeyError) as error:
            raise Failed(f"{what} is damaged or cut short: {error}") from error
    if image.checksum != image.calculate_checksum():
        raise Failed(f"{what} is damaged: its checksum is wrong")
    if image.append_digest and image.stored_digest != image.calc_digest:
        raise Failed(f"{what} is damaged: its SHA-256 is wrong")
    return image


def read(data: bytes, chip: str, name: str) -> Firmware:
    """What a firmware file, or an image without the flash before its bootloader, is; Failed if it
    is not MicroPython for this chip, or not whole."""
    rom = CHIP_DEFS[chip]
    base = rom.BOOTLOADER_FLASH_OFFSET
    if len(data) < 24 or data[0] != IMAGE_MAGIC:
        raise Failed(
            f"{name} is no firmware for {rom.CHIP_NAME}: MicroPython's comes as .bin, "
            f"and begins with the bootloader"
        )
    other = struct.unpack_from("<H", data, 12)[0]
    if other != rom.IMAGE_CHIP_ID:
        chip = CHIPS.get(other, f"chip {other}")
        raise Failed(f"{name} is for {chip}, not for {rom.CHIP_NAME}: --build names another")
    try:
        partitions = read_table(data[TABLE - base : TABLE - base + TABLE_SIZE])
    except ValueError as error:
        raise Failed(
            f"{name}: no partition table at {TABLE:#x} ({error}): cut short, or the program "
            "alone (.app-bin)? Take the .bin"
        ) from error
    boot = _load(chip, data[: TABLE - base], f"{name}: the bootloader")
    app = next((p for p in partitions if p.kind == APP), None)
    if app is None:
        raise Failed(f"{name}: its partition table has no program")
    program = data[app.offset - base : app.end - base]
    if len(program) < 24 or struct.unpack_from("<H", program, 12)[0] != rom.IMAGE_CHIP_ID:
        raise Failed(f"{name}: no program for {rom.CHIP_NAME} at {app.offset:#x}: cut short?")
    _load(chip, program, f"{name}: the program")
    banner = BANNER.search(program)
    if not banner or PORT not in program:
        raise Failed(f"{name} is for {rom.CHIP_NAME}, but it is not MicroPython")
    return Firmware(
        banner[0].decode(),
        tuple(map(int, banner.groups())),
        base,
        MIB << (boot.flash_size_freq >> 4),
        partitions,
    )


def files_partition(firmware: Firmware, flash_size: int, name: str) -> Partition:
    """The partition that MicroPython mounts; what its table does not name is what it would take.

    Failed if there is none, or the flash is too small.
    """
    last = max(p.end for p in firmware.partitions)
    found = [p for p in firmware.partitions if p.kind == DATA and p.name in ("vfs", "ffat")]
    if any(p.name == "ffat" for p in found) and not any(p.name == "vfs" for p in found):
        raise Failed(f"{name} keeps its files in a FAT partition: take a build without TinyUF2")
    if not found and firmware.version < AUTOMATIC:
        raise Failed(f"{name}: its partition table has no partition for files (vfs)")
    vfs = next((p for p in found if p.name == "vfs"), None)
    if vfs is None and last < flash_size:
        vfs = Partition(DATA, FAT, last, flash_size - last, "vfs")
    if vfs is None or last > flash_size:
        need = next(n for n in range(99) if MIB << n >= last + (vfs is None))
        raise Failed(
            f"flash too small: {name} needs {1 << need} MB, "
            f"and it is said to be {flash_size // MIB} MB (--flash-size)"
        )
    if vfs.offset % BLOCK or vfs.size % BLOCK:
        raise Failed(f"{name}: its partition vfs is not made of whole blocks of {BLOCK}")
    return vfs


def write(
    data: bytes, chip: str, firmware: Firmware, flash_size: int, vfs: Partition, files: bytes
) -> bytes:
    """The flash from offset 0 to the end of the files, merged by esptool."""
    base = firmware.bootloader
    if vfs not in firmware.partitions:
        table = pack_table([*firmware.partitions, vfs])
        at = TABLE - base
        data = data[:at] + table + data[at + len(table) :]
    size = "keep" if flash_size == firmware.flash_size else f"{flash_size // MIB}MB"
    with redirect_stdout(StringIO()):
        return merge_bin([(base, data), (vfs.offset, files)], chip, flash_size=size)
