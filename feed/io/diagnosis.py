"""Why a Kafka or a Redis that is there cannot be used: found by speaking to its port, so that nobody waits for ever.

A server that is away is waited for. One that is spoken to in the wrong way, or with the wrong password, looks the same to its
client: a closed connection. What is said here is certain; where a port does not answer at all, nothing is said.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from kafka.net.sasl import get_sasl_mechanism
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
    TimeoutError,
)

from feed.address import Broker

ANSWER_SECONDS = 3.0
TLS, NO_TLS = "speaks TLS", "speaks no TLS"
_LARGEST = 1_000_000  # bytes of an answer to one of the requests below: beyond it, it is no Kafka
# key and version of requests
_METADATA, _SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = (3, 1), (17, 1), (18, 0), (36, 0)


def diagnose_kafka(broker: Broker) -> str | None:
    """Why one of the servers cannot be used, with the remedy; None if none is known: they are away, or let this process in."""
    for host, port in broker.addresses():
        if not _listens(host, port):
            continue
        where = f"Kafka at {host}:{port}"
        if why := _diagnose_transport(broker, host, port) or _diagnose_sign_in(broker, host, port):
            return f"{where} {why}"
    return None


def reach(broker: Broker) -> None:
    """Return if one of the servers accepts a connection. Raises the last one's `OSError` if none does.

    kafka-python leaves a thread behind at each client that does not connect, and waits for ever for a TLS that does not begin.
    """
    tls, away = broker.tls(), OSError(f"no servers in {broker}")
    for host, port in broker.addresses():
        try:
            _connect(host, port, tls).close()
            return
        except OSError as error:  # an ssl.SSLError is one
            away = error
    raise away


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
    if not isinstance(error, (ConnectionError, TimeoutError, InvalidResponse)) or address.scheme == "unix":
        return None
    host, port, encrypted = address.hostname or "localhost", address.port or 6379, address.scheme == "rediss"
    if not _listens(host, port):
        return None
    why = _diagnose_tls(host, port, ssl.create_default_context() if encrypted else None, lambda: _is_plain_redis(host, port))
    if why in (TLS, NO_TLS):
        return f"{why}: write {'redis' if encrypted else 'rediss'}:// in FEED_REDIS"
    return why and f"{why}: have the system trust who has signed it, and set FEED_REDIS to the name that it is for"


def redis_refusal(error: BaseException) -> str | None:
    """What Redis has said with `error`, if it is that this process may not do what it must, with the remedy."""
    if isinstance(error, NoPermissionError):
        return f"does not let this user do what is needed: {error}; allow it +@all ~* (docs/settings.md), or use another user"
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        example = "set FEED_REDIS=redis://:password@host:port/0, or redis://user:password@host:port/0"
        if any(words in str(error) for words in ("HELLO must be called", "Authentication required")):
            return f"asks for a password: {example}"
        return f"does not let this process in: {error}; {example}"
    if isinstance(error, ReadOnlyError):
        return "is a replica, which cannot be written to: point FEED_REDIS at its primary"
    return None


def _diagnose_tls(host: str, port: int, tls: ssl.SSLContext | None, is_plain: Callable[[], bool]) -> str | None:
    """`TLS` or `NO_TLS` where the other is right, or what is wrong with the certificate.

    `is_plain`: whether the port answers without TLS. One that is silent in both ways may be starting.
    """
    if tls is None:
        return None if is_plain() or not _shakes_hands(host, port) else TLS
    try:
        _connect(host, port, tls).close()
    except ssl.SSLCertVerificationError as error:
        return f"has a certificate that is not accepted: {error.verify_message}"
    except OSError:
        return NO_TLS if is_plain() else None
    return None


def _diagnose_transport(broker: Broker, host: str, port: int) -> str | None:
    why = _diagnose_tls(host, port, broker.tls(), lambda: _ask(host, port, None, _API_VERSIONS) is not None)
    if why == TLS:
        return f"{why}: set FEED_KAFKA_SECURITY={'SASL_SSL' if broker.authenticated else 'SASL_SSL or SSL'}"
    if why == NO_TLS:
        return f"{why}: set FEED_KAFKA_SECURITY={'SASL_PLAINTEXT' if broker.authenticated else 'PLAINTEXT'}"
    return why and f"{why}: set FEED_KAFKA_CA to the file (PEM) of who has signed it, and FEED_KAFKA to the name that it is for"


def _diagnose_sign_in(broker: Broker, host: str, port: int) -> str | None:
    tls = broker.tls()
    handshake = _ask(host, port, tls, _SASL_HANDSHAKE, _text(broker.mechanism))
    if handshake is None and _is_plain_redis(host, port):  # it waits for the end of a line
        return "is no Kafka, but a Redis. Set FEED_KAFKA to where Kafka is"
    if not isinstance(handshake, bytes):
        return handshake
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
    if why := _refused_password(broker, host, port):
        return f"refuses the password of user {broker.user!r}: {why}; set FEED_KAFKA_USER and FEED_KAFKA_PASSWORD"
    return None


def _refused_password(broker: Broker, host: str, port: int) -> str | None:
    """What the server says to the password; None if it takes it, or says nothing.

    Spoken here: kafka-python loses what a server says before it hangs up, and keeps the rest to itself.
    """
    options = kafka_options(broker)
    mechanism = get_sasl_mechanism(broker.mechanism)(host=host, **options)
    try:
        with _connect(host, port, broker.tls()) as connection:
            _exchange(connection, _SASL_HANDSHAKE, _text(broker.mechanism))
            while not mechanism.is_done():
                token = mechanism.auth_bytes()
                answer = _exchange(connection, _SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
                if not isinstance(answer, bytes):
                    return None
                failed, length = struct.unpack_from(">hh", answer, 4)
                message = answer[8 : 8 + max(length, 0)]
                if failed:
                    return message.decode(errors="replace") or f"error {failed}"
                mechanism.receive(answer[8 + len(message) + 4 :])
    except (OSError, struct.error):
        return None
    return None


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


def _is_plain_redis(host: str, port: int) -> bool:
    try:
        with _connect(host, port, None) as connection:
            connection.sendall(b"PING\r\n")
            return _read(connection, 1) in (b"+", b"-")
    except OSError:
        return False


def _ask(host: str, port: int, tls: ssl.SSLContext | None, request: tuple[int, int], body: bytes = b"") -> bytes | str | None:
    """As `_exchange`, on a connection of its own."""
    try:
        with _connect(host, port, tls) as connection:
            return _exchange(connection, request, body)
    except OSError:
        return None


def _exchange(connection: socket.socket, request: tuple[int, int], body: bytes) -> bytes | str | None:
    """A Kafka server's answer to one request, from its number on; a text about what is no Kafka; None without an answer."""
    number, client = 7, b"feedloop"
    frame = struct.pack(">hhih", *request, number, len(client)) + client + body
    connection.sendall(struct.pack(">i", len(frame)) + frame)
    head = _read(connection, 4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or head[:2] == b"\x15\x03":  # nothing, or an alert of TLS
        return None
    if not 4 <= size <= _LARGEST:
        return f"is no Kafka: it answers with {head!r}. Set FEED_KAFKA to where Kafka is"
    answer = _read(connection, size)
    return answer if len(answer) == size and int.from_bytes(answer[:4], "big") == number else None


def _read(connection: socket.socket, n: int) -> bytes:
    found = b""
    while len(found) < n and (part := connection.recv(n - len(found))):
        found += part
    return found


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _texts(array: bytes) -> Sequence[str]:
    """Kafka's array of strings."""
    (count,), texts, at = struct.unpack_from(">i", array), [], 4
    for _ in range(count):
        (length,) = struct.unpack_from(">h", array, at)
        texts.append(array[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return texts
