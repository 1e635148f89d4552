"""MicroPython's firmware file: one that is at hand, or the pinned one from its download site.

MicroPython publishes no checksums. Those in boards/*/target.toml are of the files as others have
downloaded them from there: a file that differs is not used, and not kept.
"""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from tools.console import ROOT, Failed, progress, say
from tools.files import save
from tools.targets import Build, Firmware

SITE = "https://micropython.org"
CACHE = ROOT / "build" / "firmware"
LARGEST = 16 * 1024 * 1024  # bytes
CHUNK = 64 * 1024
PATIENCE = 30  # seconds without an answer


def given(path: Path, sha256: str | None) -> bytes:
    """The file at `path`; Failed if it cannot be read, or differs from `sha256`."""
    try:
        if path.stat().st_size > LARGEST:
            raise Failed(f"{path} is no firmware: it has more than {LARGEST:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise Failed(f"the firmware {path} cannot be read: {error.strerror}") from error
    if sha256:
        check(data, sha256, str(path))
    return data


def pinned(build: Build, version: str) -> tuple[str, bytes]:
    """(name, content) of the pinned file: from build/firmware/, else downloaded to there."""
    pin = build.firmware.get(version)
    page = f"{SITE}/download/{build.name}/"
    if pin is None:
        raise Failed(
            f"no SHA-256 is known for {build.name} of MicroPython {version}: download it from "
            f"{page} and give it with --firmware FILE (--sha256 HEX has it checked)"
        )
    cached = CACHE / pin.file
    if cached.exists():
        data = given(cached, None)
        if hashlib.sha256(data).hexdigest() == pin.sha256:
            return pin.file, data
    data = download(pin)
    try:
        check(data, pin.sha256, pin.file)
    except Failed as error:
        raise Failed(f"{error}. It was not kept; {page} has it too") from error
    save(cached, data, 0o644)
    return pin.file, data


def download(pin: Firmware) -> bytes:
    url = f"{SITE}/resources/firmware/{pin.file}"
    say(f"download  {url}")
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            with progress(pin.file, total) as advance:
                while chunk := answer.read(CHUNK):
                    data += chunk
                    advance(len(chunk))
                    if len(data) > LARGEST:
                        raise Failed(f"{url} is no firmware: it goes on for {LARGEST:,} bytes")
    except (OSError, ValueError) as error:
        http = isinstance(error, urllib.error.HTTPError)
        reason = error if http else getattr(error, "reason", error)
        raise Failed(
            f"{url} cannot be downloaded ({reason}): download it elsewhere, and give it with "
            "--firmware FILE"
        ) from error
    return bytes(data)


def check(data: bytes, sha256: str, name: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise Failed(f"{name} is not the file expected: its SHA-256 is {found}, not {sha256}")
