"""Readings in files: CSV with a header, or JSON lines; both as they come, and read back."""

import csv
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tools.console import USAGE, Failed
from tools.monitor.devices import Value, clean, number, utc

FIELDS = ("time", "device", "sensor", "name", "value", "unit")


class Record:
    """Appends readings to a file, each line whole and at once."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = open(path, "a+", encoding="utf-8", newline="")  # noqa: SIM115
            self.file.seek(0)
            first = self.file.readline(1000)
            if first and not self.fits(first.strip()):
                raise Failed(f"{path} holds something else: name a new file", USAGE)
            end = self.file.seek(0, os.SEEK_END)
            if first:
                with open(path, "rb") as file:
                    file.seek(end - 1)
                    cut = file.read(1) != b"\n"  # in the middle of its last line
                self.write("\n" if cut else "")
            else:
                self.write(self.header)
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(f"{path} cannot be written: {error}") from None

    header = ""

    def fits(self, first: str) -> bool:
        """Whether the first line of a file is of this kind."""
        return first.startswith("{")

    def line(self, row: tuple) -> str:
        return json.dumps(dict(zip(FIELDS, row, strict=True)), ensure_ascii=False) + "\n"

    def add(self, values: list[Value]) -> None:
        self.write(
            "".join(
                self.line((utc(v.time), v.device, v.sensor, v.name, v.value, v.unit))
                for v in values
            )
        )

    def write(self, text: str) -> None:
        try:
            self.file.write(text)
            self.file.flush()
        except OSError as error:
            raise Failed(f"{self.path} cannot be written: {error}") from None

    def close(self) -> None:
        try:
            self.file.close()
        except OSError:
            pass  # what it could not write, write() has told


class Line:
    """The last line that was written to it."""

    def write(self, text: str) -> None:
        self.text = text


class Csv(Record):
    header = ",".join(FIELDS) + "\n"

    def fits(self, first: str) -> bool:
        return first == self.header.strip()

    def line(self, row: tuple) -> str:
        out = Line()
        csv.writer(out, lineterminator="\n").writerow(row)
        return out.text


def epoch(text: str) -> float:
    """Seconds since 1970 of a time in ISO 8601; in UTC, where it says nothing else."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def read(path: Path) -> Iterator[Value | None]:
    """The readings in a file that Csv or Record has written; None for a line that is damaged."""
    try:
        file = open(path, encoding="utf-8", errors="replace", newline="")  # noqa: SIM115
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error}") from None
    with file:
        first = file.readline().strip()
        if first == Csv.header.strip():
            rows: Iterator = csv.reader(lines(file))
        elif first.startswith("{"):
            file.seek(0)
            rows = lines(file)
        else:
            raise Failed(f"{path} is no file of --csv or --json", USAGE)
        for row in rows:
            try:
                if isinstance(row, str):
                    found = json.loads(row)
                    row = [found[name] for name in FIELDS]
                time, device, sensor, name, value, unit = row
                value = number(float(value))
                if value is None:
                    raise ValueError
                yield Value(
                    epoch(time), clean(device), clean(sensor), clean(name), value, clean(unit)
                )
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                yield None


def lines(file) -> Iterator[str]:
    """The lines, each by itself: an open quote takes no other with it."""
    for line in file:
        if line.strip():
            yield line.replace('"', "") if line.count('"') % 2 and line[0] != "{" else line
