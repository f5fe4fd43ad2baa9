"""Start a process, kill it at a moment of a chosen kind, start it anew; each kill is told with what the dead process was at."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feed.errors import BadModel
from feed.learning.state import CREATED_BY
from feed.models import snapshot
from feed.registry import Registry
from feed.registry.disk import ASIDE
from tests.soak.marked_learner import ENTERED, LEFT, STEPS

ROOT = Path(__file__).parents[2]
STARTING, STEP, PUBLISHING = "starting", "in a step", "publishing"
ANY_MOMENT, DECIDING = "at any moment", "deciding"
LEARNER_KILLS = [STARTING] * 2 + [STEP] * 16 + [PUBLISHING] * 2
GATEKEEPER_KILLS = [STARTING] * 3 + [ANY_MOMENT] * 8 + [DECIDING] * 9
PATIENCE = 120.0  # a start included, on a busy machine


@dataclass(frozen=True)
class Kill:
    """`mid_step`: it had entered a step and not left it; `published`: the learner had published before; `publishing`: it was
    writing a version; `again`: steps that no version held.
    """

    kind: str
    mid_step: bool
    published: bool
    publishing: bool
    again: int

    def __str__(self) -> str:
        found = [what for what, so in (("in mid-step", self.mid_step), ("writing a version", self.publishing)) if so]
        return f"{self.kind} (found {' and '.join(found) or 'at neither'}; {self.again} steps to take again)"


class Supervised:
    """A process of the system over one broker and one registry; its output is added to `log`."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str], log: Path) -> None:
        self._command = [sys.executable, *map(str, command)]
        self._environment, self.log = {**os.environ, **environment}, log

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; at the end it is killed, unless it was before."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output, cwd=ROOT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self, *more: str) -> None:
        """Run it with these arguments too, until it ends by itself."""
        with self.log.open("ab") as output:
            subprocess.run([*self._command, *more], env=self._environment, stdout=output, stderr=output, cwd=ROOT, check=True)

    def wait(self, process: subprocess.Popen[bytes], condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Whether the condition came true in time. The process must not end by itself."""
        deadline = time.monotonic() + patience
        while not condition():
            assert process.poll() is None, f"{self._command} ended by itself:\n{self.log.read_text()[-3000:]}"
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def must(self, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Wait for what must come true."""
        assert self.wait(process, condition), self.log.read_text()[-3000:]


def learned(registry: Registry) -> dict[str, int]:
    """Steps and examples of the learner's newest version; of none: nothing."""
    for version in reversed(registry.versions()):
        try:
            manifest = snapshot.read_manifest(registry.folder(version))
        except BadModel:  # removed between the two looks
            continue
        if manifest["created_by"] == CREATED_BY:
            return {"steps": manifest["steps"], "examples": manifest["examples"]}
    return {}


def kill_learner(process: Supervised, page: np.memmap, registry: Registry, rng: np.random.Generator) -> Iterator[Kill]:
    """One kill after another, of the kinds in `LEARNER_KILLS` in a drawn order."""
    for kind in rng.permutation(LEARNER_KILLS).tolist():
        page[:] = 0
        with process.running() as running:
            if kind == STARTING:
                process.wait(running, lambda: False, float(rng.uniform(0.5, 8)))
            else:
                steps = int(rng.integers(1, 24))
                process.must(running, lambda steps=steps: page[LEFT] >= steps and bool(learned(registry)))
                _stop_while(process, running, _moment(kind, page, registry), rng)
            publishing = _writes_a_version(registry)
            running.send_signal(signal.SIGKILL)
            running.wait()
            told, lost = learned(registry), int(page[STEPS])
            mid_step = bool(page[ENTERED] > page[LEFT])
            yield Kill(kind, mid_step, bool(told), publishing, again=max(0, lost - told.get("steps", 0)))


def _moment(kind: str, page: np.memmap, registry: Registry) -> Callable[[], bool]:
    return (lambda: page[ENTERED] > page[LEFT]) if kind == STEP else (lambda: _writes_a_version(registry))


def _stop_while(
    process: Supervised, running: subprocess.Popen[bytes], moment: Callable[[], bool], rng: np.random.Generator
) -> None:
    """Stop it (SIGSTOP) while `moment` is true, at a drawn time after it became so."""
    while True:
        process.must(running, moment)
        time.sleep(float(rng.uniform(0, 0.06)))
        running.send_signal(signal.SIGSTOP)
        if moment():
            return
        running.send_signal(signal.SIGCONT)


def _writes_a_version(registry: Registry) -> bool:
    """Whether a living process is at it: it has locked the folder it fills."""
    for folder in registry.folder(registry.versions()[-1]).parent.glob(f"{ASIDE}*"):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
    return False


def kill_gatekeeper(process: Supervised, registry: Registry, rng: np.random.Generator) -> Iterator[str]:
    """One kill after another, of the kinds in `GATEKEEPER_KILLS` in a drawn order."""
    for kind in rng.permutation(GATEKEEPER_KILLS).tolist():
        with process.running() as running:
            if kind == DECIDING:
                before = _decided(registry)
                process.wait(running, lambda before=before: _decided(registry) > before, 40.0)
                time.sleep(float(rng.uniform(0, 0.03)))
            else:
                process.wait(running, lambda: False, float(rng.uniform(*(0.5, 8) if kind == STARTING else (8, 30))))
            running.send_signal(signal.SIGKILL)
            running.wait()
            yield kind


def _decided(registry: Registry) -> int:
    return sum(line["event"] != "published" for line in registry.ledger())
