# A NOR flash in RAM, for VfsLfs2, that can lose its power.

import vfs

BLOCK_COUNT = 4
BLOCK_SIZE = 5
ERASE = 6
EIO = 5


class Flash:
    """Counts what is done to it. With `left` at k >= 0 the power fails at the k-th program or
    erase operation from now, which is done `half` or not at all, and stays away."""

    def __init__(self, blocks, size):
        self.size = size
        self.data = bytearray(b"\xff" * (blocks * size))
        self.half = False
        self.off = False
        self.left = -1
        self.programmed = self.erases = 0
        vfs.VfsLfs2.mkfs(self)
        self.programmed = self.erases = 0

    # Errors are returned: the finaliser of a file, after the power failed, may not allocate.

    def readblocks(self, block, buf, offset=0):
        return -EIO if self.off else self.read(block * self.size + offset, buf)

    def writeblocks(self, block, buf, offset=0):
        return -EIO if self.off else self.write(block * self.size + offset, buf)

    def ioctl(self, op, arg):
        if op == BLOCK_COUNT:
            return len(self.data) // self.size
        if op == BLOCK_SIZE:
            return self.size
        if op == ERASE:
            return -EIO if self.off else self.erase(arg * self.size)
        return 0

    def read(self, i, buf):
        buf[:] = memoryview(self.data)[i : i + len(buf)]
        return 0

    def write(self, i, buf):
        n = self.spend(len(buf))
        for k in range(i, i + n):
            if self.data[k] != 255:
                raise RuntimeError("programmed twice")
        self.data[i : i + n] = buf[:n]
        self.programmed += n
        return -EIO if self.off else 0

    def erase(self, i):
        n = self.spend(self.size)
        self.data[i : i + n] = b"\xff" * n
        self.erases += 1
        return -EIO if self.off else 0

    def spend(self, n):
        """How many of `n` bytes an operation still does."""
        if self.left == 0:
            self.off = True
            return n // 2 if self.half else 0
        self.left -= 1
        return n
