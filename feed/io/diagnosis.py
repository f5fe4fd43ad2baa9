"""Why a Kafka or a Redis that is there cannot be used: found by speaking to its port, so that nobody waits for ever.

A server that is away is waited for. One that is spoken to in the wrong way, or with the wrong password, looks the same to its
client: a closed connection. What is said here is certain; where a port does not answer at all, nothing is said.
"""

import socket
import ssl
import struct
from collections.abc import Sequence
from urllib.parse import urlsplit

import kafka.errors
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
)

from feed.address import Broker

ANSWER_SECONDS = 3.0
_LARGEST = 1_000_000  # bytes of an answer to one of the requests below: beyond it, it is no Kafka
_METADATA, _SASL_HANDSHAKE, _API_VERSIONS = (3, 1), (17, 1), (18, 0)  # key and version of the requests


def diagnose_kafka(broker: Broker) -> str | None:
    """Why one of the servers cannot be used, with the remedy; None if none is known: they are away, or let this process in."""
    for host, port in broker.addresses():
        if not _listens(host, port):
            continue
        where = f"Kafka at {host}:{port}"
        if why := _diagnose_transport(broker, host, port) or _diagnose_sign_in(broker, host, port):
            return f"{where} {why}"
    return None


def kafka_options(broker: Broker) -> dict[str, object]:
    """What kafka-python's clients are told of where and how to connect."""
    return {
        "bootstrap_servers": broker.servers,
        "security_protocol": broker.security,
        "ssl_context": broker.tls(),
        "sasl_mechanism": broker.mechanism if broker.authenticated else None,
        "sasl_plain_username": broker.user if broker.authenticated else None,
        "sasl_plain_password": broker.password.get_secret_value() if broker.authenticated else None,
    }


def diagnose_redis(url: str, error: Exception) -> str | None:
    """Why the Redis at `url`, which has ended in `error`, cannot be used, with the remedy; None if it may yet be."""
    if why := redis_refusal(error):
        return why
    address = urlsplit(url)
    if not isinstance(error, (ConnectionError, InvalidResponse)) or address.scheme == "unix":
        return None
    host, port, encrypted = address.hostname or "localhost", address.port or 6379, address.scheme == "rediss"
    if not _listens(host, port):
        return None
    why = diagnose_tls(host, port, encrypted, ssl.create_default_context() if encrypted else None)
    if why == "speaks no TLS":
        return f"{why}: write redis:// in FEED_REDIS"
    if why == "speaks TLS":
        return f"{why}: write rediss:// in FEED_REDIS"
    return why and f"{why}: have the system trust who has signed it, and set FEED_REDIS to the name that it is for"


def redis_refusal(error: BaseException) -> str | None:
    """What Redis has said with `error`, if it is that this process may not do what it must, with the remedy."""
    if isinstance(error, NoPermissionError):
        return f"does not let this user do what is needed: {error}; allow it +@all ~* (docs/settings.md), or use another user"
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return (
            f"does not let this process in: {error}; set FEED_REDIS=redis://:password@host:port/0, or redis://user:password@..."
        )
    if isinstance(error, ReadOnlyError):
        return "is a replica, which cannot be written to: point FEED_REDIS at its primary"
    return None


def diagnose_tls(host: str, port: int, encrypted: bool, context: ssl.SSLContext | None) -> str | None:
    """Why a connection fails before anything is said: TLS where there is none, none where there is, a certificate refused."""
    if not encrypted:
        return "speaks TLS" if _shakes_hands(host, port) else None
    try:
        _connect(host, port, context).close()
    except ssl.SSLCertVerificationError as error:
        return f"has a certificate that is not accepted: {error.verify_message}"
    except (ssl.SSLError, OSError):
        return None if _shakes_hands(host, port) else "speaks no TLS"
    return None


def _diagnose_transport(broker: Broker, host: str, port: int) -> str | None:
    signs_in = "SASL_" if broker.authenticated else ""
    if not broker.encrypted:
        answer = _ask(host, port, None, _API_VERSIONS)
        if answer is None and diagnose_tls(host, port, False, None):
            return f"speaks TLS: set FEED_KAFKA_SECURITY={signs_in or 'SASL_SSL or '}SSL"
        return answer if isinstance(answer, str) else None
    why = diagnose_tls(host, port, True, broker.tls())
    if why == "speaks no TLS":
        plain = signs_in + "PLAINTEXT"
        # without an answer to plain words either it may be starting
        return f"{why}: set FEED_KAFKA_SECURITY={plain}" if _ask(host, port, None, _API_VERSIONS) is not None else None
    return why and f"{why}: set FEED_KAFKA_CA to the file (PEM) of who has signed it, and FEED_KAFKA to the name that it is for"


def _diagnose_sign_in(broker: Broker, host: str, port: int) -> str | None:
    tls = broker.tls()
    handshake = _ask(host, port, tls, _SASL_HANDSHAKE, struct.pack(">h", len(broker.mechanism)) + broker.mechanism.encode())
    if not isinstance(handshake, bytes):
        return None
    mechanisms = _texts(handshake[6:])  # behind the request's number and an error code; none where nobody signs in
    over = "SSL" if broker.encrypted else "PLAINTEXT"
    if not broker.authenticated:
        # some have mechanisms and ask for none
        if not mechanisms or _ask(host, port, tls, _METADATA, struct.pack(">i", 0)) is not None:
            return None
        return f"asks for a user and a password: set FEED_KAFKA_SECURITY=SASL_{over}, FEED_KAFKA_USER and FEED_KAFKA_PASSWORD"
    if not mechanisms:
        return f"asks for no password: set FEED_KAFKA_SECURITY={over}, without FEED_KAFKA_USER and FEED_KAFKA_PASSWORD"
    if broker.mechanism not in mechanisms:
        return f"does not know {broker.mechanism}: set FEED_KAFKA_MECHANISM to what it has, {', '.join(mechanisms)}"
    try:
        _sign_in(broker, host, port)
    except kafka.errors.SaslAuthenticationFailedError as error:
        return f"refuses the password of user {broker.user!r}: {error}; set FEED_KAFKA_USER and FEED_KAFKA_PASSWORD"
    except kafka.errors.KafkaError:
        return None
    return None


def _sign_in(broker: Broker, host: str, port: int) -> None:
    """Raises what kafka-python's own clients keep to themselves while they try again."""
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    net = NetworkSelector()
    manager = KafkaConnectionManager(net, **(kafka_options(broker) | {"bootstrap_servers": at}))

    async def connect() -> None:
        node = manager.cluster.bootstrap_brokers()[0].node_id
        await manager.get_connection(node, timeout_ms=ANSWER_SECONDS * 1000, refresh_metadata_on_err=False)

    try:
        net.run(connect)
    finally:
        manager.close()
        net.close()


def _listens(host: str, port: int) -> bool:
    try:
        _connect(host, port, None).close()
    except OSError:
        return False
    return True


def _connect(host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((host, port), ANSWER_SECONDS)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _shakes_hands(host: str, port: int) -> bool:
    """Whether the port speaks TLS, with whatever certificate."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        _connect(host, port, anybody).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it refuses the handshake, in the words of TLS
    except OSError:
        return False
    return True


def _ask(host: str, port: int, tls: ssl.SSLContext | None, request: tuple[int, int], body: bytes = b"") -> bytes | str | None:
    """A Kafka server's answer to one request; a word for what is no Kafka; None without an answer."""
    number = 7
    client = b"feedloop"
    frame = struct.pack(">hhih", *request, number, len(client)) + client + body
    try:
        with _connect(host, port, tls) as connection:
            connection.sendall(struct.pack(">i", len(frame)) + frame)
            head = _read(connection, 4)
            size = int.from_bytes(head, "big")
            if len(head) < 4 or head[:2] == b"\x15\x03":  # nothing, or an alert of TLS
                return None
            if not 4 <= size <= _LARGEST:
                return f"is no Kafka: it answers with {head!r}. Set FEED_KAFKA to where Kafka is"
            answer = _read(connection, size)
    except OSError:
        return None
    return answer if len(answer) == size and int.from_bytes(answer[:4], "big") == number else None


def _read(connection: socket.socket, n: int) -> bytes:
    found = b""
    while len(found) < n and (part := connection.recv(n - len(found))):
        found += part
    return found


def _texts(array: bytes) -> Sequence[str]:
    """Kafka's array of strings."""
    (count,), texts, at = struct.unpack_from(">i", array), [], 4
    for _ in range(count):
        (length,) = struct.unpack_from(">h", array, at)
        texts.append(array[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return texts
