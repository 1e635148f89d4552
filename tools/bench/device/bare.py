# A blocking socket that writes ready packets: what no client can beat. See lite.py.

import socket

REST = b"\0\7bench/t%s" + bytes(64)
QOS = (b"\x30\x49" + REST % b"", b"\x32\x4b" + REST % b"\0\1", b"\x34\x4b" + REST % b"\0\1")
WINDOW = 13  # packets, as many as an outbox of 1,024 bytes holds
PACKETS = b"".join(b"\x32\x4b" + REST % bytes((0, i)) for i in range(1, WINDOW + 1))
PUBREL = b"\x62\2\0\1"

answer = bytearray(4)
answers = bytearray(4 * WINDOW)


def connect(port):
    s = socket.socket()
    s.connect(socket.getaddrinfo("127.0.0.1", port)[0][-1])
    s.write(b"\x10\x10\0\4MQTT\4\2\0\0\0\4bare")
    s.readinto(answer)
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
    while n > 0:
        s.write(PACKETS)
        s.readinto(answers)
        n -= WINDOW
