"""TLS against Mosquitto, with certificates made here."""

import datetime

import pytest
from brokers import Mosquitto
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM


class Authority:
    """A certificate authority of our own."""

    def __init__(self, name):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.sign(self.name, self.key, x509.BasicConstraints(True, None))

    def sign(self, subject, key, extension):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def server(self, host):
        """A PEM file's content: the certificate of a server, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        plain = serialization.NoEncryption()
        return self.sign(subject, key, names).public_bytes(PEM) + key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, plain
        )


class Secure(Mosquitto):
    """Mosquitto with TLS, as `host`."""

    def __init__(self, folder, authority, host):
        super().__init__(folder)
        self.server = folder / "server.pem"
        self.server.write_bytes(authority.server(host))

    def command(self):
        command = super().command()
        with open(command[-1], "a") as config:
            config.write(f"certfile {self.server}\nkeyfile {self.server}\n")
        return command


@pytest.fixture
def run(device, tmp_path):
    """Runs the device against a broker that is `host`; what it told at the end."""
    authority = Authority("ours")
    brokers = []

    def run(host, trusted=authority):
        brokers.append(Secure(tmp_path, authority, host).start())
        ca = tmp_path / "ca.der"
        ca.write_bytes(trusted.certificate.public_bytes(DER))
        started = device("secure.py", brokers[0].port, ca)
        started.finish()
        return started

    yield run
    for broker in brokers:
        broker.kill()


def test_there_and_back(run):
    secure = run("localhost")
    assert secure.events("got") == [["x" * 400]], secure.log.entries
    assert secure.events("disconnect") == [["None"]]


def test_a_foreign_authority(run):
    (told,) = run("localhost", Authority("foreign")).events("disconnect")
    assert "no CONNACK" in told[0] and "CERT" in told[0].upper(), told


def test_another_host(run):
    (told,) = run("elsewhere.example").events("disconnect")
    assert "no CONNACK" in told[0] and "CERT" in told[0].upper(), told
