"""TLS over a socket, and the SSLContext for it. Imported where it is used."""

import gc
import ssl
import time
from binascii import a2b_base64


def context(ca, cert=None, key=None, verify=True):
    """An SSLContext for MQTTClient: the broker has to prove that it is the host of that name.

    ca      certificates, one of which has signed the broker's
    cert    the client's own certificate, where the broker asks for one
    key     its private key, not encrypted; None: it stands behind `cert`, in the same PEM
    verify  False: any broker will do, and whoever poses as one; `ca` is not used

    Each is bytes, PEM or DER. ValueError: "invalid cert", "invalid key", or "key", which is that
    of another certificate. Allocates the DER of one at a time, and what mbedtls makes of it.
    """
    c = ssl.SSLContext(0)  # PROTOCOL_TLS_CLIENT of every port; it verifies nothing
    if verify:
        c.verify_mode = 2  # type: ignore[attr-defined]  # CERT_REQUIRED, host name included
        for s in _der(ca):
            c.load_verify_locations(cadata=s)  # one more
    if cert:
        key = _der(key or cert)[-1]
        cert = _der(cert)[0]
        c.load_cert_chain(cert, key)
        # these are in the public part of any key, RSA or EC, or behind the end of one without
        if key[112:120] not in cert:
            raise ValueError("key")
    return c


def _der(buf):
    # of all that is in PEM, as some ports know nothing else; or what is DER already
    return list(map(a2b_base64, buf.split(b"-----")[2::4])) or [buf]


class TLS:
    """A stream; its first writes do the handshake, in steps."""

    def __init__(self, sock, context, host):
        gc.collect()  # mbedtls is to find its 20 KB in two pieces
        self._tcp = sock
        self.sock = sock = context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False
        )
        self.readinto = sock.readinto
        self.close = sock.close
        self._n = 0  # bytes of a write to be repeated

    def write(self, buf, start, n):
        # mbedtls wants a write that would block to be repeated as it was: in one record, then
        n = self._n or min(n, len(buf) - start, 4096)
        try:
            k = self.sock.write(buf, start, n)
        except (ValueError, OSError) as e:
            self._tcp.close()  # which a handshake that failed leaves open
            if isinstance(e, ValueError):  # the broker's certificate
                e = OSError("clock not set" if time.gmtime()[0] < 2025 else str(e).strip())
            raise e
        self._n = 0 if k else n
        return k
