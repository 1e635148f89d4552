"""One configured sensor: when it is read, and what of it is published.

    values of read() -> scale, offset -> filter -> round -> beyond a threshold? -> publish

Allocates the values of each reading, and a window of at most 32 for each filter.
"""

from time import ticks_add, ticks_diff

from micropython import const

from sensors import SensorError

_RETRY = const(2000)  # ms, as a DHT22 needs between two readings
_DOUBLINGS = const(5)  # of that: to 64 s
_WINDOW = const(32)
_HUGE = 1e38  # what a float of 32 bits holds


class Reading:
    """A sensor that is read every interval. Whatever it raises is told, and it is tried again.

    board    what the sensor's module asks for its pins and buses
    options  the sensor's entry in config.json: type, name, interval in s, what the type needs, and
        stuck    s after which values that never change are an error; 0: never
        values   for each value what is not as usual:
            scale, offset   value * scale + offset; 1 and 0
            filter          ("median", n) or ("mean", n) of the last n readings, n up to 32
            round           decimals; 2
            change          publish only when it has changed by so much
            min, max        s between two messages; `max` publishes without a change
    publish  publish(name, values): all of one reading, when one of them is due
    error    error(name, text): what is wrong, once for each kind; None: it works, or does again

    A failure is retried after 2 s, 4 s, and so on to 64 s, with a Sensor made anew. The next good
    reading is published in any case.
    """

    values = None  # of the last reading, as they were or would have been published
    error = None  # what is wrong now, as text
    readings = 0  # that were good
    errors = 0  # failures since the start

    _sensor = None
    _busy = False  # converting
    _takes = 0  # ms, of a conversion that has just begun
    _asked = False  # by read()
    _kind = 0  # of the error told last; 0: nothing is told yet
    _row = 0  # failures in a row
    _base = None  # when this reading began, or should have
    _due = None  # when there is something to do
    _span = 0  # ms, for which that was planned
    _age = 0  # ms from the last message to this reading
    _same = 0  # ms since the raw values changed
    _raw = None
    _news = False  # the values are to be published

    def __init__(self, board, options, publish, error=None):
        self.name = options["name"]
        self.options = options
        self._board = board
        self._publish = publish
        self._tell = error
        self._sent = {}
        self._windows = {}

    def read(self):
        """Read at the next poll(), and publish whatever it is."""
        self._asked = True

    def set(self, options):
        """Change the interval, `stuck`, or some options of some values, from now on."""
        mine = self.options
        for key in options:
            if key == "values":
                values = mine[key] = dict(mine.get(key) or ())
                for name in options[key]:
                    values[name] = dict(values.get(name) or ())
                    values[name].update(options[key][name])
            else:
                mine[key] = options[key]
        self._windows.clear()
        if self._due is not None and not self._busy and not self._row:
            self._plan(self._base, self._interval())

    def poll(self, now):
        """One step. Returns the ms until there is something to do."""
        try:
            left = self._step(now)
        except Exception as error:
            return self._fail(now, error)
        if left:
            return left
        self._row = 0
        self.readings += 1
        if self._kind is not None:
            self._kind = self.error = None
            if self._tell:
                self._tell(self.name, None)
        interval = self._interval()
        self._plan(self._base, interval)
        left = ticks_diff(self._due, now)
        if left <= 0:  # a whole one was missed
            self._plan(now, interval)
            left = interval
        if self._news:
            self._asked = False
            self._age = 0
            self._sent = self.values
            self._publish(self.name, self.values)
        return left

    def _interval(self):
        return max(round(self.options["interval"] * 1000), 1)

    def _plan(self, now, ms):
        self._due = ticks_add(now, ms)
        self._span = ms

    def _step(self, now):
        # ms to wait; 0: it was read
        if self._due is None:
            self._base = self._due = now
        if self._takes:
            self._plan(now, self._takes)
            self._takes = 0
        left = ticks_diff(self._due, now)
        if left > self._span:  # the clock went back
            self._plan(now, self._span)
            left = self._span
        if self._asked and not self._busy:
            left = 0
        sensor = self._sensor
        if not sensor:
            if left > 0:
                return left
            kind = self.options["type"]
            sensor = __import__("sensors." + kind, None, None, ("Sensor",)).Sensor
            self._sensor = sensor = sensor(self._board, self.options)
        watch = getattr(sensor, "poll", None)
        if watch:
            look = watch(now)
            if not look:
                self._asked = True
                left = 0
            elif left > 0:
                return min(left, look)
        if left > 0:
            return left
        if not self._busy:
            # From when it was due, so that intervals don't drift, unless a whole one was missed.
            base = now if self._asked or -left >= self._span else self._due
            ms = max(ticks_diff(base, self._base), 0)
            self._age += ms
            self._same += ms
            self._base = base
            ms = sensor.start()
            if ms:
                # It began later than `now`, which others may have used up: wait from the next on.
                self._busy = True
                self._takes = ms
                return 1
        self._busy = False
        self._take(sensor.read())
        return 0

    def _take(self, raw):
        # make the values of a reading, and find out whether they are to be published
        options = self.options
        if raw != self._raw:
            self._raw = raw
            self._same = 0
        elif 0 < (options.get("stuck") or 0) * 1000 <= self._same:
            raise SensorError("stuck", "the same values for %d s" % (self._same // 1000))
        due = self._asked or self._row
        ahead = self._age + self._interval()
        values = {}
        for key in raw:
            o = (options.get("values") or {}).get(key) or {}
            x = raw[key] * o.get("scale", 1) + o.get("offset", 0)
            if not -_HUGE < x < _HUGE:
                raise SensorError("range", key + " is not a number")
            if o.get("filter"):
                x = self._filter(key, x, *o["filter"])
            n = o.get("round")
            values[key] = x = round(x, 2 if n is None else n) if n != 0 else round(x)
            change = (o.get("change") or 0) * 0.999  # as floats are not exact
            if (
                key not in self._sent
                or self._age >= (o.get("min") or 0) * 1000
                and abs(x - self._sent[key]) >= change
                or 0 < (o.get("max") or 0) * 1000 < ahead
            ):
                due = True
        self.values = values
        self._news = due

    def _filter(self, key, x, kind, n):
        window = self._windows.setdefault(key, [])
        window.append(x)
        while len(window) > min(n, _WINDOW):
            window.pop(0)
        n = len(window)
        if kind == "mean":
            return sum(window) / n
        window = sorted(window)
        return (window[n // 2] + window[(n - 1) // 2]) / 2

    def _fail(self, now, error):
        self.errors += 1
        if self._row == 2:  # what is in the filters is old
            self._windows.clear()
        pause = _RETRY << min(self._row, _DOUBLINGS)
        self._row += 1
        self._sensor = None
        self._busy = self._asked = False
        self._plan(now, pause)
        kind = type(error)
        if kind is SensorError:
            kind = error.args[0]
            text = ": ".join(error.args)
        else:
            text = "no answer" if isinstance(error, OSError) else kind.__name__
            text = "%s: %s" % (text, error)
        self.error = text
        if kind != self._kind:
            self._kind = kind
            if self._tell:
                self._tell(self.name, text)
        return pause
