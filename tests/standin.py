"""Firmware for the tests of `image` that runs nowhere, but is built like MicroPython's."""

import hashlib
import struct

CHIP_ID = {"esp32": 0, "esp32s3": 9, "esp32c3": 5}
BOOTLOADER = {"esp32": 0x1000, "esp32s3": 0, "esp32c3": 0}
LOAD = {"esp32": 0x3FFF0030, "esp32s3": 0x3FCE3820, "esp32c3": 0x3FCD5820}
BANNER = b"\0MicroPython v%s on 2026-08-24\0flashbdev.py\0"
NVS, PHY = (1, 2, 0x9000, 0x6000, "nvs"), (1, 1, 0xF000, 0x1000, "phy_init")
FACTORY = (0, 0, 0x10000, 0x1F0000, "factory")
VFS = (1, 0x81, 0x200000, 0x200000, "vfs")
FFAT = (1, 0x81, 0x200000, 0x200000, "ffat")


def program(chip: str, data: bytes, size_code: int = 2) -> bytes:
    """An image with one segment, its checksum and its SHA-256; size_code 2: 4 MB."""
    data += b"\0" * (-len(data) % 4)
    head = struct.pack("<BBBBI", 0xE9, 1, 2, size_code << 4, LOAD[chip])
    head += struct.pack("<B3xHBHH4xB", 0xEE, CHIP_ID[chip], 0, 0, 99, 1)
    out = head + struct.pack("<II", LOAD[chip], len(data)) + data
    out += b"\0" * (15 - len(out) % 16)
    checksum = 0xEF
    for byte in data:
        checksum ^= byte
    out += bytes([checksum])
    return out + hashlib.sha256(out).digest()


def table(*partitions) -> bytes:
    out = b"".join(
        b"\xaa\x50" + struct.pack("<BBII16sI", *p[:4], p[4].encode(), 0) for p in partitions
    )
    return out + b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(out).digest()


def esp32(
    chip: str,
    partitions=(NVS, PHY, FACTORY),
    version: str = "1.29.0",
    banner: bytes = BANNER,
    size_code: int = 2,
) -> bytes:
    base = BOOTLOADER[chip]
    banner = banner % version.encode() if b"%s" in banner else banner
    out = program(chip, bytes(range(256)) * 20, size_code).ljust(0x8000 - base, b"\xff")
    out = (out + table(*partitions)).ljust(0x10000 - base, b"\xff")
    return out + program(chip, b"code" * 9000 + banner + b"more" * 5000)


FAMILY = {"rp2040": 0xE48BFF56, "rp2350": 0xE48BFF59}
PLACE = {"rp2040": (0x12C000, 848 * 1024), "rp2350": (0x180000, 2560 * 1024)}
FLASH = {"rp2040": 2 << 20, "rp2350": 4 << 20}
BOARD = {"rp2040": b"pico_w", "rp2350": b"pico2_w"}
BASE = 0x10000000


def block(flags, address, number, total, family, page: bytes) -> bytes:
    head = struct.pack("<8I", 0x0A324655, 0x9E5D5157, flags, address, 256, number, total, family)
    return (head + page).ljust(508, b"\0") + struct.pack("<I", 0x0AB16F30)


def errata() -> bytes:
    """What the SDK puts first, for RP2350-E10."""
    tail = bytes.fromhex("04e35799")
    return block(0xA000, 0x10FFFF00, 0, 2, 0xE48BFF57, b"\xef" * 256 + tail)


def pico(chip: str, place=(), name=b"MicroPython", version=b"v1.29.0", board=b"") -> bytes:
    """The flash of a program of 5.3 sectors, with its binary info; the entries lie where they are
    copied to RAM from."""
    out = bytearray(b"code" * 5440)
    text = len(out) - 4096
    strings = {}
    for item in (name, version, board or BOARD[chip], b"ROMFS", b"MicroPython"):
        strings[item] = BASE + text
        out[text : text + len(item) + 1] = item + b"\0"
        text += len(item) + 1
    ram, copy = 0x20000100, len(out) - 2048
    entries = [
        struct.pack("<H2sII", 6, b"RP", key, strings[value])
        for key, value in (
            (0x02031C86, name),
            (0x11A9BC3A, version),
            (0xB63CFFBB, board or BOARD[chip]),
        )
    ]
    place = PLACE[chip] if place == () else place
    if place:
        offset, size = place
        for item in ((b"ROMFS", offset - 4096, 4096), (b"MicroPython", offset, size)):
            entries.append(
                struct.pack("<H2sIIIIH", 7, b"MP", strings[item[0]], BASE + item[1], item[2], 0, 3)
            )
    addresses, data = [], b""
    for entry in entries:
        addresses.append(ram + len(data))
        data += entry.ljust(24, b"\0")
    out[copy : copy + len(data)] = data
    listed, copies = copy + 512, copy + 768
    struct.pack_into(f"<{len(addresses)}I", out, listed, *addresses)
    end = BASE + listed + 4 * len(addresses)
    struct.pack_into("<6I", out, copies, BASE + copy, ram, ram + len(data), 0, 0, 0)
    header = 0x1D4 if chip == "rp2040" else 0x124
    struct.pack_into("<5I", out, header, 0x7188EBF2, BASE + listed, end, BASE + copies, 0xE71AA390)
    return bytes(out)


def uf2(chip: str, data: bytes) -> bytes:
    """As the SDK writes it: pages in order, the last sector not filled."""
    pages = [data[i : i + 256] for i in range(0, len(data), 256)]
    blocks = [
        block(0x2000, BASE + i * 256, i, len(pages), FAMILY[chip], page)
        for i, page in enumerate(pages)
    ]
    return b"".join([errata(), *blocks] if chip == "rp2350" else blocks)


def boot_rom(chip: str, data: bytes, flash: bytearray) -> bool:
    """Write UF2 to the flash as the chip's boot ROM does, and return if it restarts then.

    pico-bootrom-rp2040's virtual_disk.c, pico-bootrom-rp2350's usb_virtual_disk.c: RP2040 goes by
    the number of a block when it erases, and does not look at the family; RP2350 starts afresh
    where family or count change. NOR flash: what is written only clears bits.
    """
    kind = restarted = None
    for start in range(0, len(data), 512):
        *_, flags, address, size, number, total, family = struct.unpack_from("<8I", data, start)
        if family not in (FAMILY[chip], 0xE48BFF57):
            continue
        if (total, family) != kind:
            kind, seen, erased = (total, family), set(), set()
        if number in seen or number >= total or address - BASE >= len(flash):
            continue
        seen.add(number)
        offset = address - BASE
        sector = number // 16 if chip == "rp2040" else offset // 4096
        if sector not in erased:
            erased.add(sector)
            first = offset - offset % 4096
            flash[first : first + 4096] = b"\xff" * 4096
        page = data[start + 32 : start + 32 + 256]
        old = flash[offset : offset + 256]
        flash[offset : offset + 256] = bytes(a & b for a, b in zip(old, page, strict=True))
        restarted = len(seen) == total
    return bool(restarted)
