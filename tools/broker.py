"""A tool's connection to a broker, and in words what can be wrong with it."""

import queue
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt

from tools.console import BROKER, CONFIG, Failed
from tools.programs import PATIENCE

KEEPALIVE = 15  # s
# OpenSSL's codes of what is wrong with a certificate
EXPIRED, EARLY = 10, 9
OTHER_HOST = (62, 64)

NOT_MQTT = "is it MQTT, and is TLS spoken there, or not?"


def connect(
    settings: dict,
    filters: list[str],
    on_message: Callable[[mqtt.MQTTMessage], None],
    on_change: Callable[[str], None] = lambda wrong: None,
) -> mqtt.Client:
    """A client that has subscribed to `filters`, and connects again by itself.

    `settings` is what firmware.config.load() returns; of it `brokers`, of which the first is taken
    that lets us in, `user`, `password`, `tls`, and of `source` the folder of the certificates.
    Both functions are called in the client's own thread: on_change with what is wrong when the
    connection is lost, and with "" when it stands again. Raises Failed, within a few seconds for
    each broker. The way out is disconnect(), and then loop_stop().
    """
    context = tls_context(settings)
    wrong = []
    for address in settings["brokers"]:
        try:
            return _connect(address, context, settings, filters, on_message, on_change)
        except Failed as error:
            wrong.append(str(error))
    raise Failed("\n".join(wrong), BROKER)


def tls_context(settings: dict) -> ssl.SSLContext | None:
    """What verifies the broker: the authority in `ca`, or else those that this machine trusts."""
    tls = settings.get("tls")
    if not tls:
        return None
    source = settings.get("source")
    folder = Path(source[0]).parent if source else Path()
    name = tls["ca"]
    try:
        data: str | bytes | None = (folder / name).read_bytes() if name else None
        if data and b"-----BEGIN" in data:
            data = data.decode("ascii", "replace")  # PEM; else it is DER
        context = ssl.create_default_context(cadata=data)
        if not tls["verify"]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        name = tls["cert"]
        if name:
            key = folder / tls["key"] if tls["key"] else None
            # An encrypted key is an error, and no question.
            context.load_cert_chain(folder / name, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Failed(
            f"{folder / name}: no certificate that can be used: {error}", CONFIG
        ) from None
    return context


def _connect(address, context, settings, filters, on_message, on_change) -> mqtt.Client:
    host, port = address
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect_timeout = PATIENCE
    client.reconnect_delay_set(1, 10)
    if settings["user"]:
        client.username_pw_set(settings["user"], settings["password"])
    if context:
        client.tls_set_context(context)
    first: queue.SimpleQueue = queue.SimpleQueue()
    report = first.put  # of the first attempt; of all later ones it is on_change

    def on_connect(_client, _userdata, _flags, reason, _properties):
        if reason.is_failure:
            who = f"user {settings['user']!r}" if settings["user"] else "one without a user name"
            look = "Are user and password right?" if settings["user"] else "Name one, with --user"
            report(f"refuses {who}: {reason}. {look}")
        else:
            client.subscribe([(name, 1) for name in filters])

    def on_subscribe(_client, _userdata, _mid, reasons, _properties):
        refused = [f for f, reason in zip(filters, reasons, strict=False) if reason.is_failure]
        names = ", ".join(refused)
        report(f"refuses the subscription to {names}: may this user read it?" if names else "")

    def on_disconnect(_client, _userdata, _flags, _reason, _properties):
        if report == first.put:
            ask = "does it ask for a client certificate?" if context else NOT_MQTT
            report(f"closes the connection before it answers: {ask}")
        else:
            report("has lost the connection; trying again")

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_disconnect = on_disconnect
    client.on_message = lambda _client, _userdata, message: on_message(message)
    try:
        client.connect(host, port, KEEPALIVE)
        client.loop_start()
        error = first.get(timeout=PATIENCE)
    except OSError as unreachable:
        error = explain(unreachable)
    except queue.Empty:
        error = f"does not answer: {NOT_MQTT}"
    if error:
        client.disconnect()
        client.loop_stop()
        raise Failed(f"the broker at {host}:{port} {error}", BROKER)
    report = on_change
    return client


def explain(error: OSError) -> str:
    """What a failed connect means, as the end of a sentence that begins with the broker."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == EXPIRED:
            return (
                "has a certificate that has expired, or its authority's has: renew it there;"
                " if it has not, this machine's clock is wrong"
            )
        if error.verify_code == EARLY:
            return "has a certificate that is not valid yet: is this machine's clock right?"
        if error.verify_code in OTHER_HOST:
            return (
                "has a certificate for another host name: reach it by the name that stands in it,"
                f" or have this one put in ({error.verify_message})"
            )
        return (
            "has a certificate that no known authority has signed: is ca the right one, and who"
            f" answers there? ({error.verify_message})"
        )
    if isinstance(error, ssl.SSLError):
        what = (error.reason or str(error)).lower().replace("_", " ")
        return f"does not get through the TLS handshake ({what}): is TLS spoken on that port?"
    if isinstance(error, socket.gaierror):
        return f"cannot be found ({error.strerror}): is the name right, and the network there?"
    if isinstance(error, TimeoutError):
        return "does not answer: are address and port right, or is there a firewall?"
    if isinstance(error, ConnectionResetError):
        return f"closes the connection: {NOT_MQTT}"
    return f"cannot be reached ({error.strerror or error}): is it running, and is the port right?"
