"""The live table: a line for each value, made to fit whatever the terminal measures."""

import io
import re
import time
from collections import deque
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tools.console import Failed
from tools.monitor.devices import UNITS, Device, Devices, shown

REDRAW = 0.25  # s between two frames at least
BARS = "▁▂▃▄▅▆▇█"
CHARTS = (60, 40, 30, 24, 20, 15, 12, 10)  # columns of a chart; each divides the slots of a series
STATUS, SIGNAL, VALUE, UNIT, AGE = 7, 7, 9, 5, 4  # columns
NARROW = 64  # columns of a terminal with no room for signal and chart
SCREEN = 120  # columns of a picture
LOG = 200  # lines of the log that are kept
AVAILABLE = {
    "online": "green",
    "offline": "bold red",
    "asleep": "cyan",
    "overdue": "bold red",
    "": "dim",
}


def bars(means: list[float | None]) -> str:
    """A chart, scaled from the lowest to the highest; nothing where nothing came."""
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0), max(known, default=0)
    span = high - low
    if span <= abs(high) * 1e-9:
        return "".join(" " if mean is None else BARS[3] for mean in means)
    top = len(BARS) - 1
    return "".join(
        " " if mean is None else BARS[round((mean - low) / span * top)] for mean in means
    )


def age(seconds: float) -> str:
    """A time in at most 4 characters."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{min(int(seconds // size), 999)}{name}"
    return f"{max(int(seconds), 0)}s"


def cell(text: str, width: int, style: str = "", right: bool = False) -> Text:
    found = Text(text, style, no_wrap=True)
    found.truncate(width, overflow="ellipsis")
    found.align("right" if right else "left", width)
    return found


def line(cells: list[Text], width: int) -> Text:
    found = Text(" ").join(cells)
    found.no_wrap = True
    found.overflow = "crop"
    found.truncate(width, overflow="crop")
    return found


def rows(device: Device) -> int:
    """How many lines it takes."""
    return (len(device.series) + len(device.errors) + bool(device.crash)) or 1


class View:
    """Draws what `devices` holds. `port` names the serial port whose lines are put into `log`."""

    def __init__(self, devices: Devices, broker: str = "", port: str | None = None):
        self.devices = devices
        self.broker = broker
        self.port = port
        self.wrong = ""  # with the connection
        self.gone = ""  # what is wrong with the port
        self.log: deque[str] = deque(maxlen=LOG)
        self.lost = 0  # messages

    def lines(self, width: int, height: int, now: float) -> list[Text]:
        """A frame of at most so many lines, none of them wider."""
        top = self.top(width, now)
        tail = self.panel(width, height)
        notes = self.notes()
        room = max(height - len(top) - len(tail) - len(notes), 0)
        count = sum(map(rows, self.devices.devices.values()))
        if count and count + 1 > room:
            room = max(room - 1, 0)
            more = f"… {count + 1 - room} more lines: a larger window, or --device NAME"
            notes.insert(0, (more, "bold yellow"))
        foot = [line([cell(text, width, style)], width) for text, style in notes]
        return (top + self.table(width, room, now) + foot + tail)[:height]

    def top(self, width: int, now: float) -> list[Text]:
        devices = self.devices
        names = "+" if devices.names == ["+"] else ",".join(devices.names)
        left = f"{devices.prefix}/{names} on {self.broker}"
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        count, values = len(devices.devices), devices.values
        right = f"{count} device{'s' * (count != 1)}  {values} value{'s' * (values != 1)}  {clock}"
        rest = max(width - len(right) - 1, 10)
        title = line([cell(left, rest, "bold"), Text(right)], width)
        if not self.wrong:
            return [title]
        return [title, line([cell(f"the broker {self.wrong}", width, "bold red")], width)]

    def notes(self) -> list[tuple[str, str]]:
        """Lines below the table, with their style."""
        found = []
        if not self.devices.devices:
            found.append((f"nothing heard below {self.devices.prefix}/ so far", "dim"))
        if self.devices.bad:
            text = f"{self.devices.bad} messages not understood; {self.devices.trouble}"
            found.append((text, "yellow"))
        if self.lost:
            found.append((f"{self.lost} messages came faster than they could be taken", "yellow"))
        return found

    def panel(self, width: int, height: int) -> list[Text]:
        """The end of the log, in a third of the screen at most."""
        if not self.port:
            return []
        size = min(max(height // 3 - 1, 2), max(len(self.log), 2), 12)
        title = f"── {self.port} " + (f"── {self.gone}; trying again " if self.gone else "")
        style = "bold red" if self.gone else "bold"
        found = [line([cell((title + "─" * width)[:width], width, style)], width)]
        lines = list(self.log)[-size:]
        lines += [""] * (size - len(lines))
        return found + [line([cell(text, width, "dim")], width) for text in lines]

    def table(self, width: int, room: int, now: float) -> list[Text]:
        """The heads of the columns, and a line for each value, error and crash; at most `room`."""
        devices = [self.devices.devices[name] for name in sorted(self.devices.devices)]
        if not devices:
            return []
        wide = width >= NARROW
        fixed = STATUS + VALUE + UNIT + AGE + 5 + (SIGNAL + 2 if wide else 0)
        left = max(width - fixed, 8)
        names = max(len("device"), *(len(device.name) for device in devices))
        values = max(
            [len("reading")] + [len(" ".join(w)) for device in devices for w in device.series]
        )
        chart = 0
        if wide:
            wanted = min(names + values, left * 2 // 3)
            chart = next((n for n in CHARTS if n <= left - wanted), CHARTS[-1])
            left -= chart
        name = min(names, max(left * 2 // 5, left - values))
        size = name, min(values, left - name) if wide else left - name, chart

        def row(cells: list[tuple]) -> Text:
            return line([cell(*c) for c in cells if c], width)

        minutes = f"last {self.devices.minutes:g} min"
        heads = [
            ("device", size[0], "dim"),
            ("status", STATUS, "dim"),
            wide and ("signal", SIGNAL, "dim", True),
            ("reading", size[1], "dim"),
            ("value", VALUE, "dim", True),
            ("unit", UNIT, "dim"),
            ("age", AGE, "dim", True),
            wide and (minutes, chart, "dim"),
        ]
        found = [row(heads)]
        for device in devices:
            if len(found) >= room:
                break
            found += self.device(device, size, wide, now, row)
        return found[:room]

    def device(self, device: Device, size, wide, now, row) -> list[Text]:
        available = device.availability(now)
        signal = "" if device.rssi is None else f"{device.rssi:.0f} dBm"
        head = [
            (device.name, size[0], "bold"),
            (available or "?", STATUS, AVAILABLE[available]),
            wide and (signal, SIGNAL, "", True),
        ]
        below = [("", size[0]), ("", STATUS), wide and ("", SIGNAL)]
        rest = size[1] + VALUE + UNIT + AGE + 3 + (size[2] + 1 if wide else 0)
        bodies: list[list] = []
        if device.crash:
            bodies.append([(device.crash, rest, "bold red")])
        sensors = {sensor for sensor, _ in device.series} | device.errors.keys()
        known = list(UNITS)
        for sensor in sorted(sensors):
            error = device.errors.get(sensor)
            if error:
                bodies.append([(f"{sensor}: {error}", rest, "red")])
            names = [name for where, name in device.series if where == sensor]
            names.sort(key=lambda n: (known.index(n) if n in known else len(known), n))
            for name in names:
                series = device.series[sensor, name]
                stale = error or device.expired(sensor, name, now)
                style = "red" if stale else ""
                value = shown(series.value, device.binary(sensor, name))
                chart = ()
                if wide:
                    hold = device.hold(sensor, name)
                    means = series.means(now, self.devices.slot, size[2], hold)
                    chart = (bars(means), size[2], "red" if stale else "cyan")
                bodies.append(
                    [
                        (f"{sensor} {name}", size[1]),
                        (value, VALUE, style or "bold", True),
                        (device.unit(sensor, name), UNIT),
                        (age(now - series.time), AGE, style or "dim", True),
                        chart,
                    ]
                )
        if not bodies:
            bodies.append([("no reading so far", rest, "dim")])
        return [row((below if i else head) + body) for i, body in enumerate(bodies)]


class Screen:
    """The view on a terminal, in the alternate screen; what it showed last is left behind."""

    def __init__(self, view: View):
        self.view = view
        self.console = Console(highlight=False)
        self.live = Live(
            console=self.console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self.drawn: tuple = ()  # size, and second, of the last frame
        self.due = 0.0

    def __enter__(self):
        self.live.start()
        return self

    def __exit__(self, *_error):
        self.live.stop()
        self.console.print(Group(*self.frame(time.time())), end="")

    def frame(self, now: float) -> list[Text]:
        return self.view.lines(*self.console.size, now)

    def draw(self, changed: bool) -> bool:
        """Draw if there is anything new and the last time is long enough ago. Whether it did."""
        if time.monotonic() < self.due:
            return False
        now = time.time()
        state = (self.console.size, int(now))
        if not changed and state == self.drawn:
            return False
        self.drawn = state
        self.live.update(Group(*self.frame(now)), refresh=True)
        self.due = time.monotonic() + REDRAW
        return True


def picture(view: View, path: Path) -> None:
    """The view as an SVG, 120 columns wide and as high as it needs."""
    console = Console(
        record=True, width=SCREEN, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(Group(*view.lines(SCREEN, 200, time.time())))
    svg = console.export_svg(title="python -m tools monitor", unique_id="monitor")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts from elsewhere
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error}") from None
