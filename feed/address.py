"""Where Kafka and Redis are and how to sign in. Nothing is connected here, and no password is ever printed."""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from feed.errors import BadSetting

KAFKA_PORT = 9092
Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[^:]*))?")
_DIGITS = re.compile(r"[0-9]+")


def masked(text: str) -> str:
    """`text` without what may be a password: what stands between a scheme and the last @, and what follows `password=`."""
    scheme, there, rest = text.partition("://") if "://" in text else ("", "", text)
    _, at, place = rest.rpartition("@")
    return re.sub(r"(password=)[^&\s]*", r"\1***", scheme + there + ("***@" if at else "") + place)


def check_servers(text: str) -> str:
    """`text` as it is, if it can name Kafka servers. Raises `ValueError` with the offender and the remedy."""
    for server in text.split(","):
        scheme, there, rest = server.partition("://")
        if "@" in server:
            raise ValueError(
                "Kafka servers are host:port: the user goes to FEED_KAFKA_USER, the password to FEED_KAFKA_PASSWORD"
            )
        if there:
            also = f" and FEED_KAFKA_SECURITY={scheme.upper()}" if scheme.upper() in get_args(Security) else ""
            raise ValueError(f"{server!r} is a URL: write FEED_KAFKA={rest.strip('/')}{also}")
        found = _SERVER.fullmatch(server)
        if not server.strip():
            raise ValueError("a server is missing: write host:port, several with a comma between them and none at the end")
        if found is None or _DIGITS.fullmatch(found["host"]):
            raise ValueError(f"{server!r} is no server: write host:port, without spaces, several with a comma between them")
        if found["port"] is not None and not _is_port(found["port"]):
            raise ValueError(f"{server!r} has no possible port: it is a whole number from 1 to 65535, such as {KAFKA_PORT}")
    return text


def check_redis(text: str) -> str:
    """`text` as it is, if it can be the URL of a Redis. Raises `ValueError` with the remedy; never with a password."""
    example = "redis://127.0.0.1:6379/0 or rediss://:password@host:6380/0"
    scheme, there, rest = text.partition("://")
    if not there or scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"a Redis URL begins with redis://, rediss:// (TLS) or unix://, such as {example}")
    if text != text.strip() or any(c.isspace() for c in text):
        raise ValueError("a URL has no spaces: write a space of a password as %20")
    place = rest.rpartition("@")[2]
    if any(c in rest.rpartition("@")[0] for c in "/?#[]@"):
        raise ValueError("the user or password has one of / ? # [ ] @: write it percent-encoded, such as %2F for /")
    if scheme == "unix":
        return text
    address = urlsplit(f"//{place}")
    _, colon, port = address.netloc.partition("]:") if "]" in address.netloc else address.netloc.partition(":")
    if colon and not _is_port(port):
        raise ValueError(
            f"{place!r} has no possible port: it is a whole number from 1 to 65535, such as 6379; an IPv6 address before it "
            "has brackets"
        )
    if address.path.strip("/") and not _DIGITS.fullmatch(address.path.strip("/")):
        raise ValueError(f"{place!r} names no possible database: it is a whole number, such as {example}")
    return text


def _is_port(text: str) -> bool:
    return bool(_DIGITS.fullmatch(text)) and len(text) <= 5 and 1 <= int(text) <= 65535


@dataclass(frozen=True)
class Broker:
    """Kafka's servers (host:port, comma-separated) and how to sign in there; prints as the servers alone.

    Raises `BadSetting` on impossible servers.
    """

    servers: str
    security: Security = "PLAINTEXT"
    user: str = ""
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    mechanism: Mechanism = "PLAIN"
    ca: str = ""

    def __post_init__(self) -> None:
        try:
            check_servers(self.servers)
        except ValueError as error:
            raise BadSetting(f"Kafka at {masked(self.servers)!r}: {error}") from None

    @classmethod
    def of(cls, broker: "Broker | str") -> "Broker":
        """`broker`, or one at these servers that is neither encrypted nor asks for a password."""
        return broker if isinstance(broker, Broker) else cls(broker)

    def __str__(self) -> str:
        return self.servers

    @property
    def encrypted(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.security.endswith("SSL")

    @property
    def authenticated(self) -> bool:
        """Whether it is given a user and a password."""
        return self.security.startswith("SASL")

    def addresses(self) -> Iterator[tuple[str, int]]:
        """Host and port of each server."""
        for server in self.servers.split(","):
            if found := _SERVER.fullmatch(server.strip()):
                yield found["host"].strip("[]"), int(found["port"] or KAFKA_PORT)

    def tls(self) -> ssl.SSLContext | None:
        """What checks the servers' certificates; None if nothing is encrypted. Raises `BadSetting` on an unusable CA file."""
        if not self.encrypted:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except (ssl.SSLError, OSError) as error:
            raise BadSetting(
                f"FEED_KAFKA_CA={self.ca}: {error.strerror or error}: name a file with certificates (PEM)"
            ) from error
