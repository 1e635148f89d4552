"""What MQTTClient is subscribed to. Imported by its first subscribe()."""

from micropython import const

from .packet import ProtocolError, is_plain, remaining_length, string, text

# A subscription: a list of
_FILTER = const(0)
_HANDLER = const(1)
_QOS = const(2)  # or -1: to be unsubscribed
_DUE = const(3)  # has to be asked for


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


class Subscriptions:
    def __init__(self, box):
        self._box = box
        self._list = []
        self.due = False  # some are

    def declare(self, f, handler, qos):
        """Add one, in the place of one with the same filter. ValueError if it is none (4.7.1)."""
        f = bytes(text(f))
        levels = f.split(b"/")
        if levels[-1] == b"#":
            levels.pop()
        for s in levels:
            if s != b"+" and not is_plain(s) or not f:
                raise ValueError("topic filter")
        if qos not in (-1, 0, 1, 2) or len(f) + 9 > self._box._size:
            raise ValueError("qos, or topic filter larger than the outbox")
        self._list = [s for s in self._list if s[_FILTER] != f]
        self._list.append([f, handler, qos, True])
        self.due = True

    def ask(self):
        """Put SUBSCRIBE (3.8) or UNSUBSCRIBE (3.10) into the outbox, with as many of the filters
        that are due as fit."""
        self.due = False
        box = self._box
        box._find(8, 0)
        batch = []
        body = bytearray(2)
        for s in self._list:
            if s[_DUE]:
                gone = s[_QOS] < 0
                first = batch[0] if batch else s
                room = box._size - 7 - len(body) - len(s[_FILTER])
                if gone != (first[_QOS] < 0) or len(box._out) > room or len(batch) > 60:
                    self.due = True
                    box._room = room  # publish() leaves it
                    break
                string(body, s[_FILTER])
                if not gone:
                    body.append(s[_QOS])
                batch.append(s)
        if batch:
            box._room = box._size
            pid = box._new_id()
            body[0] = pid >> 8
            body[1] = pid & 255
            box._out.append(0x82 if batch[0][_QOS] >= 0 else 0xA2)
            remaining_length(box._out, len(body))
            box._out.extend(body)
            box._new = True
            box._asked[pid] = batch
            for s in batch:
                s[_DUE] = False

    def again(self, renew):
        """What was asked for is due again; for a new session, all there is."""
        for batch in self._box._asked.values():
            for s in batch:
                s[_DUE] = True
        self._box._asked.clear()
        for s in self._list if renew else ():
            s[_DUE] = s[_QOS] >= 0
        self.due = True

    def answer(self, pid, codes):
        """SUBACK (3.9), or UNSUBACK with no codes. The filters that were refused."""
        batch = self._box._asked.get(pid, ())
        if batch and (batch[0][_QOS] < 0) == (codes != b""):
            batch = ()  # a stray
        if codes and batch and len(codes) != len(batch):
            raise ProtocolError("SUBACK", codes)
        if batch:
            del self._box._asked[pid]
            if not codes:
                self._list = [s for s in self._list if s not in batch]
        return [s[_FILTER] for s, code in zip(batch, codes) if code > 2]

    def route(self, topic, payload, retain):
        """Call the handlers of those that match. Whether there was one."""
        taken = False
        for s in self._list:
            if s[_HANDLER] and match(s[_FILTER], topic):
                s[_HANDLER](topic, payload, retain)
                taken = True
        return taken
