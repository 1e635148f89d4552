"""`image`: what it makes, read with tools that are not ours; and what it refuses."""

import dataclasses
import hashlib
import json
import re
import stat
import subprocess
import sys
import threading
import types
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import standin
import tools.build
import tools.image
from adafruit_uf2 import uf2conv
from esp_idf_defs.partitions import PartitionTable
from littlefs import LittleFS, UserContext
from runtimes import command
from tools import targets
from tools.__main__ import main
from tools.console import CONFIG, DONE, FAILED, USAGE
from tools.image import filesystem, firmware

MOUNT = Path(__file__).parent / "device" / "mount.py"
BUILDS = {
    "esp32": ("esp32", "ESP32_GENERIC"),
    "esp32s3": ("esp32", "ESP32_GENERIC_S3"),
    "esp32c3": ("esp32", "ESP32_GENERIC_C3"),
    "rp2040": ("rp2040", "RPI_PICO_W"),
    "rp2350": ("rp2040", "RPI_PICO2_W"),
}
ESP32, RP2 = ("esp32", "esp32s3", "esp32c3"), ("rp2040", "rp2350")
SECRETS = {"user": "kitchen", "password": "s3cret", "networks": {"home": "passw0rd"}}


def device_files() -> dict[str, bytes]:
    """Of all lengths that littlefs stores in another way, in several folders."""
    lengths = (0, 1, 127, 128, 129, 511, 512, 513, 1024, 4095, 4096, 4097, 9000, 30000)
    files = {
        f"lib/sensors/n{length}.mpy": bytes(i * length % 251 for i in range(length))
        for length in lengths
    }
    files |= {f"lib/umqtt_lite/m{i}.mpy": b"%d" % i * 300 for i in range(12)}
    return files | {"main.py": b"import node\n", "lib/node.mpy": b"node" * 500}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Runs `image` for a configuration with TLS, and a device tree that `build` would make."""
    return Desk(tmp_path, monkeypatch)


class Desk:
    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.tree, self.out = folder, folder / "tree", folder / "images" / "x"
        self.files = device_files()
        self.config = folder / "conf" / "config.json"
        self.config.parent.mkdir()
        found = {
            "device": "kitchen",
            "broker": "192.168.1.2",
            "networks": [{"ssid": "home"}],
            "tls": True,
            "ntp": "pool.ntp.org",
        }
        self.config.write_text(json.dumps(found))
        self.private = {"secrets.json": json.dumps(SECRETS).encode(), "ca.pem": b"PEM" * 500}
        for name, data in self.private.items():
            (self.config.parent / name).write_bytes(data)
        self.files["config.json"] = self.config.read_bytes()
        self.built_for = None
        monkeypatch.setattr(tools.build, "build", self.build)

    def build(self, target, config_path, quiet=False) -> Path:
        assert config_path == self.config
        self.files.pop("manifest.json", None)
        listed = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in self.files.items()
        }
        manifest = {"board": self.built_for or target.name, "files": listed}
        self.files["manifest.json"] = json.dumps(manifest).encode()
        for name, data in self.files.items():
            path = self.tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.tree

    def run(self, chip: str, data: bytes | None, *more: str) -> int:
        board, build = BUILDS[chip]
        call = ["image", "--board", board, "--build", build, "--config", str(self.config)]
        if data is not None:
            (self.folder / "firmware").write_bytes(data)
            call += ["--firmware", str(self.folder / "firmware")]
        call += ["--out", str(self.out)] if self.out else []
        return main([*call, *more])

    def made(self) -> bytes:
        assert stat.S_IMODE(self.out.stat().st_mode) == 0o600
        assert list(self.out.parent.iterdir()) == [self.out]
        return self.out.read_bytes()

    def check_files(self, flash: bytes, offset: int, size: int, port: str) -> None:
        """The files in the flash are those, for littlefs-python and for MicroPython."""
        files = self.files | self.private
        blocks = size // 4096
        part = bytearray(flash[offset : offset + size])
        assert len(part) == size
        fs = LittleFS(UserContext(buffer=part), block_size=4096, block_count=0, mount=False)
        fs.mount()  # by what it says of itself
        assert (fs.block_count, fs.fs_stat().disk_version) == (blocks, 0x20000)
        found = {}
        for folder, _, names in fs.walk("/"):
            for name in names:
                path = f"{folder}/{name}".lstrip("/")
                found[path] = fs.open(path, "rb").read()
        assert found == files

        # 129 bytes have a block of their own where MicroPython would give them one
        at = flash.index(files["lib/sensors/n129.mpy"], offset)
        assert (at % 4096 == 0) == (port == "esp32")

        path = self.folder / "flash"
        path.write_bytes(flash)
        call = command(
            "micropython", MOUNT, str(path), str(offset), str(blocks), port, heap="256k"
        )
        shown = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        lines = sorted(f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in files)
        new = f"spool.bin {hashlib.sha256(b'new' * 16000).hexdigest()}"
        assert sorted(shown.splitlines()) == sorted([*lines, *lines, new])
        after = path.read_bytes()
        assert (
            after[:offset] == flash[:offset] and after[offset + size :] == flash[offset + size :]
        )


def old_flash(size: int, offset: int, length: int, port: str) -> bytearray:
    """A flash that was in use: another program, and files of the same names and others."""
    files = dict.fromkeys([*device_files(), "old.py", "lib/old/a.mpy"], b"old")
    files |= {f"lib/sensors/x{i}.mpy": b"old" * 2000 for i in range(60)}
    flash = bytearray(b"\x5a" * size)
    blocks = length // 4096
    context = UserContext(buffer=flash[offset : offset + length])
    geometry = filesystem.geometry(port, blocks)
    fs = LittleFS(context, mount=False, **geometry)
    fs.format()
    for _ in range(3):  # revisions go up
        fs.mount()
        for name, data in files.items():
            fs.makedirs(name.rpartition("/")[0] or "lib", exist_ok=True)
            fs.open(name, "wb").write(data)
        fs.unmount()
    flash[offset : offset + length] = context.buffer
    return flash


@pytest.mark.parametrize("chip", ESP32)
@pytest.mark.parametrize("named", [True, False], ids=["vfs", "no-vfs"])
def test_esp32(desk, chip, named, capsys):
    """`named`: "vfs" is in the firmware's partition table, as it was until 1.25."""
    partitions = [standin.NVS, standin.PHY, standin.FACTORY] + [standin.VFS] * named
    given = standin.esp32(chip, partitions)
    flash_size = 4 if named else 8
    assert desk.run(chip, given, "--flash-size", f"{flash_size}MB") == DONE
    made = desk.made()
    said = capsys.readouterr().out
    assert f"--chip {chip} write-flash 0x0 {desk.out}" in said
    assert not any(word in said for word in ("s3cret", "passw0rd"))

    found = PartitionTable.from_binary(made[0x8000:0x8C00])
    found.verify()
    found.verify_size_fits(flash_size << 20)
    shown = [(p.type, p.subtype, p.offset, p.size, p.name) for p in found]
    vfs = (1, 0x81, 0x200000, (flash_size - 2) << 20, "vfs")
    assert shown == [standin.NVS, standin.PHY, standin.FACTORY, vfs]

    base = standin.BOOTLOADER[chip]
    assert made[:base] == b"\xff" * base
    for offset in (base, 0x10000):
        part = desk.folder / "part.bin"
        part.write_bytes(made[offset:])
        call = [sys.executable, "-m", "esptool", "image-info", str(part)]
        text = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        assert f"Chip ID: {standin.CHIP_ID[chip]} (" in text
        assert text.count("(valid)") == 2 and "invalid" not in text.lower()
        if offset == base:
            assert f"Flash size: {flash_size}MB" in text
    program = given[0x10000 - base :]
    assert made[0x10000 : 0x10000 + len(program)] == program
    assert made[base + 64 : base + 5000] == given[64:5000]

    flash = old_flash(flash_size << 20, *vfs[2:4], "esp32")
    sectors = -(-len(made) // 4096) * 4096
    flash[:sectors] = made.ljust(sectors, b"\xff")  # as esptool writes it
    desk.check_files(bytes(flash), *vfs[2:4], "esp32")


def test_esp32_flash_size_is_the_firmware_s(desk, monkeypatch):
    """And the image's name tells what it is for."""
    monkeypatch.setattr(tools.image, "IMAGES", desk.folder / "images")
    given = standin.esp32("esp32c3", size_code=4)
    desk.out = None
    assert desk.run("esp32c3", given) == DONE
    desk.out = desk.folder / "images" / "esp32-ESP32_GENERIC_C3-kitchen.bin"
    made = desk.made()
    assert made[:0x8000] == given[:0x8000]
    assert PartitionTable.from_binary(made[0x8000:0x8C00])[-1].size == 14 << 20


@pytest.mark.parametrize("chip", RP2)
def test_rp2(desk, chip, capsys):
    program = standin.pico(chip)
    assert desk.run(chip, standin.uf2(chip, program)) == DONE
    made = desk.made()
    assert "BOOTSEL" in capsys.readouterr().out

    offset, size = standin.PLACE[chip]
    uf2conv.familyid = standin.FAMILY[chip]
    read = uf2conv.convert_from_uf2(made)
    assert uf2conv.appstartaddr == standin.BASE
    assert read[: len(program)] == program
    if chip == "rp2350":
        assert made[:512] == standin.errata()

    flash = old_flash(standin.FLASH[chip], offset, size, "rp2")
    assert standin.boot_rom(chip, made, flash)
    assert bytes(flash[: len(program)]) == program
    assert bytes(flash[offset : len(read)]) == read[offset:]
    desk.check_files(bytes(flash), offset, size, "rp2")


def test_rp2_file_system_where_the_user_says(desk):
    program = standin.pico("rp2040", place=None)
    more = ("--fs-offset", "0x100000", "--fs-size", "512K")
    assert desk.run("rp2040", standin.uf2("rp2040", program), *more) == DONE
    flash = bytearray(standin.FLASH["rp2040"])
    assert standin.boot_rom("rp2040", desk.made(), flash)
    desk.check_files(bytes(flash), 0x100000, 512 * 1024, "rp2")


@pytest.mark.parametrize("port, blocks", [("rp2", 212), ("esp32", 512)])
def test_fills_the_file_system(port, blocks):
    """What fits is found in a file system as full as can be; one file more is refused."""
    files = {f"{i}.bin": bytes([i % 256]) * 8000 for i in range(blocks // 2 - 8)}
    image = filesystem.make(files, port, blocks)
    assert blocks * 4096 * 0.9 < len(image) <= blocks * 4096
    assert filesystem.read(image, port, blocks) == files
    files |= {f"{i}x.bin": b"x" * 8000 for i in range(9)}
    with pytest.raises(filesystem.Failed, match="do not fit"):
        filesystem.make(files, port, blocks)


def patch(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


@cache
def esp32(**more) -> bytes:
    return standin.esp32("esp32", **more)


@cache
def pico(chip="rp2040", **more) -> bytes:
    return standin.uf2(chip, standin.pico(chip, **more))


def forge(data: bytes) -> bytes:
    """Two bytes of the program in another order: its checksum is right, its SHA-256 not."""
    at = len(data) - 1000
    return patch(data, at, data[at : at + 2][::-1])


NO_VFS = (standin.NVS, standin.PHY, standin.FACTORY)
APP = 0x10000 - 0x1000  # of the program, in ESP32's file
SMALL = "flash too small: .* needs 4 MB"
# chip, firmware, what is said, exit code, and options
WRONG = {
    "empty": ("esp32", b"", "no firmware for ESP32", FAILED),
    "a text": ("esp32", b"<html>404" * 99, "no firmware for ESP32", FAILED),
    "UF2 for ESP32": ("esp32", pico(), "no firmware for ESP32", FAILED),
    "ESP32-S3's": ("esp32", standin.esp32("esp32s3"), "is for ESP32-S3, not for ESP32", FAILED),
    "ESP32's": ("esp32c3", esp32(), "is for ESP32, not for ESP32-C3", FAILED),
    "the program alone": ("esp32", esp32()[APP:], "Take the .bin", FAILED),
    "cut in the bootloader": ("esp32", esp32()[:3000], "no partition table", FAILED),
    "cut in the program": ("esp32", esp32()[:-9000], "the program is damaged or cut", FAILED),
    "cut before the program": ("esp32", esp32()[: APP - 99], "no program for ESP32", FAILED),
    "a bit in the bootloader": ("esp32", patch(esp32(), 999, b"x"), "its checksum", FAILED),
    "a bit in the program": ("esp32", patch(esp32(), APP + 999, b"x"), "its checksum", FAILED),
    "a forged program": ("esp32", forge(esp32()), "its SHA-256 is wrong", FAILED),
    "a bit in the table": ("esp32", patch(esp32(), 0x7008, b"x"), "checksum is wrong", FAILED),
    "no MicroPython": ("esp32", esp32(banner=b"hello-world"), "it is not MicroPython", FAILED),
    "CircuitPython": (
        "esp32",
        esp32(banner=b"Adafruit CircuitPython 10.2.1 on 2026-05-01"),
        "it is not MicroPython",
        FAILED,
    ),
    "too old": ("esp32", esp32(version="1.20.0"), "1.22 is the oldest", FAILED),
    "no vfs": ("esp32", esp32(version="1.25.0"), "no partition for files", FAILED),
    "ffat": ("esp32", esp32(partitions=(*NO_VFS, standin.FFAT)), "FAT partition", FAILED),
    "no app": ("esp32", esp32(partitions=NO_VFS[:2]), "has no program", FAILED),
    "flash too small": (
        "esp32",
        esp32(),
        SMALL,
        FAILED,
        "--flash-size",
        "2MB",
    ),
    "vfs beyond the flash": (
        "esp32",
        esp32(partitions=(*NO_VFS, standin.VFS), size_code=1),
        SMALL,
        FAILED,
    ),
    "no size of a flash": (
        "esp32",
        esp32(),
        "is no size of a flash",
        USAGE,
        "--flash-size",
        "5MB",
    ),
    "too many files": (
        "esp32",
        esp32(partitions=(*NO_VFS, (1, 0x81, 0x200000, 0x10000, "vfs"))),
        "do not fit into the board's file system of 65,536",
        FAILED,
    ),
    "a .bin for a Pico": ("rp2040", esp32(), "is no UF2 file", FAILED),
    "UF2 cut in a block": ("rp2040", pico()[:-100], "is cut short", FAILED),
    "UF2 cut between blocks": ("rp2040", pico()[:-512], "block 0 of .* cut short", FAILED),
    "UF2 magic": ("rp2040", patch(pico(), 5 * 512, b"x"), "block 5 .* magic", FAILED),
    "UF2 end magic": ("rp2040", patch(pico(), 5 * 512 - 1, b"x"), "block 4 .* magic", FAILED),
    "UF2 numbers": ("rp2040", patch(pico(), 512 + 20, b"\x07"), "block 1 .* says", FAILED),
    "UF2 page size": ("rp2040", patch(pico(), 512 + 16, b"\xdc\0"), "is no page of 256", FAILED),
    "UF2 address": ("rp2040", patch(pico(), 512 + 15, b"\x20"), "no page of the flash", FAILED),
    "UF2 page twice": ("rp2040", patch(pico(), 512 + 12, b"\0\0"), "there are two", FAILED),
    "Pico 2 W's": ("rp2040", pico("rp2350"), "is for RP2350, not for RP2040", FAILED),
    "Pico W's": ("rp2350", pico(), "is for RP2040, not for RP2350", FAILED),
    "a Pico without W": ("rp2040", pico(board=b"pico"), "for the board pico, not", FAILED),
    "another program": ("rp2040", pico(name=b"blink"), "but it is blink", FAILED),
    "an old MicroPython": ("rp2040", pico(version=b"v1.19.1"), "1.22 is the oldest", FAILED),
    "no binary info": ("rp2040", standin.uf2("rp2040", b"code" * 3000), "--fs-offset", FAILED),
    "no file system": ("rp2040", pico(place=None), "--fs-offset and --fs-size", FAILED),
    "files over the program": ("rp2040", pico(place=(4096, 65536)), "would overwrite", FAILED),
    "half a block": ("rp2040", pico(place=(0x100800, 65536)), "no file system can be at", FAILED),
    "wrong --sha256": (
        "rp2040",
        pico(),
        "is not the file expected",
        FAILED,
        "--sha256",
        "0" * 64,
    ),
    "another place": (
        "rp2040",
        pico(),
        "has its file system at 0x12c000, of 848K",
        FAILED,
        "--fs-offset",
        "0x100000",
        "--fs-size",
        "848K",
    ),
    "half a place": ("rp2040", pico(), "go together", USAGE, "--fs-size", "848K"),
    "--fs-size for ESP32": ("esp32", esp32(), "is for an esp32", USAGE, "--fs-size", "2M"),
    "--flash-size for a Pico": ("rp2040", pico(), "is for an esp32", USAGE, "--flash-size", "2M"),
    "--sha256 of nothing": ("esp32", None, "--firmware names", USAGE, "--sha256", "0" * 64),
}


@pytest.mark.parametrize("case", WRONG)
def test_refuses_firmware(desk, case, capsys):
    chip, data, said, code, *more = WRONG[case]
    assert desk.run(chip, data, *more) == code
    refused(desk, capsys, said)


@pytest.mark.parametrize("option", ["--sha256=12", "--flash-size=4TB", "--fs-size=-1"])
def test_refuses_options(desk, capsys, option):
    with pytest.raises(SystemExit) as end:
        desk.run("esp32", esp32(), option)
    assert end.value.code == USAGE
    assert "error: argument --" in capsys.readouterr().err


def refused(desk, capsys, said: str) -> None:
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.startswith("image: ") and error.count("\n") == 1
    assert not desk.out.parent.exists() or not list(desk.out.parent.iterdir())


def test_refuses_what_is_for_another_board(desk, capsys):
    desk.built_for = "rp2040"
    assert desk.run("esp32", esp32()) == CONFIG
    refused(desk, capsys, "built for rp2040, not for esp32")
    desk.config = targets.BOARDS / "rp2040" / "config.json"
    assert desk.run("esp32", esp32()) == CONFIG
    refused(desk, capsys, "config.json is for rp2040, not for esp32")
    assert main(["image", "--board", "unix", "--out", str(desk.out)]) == USAGE
    refused(desk, capsys, "unix is no board that MicroPython has a build for")
    assert main(["image", "--board", "esp32", "--build", "ESP32_C6"]) == USAGE
    refused(desk, capsys, "no build 'ESP32_C6' for esp32: ESP32_GENERIC, ")


def test_refuses_files_that_are_not_there_or_not_right(desk, capsys):
    (desk.config.parent / "ca.pem").unlink()
    assert desk.run("esp32", esp32()) == CONFIG
    refused(desk, capsys, "tls.ca: expected the name of a file that is there")
    (desk.config.parent / "ca.pem").write_bytes(b"PEM")
    (desk.config.parent / "secrets.json").write_text('{"networks": {}}')
    assert desk.run("esp32", esp32()) == CONFIG
    refused(desk, capsys, "no password")


def test_without_secrets_they_are_provisioned_later(desk, capsys):
    (desk.config.parent / "secrets.json").unlink()
    del desk.private["secrets.json"]
    assert desk.run("esp32", esp32()) == DONE
    assert "the image has no passwords; `provision` brings them" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["changed", "gone", "main.py", "manifest"])
def test_refuses_a_tree_that_is_not_whole(desk, capsys, monkeypatch, wrong):
    def build(target, config_path):
        if wrong == "main.py":
            del desk.files["main.py"]
        tree = desk.build(target, config_path)
        if wrong == "changed":
            (tree / "lib/node.mpy").write_bytes(b"other")
        elif wrong == "gone":
            (tree / "lib/node.mpy").unlink()
        elif wrong == "manifest":
            (tree / "manifest.json").unlink()
        return tree

    monkeypatch.setattr(tools.build, "build", build)
    assert desk.run("esp32", esp32()) == FAILED
    refused(desk, capsys, r"python -m tools build --board esp32`")


def test_keeps_the_old_image(desk, capsys, monkeypatch):
    desk.out.parent.mkdir()
    desk.out.write_bytes(b"old")
    assert desk.run("esp32", esp32()[:-9000]) == FAILED
    monkeypatch.setattr(filesystem, "read", lambda *_: {})  # as if it were not to be read
    assert desk.run("esp32", esp32()) == FAILED
    assert "read back from the image, these files differ: ca.pem, " in capsys.readouterr().err
    assert [path.read_bytes() for path in desk.out.parent.iterdir()] == [b"old"]


def test_folder_that_cannot_be_written(desk, capsys):
    desk.out.parent.write_text("a file where the folder should be")
    assert desk.run("esp32", esp32()) == FAILED
    assert re.search("images/x cannot be written: ", capsys.readouterr().err)
    desk.out.parent.unlink()
    desk.out.mkdir(parents=True)
    assert desk.run("esp32", esp32()) == FAILED
    assert re.search("images/x cannot be written: ", capsys.readouterr().err)
    assert list(desk.out.parent.iterdir()) == [desk.out]


def test_pins():
    for name in targets.names():
        target = targets.find(name)
        for build in target.builds.values():
            pin = build.firmware[target.micropython]
            form = rf"{build.name}-20\d{{6}}-v{re.escape(target.micropython)}\.(bin|uf2)"
            assert re.fullmatch(form, pin.file)
            assert re.fullmatch("[0-9a-f]{64}", pin.sha256)


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A download site that has `site.data`, and the pin of it."""
    made = types.SimpleNamespace(data=b"", asked=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            made.asked.append(self.path)
            self.send_response(200 if made.data else 404)
            self.send_header("Content-Length", str(len(made.data)))
            self.end_headers()
            self.wfile.write(made.data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(firmware, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(firmware, "CACHE", tmp_path / "cache")
    made.cache = tmp_path / "cache"
    find = targets.find

    def pin(version, data):
        sha256 = hashlib.sha256(data).hexdigest()
        target = find("rp2040")
        build = target.builds["RPI_PICO_W"]
        pins = {version: targets.Firmware("RPI_PICO_W-x.uf2", sha256)}
        build = dataclasses.replace(build, firmware=pins)
        target = dataclasses.replace(target, builds={build.name: build})
        monkeypatch.setattr(targets, "find", lambda _: target)

    made.pin = pin
    yield made
    server.shutdown()
    server.server_close()


def test_downloads_the_pinned_firmware_once(desk, site):
    site.data = pico()
    site.pin("1.29.0", site.data)
    assert desk.run("rp2040", None) == desk.run("rp2040", None) == DONE
    assert site.asked == ["/resources/firmware/RPI_PICO_W-x.uf2"]
    assert [path.read_bytes() for path in site.cache.iterdir()] == [site.data]
    (site.cache / "RPI_PICO_W-x.uf2").write_bytes(b"damaged since")
    assert desk.run("rp2040", None) == DONE
    assert len(site.asked) == 2
    desk.made()


def test_a_download_that_is_not_the_pinned_one_is_not_kept(desk, site, capsys):
    site.pin("1.29.0", pico())
    site.data = pico(version=b"v1.29.1")
    assert desk.run("rp2040", None) == FAILED
    refused(desk, capsys, "not the file expected: .* It was not kept")
    site.data = b""
    assert desk.run("rp2040", None) == FAILED
    refused(desk, capsys, "RPI_PICO_W-x.uf2 cannot be downloaded .*404.*--firmware FILE")
    site.pin("1.28.0", pico())
    assert desk.run("rp2040", None) == FAILED
    refused(desk, capsys, "no SHA-256 is known for RPI_PICO_W of MicroPython 1.29.0: .*/download/")
    assert not site.cache.exists()
