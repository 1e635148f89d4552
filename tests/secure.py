"""Certificates made here, and a Mosquitto that has them."""

import datetime
import ipaddress
import socket

from brokers import Mosquitto, free_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


def private(key, form=PEM, format=PKCS8, encryption=PLAIN):
    return key.private_bytes(form, format, encryption)


def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """A certificate authority of our own: a root, or one that another has signed."""

    def __init__(self, name, parent=None, begins=-1, key=None):
        self.key = key or ec_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extension = x509.BasicConstraints(True, None)
        self.certificate = (parent or self).sign(name, self.key, extension, begins)
        self.pem = self.certificate.public_bytes(PEM)

    def sign(self, name, key, extension, begins=-1):
        """A certificate that is valid for two days, the first of which `begins` from today."""
        begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=begins)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=2))
            .add_extension(extension, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, host, begins=-1, key=None, alternative=True):
        """A certificate for a host name or address, in PEM, and its key behind it."""
        key = key or ec_key()
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        names = x509.SubjectAlternativeName([name])
        extension = names if alternative else x509.BasicConstraints(False, None)
        return self.sign(host, key, extension, begins).public_bytes(PEM) + private(key)


class Secure(Mosquitto):
    """Mosquitto with another port that speaks TLS; in plain, if there is no certificate."""

    def __init__(self, folder, certificate, more=""):
        super().__init__(folder)
        self.secure = free_port()
        self.set(certificate, more)

    def set(self, certificate, more=""):
        self.lines = f"listener {self.secure} 127.0.0.1\n{more}"
        if certificate:
            path = self.folder / "server.pem"
            path.write_bytes(certificate)
            self.lines += f"certfile {path}\nkeyfile {path}\n"

    def more(self):
        return self.lines

    def answers(self):
        with socket.socket() as sock:  # the last one that it opens
            return sock.connect_ex(("127.0.0.1", self.secure)) == 0
