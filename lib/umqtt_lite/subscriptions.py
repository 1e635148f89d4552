"""What MQTTClient is subscribed to. Imported by its first subscribe()."""

from micropython import const

from .packet import ProtocolError, Refused, is_plain, remaining_length, string, text

# A subscription: a list of
_FILTER = const(0)
_HANDLER = const(1)
_QOS = const(2)  # or -1: to be unsubscribed
_DUE = const(3)  # 2: has to be asked for; 1: is asked for


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
            return j == n and f.find(b"/#") == i - 1
    return j == n


class Subs:
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
            if s != b"+" and not is_plain(s) or not f or len(f) + 9 > self._box._size:
                raise ValueError("filter")
        if (qos + 1) // 4:  # not -1 to 2
            raise ValueError("qos")
        # a new list: route() may be at work on the old one
        subs = []
        for s in self._list:
            if s[_FILTER] != f:
                subs.append(s)
        subs.append([f, handler, qos, 2])
        self._list = subs
        self.due = True
        if self._box.up:
            self._box._due = self._box._rx

    def ask(self):
        """Put SUBSCRIBE (3.8) or UNSUBSCRIBE (3.10) into the outbox, with as many of the filters
        that are due as fit."""
        self.due = False
        box = self._box
        box._find(8, 0)
        out = box._out
        batch = []
        body = bytearray(2)
        for s in self._list:
            if s[_DUE] > 1:
                if not batch:
                    gone = s[_QOS] < 0
                room = box._size - 7 - len(body) - len(s[_FILTER])
                if gone != (s[_QOS] < 0) or len(out) > room or len(batch) > 60:
                    self.due = True
                    box._room = room  # publish() leaves it
                    break
                string(body, s[_FILTER])
                if not gone:
                    body.append(s[_QOS])
                batch.append(s)
                s[_DUE] = 1
        if batch:
            box._room = box._size
            pid = box._new_id()
            body[0] = pid >> 8
            body[1] = pid & 255
            out.append(0xA2 if gone else 0x82)
            remaining_length(out, len(body))
            out.extend(body)
            box._new = True
            box._asked[pid] = batch

    def again(self, renew):
        """What was asked for is due again; for a new session, all there is."""
        for s in self._list:
            if renew or s[_DUE]:
                s[_DUE] = 0 if renew and s[_QOS] < 0 else 2
        self._box._asked.clear()
        self.due = True

    def answer(self, id, codes):
        """SUBACK (3.9), or UNSUBACK with no codes. The hook to call, if filters were refused."""
        box = self._box
        asked = box._asked
        batch = asked.get(id)
        refused = []
        if batch and (batch[0][_QOS] < 0) == (not codes):  # else it is a stray
            if codes and len(codes) != len(batch):
                raise ProtocolError("SUBACK", codes)
            del asked[id]
            for s, code in zip(batch, codes or batch):
                s[_DUE] = 0
                if not codes:
                    if s in self._list:
                        self._list.remove(s)
                elif code > 2:
                    refused.append(s[_FILTER])
        if refused:
            box._event = box.error = Refused("subscription", *refused)
            return box.on_refused

    def route(self, topic, payload, retain):
        """Call the handlers of those that match. Whether there was one."""
        subs = self._list
        taken = False
        i = 0
        while i < len(subs):
            if subs[i][_HANDLER] and match(subs[i][_FILTER], topic):
                subs[i][_HANDLER](topic, payload, retain)
                taken = True
            i += 1
        return taken
