"""Drift alerts, measured: stable worlds and worlds in which half of the people change their tastes, side by side.

    python -m benchmarks.drift [--seeds 10] [--work DIR] [--processes 2]

No servers, simulated time (see benchmarks/loop.py), a frozen champion: nothing mends what the drift breaks. Each seed is
another world with its own model; its stable and its drifted run are equal until the drift. Beside the monitor stand two rules
that look at nothing: one alerts as often as the monitor may, one never does. Writes var/drift.json.
"""

import copy
import json
import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich import print

from benchmarks import loop
from feed.examples import Example
from feed.monitoring.alerts import headline
from feed.monitoring.drift import BUDGET, QUIET, UNIT, DriftMonitor
from feed.ranking.arms import Policy
from feed.ranking.types import LEARNED

DAY = 86_400.0
SHARE = 0.5  # of the users drift
OUT = Path(__file__).parents[1] / "var" / "drift.json"


@dataclass(frozen=True)
class Traffic:
    """So many requests a step of `loop.STEP` seconds, the drift after `drift` requests, the end after `requests`."""

    name: str
    a_step: int
    drift: int
    requests: int


# a simulated day has 8,640 and 2,880 requests
TRAFFIC = (Traffic("about 400 events/s", 6, 4_000, 8_000), Traffic("about 150 events/s", 2, 2_500, 5_000))


@dataclass
class Run:
    """What one run showed; `alerts` and `always`: (requests, events) at each alert of the monitor, of the rule."""

    requests: int = 0
    events: int = 0
    days: float = 0.0
    drift: tuple[int, int] | None = None  # requests, events
    alerts: list[tuple[int, int]] = field(default_factory=list)
    always: list[tuple[int, int]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def after(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those after the drift."""
        return [] if self.drift is None else [one for one in found if one[0] > self.drift[0]]


@dataclass
class Watched:
    """A world in front of its champion, and the monitor that sees its examples in the order of their log."""

    world: loop.Loop
    monitor: DriftMonitor
    run: Run
    began: float = 0.0
    learned: int = 0

    def until(self, requests: int, a_step: int) -> None:
        """Go on until so many requests were made; an example counts when its window has closed."""
        while len(self.world.requests.arm) < requests:
            for example in self.world.step(a_step):
                if example.arm is not None:
                    self._see(example)

    def _see(self, example: Example) -> None:
        run = self.run
        self.began = self.began or example.at
        run.requests += 1
        run.events += 1 + sum(sum(row.labels.values()) for row in example.rows)
        run.days = (example.at - self.began) / DAY
        for alert in self.monitor.see(example):
            run.alerts.append((run.requests, run.events))
            run.kinds.append(f"{alert.figure or alert.kind} of {alert.segment}")
            print(f"  {'drifted' if run.drift else 'stable'}, request {run.requests:,}: {headline(alert)}")
        if example.arm == LEARNED:
            self.learned += 1
            if self.learned % QUIET == 0:
                run.always.append((run.requests, run.events))


def both(seed: int, folder: Path, traffic: Traffic) -> tuple[Run, Run]:
    """A stable and a drifted run of one world, the same until the drift; delays count from there to the alert's example."""
    loop.seeded(seed, folder)
    world, trained, version = loop.start(seed, folder, Policy(), run_seed=seed)
    world.serve(trained, version, 1)
    stable = Watched(world, DriftMonitor(), Run())
    stable.until(traffic.drift, traffic.a_step)
    drifted = copy.deepcopy(stable)
    drifted.world.drift(SHARE)
    drifted.run.drift = drifted.run.requests, drifted.run.events
    for watched in (stable, drifted):
        watched.until(traffic.requests, traffic.a_step)
    return stable.run, drifted.run


def figures(runs: list[tuple[Run, Run]], of: str) -> dict[str, Any]:
    """Alerts a stable day, share of drifts detected, and delays, of the monitor (`alerts`) or of a rule."""

    def found(one: Run) -> list[tuple[int, int]]:
        return [] if of == "never" else list(getattr(one, of))

    days = sum(stable.days for stable, _ in runs)
    false = sum(len(found(stable)) for stable, _ in runs)
    detected = [(one, one.after(found(one))) for _, one in runs if one.after(found(one))]
    return {
        "stable_days": round(days, 2),
        "stable_runs_with_an_alert": sum(bool(found(stable)) for stable, _ in runs),
        "alerts_a_stable_day": false / days,
        "detected": len(detected) / len(runs),
        "alerts_a_drift": sum(len(after) for _, after in detected) / len(runs),
        "delay_requests": quantiles([after[0][0] - one.drift[0] for one, after in detected if one.drift]),
        "delay_events": quantiles([after[0][1] - one.drift[1] for one, after in detected if one.drift]),
    }


def quantiles(values: list[int]) -> dict[str, float] | None:
    """Median and extremes."""
    if not values:
        return None
    return {"median": float(np.median(values)), "least": float(min(values)), "most": float(max(values))}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="worlds, shared out between the two rates of traffic")] = 10,
    work: Annotated[Path | None, typer.Option(help="folder for worlds and models, kept and used again")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="where the figures go")] = OUT,
) -> None:
    """Measure the drift monitor."""
    folder = work or Path(mkdtemp(prefix="feedloop-drift-"))
    began = time.time()
    result: dict[str, dict[str, Any]] = {}
    jobs = [(seed, folder / str(seed), TRAFFIC[seed % len(TRAFFIC)]) for seed in range(seeds)]
    with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        found = pool.starmap(both, jobs, chunksize=1)
    for k, traffic in enumerate(TRAFFIC):
        print(f"{traffic.name}: {traffic.requests:,} requests a run, half of the people drift after {traffic.drift:,}")
        mine = range(k, seeds, len(TRAFFIC))
        runs = [found[seed] for seed in mine]
        rules = {"monitor": "alerts", "always fires": "always", "never fires": "never"}
        result[traffic.name] = {name: figures(runs, of) for name, of in rules.items()}
        result[traffic.name]["seeds"] = list(mine)
        result[traffic.name]["first_alerts"] = [one.kinds[0] for _, one in runs if one.kinds]
        print(result[traffic.name])
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {"budget": BUDGET, "unit": UNIT, "quiet": QUIET, "share": SHARE, "seconds": round(time.time() - began)}
        out.write_text(json.dumps({"about": about, "figures": result}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
