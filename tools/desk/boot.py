"""The desk board's own boot: flash is a file with littlefs, mounted as /, and main.py starts.

micropython -i boot.py FILE BLOCKS
"""

import os
import sys

import vfs

BLOCK = 4096  # bytes, as on ESP32 and RP2040
RESET = 3  # exit code of board.reset()


class Flash:
    """A block device in a file, which is made where it is not there. Erased, it reads 0xff."""

    def __init__(self, path, blocks):
        try:
            self.file = open(path, "r+b")
        except OSError:
            with open(path, "wb") as file:
                for _ in range(blocks):
                    file.write(b"\xff" * BLOCK)
            self.file = open(path, "r+b")
        self.blocks = self.file.seek(0, 2) // BLOCK

    def readblocks(self, block, buffer, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.readinto(buffer)

    def writeblocks(self, block, buffer, offset=0):
        self.file.seek(block * BLOCK + offset)
        self.file.write(buffer)

    def ioctl(self, op, arg):
        if op == 4:
            return self.blocks
        if op == 5:
            return BLOCK
        if op == 6:
            self.writeblocks(arg, b"\xff" * BLOCK)
        return 0


def mount(path, blocks):
    flash = Flash(path, blocks)
    try:
        fs = vfs.VfsLfs2(flash)
    except OSError:
        vfs.VfsLfs2.mkfs(flash)
        fs = vfs.VfsLfs2(flash)
    vfs.umount("/")
    vfs.mount(fs, "/")
    os.chdir("/")
    sys.path[:] = ["", ".frozen", "/lib"]


def start():
    """Run main.py, as at power-on. Its end and Ctrl-C lead to the REPL."""
    try:
        with open("main.py") as file:
            program = file.read()
    except OSError:
        return
    try:
        exec(program, {"__name__": "__main__"})
    except SystemExit as e:
        if e.args and e.args[0] == RESET:
            raise
    except KeyboardInterrupt:
        pass
    except BaseException as e:
        sys.print_exception(e)


mount(sys.argv[1], int(sys.argv[2]))
os.system("stty isig")  # from here on Ctrl-C interrupts, as on a board
start()
