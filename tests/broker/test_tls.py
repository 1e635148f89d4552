"""TLS against Mosquitto, and against a broker that sends and reads as badly as TLS allows."""

import json
import re
import socket
import ssl
import threading
from base64 import b64encode

import ledger
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from processes import PATIENCE
from proxy import split
from secure import DER, PEM, PKCS8, Authority, Secure, ec_key, private
from tools.size import sizes

OURS, FOREIGN, EXPIRED = Authority("ours"), Authority("foreign"), Authority("old", begins=-3)
BETWEEN = Authority("between", OURS)
RSA = Authority("rsa", key=rsa.generate_private_key(65537, 2048))
GOOD = OURS.issue("localhost")
CLIENT = OURS.issue("client")
CA = OURS.pem
DEMAND = "cafile {}/ca\nrequire_certificate true\n"
KEY = ec_key()
MQTT = "mqtt.example.org"
STAR = OURS.issue("*.example.org")
UNTRUSTED = "no TLS: The certificate is not correctly signed by the trusted CA"
OTHER_HOST = r"no TLS: The certificate Common Name \(CN\) does not match with the expected CN"


@pytest.fixture
def secure(tmp_path):
    """Starts a broker with a certificate."""
    brokers = []

    def start(certificate, more=""):
        (tmp_path / "ca").write_bytes(CA)
        brokers.append(Secure(tmp_path, certificate, more.format(tmp_path)))
        return brokers[0].start()

    yield start
    brokers[0].kill()


@pytest.fixture
def begin(device, tmp_path):
    """Starts the device, with files."""

    def begin(port, **config):
        for name, content in config.items():
            if isinstance(content, bytes):
                config[name] = str(tmp_path / f"device.{name}")
                (tmp_path / f"device.{name}").write_bytes(content)
        return device("secure.py", json.dumps({"port": port, **config}))

    return begin


@pytest.mark.parametrize(
    "certificate, config, more",
    [
        pytest.param(GOOD, {}, "", id="pem"),
        pytest.param(GOOD, {"ca": OURS.certificate.public_bytes(DER)}, "", id="der"),
        pytest.param(
            GOOD,
            {
                "ca": b"Subject: CN=x\r\n"
                + (FOREIGN.pem + b"# - ours\n" + CA).replace(b"\n", b"\r\n")
            },
            "",
            id="many",
        ),
        pytest.param(BETWEEN.issue("localhost") + BETWEEN.pem, {}, "", id="between"),
        pytest.param(BETWEEN.issue("localhost"), {"ca": BETWEEN.pem}, "", id="half"),
        pytest.param(OURS.issue("127.0.0.1"), {"host": "127.0.0.1"}, "", id="address"),
        pytest.param(STAR, {"host": MQTT}, "", id="star"),
        pytest.param(OURS.issue("localhost", alternative=False), {}, "", id="cn"),
        pytest.param(GOOD, {"cert": CLIENT}, DEMAND, id="client"),
        pytest.param(
            RSA.issue("localhost", key=RSA.key),
            {"ca": RSA.pem, "cert": OURS.issue("client", key=RSA.key)},
            DEMAND,
            id="rsa",
        ),
        pytest.param(FOREIGN.issue("elsewhere"), {"ca": None, "verify": False}, "", id="any"),
    ],
)
def test_there_and_back(secure, begin, certificate, config, more):
    started = begin(secure(certificate, more).secure, **{"ca": CA, **config})
    assert started.finish() == 0, started.log.entries
    assert started.events("got") == [["x" * 400]]
    assert [told[0] for told in started.events("disconnect")] == ["None"]


@pytest.mark.parametrize(
    "certificate, config, more, reason",
    [
        pytest.param(FOREIGN.issue("localhost"), {}, "", UNTRUSTED, id="ca"),
        pytest.param(BETWEEN.issue("localhost"), {}, "", UNTRUSTED, id="gap"),
        pytest.param(OURS.issue("elsewhere"), {}, "", OTHER_HOST, id="host"),
        pytest.param(STAR, {"host": "a." + MQTT}, "", OTHER_HOST, id="star"),
        pytest.param(OURS.issue("127.0.0.2"), {"host": "127.0.0.1"}, "", OTHER_HOST, id="address"),
        pytest.param(
            OURS.issue("localhost", -3),
            {},
            "",
            "no TLS: The certificate validity has expired",
            id="expired",
        ),
        pytest.param(
            EXPIRED.issue("localhost"),
            {"ca": EXPIRED.pem + CA},
            "",
            "no TLS: The certificate validity has expired",
            id="expired-ca",
        ),
        pytest.param(
            OURS.issue("localhost", 1),
            {},
            "",
            "no TLS: The certificate validity starts in the future",
            id="early",
        ),
        pytest.param(
            OURS.issue("localhost", 1), {"clock": False}, "", "clock not set", id="clock"
        ),
        pytest.param(GOOD, {}, DEMAND, r"client cert\?", id="client"),
        pytest.param(
            GOOD, {"cert": FOREIGN.issue("client")}, DEMAND, r"client cert\?", id="foreign"
        ),
        pytest.param(None, {}, "", "no TLS: .*(ECONNRESET|EOF).*", id="plain"),
        # OpenSSL, and rustls, which says more
        pytest.param(
            GOOD,
            {"secure": False},
            "",
            r"\[Errno 104\].*|\('TLS expected', 21, 0\)",
            id="secure",
        ),
    ],
)
def test_refused_until_mended(secure, begin, certificate, config, more, reason):
    broker = secure(certificate, more)
    started = begin(broker.secure, **{"ca": CA, **config})
    started.wait("disconnect", count=3)
    broker.kill()
    told = started.events("disconnect")[:3]
    host = config.get("host", "localhost")
    where = re.escape(f"no CONNACK from {host}:{broker.secure} (port, TLS, credentials?): ")
    assert all(re.fullmatch(where + reason, text) for text, *_ in told), told
    assert len({n for _, n, _ in told}) == 1, f"it leaves sockets open: {told}"
    broker.set(config.get("secure", True) and OURS.issue(host))
    broker.start()
    assert started.finish() == 0
    assert started.events("got") == [["x" * 400]]


def test_nobody_there(begin):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        started = begin(bound.getsockname()[1], ca=CA)
        started.wait("disconnect")
    assert "no TLS: [Errno 111] " in started.events("disconnect")[0][0]


def test_a_handshake_that_nobody_answers_neither_blocks_nor_spins(begin):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = begin(deaf.getsockname()[1], ca=CA, timeout=1)
        started.wait("disconnect")
    ((text, _, polls),) = started.events("disconnect")[:1]
    assert text.endswith("no TLS: timeout") and 1 < polls < 20


def test_closed_after_the_handshake(begin, tmp_path):
    """What went wrong then is none of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        started = begin(server.getsockname()[1], ca=CA)
        link = server_context(tmp_path).wrap_socket(server.accept()[0], server_side=True)
        link.recv(99)
        link.close()
        started.wait("disconnect")
    text = started.events("disconnect")[0][0]
    assert text.endswith(("credentials?): closed by broker", "SSL_CONN_EOF')")), text
    assert "no TLS" not in text


def server_context(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "server.pem").write_bytes(GOOD)
    context.load_cert_chain(folder / "server.pem")
    return context


def remaining_length(n):
    return bytes([n & 127 | 128, n >> 7]) if n > 127 else bytes([n])


class Lazy(threading.Thread):
    """A broker that reads nothing for a while, then all, and sends so much in one piece."""

    def __init__(self, folder, burst):
        super().__init__(daemon=True)
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen()
        self.port = self.sock.getsockname()[1]
        self.context = server_context(folder)
        self.burst = burst
        self.awake = threading.Event()
        self.arrived = []
        self.rest = b""

    def run(self):
        with self.sock, self.context.wrap_socket(self.sock.accept()[0], server_side=True) as link:
            link.settimeout(PATIENCE)
            while data := link.recv(4096):
                packets, self.rest = split(self.rest + data)
                for packet in packets:
                    self.answer(link, packet)

    def answer(self, link, packet):
        body = packet[2 + (packet[1] > 127) :]
        match packet[0] >> 4:
            case 1:
                link.sendall(b"\x20\2\0\0")
                self.awake.wait(PATIENCE)
            case 8:
                burst = self.burst if b"more" in body else b""
                link.sendall(b"\x90\3%s\0" % body[:2] + burst)
            case 3:
                self.arrived.append(ledger.entry(body[7:]))
                link.sendall(b"\x40\2%s" % body[5:7])


def test_half_written_records_and_messages_in_one_record(device, tmp_path):
    """Each as large as TLS makes them, and nothing else that would wake the device."""
    sent = [b"\0\2in" + ledger.payload(0, n) for n in range(300)]
    sent[100:100] = [b"\0\2in" + bytes(5000)]  # is skipped
    burst = b"".join(b"\x30" + remaining_length(len(packet)) + packet for packet in sent)
    (tmp_path / "ca").write_bytes(CA)
    broker = Lazy(tmp_path, burst)
    broker.start()
    started = device("bulk.py", broker.port, tmp_path / "ca")
    started.wait("blocked")
    broker.awake.set()
    assert started.finish() == 0, started.log.entries
    ((count,),) = started.events("blocked")
    assert broker.arrived == [(1, n) for n in range(count)]
    assert started.events("skip") == [[5000]]
    assert started.events("got") == [[300]]


@pytest.fixture
def make(device):
    """Has the device make a context; what is wrong with the arguments."""
    started = device("contexts.py")

    def make(**arguments):
        encoded = {k: b64encode(v).decode() for k, v in {"ca": CA, **arguments}.items() if v}
        line = json.dumps({"ca": None, **encoded})
        started.process.stdin.write(line.encode() + b"\n")
        made.append(None)
        started.wait("made", count=len(made))
        return started.events("made")[-1][0]

    made = []
    return make


def test_what_cannot_be_used(make):
    assert make(ca=b"\x30\3\2\1\0") == "invalid cert"
    assert make(ca=None) == "invalid cert"
    assert make(ca=CA[:300]) == make(ca=CA[:100] + b"AAAA" + CA[104:]) == "invalid cert"
    assert make(ca=private(KEY)) == make(ca=CA + private(KEY)) == "invalid cert"
    assert make(ca=b"-----BEGIN X-----\nabc\n-----END X-----\n") == "incorrect padding"
    cert = OURS.sign("client", KEY, x509.BasicConstraints(False, None)).public_bytes(DER)
    assert make(cert=cert[:-1], key=private(KEY)) == "invalid cert"
    assert make(cert=cert, key=private(KEY)[:90]) == "incorrect padding"
    assert make(cert=cert, key=private(KEY)[:60] + b"AAAA" + private(KEY)[64:]) == "invalid key"
    assert make(cert=CA) == make(cert=CA, key=CA) == "invalid key"
    locked = serialization.BestAvailableEncryption(b"password")
    for form in PEM, DER:
        assert make(cert=cert, key=private(KEY, form, PKCS8, locked)) == "invalid key"


def test_keys_of_every_kind_and_form(make):
    kinds = [ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1)]
    kinds += [ec.generate_private_key(ec.SECP521R1()), RSA.key]
    for kind in kinds:
        cert = OURS.sign("client", kind, x509.BasicConstraints(False, None)).public_bytes(PEM)
        for form in PEM, DER:
            for format in PKCS8, serialization.PrivateFormat.TraditionalOpenSSL:
                assert make(cert=cert, key=private(kind, form, format)) == ""
                assert make(cert=CLIENT, key=private(kind, form, format)) == "invalid key"


@pytest.mark.parametrize("runtime", ["micropython"])
@pytest.mark.parametrize("case, qos", [("publish", 0), ("publish", 1), ("receive", 1)])
def test_heap_is_locked(secure, device, peer, topic, tmp_path, case, qos):
    broker = secure(OURS.issue("127.0.0.1"))
    steady = device("steady.py", broker.secure, topic, case, qos, tmp_path / "ca")
    if case == "receive":
        source = peer(broker.port)
        source.publish(topic, "as long as the last", qos, retain=True)
        steady.wait("listening")
        for _ in range(5):
            source.publish(topic, "as long as the last", qos)
    steady.wait("done")


def test_size():
    assert sizes()["tls"] <= 800
