"""Real brokers on loopback, to be started, killed and started again on the same port."""

import getpass
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 10  # seconds


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Broker:
    """A broker process of its own; `folder` keeps what it writes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self):
        with open(self.folder / "broker.log", "ab") as log:
            # A session of its own, so that a broker's children die with it.
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return self

    def answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")

    def kill(self, how=signal.SIGKILL):
        """As a power cut would by default: no goodbye, nothing saved."""
        if self.process:
            os.killpg(self.process.pid, how)
            self.process.wait()
            self.process = None


class Iotcore(Broker):
    def command(self):
        listen = ["--listen", "127.0.0.1", "--port", str(self.port)]
        return [sys.executable, "-m", "iotcore", *listen]


class Mosquitto(Broker):
    def command(self):
        path = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        assert path, "no mosquitto: sudo apt-get install mosquitto"
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "set_tcp_nodelay true\n"
            f"user {getpass.getuser()}\n"
            "persistence true\n"
            f"persistence_location {self.folder}/\n"
            # Save at once, so that being killed loses no session.
            "autosave_on_changes true\n"
            "autosave_interval 1\n"
            "max_queued_messages 0\n"
            # What it acknowledges is on its way to the subscriber already.
            "max_inflight_messages 0\n" + self.more()
        )
        return [path, "-c", str(config)]

    def more(self) -> str:
        """Further lines of the configuration."""
        return ""


class Denying(Mosquitto):
    """Refuses subscriptions below denied/."""

    def more(self):
        folders = ("/usr/lib/*", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
        plugins = [p for f in folders for p in glob.glob(f"{f}/mosquitto_dynamic_security.so")]
        assert plugins, "Mosquitto's dynamic security plugin is in none of " + ", ".join(folders)
        acl = {"acltype": "subscribePattern", "topic": "denied/#", "priority": 0, "allow": False}
        access = dict.fromkeys(
            ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), True
        )
        rules = self.folder / "rules.json"
        rules.write_text(
            json.dumps(
                {
                    "defaultACLAccess": access,
                    "clients": [],
                    "roles": [{"rolename": "denied", "acls": [acl]}],
                    "groups": [{"groupname": "all", "roles": [{"rolename": "denied"}]}],
                    "anonymousGroup": "all",
                }
            )
        )
        return f"plugin {plugins[0]}\nplugin_opt_config_file {rules}\n"


BROKERS = {"iotcore": Iotcore, "mosquitto": Mosquitto}
