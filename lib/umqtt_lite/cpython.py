"""What CPython lacks of MicroPython: const, clock, polling, streams, and what aio.py uses of
asyncio.core. Not for the device."""

import asyncio
import base64
import binascii
import contextlib
import inspect
import os
import select
import socket
import ssl
import sys
import tempfile
import time
import types

sys.modules.setdefault("micropython", types.SimpleNamespace(const=lambda value: value))
time.ticks_ms = lambda: int(time.monotonic() * 1000)
time.ticks_add = lambda ticks, delta: ticks + delta
time.ticks_diff = lambda later, earlier: later - earlier

from . import stream, tls  # noqa: E402 (they need the above)


class Poll:
    """select.poll with ipoll(), for one Stream, or a file."""

    def __init__(self):
        self._poll = select.poll()
        self._pending = None

    def register(self, stream, events):
        self._pending = getattr(stream, "pending", None)
        self._poll.register(stream, getattr(stream, "waits", 0) or events)

    def ipoll(self, ms):
        return self._poll.poll(0 if self._pending and self._pending() else ms)


# What mbedtls says of certificates, by OpenSSL's code; and of any other
REASONS = {
    9: "The certificate validity starts in the future",
    10: "The certificate validity has expired",
    62: "The certificate Common Name (CN) does not match with the expected CN",
    64: "The certificate Common Name (CN) does not match with the expected CN",
}
UNTRUSTED = "The certificate is not correctly signed by the trusted CA"
CLIENT = "client cert?"


class Stream:
    """A non-blocking socket with the readinto and write of MicroPython's."""

    def __init__(self, sock, context, host):
        self._sock = sock
        self._context = context
        self._host = host
        self._error = None  # OpenSSL tells it only once
        self._heard = False
        self.waits = 0  # for POLLIN alone, to go on with a write
        self.sock = self  # for poll()

    def fileno(self):
        return self._sock.fileno()

    def pending(self):
        """Bytes that were received and decrypted."""
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0

    def setblocking(self, flag):
        pass  # it never blocks

    def close(self):
        self._sock.close()

    def readinto(self, buf, n=None):
        with memoryview(buf) as whole, whole[:n] as part:
            n = self._none(self._sock.recv_into, part)
            self._heard = self._heard or bool(n)
            return n

    def write(self, buf, offset, n):
        if self._context:  # which takes none but a connected socket
            if not select.select((), (self._sock,), (), 0)[1]:
                return None
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            self._sock = self._context.wrap_socket(
                self._sock, server_hostname=self._host, do_handshake_on_connect=False
            )
            self._context = None
        self.waits = 0
        with memoryview(buf) as whole, whole[offset : offset + n] as part:
            return self._none(self._sock.send, part, select.POLLIN)

    def end(self, e):
        """As that of tls.TLS."""
        if isinstance(e, ssl.SSLCertVerificationError):
            text = REASONS.get(e.verify_code, UNTRUSTED)
            if e.verify_code == 9 and tls.time.gmtime()[0] < 2025:
                return "clock not set"
            e = text
        # in TLS 1.3 it may close after the handshake, before CONNECT is written
        elif alert(e) or isinstance(self._sock, ssl.SSLSocket) and self._sock.version():
            return CLIENT
        return f"no TLS: {e}"

    def _none(self, call, part, waits=0):
        if self._error:
            raise self._error
        try:
            return call(part)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLWantReadError:
            self.waits = waits
            return None
        except OSError as e:
            # in TLS 1.3 the alert comes after the handshake
            late = alert(e) and not (waits or self._heard)
            self._error = OSError(CLIENT) if late else e
            raise self._error from None


def alert(e):
    return "ALERT" in (getattr(e, "reason", None) or "")


class Context(ssl.SSLContext):
    """An SSLContext that takes what MicroPython's takes: certificates and keys in DER."""

    def __new__(cls, protocol):
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self.check_hostname = False
        self.verify_mode = ssl.CERT_NONE
        self.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return self

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "verify_mode":
            self.check_hostname = value == ssl.CERT_REQUIRED

    def load_verify_locations(self, cafile, cadata):
        try:
            super().load_verify_locations(cadata=cadata)
        except (ssl.SSLError, ValueError):
            raise ValueError("invalid cert") from None

    def load_cert_chain(self, cert, key):
        Context(0).load_verify_locations(None, cert)
        # from a file, in PEM, where a label says which form a key has
        for label in "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
            with tempfile.NamedTemporaryFile("w") as file:
                file.write(pem("CERTIFICATE", cert) + pem(label, key))
                file.flush()
                try:
                    return super().load_cert_chain(file.name)
                except ssl.SSLError:
                    pass
        raise ValueError("invalid key")


def a2b_base64(data):
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:
        raise ValueError("incorrect padding") from None


def pem(label, der):
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def resolve(host, port):
    try:
        return _resolve(host, port)
    except UnicodeError as e:  # of a name that cannot be one
        raise OSError(str(e)) from None


_resolve = stream.resolve
stream.resolve = resolve
stream.poll = Poll
stream.wrap = Stream
tls.ssl = types.SimpleNamespace(SSLContext=Context)
tls.binascii = types.SimpleNamespace(a2b_base64=a2b_base64)


# For aio.py. A task that waits awaits a future that wake() can end

_naps = {}  # task: (future, what is to be called at its end)


def wake(task):
    future, end = _naps.pop(task, (None, None))
    if future:
        end()
        if not future.done():
            future.set_result(None)


def nap():
    """A future for the task, as `await` and MicroPython's `yield` take it."""
    task = asyncio.current_task()
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: _naps.get(task, ())[:1] == (future,) and wake(task))
    return task, future


async def drive(generator):
    for future in generator:
        await future


class Pause:
    """Until wake(); a task that is cancelled leaves its queue."""

    def __await__(self):
        task, future = nap()
        _naps[task] = future, lambda: task in task.data and task.data.remove(task)
        return future.__await__()


pause = Pause()


class Sleep:
    """For `await`, and for `yield from` in what drive() drives."""

    def __init__(self, future):
        self._future = future

    def __await__(self):
        return self._future.__await__()

    def __iter__(self):
        yield self._future


class TaskQueue(list):
    push = list.append

    def peek(self):
        return self[0] if self else None

    def pop(self):
        return super().pop(0)


class RunQueue:
    push = staticmethod(wake)


class IOQueue:
    def queue_read(self, stream):
        return self._wait(stream.fileno(), "reader")

    def queue_write(self, stream):
        if isinstance(stream._sock, ssl.SSLSocket):  # which may have to be read for that
            return loop.sleep_ms(50)._future
        return self._wait(stream.fileno(), "writer")

    def _wait(self, n, what):
        task, future = nap()
        loop = asyncio.get_running_loop()
        getattr(loop, "add_" + what)(n, wake, task)

        def end():
            with contextlib.suppress(OSError):  # it is closed, and the other one waited too
                getattr(loop, "remove_" + what)(n)

        _naps[task] = future, end
        return future


class loop:
    """MicroPython's asyncio.core."""

    TaskQueue = TaskQueue
    _task_queue = RunQueue
    _io_queue = IOQueue()
    current_task = asyncio.current_task
    get_event_loop = asyncio.get_running_loop

    @staticmethod
    def create_task(work):
        return asyncio.create_task(drive(work) if inspect.isgenerator(work) else work)

    @staticmethod
    def sleep_ms(ms):
        task, future = nap()
        timer = asyncio.get_running_loop().call_later(ms / 1000, wake, task)
        _naps[task] = future, timer.cancel
        return Sleep(future)
