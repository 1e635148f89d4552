"""Files that may hold secrets: whole or not there, and for their owner alone."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.config import ConfigError

from tools.console import Failed

MEMORY = "/dev/shm"


def save(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file: whole, or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(handle, "wb") as file:
                file.write(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from error


def save_all(folder: Path, files: dict[str, bytes]) -> None:
    """A configuration; all of it but config.json is secret."""
    for name, data in files.items():
        save(folder / name, data, 0o644 if name == "config.json" else 0o600)


@contextmanager
def private(files: dict[str, bytes]) -> Iterator[Path]:
    """The files in a folder of ours alone, in memory where the system has such; then gone.

    An error does not tell where that was.
    """
    place = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="umqtt-", dir=place) as name:  # mode 0700
        for file, data in files.items():
            Path(name, file).write_bytes(data)
        try:
            yield Path(name)
        except ConfigError as error:
            raise ConfigError(str(error).replace(name + os.sep, "")) from None
        except Failed as error:
            raise Failed(str(error).replace(name + os.sep, ""), error.code) from None
