# A blocking socket that writes ready packets: what no client can beat. See lite.py.

import socket

REST = b"\0\7bench/t%s" + bytes(64)
QOS = (b"\x30\x49" + REST % b"", b"\x32\x4b" + REST % b"\0\1", b"\x34\x4b" + REST % b"\0\1")
WINDOW = 13  # packets, as many as an outbox of 1,024 bytes holds
PUBREL = b"\x62\2\0\1"

answer = bytearray(4)
message = bytearray(len(QOS[0]))


def connect(port, name=b"bare"):
    s = socket.socket()
    s.connect(socket.getaddrinfo("127.0.0.1", port)[0][-1])
    s.write(b"\x10\x10\0\4MQTT\4\2\0\x3c\0\4" + name)
    if s.readinto(answer) != 4:
        raise OSError("no CONNACK")
    return s


def send(s, n):
    packet = QOS[0]
    while n:
        s.write(packet)
        n -= 1


def one(s, n, qos=1):
    packet = QOS[qos]
    while n:
        s.write(packet)
        if qos:
            s.readinto(answer)
        if qos == 2:
            s.write(PUBREL)
            s.readinto(answer)
        n -= 1


def many(s, n):
    """A sliding window: a packet for each PUBACK."""
    packet = QOS[1]
    for i in range(n + WINDOW):
        if i >= WINDOW:
            s.readinto(answer)
        if i < n:
            s.write(packet)


def subscribe(s):
    s.write(b"\x82\x0c\0\1\0\7bench/t\0")
    s.readinto(message, 5)


def receive(s, n):
    while n:
        s.readinto(message)
        n -= 1
