"""Non-blocking TCP streams, and each port's quirks.

A stream has readinto(buf, n=len(buf)) and write(buf, offset, n), which return None where they
would block, and close().
"""

import socket

try:
    from select import poll
    from time import ticks_add, ticks_diff, ticks_ms

    def wrap(sock, ssl, host):
        """The stream over a socket, in TLS if `ssl` is an SSLContext."""
        if ssl:
            from .tls import TLS

            return TLS(sock, ssl, host)
        return sock

except ImportError:
    from .cpython import poll, ticks_add, ticks_diff, ticks_ms, wrap


def resolve(host: str, port: int):
    """An address of a host, IPv4 where it has both kinds. OSError if there is none.

    Blocks while a name server is asked.
    """
    return min(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM), key=lambda a: a[0])


def connect(a):
    """A socket that begins to connect to a resolve()d address; until then its write would block."""
    sock = socket.socket(a[0], a[1], a[2])
    try:
        sock.setblocking(False)
        sock.connect(a[-1])
    except OSError as e:
        # EINPROGRESS of Linux and RP2040, ESP32 (lwIP), macOS
        if e.args[0] not in (115, 119, 36):
            sock.close()
            raise
    return sock
