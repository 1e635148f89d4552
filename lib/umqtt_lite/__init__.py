"""A memory-frugal MQTT 3.1.1 client for MicroPython. Start at MQTTClient in client.py."""

try:
    import micropython
except ImportError:
    from . import cpython

from .client import ConnectionLost, MQTTClient, MQTTError, ProtocolError, Refused
from .outbox import OutboxFull
