"""What CPython lacks of MicroPython: const, clock, polling, streams. Not for the device."""

import select
import ssl
import sys
import time
import types

sys.modules.setdefault("micropython", types.SimpleNamespace(const=lambda value: value))
time.ticks_ms = lambda: int(time.monotonic() * 1000)
time.ticks_add = lambda ticks, delta: ticks + delta
time.ticks_diff = lambda later, earlier: later - earlier

from . import stream  # noqa: E402 (it needs the above)


class Poll:
    """select.poll with ipoll()."""

    def __init__(self):
        self._poll = select.poll()
        self.register, self.modify = self._poll.register, self._poll.modify
        self.unregister, self.ipoll = self._poll.unregister, self._poll.poll


class Stream:
    """A non-blocking socket with the readinto and write of MicroPython's."""

    def __init__(self, sock, context, host):
        self._sock = sock
        self._context = context
        self._host = host
        self.sock = self  # for poll()

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


def resolve(host, port):
    try:
        return _resolve(host, port)
    except UnicodeError as e:  # of a name that cannot be one
        raise OSError(str(e)) from None


_resolve = stream.resolve
stream.resolve = resolve
stream.poll = Poll
stream.wrap = Stream
