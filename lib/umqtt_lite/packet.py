"""MQTT 3.1.1 control packets, in and out of a caller's bytearray: no I/O, no state.

Section numbers are those of the OASIS standard, mqtt-v3.1.1-os.
"""


class MQTTError(Exception):
    """Base of the errors that the network or the broker causes."""


class ProtocolError(MQTTError):
    """What the broker sent is not MQTT 3.1.1: (what is wrong, its value)."""


# Writing: each function appends to `buf`


def remaining_length(buf: bytearray, n: int):
    """Append `n`, the bytes that follow the fixed header, 7 bits a byte (2.2.3)."""
    while n > 127:
        buf.append(n & 127 | 128)
        n >>= 7
    buf.append(n)


def integer(buf: bytearray, n: int):
    """Append `n` in two bytes (1.5.2)."""
    buf.append(n >> 8)
    buf.append(n & 255)


def text(s):
    """The bytes of a str; anything else as it is."""
    return s.encode() if isinstance(s, str) else s


def string(buf: bytearray, s):
    """Append bytes or str after their length (1.5.3). ValueError above 65535 bytes."""
    s = text(s)
    if len(s) > 65535:
        raise ValueError("65535 bytes")
    integer(buf, len(s))
    buf.extend(s)


def connect(client_id, user, password, keepalive: int, clean_session: bool, will) -> bytearray:
    """A new CONNECT packet (3.1). ValueError says what MQTT does not allow."""
    if not client_id and not clean_session:
        raise ValueError("client_id")
    if password is not None and user is None:
        raise ValueError("password")
    if not 0 <= keepalive < 65536:
        raise ValueError("keepalive")
    n = 2 if clean_session else 0
    topic = payload = None
    if will:
        topic, payload, retain, qos = tuple(will) + (False, 0)[len(will) - 2 :]
        check_topic(text(topic))
        n |= 4 | check_qos(qos) << 3 | (32 if retain else 0)
    if user is not None:
        n |= 128 if password is None else 192
    body = bytearray(b"\0\4MQTT\4")
    body.append(n)
    integer(body, keepalive)
    for s in (client_id, topic, payload, user, password):
        if s is not None:
            string(body, s)
    buf = bytearray(b"\x10")
    remaining_length(buf, len(body))
    buf.extend(body)
    return buf


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
    """Packet identifier of a PUBLISH of QoS 1 or 2."""
    i += 1
    while buf[i] > 127:
        i += 1
    i += 3 + (buf[i + 1] << 8 | buf[i + 2])
    return buf[i] << 8 | buf[i + 1]


# Checks


def check_qos(n: int) -> int:
    """`n`, or ValueError if there is no such QoS."""
    if not 0 <= n <= 2:
        raise ValueError("qos")
    return n


def is_plain(s) -> bool:
    """Whether bytes are UTF-8 (1.5.3) without NUL and wildcards (4.7.1). Does not allocate."""
    more = 0  # bytes of a character that are still to come
    for c in s:
        if more:
            if c & 192 != 128:
                return False
            code = code * 64 + c - 128
            more -= 1
            # overlong forms, surrogates, and what is beyond Unicode
            if not more and (code < low or code >> 11 == 27 or code > 0x10FFFF):
                return False
        elif c > 127:
            if not 192 < c < 248:
                return False
            more = 1 if c < 224 else 2 if c < 240 else 3
            low = 128 if c < 224 else 2048 if c < 240 else 65536
            code = 63 >> more
            code &= c
        elif c in b"\0#+":
            return False
    return not more


def check_topic(s):
    """ValueError unless messages can be published under this topic, in bytes (4.7.3)."""
    if not 0 < len(s) < 65536 or not is_plain(s):
        raise ValueError("topic")


def check_filter(f) -> bytes:
    """A topic filter as bytes. ValueError if it is none: + fills a level, # the last (4.7.1)."""
    f = bytes(text(f))
    levels = f.split(b"/")
    if levels[-1] == b"#":
        levels.pop()
    for s in levels:
        if s != b"+" and not is_plain(s) or not f:
            raise ValueError("topic_filter")
    return f


def match(f: bytes, s) -> bool:
    """Whether a topic filter matches a topic, both in bytes (4.7). Does not allocate."""
    if f == s:
        return True
    if s[0] == 36 and f[0] != 36:  # $SYS and the like are not for + and # (4.7.2)
        return False
    i = 0  # in f
    j = 0  # in s
    n = len(s)
    while i < len(f):
        c = f[i]
        i += 1
        if c == 35:
            return True
        if c == 43:
            while j < n and s[j] != 47:
                j += 1
        elif j < n and s[j] == c:
            j += 1
        else:  # "a/#" matches "a" too
            return j == n and c == 47 and f[i:] == b"#"
    return j == n
