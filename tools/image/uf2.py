"""RP2040 and RP2350: UF2 files, and what a firmware says of itself in its binary info.

A block of 512 bytes holds a page of 256 for the flash. The chip's boot ROM writes it as it comes,
and restarts once it has had as many blocks as each one tells. RP2040's erases a sector where the
number of a block is a multiple of 16, wherever that block belongs (pico-bootrom-rp2040,
_write_uf2_page; erratum RP2040-E14), so here each sector is written whole and starts with such a
number.
"""

import struct
from typing import NamedTuple

from tools.console import Failed
from tools.image.filesystem import BLOCK as SECTOR

FLASH = 0x10000000  # where the flash begins in the address space
FLASH_END = 0x11000000
PAGE = 256
PAGES = SECTOR // PAGE
SIZE = 512

HEADER = struct.Struct("<8I")
MAGIC = (0x0A324655, 0x9E5D5157)
MAGIC_END = struct.pack("<I", 0x0AB16F30)
FAMILY_GIVEN = 0x2000  # flags
EXTENDED = 0x8000
ABSOLUTE = 0xE48BFF57
FAMILIES = {"rp2040": 0xE48BFF56, "rp2350": 0xE48BFF59}  # rp2350: its ARM cores
NAMES = {
    0xE48BFF56: "RP2040",
    0xE48BFF59: "RP2350",
    0xE48BFF5A: "RP2350's RISC-V cores",
    0xE48BFF5B: "RP2350 in non-secure mode",
}


class Block(NamedTuple):
    flags: int
    address: int
    size: int
    number: int
    total: int
    family: int
    page: bytes

    def pack(self) -> bytes:
        head = HEADER.pack(*MAGIC, *self[:6])
        return head + self.page.ljust(SIZE - HEADER.size - 4, b"\0") + MAGIC_END


def _is_errata_block(block: Block) -> bool:
    """RP2350-E10: a first block that the boot ROM is to stumble over, in no family of ours."""
    return (
        (block.flags & ~EXTENDED, block.number, block.total, block.family)
        == (FAMILY_GIVEN, 0, 2, ABSOLUTE)
    ) and block.page == b"\xef" * PAGE


def read(data: bytes, chip: str, name: str) -> tuple[bytes, dict[int, bytes]]:
    """(the block that RP2350-E10 needs or nothing, the pages by address). Failed if anything in
    it is not as the boot ROM takes it."""
    if len(data) < SIZE or HEADER.unpack_from(data)[:2] != MAGIC:
        raise Failed(f"{name} is no UF2 file: MicroPython for {chip.upper()} comes as .uf2")
    if len(data) % SIZE:
        raise Failed(f"{name} is cut short: {len(data):,} bytes are not whole blocks of {SIZE}")
    blocks = []
    for offset in range(0, len(data), SIZE):
        head = HEADER.unpack_from(data, offset)
        end = offset + SIZE
        if head[:2] != MAGIC or data[end - 4 : end] != MAGIC_END:
            raise Failed(f"{name}: block {offset // SIZE} has not UF2's magic numbers: damaged?")
        blocks.append(Block(*head[2:], data[offset + 32 : offset + 32 + PAGE]))
    errata = b""
    if _is_errata_block(blocks[0]):
        errata = data[:SIZE]
        del blocks[0]
    pages: dict[int, bytes] = {}
    for number, block in enumerate(blocks):
        place = f"{name}: block {number} of {len(blocks)}"
        if not block.flags & FAMILY_GIVEN or block.family != FAMILIES[chip]:
            other = NAMES.get(block.family, f"family {block.family:#x}")
            raise Failed(f"{name} is for {other}, not for {chip.upper()}: --build names another")
        if block.flags & ~EXTENDED != FAMILY_GIVEN or block.size != PAGE:
            raise Failed(f"{place} is no page of {PAGE} bytes for the flash")
        if (block.number, block.total) != (number, len(blocks)):
            raise Failed(f"{place} says it is {block.number} of {block.total}: cut short?")
        if block.address % PAGE or not FLASH <= block.address < FLASH_END:
            raise Failed(f"{place} is for {block.address:#x}, which is no page of the flash")
        if block.address in pages:
            raise Failed(f"{place}: there are two for {block.address:#x}")
        pages[block.address] = block.page
    if FLASH not in pages:
        raise Failed(f"{name} does not begin where the flash does, at {FLASH:#x}")
    return errata, pages


def write(errata: bytes, pages: dict[int, bytes], chip: str) -> bytes:
    """A UF2 file of whole sectors, in the order of their addresses."""
    sectors = sorted({address - address % SECTOR for address in pages})
    addresses = [sector + page * PAGE for sector in sectors for page in range(PAGES)]
    erased = b"\xff" * PAGE
    out = [errata]
    for number, address in enumerate(addresses):
        page = pages.get(address, erased)
        block = Block(FAMILY_GIVEN, address, PAGE, number, len(addresses), FAMILIES[chip], page)
        out.append(block.pack())
    return b"".join(out)


def flash(pages: dict[int, bytes]) -> bytes:
    """The flash from its beginning to the last page."""
    out = bytearray(b"\xff" * (max(pages) + PAGE - FLASH))
    for address, page in pages.items():
        out[address - FLASH : address - FLASH + PAGE] = page
    return bytes(out)


# Binary info of Raspberry Pi's SDK (pico/binary_info): a header near the start of the program,
# (marker, first, end, copied, marker), with the addresses of a list of addresses of entries, and
# of a table of what is copied to RAM at the start, (source, first, end).
START, END = 0x7188EBF2, 0xE71AA390
STRING, DEVICE = 6, 7  # types of entries
SDK, MICROPYTHON = b"RP", b"MP"  # tags
PROGRAM, VERSION, BOARD = 0x02031C86, 0x11A9BC3A, 0xB63CFFBB
COPIES = 10  # at most


class Device(NamedTuple):
    name: str
    offset: int  # in the flash
    size: int


class Info(NamedTuple):
    program: str
    version: str
    board: str
    devices: list[Device]


def info(image: bytes) -> Info:
    """What the firmware says of itself; empty where it does not."""
    strings: dict[int, str] = {}
    devices = []
    try:
        copied, entries = _entries(image)
        for entry in entries:
            kind, tag = struct.unpack("<H2s", _read(image, copied, entry, 4))
            if (kind, tag) == (STRING, SDK):
                key, text = struct.unpack("<II", _read(image, copied, entry + 4, 8))
                strings[key] = _text(image, copied, text)
            elif (kind, tag) == (DEVICE, MICROPYTHON):
                text, address, size = struct.unpack("<III", _read(image, copied, entry + 4, 12))
                devices.append(Device(_text(image, copied, text), address - FLASH, size))
    except (struct.error, ValueError):
        pass  # then what was found is all
    return Info(*(strings.get(key, "") for key in (PROGRAM, VERSION, BOARD)), devices)


def _entries(image: bytes) -> tuple[list[tuple[int, int, int]], list[int]]:
    """(what is copied to where, the entries' addresses)."""
    for offset in range(0, 2 * 1024, 4):
        start, first, end, table, stop = struct.unpack_from("<5I", image, offset)
        if (start, stop) == (START, END) and first <= end:
            break
    else:
        return [], []
    copied = []
    for _ in range(COPIES):
        copy = struct.unpack("<III", _read(image, [], table, 12))
        if not copy[0]:
            break
        copied.append(copy)
        table += 12
    return copied, [
        struct.unpack("<I", _read(image, copied, address, 4))[0]
        for address in range(first, end, 4)
    ]


def _read(image: bytes, copied: list[tuple[int, int, int]], address: int, size: int) -> bytes:
    for source, first, end in copied:
        if first <= address < end:
            address += source - first
            break
    if address < FLASH:
        raise ValueError(address)
    return image[address - FLASH : address - FLASH + size]


def _text(image: bytes, copied: list[tuple[int, int, int]], address: int) -> str:
    return _read(image, copied, address, 99).split(b"\0")[0].decode(errors="replace")
