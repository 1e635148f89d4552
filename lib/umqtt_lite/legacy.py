"""ssl=True of umqtt.simple. Imported by simple.py where it is used."""

import ssl


class Context:
    """What stands for an SSLContext: the arguments of ssl.wrap_socket(), which verifies nothing
    but what they say."""

    def __init__(self, params):
        self._params = params

    def wrap_socket(self, sock, **_):
        return ssl.wrap_socket(sock, do_handshake=False, **self._params)
