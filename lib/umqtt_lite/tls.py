"""TLS over a socket, and the SSLContext for it. Imported where it is used."""

import binascii
import gc
import ssl
import time


def context(ca, cert=None, key=None, *, verify=True):
    """An SSLContext for MQTTClient: the broker has to prove that it is the host of that name.

    ca      certificates, one of which has signed the broker's
    cert    the client's own certificate, where the broker asks for one
    key     its private key, not encrypted; None: it stands behind `cert`, in the same PEM
    verify  False: any broker will do, and whoever poses as one; `ca` is not used

    Each is bytes, PEM or DER. ValueError: "invalid cert"; "invalid key", or it is not that of
    `cert`; "incorrect padding" in PEM. Allocates the DER of one at a time, and what mbedtls makes
    of it.
    """
    c = ssl.SSLContext(0)  # PROTOCOL_TLS_CLIENT of every port; it verifies nothing
    if verify:
        c.verify_mode = 2  # type: ignore[attr-defined]  # CERT_REQUIRED, host name included
        for s in _der(ca or b"-----"):
            c.load_verify_locations(None, s)  # one more
    if cert:
        key = _der(key or cert)[-1]
        cert = _der(cert)[0]
        # these are in the public part of any key, RSA or EC, or behind the end of one without;
        # no key at all is an invalid one
        c.load_cert_chain(cert, key * (key[112:120] in cert))
    return c


def _der(buf):
    # of all that is in PEM, as some ports know nothing else; or what is DER already
    return list(map(binascii.a2b_base64, buf.split(b"-----")[2::4])) or [buf]


class TLS:
    """A stream; its first writes do the handshake, in steps."""

    n = 0  # bytes of a write to be repeated

    def __init__(self, sock, context, server_hostname):
        gc.collect()  # mbedtls is to find its 20 KB in two pieces
        self.tcp = sock
        self.sock = sock = context.wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        self.readinto = sock.readinto
        self.close = sock.close

    def write(self, buf, start, n):
        # mbedtls wants a write that would block to be repeated as it was: in one record, then
        n = self.n or min(n, len(buf) - start, 4096)
        k = self.sock.write(buf, start, n)
        self.n = n * (not k)
        return k

    def end(self, e):
        """The handshake has ended with the error `e`; returns what to look at."""
        self.tcp.close()  # which mbedtls leaves open
        # an alert, or EPIPE: the broker has closed before it had all that it asked for
        if -30592 in e.args or 32 in e.args:
            return "client cert?"
        if isinstance(e, ValueError) and time.gmtime()[0] < 2025:  # of the broker's certificate
            return "clock not set"
        return "no TLS: " + str(e).strip()
