"""TLS over a socket. Imported when an SSLContext is given."""


class TLS:
    """A stream; its first writes do the handshake, in steps."""

    def __init__(self, sock, context, host):
        self.sock = sock = context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False
        )
        self.readinto = sock.readinto
        self.close = sock.close
        self._n = 0  # bytes of a write to be repeated

    def write(self, buf, offset, n):
        # mbedtls wants a write that would block to be repeated as it was
        n = self._n or min(n, len(buf) - offset)
        try:
            k = self.sock.write(buf, offset, n)
        except ValueError as e:  # what MicroPython makes of a certificate that fails
            raise OSError("CERTIFICATE_VERIFY_FAILED: " + str(e).strip())
        self._n = 0 if k else n
        return k
