"""MQTT 3.1.1 control packets, in and out of a caller's bytearray: no I/O, no state.

Section numbers are those of the OASIS standard, mqtt-v3.1.1-os.
"""

_BYTES = (bytes, bytearray, memoryview)


class MQTTError(Exception):
    """Base of the errors that the network or the broker causes."""


class Refused(MQTTError):
    """The broker refused the connection: (what it objects to, return code) (3.2.2.3). Or, which
    does not end the connection, subscriptions: ("subscription", topic filter...) (3.9.3)."""


class ProtocolError(MQTTError):
    """What the broker sent is not MQTT 3.1.1: (what is wrong, its value)."""


# Writing: each function appends to `buf`


def remaining_length(buf: bytearray, n: int):
    """Append `n`, the bytes that follow the fixed header, 7 bits a byte (2.2.3)."""
    while n > 127:
        buf.append(n & 127 | 128)
        n >>= 7
    buf.append(n)


def u16(buf: bytearray, n: int):
    """Append `n` in two bytes (1.5.2)."""
    buf.append(n >> 8)
    buf.append(n & 255)


def string(buf: bytearray, s):
    """Append bytes or str after their length (1.5.3). ValueError above 65535 bytes."""
    s = text(s)
    if len(s) >> 16:
        raise ValueError("string")
    u16(buf, len(s))
    buf.extend(s)


def connect(client_id, user, password, keepalive: int, clean: bool, will) -> bytearray:
    """A new CONNECT packet (3.1). ValueError names the argument that MQTT does not allow."""
    flags = 2 if clean else 0
    topic = payload = None
    if will:
        topic, payload, retain, qos = tuple(will) + (False, 0)[len(will) - 2 :]
        if qos // 3:
            raise ValueError("will")
        topic = check_topic(topic)
        flags += (36 if retain else 4) + 8 * qos
    flags += 128 * (user is not None) + 64 * (password is not None)
    if flags >> 6 == 1:
        raise ValueError("user")
    if not (client_id or clean):
        raise ValueError("client_id")
    if keepalive >> 16:
        raise ValueError("keepalive")
    body = bytearray(b"\0\4MQTT\4")
    body.append(flags)
    u16(body, keepalive)
    for s in client_id, topic, payload, user, password:
        if s is not None:
            string(body, s)
    buf = bytearray(b"\x10")
    remaining_length(buf, len(body))
    return buf + body


# Reading a packet that was written before, at offset `i`


def end(buf: bytearray, i: int) -> int:
    """Offset of the first byte behind it."""
    i += 1
    n = buf[i]
    shift = 7
    while buf[i] > 127:
        i += 1
        n += (buf[i] - 1) << shift
        shift += 7
    return i + 1 + n


def packet_id(buf: bytearray, i: int) -> int:
    """Packet identifier of a PUBLISH of QoS 1 or 2; 0 for any other packet."""
    if buf[i] >> 6 or not buf[i] & 6:  # nothing below PUBLISH, 0x30, is ever sent after CONNECT
        return 0
    i += 1
    while buf[i] > 127:
        i += 1
    i += 3 + (buf[i + 1] << 8 | buf[i + 2])
    return buf[i] << 8 | buf[i + 1]


# Checks


def text(s):
    """The bytes of a str; what is bytes, as it is. TypeError for anything else."""
    if isinstance(s, str):
        return s.encode()
    if not isinstance(s, _BYTES):
        raise TypeError(type(s))
    return s


def is_plain(s) -> bool:
    """Whether bytes are UTF-8 (1.5.3) without NUL and wildcards (4.7.1). Does not allocate."""
    first = more = 0  # byte of a character; how many are still to come
    for c in s:
        if more:
            more -= 1
            # Bits 4 to 11 of the first two, from C2 80 on, at most F4 8F. Not E0 80 to E0 9F and
            # F0 80 to F0 8F, which are overlong forms, nor ED A0 to ED BF, surrogates
            if first:
                first = (first * 64 + c >> 4) - 0x310
                if first >> 8 or first > 200 or first in b"xy\xae\xaf\xb8":
                    return False
                first = 0
            if c >> 6 != 2:
                return False
        elif c > 127:
            first = c
            more = 1 + (c > 223) + (c > 239)
        elif c in b"\0#+":
            return False
    return not more


def check_topic(s):
    """A topic as bytes. ValueError if no message can be published under it (4.7.3)."""
    s = text(s)
    if not s or len(s) >> 16 or not is_plain(s):
        raise ValueError("topic")
    return s
