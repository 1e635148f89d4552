"""The codec against paho-mqtt's, which is independent of it, in both directions.

Where paho cannot make a packet, since only a broker sends it, reference.py does. What both write
is equal byte for byte: neither has a choice, as each puts all filters of one call into one packet,
and lengths in as few bytes as can be.
"""

import json
import select
import socket
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from fuzz.reference import frame, integer, string
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from runtimes import ROOT, RUNTIMES, command, environment

SCRIPT = Path(__file__).parent / "device/codec.py"


def examples(count):
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=count,
        suppress_health_check=list(HealthCheck),
    )


class Codec:
    """The device script; it calls what it is told."""

    def __init__(self, runtime):
        self.process = subprocess.Popen(
            command(runtime, SCRIPT, heap="40m"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def call(self, *words):
        self.process.stdin.write(json.dumps(words, ensure_ascii=False) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def write(self, *words):
        """What a call writes."""
        return bytes.fromhex(self.call(*words)[0])

    def new(self, *args, **options):
        return self.call("new", ["c", *args], options)

    def connected(self, **options):
        self.new(**options)
        assert self.feed(b"\x20\2\0\0")[1] == [["connect", False]]

    def feed(self, *pieces):
        """What it writes once these pieces have come, and what happened."""
        written, events = self.call("feed", *(piece.hex() for piece in pieces))
        return bytes.fromhex(written), events

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module", params=RUNTIMES)
def codec(request):
    codec = Codec(request.param)
    yield codec
    codec.close()


class Peer:
    """A paho client; the other end of its socket is here."""

    def __init__(self, client_id="c", clean=True, user=None, password=None, will=None):
        self.client = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, clean_session=clean
        )
        if user is not None:
            client.username_pw_set(user, password)
        if will:
            topic, payload, retain, qos = will
            client.will_set(topic, payload, qos, retain)
        ours, self.end = socket.socketpair()
        for each in ours, self.end:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            each.setblocking(False)
        client._create_socket = lambda: ours
        self.messages = []
        client.on_message = lambda client, userdata, m: self.messages.append(
            (m.topic, m.payload, m.qos, m.retain, m.mid)
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.client._sock.close()
        self.end.close()

    def connect(self, keepalive=60):
        """The CONNECT that it writes."""
        self.client.connect("host", keepalive=keepalive)
        return self.written()

    def connected(self):
        self.connect()
        self.feed(b"\x20\2\0\0")
        return self

    def written(self):
        """What it has written since."""
        data = b""
        while True:
            while self.client.want_write():
                self.client.loop_write()
            try:
                data += self.end.recv(1 << 20)
            except BlockingIOError:
                return data

    def feed(self, data):
        """What it writes once this has come."""
        written = b""
        while data or select.select([self.client._sock], [], [], 0)[0]:
            if data:
                data = data[self.end.send(data[:60000]) :]
            self.client.loop_read()
            written += self.written()
        return written


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
# A message of paho with a wildcard is an error, as of ours
topics = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=20)
qoss = st.integers(0, 2)
payloads = st.binary(max_size=200)
identifiers = st.integers(1, 65535)


def at_length(qos, length):
    """A payload with which PUBLISH to "t" has this remaining length."""
    return bytes(length - 3 - 2 * bool(qos))


@st.composite
def filters(draw):
    level = st.sampled_from(("a", "b", "", "+", "$SYS", "ü", "😀", "aa"))
    levels = draw(st.lists(level, min_size=1, max_size=5))
    if draw(st.booleans()):
        levels.append("#")
    result = "/".join(levels)
    assume(result)
    return result


names = st.lists(
    st.sampled_from(("a", "b", "", "$SYS", "ü", "😀", "aa", "$")), min_size=1, max_size=6
).map("/".join)
names = names.filter(bool)


def cut(data, cuts):
    cuts = sorted({c % (len(data) + 1) for c in cuts})
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


# What the client writes


@examples(150)
@given(
    client_id=texts,
    clean=st.booleans(),
    user=st.none() | texts,
    password=st.none() | texts,
    keepalive=st.integers(0, 65535),
    will=st.none() | st.tuples(topics, texts, st.booleans(), qoss),
)
@example("", True, "", "", 0, ("w", "", True, 2))
def test_connect(codec, client_id, clean, user, password, keepalive, will):
    assume(client_id or clean)
    answer = codec.call(
        "new",
        [client_id, user, password, keepalive],
        {"clean_session": clean, "will": will and list(will)},
    )
    if user is None and password is not None:
        assert answer == "ValueError"  # paho leaves the password out
        return
    with Peer(client_id, clean, user, password, will) as peer:
        assert bytes.fromhex(answer[0]) == peer.connect(keepalive)


def check_publish(codec, topic, payload, retain, qos):
    codec.connected(outbox=len(topic.encode()) + len(payload) + 100)
    # a number stands for so many bytes of 0
    given = payload.hex() if any(payload) else len(payload)
    data = codec.write("publish", topic.encode().hex(), given, retain, qos)
    with Peer().connected() as peer:
        peer.client.publish(topic, payload, qos, retain)
        assert data == peer.written()
        # and what paho reads of it
        peer.feed(data)
        if qos == 2:
            peer.feed(b"\x62\2\0\1")  # it hands the message over only then
        mid = 1 if qos else 0
        assert peer.messages == [(topic, payload, qos, retain, mid)]


@examples(100)
@given(topic=topics, payload=payloads, retain=st.booleans(), qos=qoss)
def test_publish(codec, topic, payload, retain, qos):
    check_publish(codec, topic, payload, retain, qos)


@pytest.mark.parametrize("qos", range(3))
@pytest.mark.parametrize("length", (127, 128, 16383, 16384, 2097151, 2097152))
def test_lengths(codec, qos, length):
    check_publish(codec, "t", at_length(qos, length), False, qos)


@examples(60)
@given(requests=st.dictionaries(filters(), qoss, min_size=1, max_size=8))
def test_subscribe(codec, requests):
    codec.connected()
    ours = codec.write("subscribe", *((f.encode().hex(), qos) for f, qos in requests.items()))
    codec.connected()
    not_ours = codec.write("unsubscribe", *(f.encode().hex() for f in requests))
    with Peer().connected() as peer:
        peer.client.subscribe(list(requests.items()))
        assert ours == peer.written()
    with Peer().connected() as peer:
        peer.client.unsubscribe(list(requests))
        assert not_ours == peer.written()


# What it reads


@examples(50)
@given(
    messages=st.lists(st.tuples(topics, payloads, qoss, st.booleans()), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    bytewise=st.booleans(),
)
def test_messages_of_paho(codec, messages, cuts, bytewise):
    with Peer().connected() as peer:
        for topic, payload, qos, retain in messages:
            peer.client.publish(topic, payload, qos, retain)
        data = peer.written()
    codec.connected()
    cuts = range(len(data)) if bytewise else cuts
    written, events = codec.feed(*cut(data, cuts))
    assert events == [
        ["message", topic.encode().hex(), payload.hex(), retain]
        for topic, payload, _, retain in messages
    ]
    # its acknowledgements are paho's, byte for byte
    with Peer().connected() as other:
        assert written == other.feed(data)
        released = b"".join(
            frame(0x62, integer(mid)) for mid, m in enumerate(messages, 1) if m[2] == 2
        )
        assert codec.feed(*cut(released, cuts))[0] == other.feed(released)


@examples(40)
@given(
    messages=st.lists(st.tuples(payloads, qoss), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 12), max_size=6),
)
def test_acknowledgements_of_paho(codec, messages, cuts):
    """Both hold a whole conversation, to the last acknowledgement."""
    codec.connected()
    acknowledged = []
    with Peer().connected() as peer:
        for payload, qos in messages:
            data = codec.write("publish", b"t".hex(), payload.hex(), False, qos)
            while data:
                data, events = codec.feed(*cut(peer.feed(data), cuts))
                acknowledged += [event[1] for event in events]
        assert [(m[1], m[2]) for m in peer.messages] == messages
    assert acknowledged == [n + 1 for n in range(sum(qos > 0 for _, qos in messages))]


@examples(60)
@given(
    requests=st.dictionaries(filters(), st.sampled_from((0, 1, 2, 0x80)), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 20), max_size=8),
)
def test_suback(codec, requests, cuts):
    codec.connected()
    codec.call("subscribe", *((f.encode().hex(), 0) for f in requests))
    codes = bytes(requests.values())
    assert codec.feed(*cut(b"\xd0\0" + frame(0x90, integer(1), codes), cuts)) == (
        b"",
        [["refused", [f.encode().hex() for f in requests if requests[f] == 0x80]]]
        if 0x80 in codes
        else [],
    )


@pytest.mark.parametrize("present", (0, 1))
@pytest.mark.parametrize("code", range(7))
def test_connack(codec, present, code):
    for pieces in (0,), range(4):
        codec.new(clean_session=False)
        _, events = codec.feed(*cut(frame(0x20, bytes((present, code))), pieces))
        if code:
            assert events == [["end", "Refused" if code < 6 else "ProtocolError"]]
        else:
            assert events == [["connect", bool(present)]]


@examples(60)
@given(
    topic=topics,
    size=st.integers(40, 300),
    qos=qoss,
    dup=st.booleans(),
    retain=st.booleans(),
    pid=identifiers,
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_near_the_size_of_the_inbox(codec, topic, size, qos, dup, retain, pid, cuts):
    payload = bytes(i & 255 for i in range(size))
    topic = topic.encode()
    parts = string(topic), integer(pid) if qos else b"", payload
    first = 0x30 | (dup and qos > 0) << 3 | qos << 1 | retain
    codec.connected(inbox=128)
    written, events = codec.feed(*cut(frame(first, *parts), cuts))
    if sum(map(len, parts)) <= 128:
        assert events == [["message", topic.hex(), payload.hex(), retain]]
    else:
        assert events == [["skip", topic[:124].hex(), size]]
    assert written == (frame(0x30 + 0x10 * qos, integer(pid)) if qos else b"")


# Topics


@examples(60)
@given(pairs=st.lists(st.tuples(filters() | st.just("#"), names), min_size=20, max_size=40))
def test_match(codec, pairs):
    ours = codec.call("match", *((f.encode().hex(), n.encode().hex()) for f, n in pairs))
    for pair, result in zip(pairs, ours, strict=True):
        assert result == paho.topic_matches_sub(*pair), pair


def is_plain(data):
    try:
        return not set(data.decode()) & set("\0+#")
    except UnicodeDecodeError:
        return False


EDGES = bytes.fromhex("61 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 ec ed ee ef f0 f1 f3 f4 f5 ff")
characters = [bytes((byte,)) for byte in EDGES] + ["€".encode(), "😀".encode()]
strings = st.one_of(
    st.binary(max_size=8),
    st.lists(st.sampled_from(characters), max_size=6).map(b"".join),
    texts.map(str.encode),
)


@examples(60)
@given(batch=st.lists(strings, min_size=50, max_size=100))
def test_is_plain(codec, batch):
    assert codec.call("plain", *(s.hex() for s in batch)) == list(map(is_plain, batch))


def test_is_plain_of_every_beginning(codec):
    for first in range(256):
        pairs = [bytes((first, second)) for second in range(256)]
        batch = [pair + end for pair in pairs for end in (b"", b"\x80", b"\xbf\xbf")]
        assert codec.call("plain", *(s.hex() for s in batch)) == list(map(is_plain, batch))
