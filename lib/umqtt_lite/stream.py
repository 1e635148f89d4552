"""Non-blocking TCP and TLS streams, and each port's quirks.

A stream has readinto(buf, n=len(buf)) and write(buf, offset, n), which return None where they
would block, and close(). One of TLS has end(error), for a handshake that failed.
"""

import socket
from select import poll  # noqa: F401 (for client.py; CPython has another)


def resolve(host: str, port: int):
    """An address of a host, IPv4 where it has both kinds. OSError if there is none.

    Blocks while a name server is asked.
    """
    return min(socket.getaddrinfo(host, port, 0, 1))  # 1: SOCK_STREAM of every port


def connect(a, ssl, host: str):
    """A stream to a resolve()d address, in TLS if `ssl` is an SSLContext.

    Until it is connected, and TLS has shaken hands, its write() would block.
    """
    s = socket.socket(*a[:3])
    s.setblocking(False)
    try:
        s.connect(a[-1])
    except OSError as e:
        # EINPROGRESS: 115 of Linux and RP2040, 119 of ESP32 (lwIP), 36 of macOS
        if e.args[0] not in b"\x73\x77\x24":
            s.close()
            raise
    return wrap(s, ssl, host)


def wrap(s, ssl, host):
    if ssl:
        from .tls import TLS

        s = TLS(s, ssl, host)
    return s
