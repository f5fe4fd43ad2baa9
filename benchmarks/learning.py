"""`make bench-learning`: what learning online is worth, in the closed loop of `benchmarks.loop`.

For each seed a world, its past and the champion bootstrapped from it, then the same audience in front of

    frozen     the champion for ever
    online     learner, gatekeeper and drift monitor as they run: versions published as often, tried and promoted as they are
    ungated    the same, but every version that is published serves at once, untried: what the trial costs
    nightly    re-trained every night on the newest 14 days and served at once, untried; tastes change half a day before a night

stationary, and with half of the tastes changed at `--drift-at` requests. The arms popular and random are in every run. Shares
of the best possible click-through are expected clicks of what was shown over those of the best feeds; intervals by bootstrap
over users.

`python -m benchmarks.learning [--seeds 5] [--requests 9000] [--processes 2]` writes var/learning.json, of which
`python -m benchmarks.report` makes tables and plots.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loop import Loop, seeded, start
from feed import dataset, wire
from feed.events import Event
from feed.examples import Example, RaiseRate, Record
from feed.io.kafka import Record as LogRecord
from feed.learning import state
from feed.learning.learner import Learner
from feed.learning.loss import Prepared
from feed.learning.memory import Reservoir
from feed.models import snapshot
from feed.monitoring.alerts import Alert
from feed.monitoring.drift import DriftMonitor
from feed.ranking.arms import Policy
from feed.registry import Registry
from offline import bootstrap
from offline.gatekeeper import Gatekeeper
from stream_processors.monitor import EXAMPLES, FACTOR

OUT = Path(__file__).parents[1] / "var" / "learning.json"
POLICY = Policy(popular_share=0.1, random_share=0.1)
LOG = "loop"  # the log's name
PER_STEP = 6  # requests a minute of the world: as 60 a second at 600 times its speed
PUBLISH = 900  # requests between two versions: 15 s at that rate
NIGHT = 86_400 * PER_STEP // 60  # requests a day
RETRAIN_DAYS = 14
LIMIT = 20_000
KINDS = ("frozen", "online", "ungated", "nightly")


@dataclass
class Run:
    """What one run left: columns over its requests, and what happened at which request."""

    seed: int
    kind: str
    drift_at: int | None
    user: list[str]
    arm: list[str]
    expected: list[float]
    best: list[float]
    happened: list[tuple[int, str]] = field(default_factory=list)
    events: list[int] = field(default_factory=list)


class Forgetful(Reservoir):
    """Nothing is learned again."""

    def draw(self, n: int, rng: np.random.Generator, read: Callable[[Example], Prepared]) -> list[Prepared]:
        """None."""
        return []


class Online:
    """Learner, gatekeeper and monitor around a loop, over a registry of their own."""

    def __init__(self, loop: Loop, folder: Path, run: Run, gated: bool, replay: bool) -> None:
        self._loop, self._run, self._gated = loop, run, gated
        self.registry = Registry(folder)
        champion = self.registry.champion()
        assert champion is not None
        self._generation, self._offset, self._published = champion.generation, 0, 0
        self._commands: list[Record] = []
        self._learner = Learner.begin(champion.version, snapshot.load(champion.path), self._load)
        if not replay:
            self._learner.reservoir = Forgetful(self._learner.progress.seed)
        self._gatekeeper = Gatekeeper(self.registry, LOG, LIMIT, self._commands.append)
        self._monitor = DriftMonitor()

    def see(self, examples: Iterable[Example], past: bool = False) -> None:
        """These examples are complete."""
        for example in examples:
            self._append(example)
            for alert in [] if past else self._monitor.see(example):
                self._alerted(alert)
            if self._offset % 64 == 0 and not past and self._gated:
                self._gatekeeper.look()
            while self._commands:
                self._append(self._commands.pop(0))
        if not past:
            self._publish()
            self._follow()

    def _append(self, record: Record) -> None:
        if self._gated:
            self._gatekeeper.see(LogRecord(LOG, 0, self._offset, b"", wire.encode(record)))
        self._learner.take(self._offset, record)
        self._offset += 1

    def _alerted(self, alert: Alert) -> None:
        self._run.happened.append((len(self._run.user), f"alert: {alert.kind} of {alert.segment}"))
        if alert.kind != "features":
            self._commands.append(RaiseRate(FACTOR, EXAMPLES, alert.alert_id))

    def _publish(self) -> None:
        done = self._learner.progress.examples
        if done - self._published >= PUBLISH:
            self._published = done
            version = self.registry.publish(lambda folder: state.save(folder, self._learner, LOG, ""), challenger=True)
            if not self._gated:
                self.registry.promote(version)

    def _follow(self) -> None:
        champion = self.registry.champion()
        if champion is not None and champion.generation != self._generation:
            self._generation = champion.generation
            self._loop.serve(snapshot.load(champion.path), champion.version, champion.generation)
            last = next(e for e in reversed(self.registry.ledger()) if e["event"] in ("promoted", "rolled back"))
            if self._gated:
                self._run.happened.append((len(self._run.user), f"{last['event']}: {champion.version}"))

    def _load(self, version: str) -> tuple[str, snapshot.Snapshot]:
        return version, snapshot.load(self.registry.folder(version))


class Nightly:
    """Keeps the log and trains anew on it."""

    def __init__(self, loop: Loop, events: list[Event], folder: Path, run: Run) -> None:
        self._loop, self._events, self._folder, self._run = loop, events, folder, run
        self._trained = 0

    def retrain(self) -> None:
        """On what the newest days left; the result serves at once."""
        self._trained += 1
        since = self._loop.now - RETRAIN_DAYS * 86_400
        recent = sorted((e for e in self._events if e.at >= since), key=lambda event: event.occurred_at)
        data, registry = self._folder / f"night{self._trained}", self._folder / f"registry{self._trained}"
        dataset.write(dataset.from_events(recent, self._loop.world.items, self._loop.world.users), data)
        bootstrap.run(data, registry)
        champion = Registry(registry).champion()
        assert champion is not None
        self._loop.serve(snapshot.load(champion.path), f"night{self._trained}", self._trained + 1)
        self._run.happened.append((len(self._run.user), "re-trained"))
        shutil.rmtree(data)


def run_one(seed: int, kind: str, drift_at: int | None, requests: int, worlds: Path, replay: bool = True) -> Run:
    """One audience in front of one way of making feeds; without `replay` the learner steps on new examples alone."""
    torch.set_num_threads(1)
    loop, champion, version = start(seed, worlds / str(seed), POLICY)
    columns = loop.requests
    run = Run(seed, kind, drift_at, columns.user, columns.arm, columns.expected, columns.best)
    loop.serve(champion, version, 1)
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        registry = Path(temporary) / "registry"
        shutil.copytree(worlds / str(seed) / "registry", registry)
        told = len(Registry(registry).ledger())
        online = Online(loop, registry, run, kind == "online", replay) if kind in ("online", "ungated") else None
        past = list(dataset.events_of(dataset.read(worlds / str(seed) / "data"))) if kind == "nightly" else []
        nightly = Nightly(loop, past, Path(temporary), run) if kind == "nightly" else None
        if online:
            online.see(loop.past, past=True)
        nights = 0
        while len(run.user) < requests:
            if drift_at is not None and len(run.user) >= drift_at and not any(what == "drift" for _, what in run.happened):
                loop.drift(0.5)
                run.happened.append((len(run.user), "drift"))
            examples = loop.step(PER_STEP)
            run.events += [len(visit.events) for visit in loop.visits]
            if online:
                online.see(examples)
            if nightly:
                past.extend(event for visit in loop.visits for event in visit.events)
                if (len(run.user) - (drift_at or 0) + NIGHT // 2) // NIGHT > nights:
                    nights += 1
                    nightly.retrain()
        if online:
            lines = online.registry.ledger()[told:]
            run.happened += [(len(run.user), f"ledger: {e['event']}: {(e.get('evidence') or e).get('why', '')}") for e in lines]
    return run


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=9_000)
    parser.add_argument("--drift-at", type=int, default=3_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worlds", type=Path, help="folder of seeded worlds to keep and reuse")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        worlds = options.worlds or Path(temporary)
        jobs = [
            (seed, kind, drift_at, options.requests, worlds)
            for seed in range(options.seeds)
            for drift_at, kinds in ((options.drift_at, KINDS), (None, ("frozen", "online", "ungated")))
            for kind in kinds
        ]
        with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
            pool.starmap(seed_world, [(seed, worlds) for seed in range(options.seeds)], chunksize=1)
            runs: list[dict[str, Any]] = []
            for run in pool.imap(_run_one, jobs):
                runs.append(vars(run))
                happened = ", ".join(f"{at:,} {what}" for at, what in run.happened if not what.startswith("ledger"))
                print(f"world {run.seed}, {run.kind}, {'drift' if run.drift_at else 'stationary'}: {happened}", flush=True)
                result = {"requests": options.requests, "drift_at": options.drift_at, "runs": runs}
                OUT.parent.mkdir(exist_ok=True)
                OUT.write_text(json.dumps(result) + "\n")


def _run_one(job: tuple[int, str, int | None, int, Path]) -> Run:
    return run_one(*job)


def seed_world(seed: int, worlds: Path) -> None:
    """Its past and its champion, made if they are not there."""
    (worlds / str(seed)).mkdir(parents=True, exist_ok=True)
    seeded(seed, worlds / str(seed))


if __name__ == "__main__":
    main()
