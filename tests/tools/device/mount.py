"""Mount a file of flash as a board's _boot.py does; list it, write a file, and mount it anew.

mount.py FLASH OFFSET BLOCKS PORT
"""

import sys

import vfs

path, port = sys.argv[1], sys.argv[4]
offset, blocks = int(sys.argv[2]), int(sys.argv[3])


class Flash:
    def __init__(self):
        self.file = open(path, "r+b")

    def seek(self, block, off):
        assert 0 <= block < blocks
        self.file.seek(offset + block * 4096 + off)

    def readblocks(self, block, buf, off=0):
        self.seek(block, off)
        assert self.file.readinto(buf) == len(buf)

    def writeblocks(self, block, buf, off=0):
        assert port != "rp2" or len(buf) % 256 == off % 256 == 0
        self.seek(block, off)
        self.file.write(buf)

    def ioctl(self, op, arg):
        if op == 4:
            return blocks
        if op == 5:
            return 4096
        if op == 6:
            self.seek(arg, 0)
            self.file.write(b"\xff" * 4096)
        return 0


def mount():
    if port == "rp2":
        vfs.mount(vfs.VfsLfs2(flash, progsize=256), "/flash")
    else:
        vfs.mount(flash, "/flash")  # finds out what it is


def show(folder):
    import os
    from binascii import hexlify
    from hashlib import sha256

    for name, kind, *_ in os.ilistdir(folder):
        name = folder + "/" + name
        if kind == 0x4000:
            show(name)
        else:
            with open(name, "rb") as file:
                print(name[len("/flash/") :], hexlify(sha256(file.read()).digest()).decode())


flash = Flash()
mount()
show("/flash")
with open("/flash/spool.bin", "wb") as file:
    for _ in range(16):
        file.write(b"new" * 1000)
vfs.umount("/flash")
mount()
with open("/flash/spool.bin", "rb") as file:
    assert file.read() == b"new" * 16000
show("/flash")
