"""flash: the real esptool against a stand-in for the chip's boot ROM, and a folder for a drive."""

import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import serial
import standin
from esptool import CHIP_DEFS, cmds
from paho.mqtt import publish
from tools import cable, console, desk, flash, targets
from tools.__main__ import main
from tools.console import BROKER, CABLE, FAILED, ROOT, USAGE, Failed
from tools.image import filesystem, image, uf2
from tools.programs import start_broker

MIB = 2**20
VFS = 0x200000


# A stand-in for the boot ROM and esptool's stub, as their protocol describes them


class Rom:
    """A chip with a flash, at a TCP socket; after a write, what `board` is is there instead."""

    def __init__(
        self,
        chip="esp32",
        size=4 * MIB,
        *,
        deaf=False,
        cut=None,
        worn=False,
        regs=(),
        flags=0,
        leaves=None,
    ):
        self.chip = CHIP_DEFS[chip]
        self.flash = bytearray(b"\xa5" * size)
        self.deaf, self.cut, self.worn = deaf, cut, worn
        self.regs = dict(regs)
        self.flags = flags
        self.leaves = leaves
        if self.chip.USES_MAGIC_VALUE:
            self.regs[self.chip.CHIP_DETECT_MAGIC_REG_ADDR] = self.chip.MAGIC_VALUE
        self.id = 0x40EF | size.bit_length() - 1 << 16
        self.stub = False
        self.ops: list[int] = []
        self.verified = threading.Event()
        self.board: desk.Board | None = None

    def __enter__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = f"socket://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def serve(self):
        while True:
            try:
                self.host = self.server.accept()[0]
            except OSError:
                return
            self.stub = False
            try:
                if self.board and self.verified.is_set():
                    self.relay()
                else:
                    self.talk()
            except OSError:
                pass
            self.host.close()

    def relay(self):
        port = int(self.board.port.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as board:

            def back():
                while data := board.recv(4096):
                    self.host.sendall(data)

            threading.Thread(target=back, daemon=True).start()
            while data := self.host.recv(4096):
                board.sendall(data)
            board.shutdown(socket.SHUT_RDWR)

    def talk(self):
        rest = b""
        while data := self.host.recv(65536):
            *packets, rest = (rest + data).split(b"\xc0")
            for packet in packets:
                if len(packet) >= 8 and not self.deaf:
                    packet = packet.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
                    self.answer(packet[1], packet[8:])

    def send(self, packet):
        packet = packet.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        self.host.sendall(b"\xc0" + packet + b"\xc0")

    def reply(self, op, value=0, data=b"", wrong=0):
        data += bytes((1, wrong) if wrong else (0, 0)) + bytes(0 if self.stub else 2)
        self.send(struct.pack("<BBHI", 1, op, len(data), value) + data)

    def answer(self, op, data):
        self.ops.append(op)
        name = next((key for key, n in self.chip.ESP_CMDS.items() if n == op), "")
        words = struct.unpack_from(f"<{min(len(data), 16) // 4}I", data)
        spi = self.chip.SPI_REG_BASE
        if name == self.leaves:
            raise OSError
        if name == "SYNC":
            for _ in range(8):
                self.reply(op, 0 if self.stub else 0x20120707)
        elif name == "GET_SECURITY_INFO":
            if self.chip.USES_MAGIC_VALUE:
                self.reply(op, wrong=5)
            else:
                data = struct.pack("<I8xII", self.flags, self.chip.IMAGE_CHIP_ID, 0)
                self.reply(op, data=data)
        elif name == "READ_REG":
            value = self.regs.get(words[0], 0)
            if words[0] == spi:
                value = 0  # done
            elif words[0] == spi + self.chip.SPI_W0_OFFS:
                command = self.regs.get(spi + self.chip.SPI_USR2_OFFS, 0) & 255
                value = self.id if command == 0x9F else 0
            self.reply(op, value)
        elif name == "WRITE_REG":
            self.regs[words[0]] = words[1]
            self.reply(op)
        elif name == "MEM_END":
            self.reply(op)
            self.send(b"OHAI")
            self.stub = True
        elif name == "ERASE_FLASH":
            self.flash[:] = b"\xff" * len(self.flash)
            self.reply(op)
        elif name == "FLASH_DEFL_BEGIN":
            self.at, self.inflate = words[3], zlib.decompressobj()
            self.reply(op)
        elif name == "FLASH_DEFL_DATA":
            if self.cut is not None:
                self.cut -= 1
                if self.cut < 0:
                    raise OSError
            piece = self.inflate.decompress(data[16:])
            self.flash[self.at : self.at + len(piece)] = piece
            self.at += len(piece)
            self.reply(op)
        elif name == "SPI_FLASH_MD5":
            if self.worn:
                self.flash[words[0] + 100] ^= 1
            digest = hashlib.md5(self.flash[words[0] : words[0] + words[1]]).digest()
            self.reply(op, data=digest if self.stub else digest.hex().encode())
            self.verified.set()
        elif name == "READ_FLASH":
            self.reply(op)
            found = bytes(self.flash[words[0] : words[0] + words[1]])
            self.send(found)
            self.send(hashlib.md5(found).digest())
        else:
            self.reply(op)


MORE = (standin.NVS, standin.PHY, standin.FACTORY)
CODE = os.urandom(40000)  # that esptool cannot compress into one block


@pytest.fixture
def made(tmp_path):
    """made(chip, **standin's) -> the file of an image, by the real `image`."""

    def make(chip="esp32", **more) -> Path:
        target = targets.find("esp32" if chip.startswith("esp32") else "rp2040")
        build = next(b.name for b in target.builds.values() if b.chip == chip)
        firmware = tmp_path / f"{chip}.firmware"
        if target.name == "esp32":
            firmware.write_bytes(standin.esp32(chip, **more))
        else:
            firmware.write_bytes(standin.uf2(chip, standin.pico(chip, **more)))
        files = {"main.py": b"print('hello')", "lib/app.mpy": CODE}
        tree = tmp_path / "tree"
        (tree / "lib").mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (tree / name).write_bytes(data)
        listed = {name: {"sha256": hashlib.sha256(d).hexdigest()} for name, d in files.items()}
        manifest = {"board": target.name, "files": listed}
        (tree / "manifest.json").write_text(json.dumps(manifest))
        extra = {"secrets.json": b"{}"}
        return image(target, build, tree, extra, firmware, tmp_path / f"{chip}.image")

    return make


@pytest.fixture
def run(capfd):
    """run(arguments) -> (exit code, what was printed, the error)"""

    def run(*args):
        capfd.readouterr()
        code = main(["flash", *map(str, args)])
        return code, *capfd.readouterr()

    return run


def esp_run(run, rom, path, *more):
    return run("--board", "esp32", "--port", rom.port, "--image", path, "--wait", 0, *more)


# ESP32


@pytest.mark.parametrize("chip", ["esp32", "esp32s3", "esp32c3"])
def test_esp32(made, run, chip):
    path = made(chip)
    with Rom(chip) as rom:
        code, out, err = esp_run(run, rom, path)
        assert (code, err) == (0, "")
        assert f"{chip} at {rom.port}, 4 MB of flash" in out and "verified" in out
    made = path.read_bytes()
    begin = CHIP_DEFS[chip].BOOTLOADER_FLASH_OFFSET
    assert rom.flash[begin : len(made)] == made[begin:]
    assert not rom.flash[:begin].strip(b"\xff") and not rom.flash[len(made) :].strip(b"\xff")
    files = filesystem.read(bytes(rom.flash[VFS:]), "esp32", (4 * MIB - VFS) // 4096)
    assert files["lib/app.mpy"] == CODE and "secrets.json" in files


def test_micropython_alone(run, tmp_path):
    path = tmp_path / "published.bin"
    path.write_bytes(standin.esp32("esp32"))
    with Rom() as rom:
        assert esp_run(run, rom, path)[0] == 0
    assert rom.flash[0x1000 : 0x1000 + path.stat().st_size] == path.read_bytes()


def test_keep_files(made, run):
    with Rom() as rom:
        assert esp_run(run, rom, made())[0] == 0
        before = bytes(rom.flash)
        rom.flash[0x9000:0xF000] = b"n" * 0x6000
        rom.flash[VFS + 0x100000 :] = b"f" * (len(rom.flash) - VFS - 0x100000)
        path = made(version="1.29.1")
        assert esp_run(run, rom, path, "--keep-files") == (0, rom_said(rom, path), "")
    assert rom.flash[0x9000:0xF000] == b"n" * 0x6000
    assert rom.flash[VFS : VFS + 0x100000] == before[VFS : VFS + 0x100000]
    assert not rom.flash[VFS + 0x100000 :].strip(b"f")
    assert rom.flash[0x10000:VFS] == path.read_bytes()[0x10000:VFS] != before[0x10000:VFS]


def rom_said(rom, path):
    size = path.stat().st_size
    return (
        f"image     {path}, {size:,} bytes\n"
        f"board     esp32 at {rom.port}, 4 MB of flash\n"
        "verified  by MD5\n"
    )


def test_keep_files_that_are_elsewhere(made, run):
    with Rom() as rom:
        assert esp_run(run, rom, made())[0] == 0
        before = bytes(rom.flash)
        code, _, err = esp_run(
            run,
            rom,
            made(partitions=(*MORE, (1, 0x81, 0x280000, 0x180000, "vfs"))),
            "--keep-files",
        )
        assert code == FAILED and "2,097,152 bytes at 0x200000" in err
        assert "1,572,864 at 0x280000. Nothing was changed" in err
        assert rom.flash == before
        rom.flash[:] = bytes(len(before))
        code, _, err = esp_run(run, rom, made(), "--keep-files")
        assert code == FAILED and "has no MicroPython whose files to keep" in err
        assert rom.flash == bytes(len(before))


@pytest.mark.parametrize(
    "rom, image, code, said",
    [
        (
            Rom("esp32s3"),
            {},
            FAILED,
            "wrong chip: {} is for esp32, and the board at {} is esp32s3",
        ),
        (Rom("esp32"), {"chip": "esp32c3"}, FAILED, "wrong chip: {} is for esp32c3, and the"),
        (
            Rom("esp32s2"),
            {},
            FAILED,
            "wrong chip: {} is for esp32, and the board at {} is esp32s2",
        ),
        (
            Rom(size=2 * MIB),
            {},
            FAILED,
            "too small: {} needs 4 MB, and the esp32 at {} has 2 MB",
        ),
        (Rom(regs={0x3FF5A018: 0x10}), {}, FAILED, "the esp32 at {1} is locked"),
        (Rom(regs={0x3FF5A000: 1 << 20}), {}, FAILED, "the esp32 at {1} is locked"),
        (Rom("esp32c3", flags=4), {"chip": "esp32c3"}, FAILED, "the esp32c3 at {1} is locked"),
        (Rom(regs={0x3FF5A00C: 1 << 15}), {}, FAILED, "chip revision v0.99 or lower"),
        (Rom(leaves="MEM_DATA"), {}, CABLE, "at {1} stops answering (read failed: socket"),
        (Rom(leaves="SPI_SET_PARAMS"), {}, CABLE, "at {1} stops answering (read failed: socket"),
        (Rom(deaf=True), {}, CABLE, "the bootloader of the board at {1} does not answer"),
    ],
)
def test_nothing_is_changed(made, run, monkeypatch, rom, image, code, said):
    resets = []
    monkeypatch.setattr(cmds, "reset_chip", lambda _, mode: resets.append(mode))
    with rom:
        before = bytes(rom.flash)
        path = made(**image)
        got, _, err = esp_run(run, rom, path)
        assert got == code
        assert (
            said.replace("{1}", rom.port).replace("{}", str(path), 1).replace("{}", rom.port)
            in err
        )
        assert "Nothing was changed" in err and err.count("\n") == 1
        assert rom.flash == before
        assert resets == ([] if rom.deaf else ["hard-reset"])  # the old program goes on


def test_cut_in_the_middle_and_again(made, run):
    path = made()
    with Rom(cut=1) as rom:
        code, out, err = esp_run(run, rom, path)
        assert code == CABLE and "verified" not in out
        assert "cut in the middle (" in err and "is half written and does not start: run" in err
        rom.cut = None
        assert esp_run(run, rom, path)[0] == 0
        assert rom.flash[0x1000 : path.stat().st_size] == path.read_bytes()[0x1000:]


def test_worn_out(made, run):
    with Rom(worn=True) as rom:
        code, out, err = esp_run(run, rom, made())
        assert code == FAILED and "verification failed (MD5 of" in err
        assert "does not start. Run this again, with a lower --baud" in err
    assert "verified" not in out


def test_ctrl_c_says_what_it_leaves(made):
    path = made()
    with Rom() as rom:
        stop = threading.Event()
        answer = rom.answer

        def hang(op, data):
            if op == rom.chip.ESP_CMDS["FLASH_DEFL_DATA"]:
                stop.set()
                return
            answer(op, data)

        rom.answer = hang
        call = [sys.executable, "-m", "tools", "flash", "--board", "esp32", "--port", rom.port]
        process = subprocess.Popen(
            [*call, "--image", path], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        assert stop.wait(20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert err.startswith("flash: interrupted: the board at") and "half written" in err


def test_is_heard_of_on_serial(made, run, tmp_path):
    (tmp_path / "desk").mkdir()
    with desk.Board(tmp_path / "desk" / "flash") as board, Rom() as rom:
        with cable.Cable(board.port) as wire:
            wire.write("main.py", b"print('hello from the node')\n")
        rom.board = board
        code, out, err = run("--board", "esp32", "--port", rom.port, "--image", made())
        assert (code, err) == (0, "")
        assert "MicroPython 1." in out and "starts:\n  hello from the node\n" in out


def test_is_not_heard_of(made, run, monkeypatch):
    monkeypatch.setattr(cable, "PATIENCE", 1)
    with Rom() as rom:
        code, out, err = run(
            "--board", "esp32", "--port", rom.port, "--image", made(), "--wait", 1
        )
        assert code == CABLE and "verified" in out
        assert "written and verified, but nothing is heard of the board in 1 s" in err


CONFIG = {"broker": "", "device": "shed", "prefix": "here", "networks": [{"ssid": "home"}]}


def test_is_heard_of_at_its_broker(made, run, tmp_path):
    path = made()
    config = tmp_path / "config.json"
    (tmp_path / "secrets.json").write_text('{"networks": {"home": "12345678"}}')
    call = ("--board", "esp32", "--image", path, "--config", config)
    with ExitStack() as on_exit:
        host, port = start_broker(on_exit)
        config.write_text(json.dumps(CONFIG | {"broker": f"{host}:{port}"}))
        rom = on_exit.enter_context(Rom())

        def come():
            assert rom.verified.wait(20)
            for topic, payload in ("status", "online"), ("air", '{"temperature": 21.5}'):
                publish.single(f"here/shed/{topic}", payload, 1, hostname=host, port=port)

        thread = threading.Thread(target=come)
        thread.start()
        code, out, err = run(*call, "--port", rom.port)
        thread.join()
        assert (code, err) == (0, "") and "heard     shed: air 21.5" in out
        code, _, err = run(*call, "--port", rom.port, "--wait", 0.5)
        assert code == FAILED
        assert "verified, but the broker heard nothing of here/shed in 0.5 s" in err
    with Rom() as rom:
        before = bytes(rom.flash)
        code, _, err = run(*call, "--port", rom.port)
        assert code == BROKER and "cannot be reached" in err and rom.flash == before
        config.write_text(json.dumps(CONFIG))
        code, _, err = run(*call, "--port", rom.port)
        assert code == console.CONFIG and "config.json: broker: expected" in err


# Ports


def test_ports(made, run, monkeypatch, tmp_path):
    path = made()
    call = ("--board", "esp32", "--image", path)
    code, _, err = run(*call, "--port", "/dev/ttyNONE")
    assert code == CABLE and "there is no port /dev/ttyNONE" in err
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"socket://127.0.0.1:{free.getsockname()[1]}"
    code, _, err = run(*call, "--port", closed)
    assert code == CABLE and f"nothing answers at {closed}" in err
    inside, outside = pty.openpty()
    with serial.Serial(os.ttyname(outside), exclusive=True):
        code, _, err = run(*call, "--port", os.ttyname(outside))
    assert code == CABLE and "is in use" in err
    os.close(inside)
    os.close(outside)
    monkeypatch.setattr(cable, "ports", list)
    code, _, err = run(*call)
    assert code == CABLE and "no board is connected" in err
    two = [cable.Port(f"/dev/ttyUSB{n}", "CP2102 (10c4:ea60)", ("esp32",)) for n in range(2)]
    monkeypatch.setattr(cable, "ports", lambda: two)
    code, _, err = run(*call)
    assert code == CABLE and "several" in err and "/dev/ttyUSB0" in err and "/dev/ttyUSB1" in err


# Images


def test_images(made, run, tmp_path, monkeypatch):
    good = made()
    call = ("--board", "esp32", "--port", "socket://127.0.0.1:1", "--image")
    bad = tmp_path / "bad"
    for data, said in (
        (None, "cannot be read: No such file"),
        (b"", "python -m tools image` makes one"),
        (b"hello" * 100, "is no image"),
        (uf2.write(b"", {uf2.FLASH: bytes(256)}, "rp2040"), "for another board: a UF2 file"),
        (
            standin.esp32("esp32")[:12] + b"\2" + bytes(99),
            "is for ESP32-S2, and esp32 is esp32, esp32c3, esp32s3",
        ),
        (good.read_bytes()[:0x9000], "cut short?"),
        (good.read_bytes()[:0x1020] + b"x" + good.read_bytes()[0x1021:], "damaged"),
    ):
        bad.unlink(missing_ok=True)
        if data is not None:
            bad.write_bytes(data)
        code, _, err = run(*call, bad)
        assert code == FAILED and said in err and str(bad) in err, data and data[:9]
    code, _, err = run("--board", "unix", "--image", good)
    assert code == USAGE and "takes no image" in err
    monkeypatch.setattr(flash, "IMAGES", tmp_path / "images")
    code, _, err = run("--board", "esp32")
    assert code == FAILED and "python -m tools image --board esp32`" in err


def test_newest_image(monkeypatch, tmp_path):
    monkeypatch.setattr(flash, "IMAGES", tmp_path)
    target = targets.find("esp32")
    names = ("esp32-A-shed.bin", "esp32-A-attic.bin", "rp2040-B-shed.uf2", "config.json")
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (n, n))
    assert flash.newest(target).name == "esp32-A-attic.bin"
    config = tmp_path / "config.json"
    with pytest.raises(Failed, match=r"config.json is newer than esp32-A-shed.bin: make that"):
        flash.newest(target, config, "shed")
    os.utime(config, (0, 0))
    assert flash.newest(target, config, "shed").name == "esp32-A-shed.bin"
    beside = tmp_path / "fleet" / "esp32-A-shed.bin"
    beside.parent.mkdir()
    beside.write_bytes(b"")
    assert flash.newest(target, beside.with_name("config.json"), "shed") == beside


# RP2040 and RP2350


class Drive:
    """A bootloader's drive: it vanishes once a whole file is there."""

    def __init__(self, folder: Path, name="RPI-RP2", size=None, vanish=True):
        self.folder, self.size, self.vanish = folder, size, vanish
        folder.mkdir()
        (folder / flash.INFO).write_text(
            f"UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: {name}\r\n"
        )
        self.taken = b""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        file = self.folder / "image.uf2"
        while not self.ended.wait(0.01):
            if file.exists() and self.vanish and file.stat().st_size >= self.size:
                self.taken = file.read_bytes()
                shutil.rmtree(self.folder)
                return


def rp2_run(run, path, *more):
    return run("--board", "rp2040", "--image", path, "--wait", 0, *more)


@pytest.fixture
def pico(made):
    return made("rp2040")


@pytest.mark.parametrize("chip, name", [("rp2040", "RPI-RP2"), ("rp2350", "RP2350")])
def test_drive(made, run, tmp_path, chip, name):
    path = made(chip)
    with Drive(tmp_path / "drive", name, path.stat().st_size) as drive:
        code, out, err = rp2_run(run, path, "--drive", drive.folder)
    assert (code, err) == (0, "")
    assert f"{chip} in its bootloader" in out and "verified" in out
    assert drive.taken == path.read_bytes()
    assert standin.boot_rom(chip, drive.taken, bytearray(standin.FLASH[chip]))


def test_drive_is_found(run, tmp_path, pico, monkeypatch):
    drives = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    monkeypatch.setattr(flash, "mounted", lambda: dict.fromkeys(drives, ""))
    monkeypatch.setattr(cable, "ports", list)
    monkeypatch.setenv("PATH", "")
    drives[0].mkdir()
    code, _, err = rp2_run(run, pico)
    assert code == CABLE and "no board: neither a drive" in err and "hold BOOTSEL" in err
    with Drive(drives[1], "RP2350", 0, False):
        code, _, err = rp2_run(run, pico)
        assert code == FAILED and "wrong chip: the image is for rp2040" in err
        assert f"{drives[1]}  rp2350" in err
        with Drive(drives[2], size=pico.stat().st_size) as drive:
            assert rp2_run(run, pico)[0] == 0
        assert drive.taken == pico.read_bytes()
        with Drive(drives[2], size=0, vanish=False), Drive(tmp_path / "d", size=0, vanish=False):
            drives.append(tmp_path / "d")
            code, _, err = rp2_run(run, pico)
        assert code == CABLE and "several boards are in their bootloader" in err
    assert not any(folder.joinpath("image.uf2").exists() for folder in drives)


def test_mounts():
    assert all(isinstance(folder, Path) for folder in flash.mounted())


@pytest.mark.parametrize("chip, name", [("rp2040", "RPI-RP2"), ("rp2350", "RP2350")])
def test_keep_files_of_a_drive(made, run, tmp_path, chip, name):
    path = made(chip)
    with Drive(tmp_path / "drive", name, 1) as drive:
        assert rp2_run(run, path, "--keep-files", "--drive", drive.folder)[0] == 0
    flash = bytearray(b"f" * standin.FLASH[chip])
    assert standin.boot_rom(chip, drive.taken, flash)
    program = standin.pico(chip)
    assert flash[: len(program)] == program
    assert not flash[standin.PLACE[chip][0] :].strip(b"f")


def test_keep_files_where_nobody_knows_them(run, tmp_path):
    path = tmp_path / "image.uf2"
    path.write_bytes(standin.uf2("rp2040", standin.pico("rp2040", place=None)))
    code, _, err = rp2_run(run, path, "--keep-files", "--drive", tmp_path)
    assert code == FAILED and "does not tell where its files are" in err


def test_drive_of_another(run, tmp_path, pico):
    code, _, err = rp2_run(run, pico, "--drive", tmp_path)
    assert code == CABLE and f"{tmp_path} is no drive of a bootloader" in err
    with Drive(tmp_path / "drive", "Arduino-NANO", vanish=False) as drive:
        code, _, err = rp2_run(run, pico, "--drive", drive.folder)
        assert code == FAILED and "wrong chip" in err and "Arduino-NANO" in err
        assert not (drive.folder / "image.uf2").exists()
    for data, said in (
        (b"hello", "is no image"),
        (standin.esp32("esp32"), "for another board: an ESP32's"),
        (pico.read_bytes()[:-512], "cut short?"),
        (struct.pack("<8I", *uf2.MAGIC, 0x2000, 0, 256, 0, 1, 0x12345678).ljust(512), "family 0x"),
    ):
        pico.write_bytes(data)
        code, _, err = rp2_run(run, pico, "--drive", drive.folder)
        assert code == FAILED and said in err


def test_drive_that_is_full(run, tmp_path, pico):
    with Drive(tmp_path / "drive", vanish=False) as drive:
        (drive.folder / "image.uf2").symlink_to("/dev/full")
        code, _, err = rp2_run(run, pico, "--drive", drive.folder)
    assert code == CABLE and "took 0 of" in err and "no space left" in err
    assert "Nothing was changed" in err


def test_drive_that_cannot_be_written(run, tmp_path, pico):
    with Drive(tmp_path / "drive", vanish=False) as drive:
        (drive.folder / "image.uf2").mkdir()
        code, _, err = rp2_run(run, pico, "--drive", drive.folder)
    assert code == CABLE and "took 0 of" in err and "is it mounted for you" in err


def test_drive_that_is_pulled(run, tmp_path, pico, monkeypatch):
    with Drive(tmp_path / "drive", vanish=False) as drive:
        monkeypatch.setattr(os, "fsync", lambda _: shutil.rmtree(drive.folder))
        code, out, err = rp2_run(run, pico, "--drive", drive.folder)
    assert code == CABLE and "verified" not in out
    assert (
        "the drive has vanished" in err and "the board holds a half program: hold BOOTSEL" in err
    )


def test_drive_that_stays(run, tmp_path, pico, monkeypatch):
    monkeypatch.setattr(flash, "DRIVE_WAIT", 0.3)
    with Drive(tmp_path / "drive", vanish=False) as drive:
        code, out, err = rp2_run(run, pico, "--drive", drive.folder)
    assert code == CABLE and "is still there" in err and "verified" not in out


MACHINE = b"""\
def bootloader():
    with open("asked", "w") as file:
        print("asked", file=file)
"""


def test_board_goes_to_its_bootloader(capsys, tmp_path, pico):
    """The desk board has a `machine` that shows a drive, and is taken for one of this port."""
    target = replace(targets.find("rp2040"), port="linux")
    folder = tmp_path / "drive"
    with desk.Board(tmp_path / "flash") as board:
        with cable.Cable(board.port) as wire:
            wire.write("machine.py", MACHINE)
        with pytest.raises(Failed, match=r"is .*, not rp2040: --board unix\?"):
            flash.bootloader(board.port, targets.find("rp2040"))

        def come():
            if flash.until(lambda: b"asked\n" in board.flash.read_bytes(), 10):
                Drive(folder, size=pico.stat().st_size).thread.start()

        thread = threading.Thread(target=come)
        thread.start()
        args = Arguments(board.port, folder)
        assert flash.flash_rp2(target, pico, pico.read_bytes(), args) == board.port
        thread.join()
    assert "goes to its bootloader" in capsys.readouterr().out


class Arguments:
    keep_files = False

    def __init__(self, port, drive):
        self.port, self.drive = port, drive


def test_picotool(run, tmp_path, pico, monkeypatch):
    monkeypatch.setattr(flash, "mounted", dict)
    monkeypatch.setattr(cable, "ports", list)
    program = tmp_path / "bin" / "picotool"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1 $2 $3" > {tmp_path}/said\ncp "$4" {tmp_path}/copy\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    code, out, _ = rp2_run(run, pico)
    assert code == 0 and "verified  by picotool" in out
    assert (tmp_path / "said").read_text() == "load -v -x\n"
    assert (tmp_path / "copy").read_bytes() == pico.read_bytes()
    program.write_text("#!/bin/sh\necho No accessible RP2040 device in BOOTSEL mode\nexit 249\n")
    code, _, err = rp2_run(run, pico)
    assert code == CABLE and "picotool: No accessible RP2040 device" in err
    assert "hold BOOTSEL" in err
