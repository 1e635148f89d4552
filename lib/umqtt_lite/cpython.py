"""What CPython lacks of MicroPython: const, clock, polling, streams. Not for the device."""

import select
import ssl
import sys
import time
import types

sys.modules.setdefault("micropython", types.SimpleNamespace(const=lambda value: value))


def ticks_ms() -> int:
    return int(time.monotonic() * 1000)


def ticks_add(ticks: int, delta: int) -> int:
    return ticks + delta


def ticks_diff(later: int, earlier: int) -> int:
    return later - earlier


class poll:
    def __init__(self):
        self._poll = select.poll()
        self.register, self.modify = self._poll.register, self._poll.modify
        self.unregister = self._poll.unregister

    def ipoll(self, ms):
        return self._poll.poll(ms)


class wrap:
    """A non-blocking socket with the readinto and write of MicroPython's."""

    def __init__(self, sock, context, host):
        self._sock = sock
        self.sock = self  # for poll()
        self._context = context
        self._host = host

    def fileno(self):
        return self._sock.fileno()

    def close(self):
        self._sock.close()

    def readinto(self, buf, n=None):
        with memoryview(buf) as whole, whole[:n] as part:
            return self._none(self._sock.recv_into, part)

    def write(self, buf, offset, n):
        if self._context:  # which takes none but a connected socket
            if not select.select((), (self._sock,), (), 0)[1]:
                return None
            self._sock.getpeername()
            self._sock = self._context.wrap_socket(
                self._sock, server_hostname=self._host, do_handshake_on_connect=False
            )
            self._context = None
        with memoryview(buf) as whole, whole[offset : offset + n] as part:
            return self._none(self._sock.send, part)

    def _none(self, call, part):
        try:
            return call(part)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
