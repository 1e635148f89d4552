"""A bad link: a TCP proxy on loopback that cuts each connection after so many bytes."""

import socket
import threading


class Proxy:
    """Forwards to a port. `cuts` holds, for each connection in turn, the bytes that it lasts, in
    both directions together; those after the last one stay. Clear `heard`, and what the target
    sends waits until it is set."""

    def __init__(self, port, cuts):
        self.target = ("127.0.0.1", port)
        self.cuts = iter(cuts)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        self.heard = threading.Event()
        self.heard.set()
        self.threads = [threading.Thread(target=self.accept)]
        self.sockets = []
        self.threads[0].start()

    def accept(self):
        try:
            while True:
                device = self.listener.accept()[0]
                self.connections += 1
                pair = device, socket.create_connection(self.target)
                self.sockets += pair
                link = Link(next(self.cuts, None))
                for args in ((*pair, None), (*pair[::-1], self.heard)):
                    thread = threading.Thread(target=link.pump, args=args)
                    self.threads.append(thread)
                    thread.start()
        except OSError:
            pass  # stopped

    def stop(self):
        self.heard.set()
        for sock in [self.listener, *self.sockets]:
            cut(sock)
        for thread in self.threads:
            thread.join()


class Link:
    def __init__(self, left):
        self.left = left
        self.lock = threading.Lock()

    def take(self, n):
        """How many of n bytes the link still carries."""
        if self.left is None:
            return n
        with self.lock:
            n = min(n, self.left)
            self.left -= n
            return n

    def pump(self, source, sink, gate):
        try:
            while data := source.recv(4096):
                if gate:
                    gate.wait()
                n = self.take(len(data))
                sink.sendall(data[:n])
                if n < len(data):
                    break
        except OSError:
            pass  # the other pump has cut it
        for sock in (source, sink):
            cut(sock)


def cut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)  # which wakes the thread that reads from it; close doesn't
    except OSError:
        pass
    sock.close()
