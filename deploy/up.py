"""`make up`: the services of docker-compose.yml as local processes, with embedded servers in place of broker and Redis.

`python deploy/up.py` runs until Ctrl-C. `LocalSystem` is the same for other programs, on free ports:

    with LocalSystem(folder, environment={"FEED_SEED_USERS": "100"}) as system:
        system.wait_ready()
        subprocess.run([sys.executable, "producers/simulate.py"], env=system.environment)
"""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

from dotenv import dotenv_values

from deploy import compose
from deploy.compose import LOOPBACK, BadCompose, Port, Service
from deploy.embedded import free_ports
from deploy.processes import Supervisor
from feed.errors import FeedError, obey_interrupts, run
from feed.settings import PREFIX, Settings, load

ROOT = Path(__file__).parents[1]
READY_SECONDS = 600.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# what stands in for an image, as a subcommand of deploy.embedded
EMBEDDED = {"apache/kafka": "broker", "redis": "redis"}
TOPICS = ("FEED_PARTITIONS",)  # settings that say how topics are made


class LocalSystem:
    """Every service of a compose file, running on this machine inside a `with` block; nothing is left behind it.

    `state` is the folder for Redis' file, the registry and temporary files. What an earlier system left there is removed:
    the embedded broker keeps nothing, and without its log the rest is of no use. `ports` maps services to the ports
    they get (default: free ones); `environment` is seen by the compose file as if the shell had set it.
    """

    def __init__(
        self,
        state: Path,
        *,
        ports: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
        output: TextIO | None = None,
        file: Path = ROOT / "docker-compose.yml",
    ) -> None:
        self._state = state.resolve()
        variables = {**_shell(), **(environment or {})}
        services = _with_ports(compose.read(file, variables), ports)
        self._services = {name: self._local(service, services) for name, service in services.items()}
        merged = {key: value for service in self._services.values() for key, value in service.environment.items()}
        console = output or sys.stdout
        self._supervisor = Supervisor(
            self._services,
            {**os.environ, **_appearance(console)},
            file.parent,
            self._state / "tmp",
            console,
            forgetful=[name for name, service in services.items() if _stand_in(service)],  # both keep all in memory
            forget=self._forget,
        )
        self.environment = {**os.environ, **(environment or {}), **merged}
        """For commands that are to work on this system."""

        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def settings(self) -> Settings:
        """The settings those commands have."""
        given = {name: self.environment.get(PREFIX + name.upper()) for name in Settings.model_fields}
        return Settings.model_validate({name: value for name, value in given.items() if value is not None})

    @property
    def addresses(self) -> dict[str, str]:
        """Where each service with a port is."""
        return {name: f"{LOOPBACK}:{s.ports[0].published}" for name, s in self._services.items() if s.ports}

    @property
    def pids(self) -> dict[str, int]:
        """The process of each service that runs; also the id of its process group."""
        return {name: unit.pid for name, unit in self._supervisor.units.items() if unit.pid is not None}

    def __enter__(self) -> Self:
        for name, service in self._services.items():
            for port in service.ports:
                _require_free(name, port)
        self._forget()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._handlers[number] = signal.getsignal(number)
                if self._handlers[number] is signal.SIG_DFL:
                    signal.signal(number, _interrupt)
            obey_interrupts()
        self._supervisor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)  # stopping takes seconds and is not to be cut short
        self._supervisor.say("stopping")
        self._supervisor.stop()
        shutil.rmtree(self._state / "tmp", ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def wait_ready(self, patience: float = READY_SECONDS) -> None:
        """Wait until every service is well or has done its work. Raises `FeedError` naming those that are not."""
        deadline = time.monotonic() + patience
        while not all(unit.well for unit in self._supervisor.units.values()):
            self._check()
            if time.monotonic() > deadline:
                late = [f"{name} ({unit.state})" for name, unit in self._supervisor.units.items() if not unit.well]
                raise FeedError(f"not ready after {patience:.0f} s: {', '.join(late)}; see their lines above")
            time.sleep(0.1)

    def wait(self) -> None:
        """Wait for Ctrl-C. Raises `FeedError` if a service has failed for good."""
        while True:
            self._check()
            time.sleep(0.5)

    def _check(self) -> None:
        failed = [name for name, unit in self._supervisor.units.items() if unit.state == "failed"]
        if failed:
            raise FeedError(f"{', '.join(failed)} failed for good; see the lines above")
        if self._supervisor.ended():
            raise FeedError(f"the supervisor ended: {self._supervisor.error!r}")

    def _local(self, service: Service, services: Mapping[str, Service]) -> Service:
        kind = _stand_in(service)
        if kind is None:
            return compose.localized(service, services, self._state)
        port = str(service.ports[0].published)
        command: tuple[str, ...] = (sys.executable, "-m", "deploy.embedded", kind, "--port", port)
        if kind == "redis":
            command += ("--dir", str(self._state / "redis"))
        check = ("bash", "-c", f"exec 3<>/dev/tcp/{LOOPBACK}/{port}")  # it listens
        # the broker makes the topics
        given = {name: value for other in services.values() for name, value in other.environment.items() if name in TOPICS}
        return replace(service, command=command, check=check, environment=given, volumes={})

    def _forget(self) -> None:
        held = [self._state / "redis", self._state / "registry"]
        if present := [str(folder) for folder in held if folder.exists()]:
            self._supervisor.say(f"the broker's log is gone, so what was made of it goes, too: removing {', '.join(present)}")
        for folder in held:
            shutil.rmtree(folder, ignore_errors=True)


def published(file: Path = ROOT / "docker-compose.yml") -> dict[str, int]:
    """The ports on which `docker compose up` would publish each service."""
    return {name: s.ports[0].published for name, s in compose.read(file, _shell()).items() if s.ports}


def main() -> None:
    """Run the whole system until Ctrl-C."""
    load()  # a misspelt setting is refused here, not by each service in turn
    try:
        with LocalSystem(ROOT / "var", ports=published()) as system:
            system.wait_ready()
            where = ", ".join(f"{name} {address}" for name, address in system.addresses.items())
            sys.stdout.write(f"\nEverything is up: {where}. Ctrl-C stops it.\n\n")
            sys.stdout.flush()
            system.wait()
    except KeyboardInterrupt:
        sys.stdout.write("Everything is stopped.\n")


def _shell() -> dict[str, str]:
    """What `docker compose` would replace variables by: .env, and above it the shell's environment."""
    return {name: value for name, value in {**dotenv_values(ROOT / ".env"), **os.environ}.items() if value is not None}


def _stand_in(service: Service) -> str | None:
    if service.image is None:
        return None
    image = service.image.rsplit(":", 1)[0]
    if image not in EMBEDDED or not service.ports:
        raise BadCompose(
            f"service {service.name}: no embedded server stands in for {service.image}; there are {sorted(EMBEDDED)}"
        )
    return EMBEDDED[image]


def _with_ports(services: Mapping[str, Service], ports: Mapping[str, int] | None) -> dict[str, Service]:
    names = [name for name, service in services.items() if service.ports]
    chosen = ports if ports is not None else dict(zip(names, free_ports(len(names)), strict=True))
    changed = dict(services)
    for name in names:
        old = services[name].ports[0]
        changed[name] = replace(services[name], ports=(Port(chosen[name], old.container, old.variable),))
    return changed


def _require_free(name: str, port: Port) -> None:
    try:
        socket.create_server((LOOPBACK, port.published)).close()
    except OSError as error:
        change = f"set {port.variable}={port.published + 1} (.env.example says what follows from it)"
        raise FeedError(
            f"port {port.published} for {name} cannot be used ({os.strerror(error.errno or 0)}): stop what listens there "
            f"(docker compose?), or {change if port.variable else 'change docker-compose.yml'}"
        ) from error


def _appearance(output: TextIO) -> dict[str, str]:
    """The services write into a pipe: how their lines are to look is known here."""
    look = {"PYTHONUNBUFFERED": "1", f"{PREFIX}LOG_FORMAT": "console"}
    return {**look, "FORCE_COLOR": "1"} if output.isatty() else look


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run(main)
