"""A configuration in the making: from a board or from files, and by answers."""

import contextlib
import json
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from firmware import config

from tools import broker
from tools.build import certificates
from tools.console import CONFIG, Failed
from tools.files import private

NTP = "pool.ntp.org"  # where TLS is wanted and no time server named


def collect(read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """What is there of a configuration, by name; read() returns None where there is no file."""
    names = ["config.json", "secrets.json"]
    found = {name: data for name in names if (data := read(name)) is not None}
    with contextlib.suppress(ValueError):
        for name in certificates(config.parse(found.get("config.json", b"{}"))):
            data = read(name)
            if data is not None:
                found[name] = data
    return found


def reader(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None

    return read


def beside(path: Path) -> dict[str, bytes]:
    """config.json, which is at `path`, and what is there with it."""
    try:
        own = path.read_bytes()
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}", CONFIG) from None
    read = reader(path.parent)
    return collect(lambda name: own if name == "config.json" else read(name))


@dataclass(frozen=True)
class Question:
    name: str  # UMQTT_<NAME> in the environment
    text: str
    line: str  # how a mistake in the answer begins, as the firmware tells it; {} is the SSID
    secret: bool = False
    optional: bool = False


QUESTIONS = (
    Question("device", "name of the device", r"config\.json: device: "),
    Question("prefix", "its topics begin with", r"config\.json: prefix: "),
    Question(
        "ssid",
        "Wi-Fi network (SSID)",
        r"config\.json: networks(\[0\])?(\.ssid)?: (?!no password)",
    ),
    Question(
        "wifi_password",
        "Wi-Fi password",
        r"secrets\.json: networks\.{}: |config\.json: networks\[0\]\.ssid: no password",
        secret=True,
        optional=True,
    ),
    Question("country", "country (two letters; XX: any)", r"config\.json: wifi\.country: "),
    Question("broker", "broker (host or host:port)", r"config\.json: broker(\[\d+\])?: "),
    Question("tls", "TLS (y or n)", r"config\.json: tls: "),
    Question(
        "ca", "certificate of the broker's authority (file)", r"config\.json: tls\.ca: |ca\.pem: "
    ),
    Question("user", "user at the broker", r"secrets\.json: user: ", optional=True),
    Question(
        "password",
        "password at the broker",
        r"secrets\.json: password: ",
        secret=True,
        optional=True,
    ),
)


class Draft:
    """A configuration in the making: config.json, secrets.json and the certificates."""

    def __init__(self, files: dict[str, bytes], board: str, where: str):
        self.board = board
        self.files = dict(files)
        self.ca = "FILE"  # where this machine has the authority's certificate
        self.config = self._parse("config.json", where)
        self.secrets = self._parse("secrets.json", where)

    def _parse(self, name: str, where: str) -> dict:
        try:
            return config.parse(self.files.get(name, b"{}"))
        except ValueError as error:
            raise Failed(
                f"{name} {where}: {error}. Mend it, or bring a whole one with --config FILE",
                CONFIG,
            ) from None

    def contents(self) -> dict[str, bytes]:
        """All files by name; those without a change as they came."""
        found = dict(self.files)
        for name, values in (("config.json", self.config), ("secrets.json", self.secrets)):
            before = found.get(name)
            if before is None and not values:
                continue
            if before is None or config.parse(before) != values:
                text = json.dumps(values, indent=4, ensure_ascii=False)
                found[name] = text.encode() + b"\n"
        return found

    def folder(self) -> AbstractContextManager[Path]:
        """All of it, for what reads files."""
        return private(self.contents())

    def load(self) -> dict:
        """What the firmware makes of it. ConfigError has one line for each mistake."""
        with self.folder() as folder:
            settings = config.load(str(folder / "config.json"), None, self.board)
            broker.tls_context(settings)  # the certificates can be used
            return settings

    def mistakes(self) -> list[str]:
        try:
            self.load()
        except (config.ConfigError, Failed) as error:
            lines = str(error).split("\n")
            if any(line.startswith("secrets.json: networks.") for line in lines):
                # one that is wrong is not missing, too
                lines = [line for line in lines if ": no password; " not in line]
            return lines
        return []

    # Answers

    def network(self) -> dict:
        networks = self.config.get("networks")
        first = networks[0] if isinstance(networks, list) and networks else None
        return first if isinstance(first, dict) else {}

    def asked(self, name: str) -> bool:
        """Whether the question arises, after the answers so far."""
        if name in ("wifi_password", "country"):
            return bool(self.network())
        if name == "ca":
            tls = self.config.get("tls")
            return tls is True or isinstance(tls, dict) and tls.get("verify") is not False
        return name != "password" or bool(self.secrets.get("user"))

    def get(self, name: str) -> str | None:
        """The answer as it stands, as text; None where there is none."""
        if name == "ssid":
            found = self.network().get("ssid")
        elif name == "wifi_password":
            ssid = self.network().get("ssid")
            found = _table(self.secrets, "networks").get(ssid, self.network().get("password"))
        elif name == "country":
            found = _table(self.config, "wifi").get("country", "XX")
        elif name == "tls":
            found = "y" if self.config.get("tls") else "n"
        elif name == "ca":
            found = next(iter(certificates(self.config)), None)
            found = found if found in self.files else None
        elif name in ("user", "password"):
            found = self.secrets.get(name)
        else:
            found = self.config.get(name, {"device": "desk", "prefix": "home"}.get(name))
            if isinstance(found, list):
                found = ", ".join(map(str, found))
        return None if found is None else str(found)

    def put(self, name: str, text: str) -> None:
        """Take an answer. ValueError says what was expected, where the firmware could not."""
        try:
            text.encode()
        except UnicodeError:
            raise ValueError("expected text in UTF-8") from None
        getattr(self, f"_put_{name}", lambda text: self.config.update({name: text}))(text)

    def _put_ssid(self, ssid: str) -> None:
        networks = self.config.get("networks")
        networks = list(networks) if isinstance(networks, list) else []
        known = [one for one in networks if isinstance(one, dict) and one.get("ssid") == ssid]
        if known:
            networks.remove(known[0])
        elif networks:
            old = networks.pop(0)  # whose address and password are of no use to another
            if isinstance(old, dict):
                _table(self.secrets, "networks").pop(old.get("ssid"), None)
        self.config["networks"] = [known[0] if known else {"ssid": ssid}, *networks]

    def _put_wifi_password(self, word: str) -> None:
        network = self.network()
        if not network:
            raise ValueError("expected a network for it: UMQTT_SSID")
        words = _table(self.secrets, "networks")
        if word:
            network.pop("password", None)
            words[network.get("ssid")] = word
            self.secrets["networks"] = words
        else:
            network["password"] = ""
            words.pop(network.get("ssid"), None)

    def _put_country(self, text: str) -> None:
        self.config["wifi"] = _table(self.config, "wifi") | {"country": text}

    def _put_broker(self, text: str) -> None:
        several = [one.strip() for one in text.split(",")]
        self.config["broker"] = several if len(several) > 1 else text

    def _put_tls(self, text: str) -> None:
        on = text.lower() in ("y", "yes", "true")
        if not on and text.lower() not in ("n", "no", "false"):
            raise ValueError("expected y or n, true or false")
        if not on:
            self.config["tls"] = False
        elif not self.config.get("tls"):
            self.config["tls"] = True
        if on and not self.config.get("ntp"):  # certificates are valid from a date on
            self.config["ntp"] = NTP

    def _put_ca(self, text: str) -> None:
        try:
            data = Path(text).expanduser().read_bytes()
            ssl.create_default_context(cadata=data.decode() if b"-----" in data else data)
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "there is no certificate in it"
            raise ValueError(f"{text}: {what}; expected a certificate's file, in PEM") from None
        self.files["ca.pem"] = data
        self.ca = text
        tls = self.config.get("tls")
        self.config["tls"] = tls | {"ca": "ca.pem"} if isinstance(tls, dict) else True

    def _put_user(self, text: str) -> None:
        if text != self.secrets.get("user"):
            self.secrets.pop("password", None)
        self.secrets["user"] = text
        if not text:
            self.secrets.pop("user")

    def _put_password(self, text: str) -> None:
        self.secrets["password"] = text
        if not text:
            self.secrets.pop("password")

    def own(self, question: Question, lines: list[str]) -> list[str]:
        """Those of the mistakes that are this answer's."""
        ssid = re.escape(str(self.network().get("ssid")))
        return [line for line in lines if re.match(question.line.replace("{}", ssid), line)]

    def fill(self, environment: Mapping[str, str]) -> dict[Question, list[str]]:
        """Take the answers in the environment; returns them, and what is wrong with each."""
        wanted = {q: f"UMQTT_{q.name.upper()}" for q in QUESTIONS}
        given: dict[Question, list[str]] = {}
        if "UMQTT_CA" in environment:
            environment = {"UMQTT_TLS": "true", **environment}
        for question, name in wanted.items():
            text = environment.get(name)
            if text is None or question.name == "ca" and not self.asked("ca"):
                continue
            given[question] = []
            try:
                self.put(question.name, text)
            except ValueError as error:
                given[question] = [f"environment: {name}: {error}"]
        mistakes = self.mistakes() if given else []
        for question in given:
            for line in self.own(question, mistakes):
                text = line.split(": ", 2)[-1]
                given[question].append(f"environment: {wanted[question]}: {text}")
        return given


def _table(found: dict, key: str) -> dict:
    value = found.get(key)
    return value if isinstance(value, dict) else {}
