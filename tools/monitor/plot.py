"""Readings as a picture, with matplotlib: one axis for each unit, times in UTC."""

import io
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from tools.console import USAGE, Failed
from tools.monitor.devices import Value

KINDS = (".png", ".svg")
MOST_POINTS = 200_000  # that are kept of what is heard
LEGEND = 24  # lines in the legend of an axis
PANEL = 2.6  # inches an axis, up to
TALLEST = 40


def check(path: Path) -> None:
    """Failed if it cannot be drawn there, before anything is waited for."""
    if path.suffix.lower() not in KINDS:
        raise Failed(f"--plot {path}: its name ends in .png or .svg", USAGE)
    if not path.absolute().parent.is_dir():
        raise Failed(f"--plot {path}: there is no folder {path.parent}", USAGE)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Failed("--plot needs matplotlib: pip install --group dev") from None


class Points:
    """Readings kept for a plot: the last ones, and where each belongs."""

    def __init__(self) -> None:
        self.points: deque = deque(maxlen=MOST_POINTS)
        self.keys: dict[tuple, tuple] = {}

    def add(self, values: list[Value]) -> None:
        for v in values:
            key = (v.unit, v.device, v.sensor, v.name)
            key = self.keys.setdefault(key, key)
            self.points.append((v.time, key, v.value))

    def close(self) -> None:
        pass


def draw(points: Points, path: Path) -> int:
    """Draw them into the file. Returns how many there are; Failed if there are none."""
    import matplotlib
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    if not points.points:
        raise Failed(f"{path}: nothing to draw, there is no reading in that time")
    units: dict[str, dict[tuple, list]] = {}
    for time, key, value in sorted(points.points):
        units.setdefault(key[0], {}).setdefault(key[1:], []).append((time, value))
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure = Figure(
            figsize=(10, min(1 + PANEL * len(units), TALLEST)), layout="constrained", dpi=120
        )
        axes = figure.subplots(len(units), sharex=True, squeeze=False)[:, 0]
        for axis, unit in zip(axes, sorted(units), strict=True):
            lines = dict(sorted(units[unit].items()))
            drawn = []
            for found in lines.values():
                times = [datetime.fromtimestamp(time, UTC) for time, _ in found]
                mark = "." if len(found) < 200 else ""
                drawn += axis.plot(times, [value for _, value in found], marker=mark, lw=1)
            names = [" ".join(key) for key in lines]
            if len(drawn) > LEGEND:
                names[LEGEND - 1 :] = [f"and {len(drawn) - LEGEND + 1} more"]
            legend = axis.legend(
                drawn[:LEGEND],
                [str(n) for n in range(len(names))],
                loc="upper left",
                bbox_to_anchor=(1, 1),
                fontsize="small",
                frameon=False,
            )
            # What a device is called is no formula, and may begin with _.
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set(text=name, parse_math=False)
            axis.set_ylabel(unit or "no unit", parse_math=False)
            axis.ticklabel_format(axis="y", useOffset=False)
            axis.grid(alpha=0.3)
        locator = AutoDateLocator(tz=UTC)
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
        axes[-1].set_xlabel("UTC")
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:].lower())
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error}") from None
    return len(points.points)
