from umqtt_lite import packet, subscriptions


def test_end():
    for n in (0, 2, 127, 128, 16383, 16384):
        buf = bytearray(b"\x30")
        packet.remaining_length(buf, n)
        assert packet.end(buf, 0) == len(buf) + n


def test_is_plain():
    for good in ("a", "\x7f", "ü€", "\ud7ff", "\ue000", "\U0010ffff", "$x", " "):
        assert packet.is_plain(good.encode()), good
    for bad in (b"\0", b"+", b"a/#", b"\x80", b"\xc1\x81", b"\xe2\x82", b"\xf5\x80\x80\x80"):
        assert not packet.is_plain(bad), bad


def test_match():
    for topic_filter, topic, expected in (
        ("#", "a/b", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/+", "$SYS/a", True),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("+", "/", False),
        ("+/+", "/", True),
        ("/+", "/a", True),
        ("+/#", "a", True),
        ("a/+/c", "a/b/d", False),
        ("a", "a/", False),
        ("a/", "a", False),
    ):
        got = subscriptions.match(topic_filter.encode(), topic.encode())
        assert got is expected, (topic_filter, topic, got)
