"""Keeps services running as processes: in dependency order, started again when they die, stopped in reverse order.

Honcho runs each process in a session of its own and prints its lines behind its name. Its `Manager` ends all when one
ends, so the watching is done here.
"""

import io
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from honcho.colour import get_colours
from honcho.compat import ProcessManager
from honcho.printer import Message, Printer
from honcho.process import Process

from deploy.compose import Service, in_order

TICK_SECONDS = 0.1
CHECK_SECONDS = 0.5
STOP_SECONDS = 5.0  # a process that has not ended by then is killed
BACKOFF_SECONDS = (0.5, 10.0)  # doubled from the first to the second
STEADY_SECONDS = 30.0  # who ran this long starts with a short backoff again
# Linux: a process ends with this one, even if this one is killed
LEASH = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


@dataclass
class Unit:
    """A service and what is known of its process."""

    service: Service
    colour: str
    state: Literal["waiting", "running", "done", "failed", "stopping", "stopped"] = "waiting"
    healthy: bool = False
    pid: int | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    check: subprocess.Popen[bytes] | None = None
    check_due: float = 0.0

    @property
    def well(self) -> bool:
        """Whether it does, or has done, what it is there for; with `restart: on-failure` that is to end with success."""
        lasting = not self.service.restart.startswith("on-failure")
        return self.state == "done" or (self.state == "running" and self.healthy and lasting)


class Supervisor:
    """Runs services until `stop`; `forgetful` ones take all the others along when they die, and `forget` is called then."""

    def __init__(
        self,
        services: Mapping[str, Service],
        environment: Mapping[str, str],
        folder: Path,
        temporary: Path,
        output: TextIO,
        forgetful: Collection[str] = (),
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        colours = get_colours()
        self.units = {name: Unit(service, next(colours)) for name, service in services.items()}
        self._levels = [[self.units[service.name] for service in level] for level in in_order(services)]
        self._environment, self._folder, self._temporary = environment, folder, temporary
        self._forgetful, self._forget = forgetful, forget
        # no time in the prefix: the services' own lines have it
        self._printer = Printer(output, time_format="", width=max(map(len, (*services, "system"))))
        self._events: queue.Queue[Any] = queue.Queue()
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End everything and wait for it."""
        self._told.set()
        self._thread.join()

    def ended(self) -> bool:
        """Whether nothing runs any more."""
        return not self._thread.is_alive()

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
        self._print(Message("line", f"{datetime.now():%H:%M:%S} {text}", datetime.now(), "system", None))

    def _print(self, message: Message) -> None:
        try:
            self._printer.write(message)
        except OSError:  # nobody reads any more (`make up | head`): there is no sense in going on
            self._printer.output = io.StringIO()
            self._told.set()

    def _run(self) -> None:
        try:
            while not self._told.is_set():
                self._hear(TICK_SECONDS)
                for unit in self.units.values():
                    if unit.state == "waiting" and time.monotonic() >= unit.due and self._may_start(unit):
                        self._start(unit)
                    elif unit.state == "running" and not unit.healthy:
                        self._look_after(unit)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._stop_all()

    def _may_start(self, unit: Unit) -> bool:
        def met(other: Unit, condition: str) -> bool:
            if condition == "service_completed_successfully":
                return other.state == "done"
            return other.well if condition == "service_healthy" else other.state in ("running", "done")

        return all(met(self.units[name], condition) for name, condition in unit.service.after.items())

    def _start(self, unit: Unit) -> None:
        environment = self._surroundings(unit.service)
        # what a killed process has left, such as its heartbeat, is not to be taken for the new one's
        shutil.rmtree(environment["TMPDIR"], ignore_errors=True)
        Path(environment["TMPDIR"]).mkdir(parents=True)
        command = shlex.join(("exec", *LEASH, *unit.service.command))
        process = Process(command, name=unit.service.name, colour=unit.colour, env=environment, cwd=str(self._folder))
        unit.state, unit.healthy, unit.pid, unit.started = "running", False, None, time.monotonic()
        threading.Thread(target=process.run, args=(self._events,), name=unit.service.name, daemon=True).start()

    def _surroundings(self, service: Service) -> dict[str, str]:
        return {**self._environment, **service.environment, "TMPDIR": str(self._temporary / service.name)}

    def _look_after(self, unit: Unit) -> None:
        """Ask whether a process that is not well yet has become so; never waits for the answer."""
        if not unit.service.check:
            unit.healthy = True
        elif unit.check is None:
            if time.monotonic() >= unit.check_due:
                unit.check = subprocess.Popen(
                    unit.service.check,
                    env=self._surroundings(unit.service),
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        elif (status := unit.check.poll()) is not None:
            unit.healthy, unit.check, unit.check_due = status == 0, None, time.monotonic() + CHECK_SECONDS
            if unit.healthy:
                self.say(f"{unit.service.name} is ready")

    def _hear(self, patience: float) -> None:
        """Print and note what the processes have said and done, waiting up to `patience` for the first of it."""
        try:
            message = self._events.get(timeout=patience)
            while True:
                if message.type == "line":
                    self._print(message)
                elif message.type == "start":
                    self.units[message.name].pid = message.data["pid"]
                else:
                    self._ended(self.units[message.name], message.data["returncode"])
                message = self._events.get_nowait()
        except queue.Empty:
            pass

    def _ended(self, unit: Unit, status: int) -> None:
        _forget_check(unit)
        name = unit.service.name
        if unit.state == "stopping":
            unit.state, unit.pid = "stopped", None
            return
        unit.state, unit.pid, unit.healthy = "waiting", None, False
        policy, _, most = unit.service.restart.partition(":")
        if status == 0 and policy in ("no", "on-failure"):
            unit.state = "done"
            self.say(f"{name} has done its work")
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if name in self._forgetful:
            self.say(f"{name} {how}, and what it held is gone: everything starts afresh")
            self._stop_all()
            self._forget()
            for other in self.units.values():
                other.state, other.due, other.failures = "waiting", 0.0, 0
            return
        if time.monotonic() - unit.started > STEADY_SECONDS:
            unit.failures = 0
        unit.failures += 1
        if policy == "no" or (most and unit.failures > int(most)):
            unit.state = "failed"
            self.say(f"{name} {how}; it is not started again")
            return
        first, longest = BACKOFF_SECONDS
        wait = min(longest, first * 2 ** (unit.failures - 1))
        unit.due = time.monotonic() + wait
        self.say(f"{name} {how}; starting it again in {wait:g} s")

    def _stop_all(self) -> None:
        """Those that depend on others first; each level has a few seconds, then it is killed."""
        for unit in self.units.values():
            _forget_check(unit)
            unit.state = "stopping" if unit.state == "running" else "stopped"
        for level in reversed(self._levels):
            told: dict[int, float] = {}
            while stopping := [unit for unit in level if unit.state == "stopping"]:
                for unit in stopping:
                    if unit.pid is not None:  # else it is still being started
                        self._tell(unit.service.name, unit.pid, told)
                self._hear(TICK_SECONDS)

    def _tell(self, name: str, pid: int, told: dict[int, float]) -> None:
        """Ask a process group to end, once; kill it some seconds later."""
        if pid not in told:
            ProcessManager().terminate(pid)
            told[pid] = time.monotonic() + STOP_SECONDS
        elif time.monotonic() > told[pid]:
            self.say(f"{name} has not ended in {STOP_SECONDS:.0f} s: killing it")
            ProcessManager().kill(pid)
            told[pid] = float("inf")


def _forget_check(unit: Unit) -> None:
    if unit.check is not None:
        unit.check.kill()
        unit.check.wait()
        unit.check = None
