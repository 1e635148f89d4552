"""The device's file system: littlefs as MicroPython's ports mount it.

The image holds the first blocks of the partition and no file lies beyond them, so what is in the
rest of the flash, an older file system too, is never looked at: littlefs erases a block before it
uses it.
"""

import errno

from littlefs import LittleFS, LittleFSError, UserContext

from tools.console import Failed

BLOCK = 4096  # bytes; what the flash erases at once
READ = 32  # bytes; MicroPython's default
PROG = {"esp32": 32, "rp2": 256}  # bytes written at once, by port: see its modules/_boot.py
DISK = 0x20000  # format 2.0, which every MicroPython with VfsLfs2 reads
STEP = 4  # blocks
FULL = LittleFSError.Error.LFS_ERR_NOSPC


def geometry(port: str, blocks: int) -> dict[str, int]:
    """What MicroPython's extmod/vfs_lfsx.c sets. The size of the cache decides which small files
    lie in their folder's block: as many as the device would put there."""
    return {
        "block_size": BLOCK,
        "block_count": blocks,
        "read_size": READ,
        "prog_size": PROG[port],
        "cache_size": min(BLOCK, 4 * max(READ, PROG[port])),
        "lookahead_size": 32,
        "name_max": 255,
    }


def make(files: dict[str, bytes], port: str, blocks: int) -> bytes:
    """The first blocks of a file system of `blocks`: all that have to be written.

    Made as small as the files allow, then grown. Failed if they do not fit.
    """
    size = sum(map(len, files.values()))
    used = 2 + size // BLOCK
    while used <= blocks:
        try:
            return _make(files, port, used, blocks)
        except LittleFSError as error:
            if error.code != FULL:
                raise
        used += STEP
    raise Failed(
        f"{len(files)} files of {size:,} bytes do not fit into the board's file system of "
        f"{blocks * BLOCK:,}: name fewer sensors in the configuration, or take a larger flash"
    )


def _make(files: dict[str, bytes], port: str, used: int, blocks: int) -> bytes:
    context = UserContext(used * BLOCK)
    fs = LittleFS(context, mount=False, disk_version=DISK, **geometry(port, used))
    fs.format()
    fs.mount()
    for name in sorted(files):
        if "/" in name:
            fs.makedirs(name.rpartition("/")[0], exist_ok=True)
        with fs.open(name, "wb") as file:
            file.write(files[name])
    if blocks > used:
        fs.fs_grow(blocks)
    fs.unmount()
    if len(context.buffer) != used * BLOCK:
        raise LittleFSError(FULL)  # the last step went beyond what was counted on
    return bytes(context.buffer)


def read(image: bytes, port: str, blocks: int) -> dict[str, bytes]:
    """All files, as a device finds them that had something else in the rest of its flash."""
    rest = blocks * BLOCK - len(image)
    context = UserContext(buffer=bytearray(image + b"\xa5" * rest))
    fs = LittleFS(context, mount=False, **geometry(port, blocks))
    try:
        fs.mount()
        files = {}
        for folder, _, names in fs.walk("/"):
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                with fs.open(path, "rb") as file:
                    files[path[1:]] = file.read()
        fs.unmount()
    except LittleFSError as error:
        text = errno.errorcode.get(-error.code, error.code)
        raise Failed(f"the file system in the image cannot be read back ({text})") from error
    return files
