"""Configurations, secrets and images of many devices, from one table.

FILE is a CSV with a line for each device, or a JSON list of objects with the same names:

    device    its name, "device" in its config.json
    board     a folder of boards/
    build     MicroPython's build, where it is not the board's first one
    config    the config.json that it starts from, beside FILE (default: the board's); of a
              secrets.json beside that, it gets the account and its own networks' passwords
    port      its serial port, for --deploy
    mac, serial, note     for you
    secrets.user, secrets.password, secrets.wifi, secrets.networks.<ssid>
              wifi is the password of its first network; $NAME is that of the environment
    any other a key of config.json, with dots: interval, wifi.country, networks.0.ssid

A value is JSON where it can be, else text; null stands for the default, and nothing leaves what
"config" says. Secrets are always text. --secrets FILE.csv has them apart, by device:
user, password, wifi, networks.<ssid>.

All devices are checked before anything is written. Then each gets FOLDER/<device>/ with its
config.json, secrets.json, certificates, and with --images its image. What is there already as it
should be stays.
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from firmware import config

from tools import targets
from tools.build import build, certificates, files_there, sensors
from tools.console import CONFIG, ROOT, USAGE, Failed, paint, say
from tools.files import private, save_all
from tools.targets import Target

OWN = ("device", "board", "build", "config", "port", "mac", "serial", "note")  # columns
SECRETS = "secrets."
ONCE = ("mac", "serial", "port")
MAC = re.compile(r"[0-9a-f]{12}")
MADE = "made.json"  # {"files": {name: sha256}, "inputs": sha256 of what the image is made of}
OUT = ROOT / "build" / "fleet"
TREES = ROOT / "build" / "trees"


@dataclass
class Device:
    place: str  # "fleet.csv, line 3"
    cells: dict[str, object]  # by column, without empty ones
    wrong: list[str] = field(default_factory=list)
    target: Target | None = None
    base: Path = Path()  # config.json that it starts from
    settings: dict | None = None  # its config.json
    secrets: dict = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    id: str = ""  # client identifier
    state: str = ""  # what has come of it

    @property
    def name(self) -> str:
        return str(self.cells.get("device", ""))

    def say(self, text: str, column: str = "") -> None:
        name = f" ({self.name})" if self.name else ""
        column = f", {column}" if column else ""
        self.wrong.append(f"{self.place}{name}{column}: {text}")

    def files(self) -> dict[str, bytes]:
        """config.json, secrets.json if it has any, and certificates."""
        files = {"config.json": (json.dumps(self.settings, indent=4) + "\n").encode()}
        if self.secrets:
            files["secrets.json"] = (json.dumps(self.secrets, indent=4) + "\n").encode()
        return files | self.certificates


def arguments(parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the devices, .csv or .json")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="default: build/fleet",
        default=OUT,
    )
    parser.add_argument("--secrets", type=Path, metavar="FILE", help="their secrets, .csv")
    parser.add_argument("--check", action="store_true", help="check only; write nothing")
    parser.add_argument("--images", action="store_true", help="make the image of each, too")
    parser.add_argument(
        "--firmware",
        action="append",
        default=[],
        metavar="[BUILD=]FILE",
        help="MicroPython's .bin or .uf2; with BUILD=, once for each (default: the pinned ones)",
    )
    parser.add_argument(
        "--deploy", action="store_true", help="bring each to the board at its port, too"
    )


def run(args) -> int:
    devices = read(args.file)
    told = {args.file: any(tells(device, SECRETS) for device in devices)}
    if args.secrets:
        told[args.secrets] = add_secrets(devices, args.secrets)
    check(devices, args)
    wrong = [line for device in devices for line in device.wrong]
    if wrong:
        bad = sum(bool(device.wrong) for device in devices)
        wrong.append(f"{bad} of {len(devices)} devices have mistakes; nothing was written")
        raise Failed("\n".join(wrong), CONFIG)
    for path in told:
        if told[path]:
            warn(path)
    if args.check:
        say(f"{args.file}: {len(devices)} devices, without a mistake")
        return 0
    given = firmware_files(args.firmware, devices)
    firmware = {name: micropython(name, devices, given) for name in given} if args.images else {}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / ".gitignore").write_text("*\n")  # secrets
    for number, device in enumerate(devices, 1):
        try:
            device.state = make(device, args, firmware)
            if args.deploy and "port" in device.cells:
                device.state += ", " + deploy(device, args.out / device.name)
        except Failed as error:
            device.state = f"failed: {error}"
        except OSError as error:
            device.state = f"failed: {error.filename}: {error.strerror}"
        say(f"{number:4} of {len(devices)}  {device.name}")
    return report(devices, args.out)


def report(devices: list[Device], out: Path) -> int:
    width = max(len(device.name) for device in devices)
    failed = [device for device in devices if device.state.startswith("failed")]
    say()
    for device in devices:
        state = device.state.replace("\n", "\n" + " " * (width + 2))
        say(f"{device.name:{width}}  {paint(state, 'red' if device in failed else 'green')}")
    names = {device.name for device in devices}
    for path in sorted(out.glob(f"*/{MADE}")):
        if path.parent.name not in names:
            say(f"{path.parent} is of no device of the fleet any more, and holds its secrets")
    if failed:
        raise Failed(f"{len(failed)} of {len(devices)} devices failed; the others are in {out}")
    say(f"\n{len(devices)} devices in {out}")
    return 0


# Reading


def read(path: Path, text_only: bool = False) -> list[Device]:
    """The devices of a file. Failed if it is no table of devices at all."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}", CONFIG) from None
    except UnicodeDecodeError:
        raise Failed(f"{path} is not in UTF-8: save it as such", CONFIG) from None
    if path.suffix == ".json":
        rows = read_json(path, text)
    else:
        rows = read_csv(path, text, text_only)
    devices = [Device(f"{path.name}, {place}", cells) for place, cells in rows]
    if not devices:
        raise Failed(f"{path} names no device", CONFIG)
    return devices


def read_csv(path: Path, text: str, text_only: bool) -> Iterator[tuple[str, dict[str, object]]]:
    """Each line that is not empty, as (where, {column: value})."""
    first = text.split("\n", 1)[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip() for name in next(lines, [])]
        if "device" not in columns:
            raise Failed(f'{path}: its first line names no column "device"', CONFIG)
        twice = {name for name in columns if name and columns.count(name) > 1}
        if twice:
            raise Failed(f"{path}: two columns are {', '.join(sorted(twice))}", CONFIG)
        for cells in lines:
            place = f"line {lines.line_num}"
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if len(cells) > len(columns):
                raise Failed(
                    f"{path}, {place}: {len(cells)} cells, and the first line names "
                    f'{len(columns)}; one with a {delimiter} in it stands in ""',
                    CONFIG,
                )
            if any(cell and not name for name, cell in zip(columns, cells, strict=False)):
                raise Failed(f"{path}, {place}: a cell in a column without a name", CONFIG)
            yield (
                place,
                {
                    name: cell
                    if text_only or name in OWN or name.startswith(SECRETS)
                    else value(cell)
                    for name, cell in zip(columns, cells, strict=False)
                    if cell
                },
            )
    except csv.Error as error:
        raise Failed(f"{path}, line {lines.line_num}: {error}", CONFIG) from None


def value(cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def read_json(path: Path, text: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Each object, as (where, {column: value}); an object in it stands for columns with dots."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Failed(f"{path}: {error}", CONFIG) from None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Failed(f"{path}: expected a list of objects, [{{...}}, {{...}}]", CONFIG)

    def columns(value: dict, within: str = "") -> Iterator[tuple[str, object]]:
        for key, one in value.items():
            if isinstance(one, dict) and one:
                yield from columns(one, f"{within}{key}.")
            else:
                yield within + key, one

    for number, one in enumerate(found, 1):
        cells = {k: v for k, v in columns(one) if v is not None or k not in OWN}
        yield f"device {number}", cells


def add_secrets(devices: list[Device], path: Path) -> bool:
    """Those of a file of their own; Failed if it is of devices that are not there.

    Returns whether it tells any.
    """
    known = {device.name: device for device in devices}
    found = read(path, text_only=True)
    for other in found:
        if other.name not in known:
            raise Failed(f"{other.place}: there is no device {other.name!r}", CONFIG)
        cells = {k: v for k, v in other.cells.items() if k != "device"}
        known[other.name].cells.update({SECRETS + k: v for k, v in cells.items()})
    return any(tells(other) for other in found)


def tells(device: Device, within: str = "") -> bool:
    """Whether a secret stands in its columns, and not the name of one."""
    return any(
        name.startswith(within) and name != "device" and not str(value).startswith("$")
        for name, value in device.cells.items()
    )


def warn(path: Path) -> None:
    """Of a file with secrets that others can read, or that is in a repository."""
    wrong = []
    if os.name == "posix" and path.stat().st_mode & 0o044:
        wrong.append(f"others on this machine can read it: `chmod 600 {path}`")
    git = ["git", "-C", str(path.resolve().parent), "ls-files", "--error-unmatch", path.name]
    with contextlib.suppress(OSError):
        if not subprocess.run(git, capture_output=True).returncode:
            wrong.append(
                "git has it: put the secrets into another file (--secrets) or into the "
                "environment ($NAME), and change those that were shared"
            )
    for text in wrong:
        print(paint(f"warning: {path} holds secrets, and {text}", "yellow"), file=sys.stderr)


# Checking


def check(devices: list[Device], args) -> None:
    """Find each device's target, settings and secrets, and everything that is wrong with them."""
    for device in devices:
        find_target(device, args)
        if device.target:
            compose(device, args.file.parent)
        if device.settings is not None:
            check_settings(device)
    seen: dict[tuple[str, str], Device] = {}

    def once(kind: str, value: str, device: Device, text: str) -> None:
        first = seen.setdefault((kind, value), device)
        if first is not device:
            device.say(f"{text} is that of {first.place}, too", kind)

    for device in devices:
        once("device", device.name.casefold(), device, f"the name {device.name!r}")
        if device.id and (seen.get(("device", device.name.casefold())) is device):
            once("prefix", device.id, device, f"the client identifier {device.id!r}")
        for kind in ONCE:
            value = str(device.cells.get(kind, ""))
            if kind == "mac" and value:
                value = re.sub("[-:.]", "", value).lower()
                if not MAC.fullmatch(value):
                    device.say("expected 12 hex digits, as 24:6f:28:00:00:01", kind)
                    continue
            if value:
                once(kind, value, device, repr(device.cells[kind]))


def find_target(device: Device, args) -> None:
    if not device.name:
        device.say("missing; expected its name", "device")
    board = device.cells.get("board")
    if board is None:
        device.say(f"missing; expected one of {', '.join(targets.names())}", "board")
        return
    try:
        device.target = targets.find(str(board))
    except Failed as error:
        device.say(str(error), "board")
        return
    if args.images or "build" in device.cells:
        try:
            device.target.build(build_of(device))
        except Failed as error:
            device.say(str(error), "build" if "build" in device.cells else "board")
    if args.deploy and "port" not in device.cells:
        device.say("missing; --deploy needs one", "port")


def build_of(device: Device) -> str | None:
    return str(device.cells["build"]) if "build" in device.cells else None


def compose(device: Device, folder: Path) -> None:
    """Its settings and secrets, from what it starts with and its columns."""
    own = device.cells.get("config")
    device.base = folder / str(own) if own else device.target.folder / "config.json"
    try:
        settings = config.parse(device.base.read_bytes())
        secrets = {}
        path = device.base.with_name("secrets.json")
        if path.exists():
            secrets = config.parse(path.read_bytes())
    except OSError as error:
        device.say(f"{error.filename} cannot be read: {error.strerror}", "config")
        return
    except ValueError as error:
        device.say(f"{device.base}, or secrets.json beside it: {error}", "config")
        return
    settings["device"] = device.name
    for column, cell in device.cells.items():
        if column not in OWN and not column.startswith(SECRETS):
            try:
                put(settings, column, cell)
            except ValueError as error:
                device.say(str(error), column)
    device.settings = settings
    device.certificates = files_there(device.base.parent, certificates(settings))
    for column, cell in device.cells.items():
        if column.startswith(SECRETS):
            add_secret(device, secrets, column, str(cell))
    used = [one.get("ssid") for one in networks(settings)]
    if isinstance(secrets.get("networks"), dict):
        secrets["networks"] = {k: v for k, v in secrets["networks"].items() if k in used}
    device.secrets = dict(secrets)


def networks(settings: dict) -> list[dict]:
    found = settings.get("networks")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def put(settings: dict, column: str, new: object) -> None:
    """Set the key that a column names; ValueError if it leads nowhere."""
    *path, last = column.split(".")
    there: object = settings
    for done, key in enumerate(path):
        there = _step(there, key, ".".join(path[:done]), {})
    if isinstance(there, dict) and new is None:
        there.pop(last, None)
    elif isinstance(there, dict):
        there[last] = new
    else:
        _step(there, last, ".".join(path), new)
        there[int(last)] = new


def _step(there: object, key: str, place: str, new: object) -> object:
    """What is in an object or list, or `new`, which is there from now on."""
    if isinstance(there, dict):
        return there.setdefault(key, new)
    if isinstance(there, list) and key.isdigit() and int(key) <= len(there):
        if int(key) == len(there):
            there.append(new)
        return there[int(key)]
    if isinstance(there, list):
        raise ValueError(f"{place} has no {key}; expected 0 to {len(there)}")
    raise ValueError(f"{place} is no object and no list, and has no {key}")


def add_secret(device: Device, secrets: dict, column: str, text: str) -> None:
    if text.startswith("$"):
        name = text[1:]
        if name.startswith("$"):
            text = name
        elif name in os.environ:
            text = os.environ[name]
        else:
            device.say(f"the environment has no {name}", column)
            return
    key = column.removeprefix(SECRETS)
    if key == "wifi":
        first = next((one.get("ssid") for one in networks(device.settings)), None)
        if first is None:
            device.say("it has no network whose password this could be", column)
            return
        key = f"networks.{first}"
    if key.startswith("networks."):
        secrets.setdefault("networks", {})[key.removeprefix("networks.")] = text
    else:
        secrets[key] = text


def check_settings(device: Device) -> None:
    """By the firmware's own code; where it is wrong, the column that says so is named."""
    try:
        with private(device.files()) as folder:
            path = str(folder / "config.json")
            prefix = config.load(path, None, device.target.name)["prefix"]
        lines = []
    except config.ConfigError as error:
        prefix = device.settings.get("prefix")
        lines = str(error).splitlines()
    if prefix and device.name:
        device.id = f"{prefix}/{device.name}".replace("/", "-")
    for line in lines:
        file, _, text = line.partition(": ")
        within = SECRETS if file == "secrets.json" else ""
        place, _, what = text.partition(": ")
        column = column_of(device, within + re.sub(r"\[(\d+)\]", r".\1", place))
        if column:
            device.say(what, column)
        else:
            device.say(f"{device.base if file == 'config.json' else file}: {text}")


def column_of(device: Device, key: str) -> str:
    """The column that a mistake at `key` of its configuration comes from, or ""."""
    if key.startswith(f"{SECRETS}networks.") and f"{SECRETS}wifi" in device.cells:
        return f"{SECRETS}wifi"
    fitting = [
        name
        for name in device.cells
        if name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")
    ]
    return max(fitting, key=len, default="")


# Making


def firmware_files(given: list[str], devices: list[Device]) -> dict[str, Path | None]:
    """The file for each build of the fleet; None: the pinned one."""
    builds = {d.target.build(build_of(d)).name for d in devices if d.target.builds}
    files: dict[str, Path | None] = dict.fromkeys(sorted(builds))
    for text in given:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            if len(files) > 1:
                raise Failed(
                    f"which build is {text} for? --firmware {next(iter(files))}={text}; the "
                    f"fleet has {', '.join(files)}",
                    USAGE,
                )
            name, file = next(iter(files), ""), text
        if name not in files:
            raise Failed(f"no device has the build {name}: {', '.join(files)}", USAGE)
        files[name] = Path(file)
    return files


def micropython(name: str, devices: list[Device], given: dict) -> tuple[Path | None, str]:
    """The firmware file of a build, and its SHA-256; it is downloaded if it has to be."""
    from tools.image import firmware

    if given[name]:
        return given[name], sha256(firmware.given(given[name], None)).hexdigest()
    device = next(d for d in devices if name in d.target.builds)
    made = device.target.build(name)
    return None, sha256(firmware.pinned(made, device.target.micropython)[1]).hexdigest()


def make(device: Device, args, firmware: dict) -> str:
    """Its folder, whole or not at all; returns what was done."""
    folder = args.out / device.name
    files = device.files()
    new = args.out / f".{device.name}.new"
    old = args.out / f".{device.name}.old"
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        save_all(new, files)
        made = {"files": {name: sha256(data).hexdigest() for name, data in files.items()}}
        inputs = tree = None
        if args.images:
            name = device.target.build(build_of(device)).name
            kinds = "-".join([device.target.name, *sensors(new / "config.json")])
            tree = build(device.target, new / "config.json", TREES / kinds)
            parts = [
                (tree / "manifest.json").read_text(),
                json.dumps(made),
                name,
                firmware[name][1],
            ]
            inputs = sha256(json.dumps(parts).encode()).hexdigest()
        before = made_before(folder)
        if as_it_is(folder, before, made["files"], inputs):
            return "as it was"
        text = "made"
        if tree:
            path = image_of(device, name, tree, firmware[name][0], new)
            made["files"][path.name] = sha256(path.read_bytes()).hexdigest()
            made["inputs"] = inputs
            text = f"made, {path.name}, {path.stat().st_size:,} bytes"
        elif before and before.get("inputs"):
            text = "made; its old image is gone (--images)"
        (new / MADE).write_text(json.dumps(made, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        return text
    finally:
        shutil.rmtree(new, ignore_errors=True)


def made_before(folder: Path) -> dict | None:
    """What an earlier run has made there. Failed if there are files of somebody else."""
    if not folder.exists():
        return None
    try:
        made = json.loads((folder / MADE).read_text())
        known = {MADE, *made["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        made, known = None, set()
    others = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if others:
        raise Failed(f"{folder} has files that are not the fleet's: move {', '.join(others)}")
    return made


def as_it_is(folder: Path, made: dict | None, files: dict[str, str], inputs: str | None) -> bool:
    """Whether all that is wanted is there, and nothing that was made has changed since."""
    if not made or (inputs and made.get("inputs") != inputs):
        return False
    listed = made["files"]
    if any(listed.get(name) != digest for name, digest in files.items()):
        return False
    if len(listed) - len(files) != bool(made.get("inputs")):
        return False
    try:
        return all(
            sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, digest in listed.items()
        )
    except OSError:
        return False


def image_of(device: Device, name: str, tree: Path, firmware: Path | None, folder: Path) -> Path:
    """The image, in `folder`; it says nothing of its own."""
    from tools.image import SUFFIX, image

    extra = {n: data for n, data in device.files().items() if n != "config.json"}
    suffix = SUFFIX[device.target.port]
    path = folder / f"{device.target.name}-{name}-{device.name}.{suffix}"
    with contextlib.redirect_stdout(io.StringIO()):
        return image(device.target, name, tree, extra, firmware, path)


def deploy(device: Device, folder: Path) -> str:
    """Bring it to the board at its port; returns what was done."""
    from tools import deploy
    from tools.cable import Cable

    with Cable(str(device.cells["port"])) as board:
        board.check(device.target)
        sent = deploy.deploy(board, device.target, folder / "config.json")
        board.reset()
    return deploy.told(sent)
