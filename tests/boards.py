"""What is on a desk board before a test, and a broker with an account for it."""

import os
import subprocess
from pathlib import Path
from secrets import token_hex

from littlefs import LittleFS
from secure import Authority, Secure
from tools import desk
from tools.build import build
from tools.targets import find

BLOCK = 4096  # bytes
OURS = Authority("ours")
# Of no other run, so that they can be looked for
WORD = f"the-brokers-{token_hex(8)}"  # of the user "kitchen"
WIFI = f"the-networks-{token_hex(8)}"


def clean() -> dict[str, str]:
    """An environment that answers nothing of what the tools may ask."""
    return {key: value for key, value in os.environ.items() if not key.startswith("UMQTT_")}


def program(name: str) -> dict[str, bytes]:
    """What a deploy of the example puts on a board, by path."""
    tree = build(find(name))
    files = [file for file in tree.rglob("*") if file.is_file()]
    return {file.relative_to(tree).as_posix(): file.read_bytes() for file in files}


def flash(path: Path, files: dict[str, bytes]) -> Path:
    """A desk board's flash with these files."""
    fs = LittleFS(block_size=BLOCK, block_count=desk.BLOCKS, disk_version=0x00020000)
    for name, data in files.items():
        fs.makedirs(str(Path(name).parent), exist_ok=True)
        with fs.open(name, "wb") as file:
            file.write(data)
    path.write_bytes(fs.context.buffer)
    return path


class Protected(Secure):
    """Mosquitto that knows one user, in plain and with TLS."""

    def more(self):
        words = self.folder / "words"
        words.write_text(f"kitchen:{WORD}\n")
        words.chmod(0o600)
        subprocess.run(["mosquitto_passwd", "-U", words], check=True)
        return f"{super().more()}allow_anonymous false\npassword_file {words}\n"
