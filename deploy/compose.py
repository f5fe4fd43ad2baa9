"""The part of the compose file format that docker-compose.yml uses, as data: services, and how they become local ones."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from feed.errors import FeedError

VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
LOOPBACK = "127.0.0.1"


class BadCompose(FeedError):
    """The compose file says something that cannot be carried out without containers."""


@dataclass(frozen=True)
class Port:
    """`container`'s port as it is published; `variable` is what changes it, if anything does."""

    published: int
    container: int
    variable: str | None = None


@dataclass(frozen=True)
class Service:
    """One service: `image` is None for those built from this project; `after` maps a service to the awaited condition."""

    name: str
    image: str | None
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    restart: str = "no"
    ports: tuple[Port, ...] = ()
    check: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Where in the container each named volume is."""


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """The services of the compose file; `variables` are what `${NAME}` and empty environment entries refer to.

    Raises `BadCompose` naming the service and the entry that cannot be read.
    """
    services = yaml.safe_load(path.read_text())["services"]
    try:
        return {name: _service(name, entry, variables) for name, entry in services.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCompose(f"{path.name}: {error!r}") from error


def localized(service: Service, services: Mapping[str, Service], state: Path) -> Service:
    """The service as a process of this machine.

    In its environment, other services are found where their ports are published, its own port is the published one, and
    paths on named volumes lead into `state`.
    """
    own = {str(port.container): str(port.published) for port in service.ports}

    def local(value: str) -> str:
        value = own.get(value, LOOPBACK if value == "0.0.0.0" else value)
        for other in services.values():
            if other.ports:
                value = re.sub(rf"\b{re.escape(other.name)}:\d+", f"{LOOPBACK}:{other.ports[0].published}", value)
        for target in service.volumes.values():
            if value == target or value.startswith(f"{target}/"):
                value = str(state / value[len(target) :].lstrip("/"))
        return value

    return replace(
        service,
        environment={name: local(value) for name, value in service.environment.items()},
        command=_this_python(service.command),
        check=_this_python(service.check),
    )


def in_order(services: Mapping[str, Service]) -> list[list[Service]]:
    """The services in the order in which they can start; those of one list need not wait for each other."""
    levels: list[list[Service]] = []
    placed: set[str] = set()
    while len(placed) < len(services):
        level = [s for name, s in services.items() if name not in placed and set(s.after) <= placed]
        if not level:
            raise BadCompose(f"depends_on leads nowhere or in a circle: {', '.join(sorted(set(services) - placed))}")
        levels.append(level)
        placed |= {service.name for service in level}
    return levels


def _service(name: str, entry: Mapping[str, Any], variables: Mapping[str, str]) -> Service:
    def text(value: object) -> str:
        return VARIABLE.sub(lambda found: variables.get(found[1]) or found[2] or "", str(value))

    environment = entry.get("environment", {})
    after = entry.get("depends_on", {})
    check = [text(part) for part in entry.get("healthcheck", {}).get("test", ())]
    return Service(
        name=name,
        image=None if "build" in entry else text(entry["image"]),
        command=tuple(text(part) for part in entry.get("command", ())),
        environment={
            key: variables[key] if value is None else text(value)
            for key, value in environment.items()
            if value is not None or key in variables
        },
        after={other: after[other]["condition"] for other in after},
        restart=entry.get("restart", "no"),
        ports=tuple(_port(str(port), text) for port in entry.get("ports", ())),
        check=("sh", "-c", *check[1:]) if check[:1] == ["CMD-SHELL"] else tuple(check[1:]),
        volumes=dict(volume.split(":")[:2] for volume in entry.get("volumes", ()) if not volume.startswith(".")),
    )


def _port(entry: str, text: Callable[[object], str]) -> Port:
    address, published, container = text(entry).split(":")
    if address != LOOPBACK:
        raise BadCompose(f"port {entry!r} is not published on {LOOPBACK}")
    variable = VARIABLE.search(entry)
    return Port(int(published), int(container), variable[1] if variable else None)


def _this_python(command: Sequence[str]) -> tuple[str, ...]:
    return (sys.executable, *command[1:]) if command[:1] == ("python",) else tuple(command)
