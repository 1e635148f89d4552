"""The boards that there are: each boards/<name>/target.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.console import ROOT, USAGE, Failed

BOARDS = ROOT / "boards"


@dataclass(frozen=True)
class Firmware:
    """A file on MicroPython's download site."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Build:
    """A build of MicroPython that is published, for one chip."""

    name: str  # "ESP32_GENERIC"
    chip: str  # "esp32", "esp32s3", "esp32c3", "rp2040", "rp2350"
    board: str  # the name that such firmware holds, "pico_w"; "" where it holds none
    firmware: dict[str, Firmware]  # by version


@dataclass(frozen=True)
class Target:
    name: str  # "esp32"
    folder: Path
    port: str  # MicroPython's: sys.platform on the device
    micropython: str  # the version that the firmware is built for
    usb: tuple[str, ...]  # "vid:pid" that such a board may show
    builds: dict[str, Build]  # by name; the first one is the default

    def build(self, name: str | None = None) -> Build:
        """The build of this name, or the default. Failed where there is none."""
        if not self.builds:
            raise Failed(f"{self.name} is no board that MicroPython has a build for", USAGE)
        name = name or next(iter(self.builds))
        if name not in self.builds:
            raise Failed(f"no build {name!r} for {self.name}: {', '.join(self.builds)}", USAGE)
        return self.builds[name]


def names() -> list[str]:
    return sorted(file.parent.name for file in BOARDS.glob("*/target.toml"))


def find(name: str) -> Target:
    """The board of this name. Failed where there is none."""
    if name not in names():
        raise Failed(f"no board {name!r}; there are {', '.join(names())}", USAGE)
    folder = BOARDS / name
    table = tomllib.loads((folder / "target.toml").read_text())
    builds = {}
    for key, value in table.get("builds", {}).items():
        pins = {version: Firmware(**pin) for version, pin in value.get("firmware", {}).items()}
        builds[key] = Build(key, value["chip"], value.get("board", ""), pins)
    usb = tuple(table.get("usb", ()))
    return Target(name, folder, table["port"], table["micropython"], usb, builds)
