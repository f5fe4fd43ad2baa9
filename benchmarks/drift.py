"""Drift alerts, measured: stable worlds and worlds in which half of the people change their tastes, side by side.

    python benchmarks/drift.py [--seeds 10] [--work DIR]

One process, simulated time (see benchmarks/loop.py), a frozen champion: nothing mends what the drift breaks. Each seed is
another world with its own model; its stable and its drifted run are equal until the drift. Beside the monitor stand two rules
that look at nothing: one alerts as often as the monitor may, one never does. Writes var/drift.json.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

import numpy as np
import typer
from rich import print

from benchmarks import loop
from feed.examples import Example
from feed.monitoring.alerts import headline
from feed.monitoring.drift import BUDGET, QUIET, UNIT, DriftMonitor
from feed.ranking.arms import Policy

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


TRAFFIC = (Traffic("about 400 events/s", 6, 5_000, 10_000), Traffic("about 100 events/s", 2, 3_000, 6_000))


@dataclass
class Run:
    """What one run showed; `alerts`: (requests, events, kind, segment) at each."""

    requests: int = 0
    events: int = 0
    days: float = 0.0
    drift: tuple[int, int] | None = None  # requests, events
    alerts: list[tuple[int, int, str, str]] | None = None
    always: list[tuple[int, int]] | None = None

    def after(self, found: list[Any]) -> list[Any]:
        """Those after the drift."""
        return [] if self.drift is None else [one for one in found if one[0] > self.drift[0]]

    def before(self, found: list[Any]) -> list[Any]:
        """Those while the world was stable."""
        return [one for one in found if self.drift is None or one[0] <= self.drift[0]]


def examples(seed: int, folder: Path, traffic: Traffic, drifts: bool) -> Iterator[Example | None]:
    """The run's examples in the order of their log; None where the drift happens."""
    world, trained, version = loop.start(seed, folder, Policy(), run_seed=seed)
    world.serve(trained, version, 1)
    shown = 0
    while shown < traffic.requests:
        if drifts and shown >= traffic.drift:
            world.drift(SHARE)
            drifts = False
            yield None
        found = world.step(traffic.a_step)
        shown = len(world.requests.arm)
        yield from found


def run(seed: int, folder: Path, traffic: Traffic, drifts: bool) -> Run:
    """One run; delays are counted from the drift to the example that raised the alert, its open window included."""
    made, monitor, done = Run(alerts=[], always=[]), DriftMonitor(), 0
    began = learned = 0.0
    assert made.alerts is not None
    assert made.always is not None
    for example in examples(seed, folder, traffic, drifts):
        if example is None:
            made.drift = made.requests, made.events
            continue
        if example.arm is None:
            continue
        began = began or example.at
        made.requests += 1
        made.events += 1 + sum(sum(row.labels.values()) for row in example.rows)
        made.days = (example.at - began) / DAY
        learned += example.arm == "learned"
        for alert in monitor.see(example):
            made.alerts.append((made.requests, made.events, alert.kind, alert.segment))
            print(f"  seed {seed}, request {made.requests:,}: {headline(alert)}")
        if learned // QUIET > done:
            done = int(learned // QUIET)
            made.always.append((made.requests, made.events))
    return made


def figures(stable: list[Run], drifted: list[Run], of: str) -> dict[str, Any]:
    """Alerts a stable day, share of drifts detected, and delays, of the monitor (`alerts`) or a rule."""

    def found(one: Run) -> list[Any]:
        return [] if of == "never" else list(getattr(one, of) or [])

    days = sum(one.days for one in stable)
    first = [(one, one.after(found(one))[0]) for one in drifted if one.after(found(one))]
    requests = [at[0] - one.drift[0] for one, at in first if one.drift]
    events = [at[1] - one.drift[1] for one, at in first if one.drift]
    return {
        "stable_runs": len(stable),
        "stable_runs_with_an_alert": sum(bool(found(one)) for one in stable),
        "stable_days": round(days, 2),
        "alerts_a_stable_day": sum(len(found(one)) for one in stable) / days,
        "drifted_runs": len(drifted),
        "detected": len(first) / max(len(drifted), 1),
        "alerts_after_a_drift": float(np.mean([len(one.after(found(one))) for one in drifted])),
        "alerts_before_a_drift": sum(len(one.before(found(one))) for one in drifted),
        "delay_requests": quantiles(requests),
        "delay_events": quantiles(events),
    }


def quantiles(values: list[int]) -> dict[str, float] | None:
    """Median and extremes."""
    if not values:
        return None
    return {"median": float(np.median(values)), "least": float(min(values)), "most": float(max(values))}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="worlds")] = 10,
    work: Annotated[Path | None, typer.Option(help="folder for worlds and models, kept and used again")] = None,
    out: Annotated[Path, typer.Option(help="where the figures go")] = OUT,
) -> None:
    """Measure the drift monitor."""
    folder = work or Path(mkdtemp(prefix="feedloop-drift-"))
    began, result = time.time(), {}
    for seed in range(seeds):
        loop.seeded(seed, folder / str(seed))
    for traffic in TRAFFIC:
        print(f"{traffic.name}: {traffic.requests:,} requests a run, half of the people drift after {traffic.drift:,}")
        stable = [run(seed, folder / str(seed), traffic, False) for seed in range(seeds)]
        drifted = [run(seed, folder / str(seed), traffic, True) for seed in range(seeds)]
        rules = {"monitor": "alerts", "always fires": "always", "never fires": "never"}
        result[traffic.name] = {name: figures(stable, drifted, of) for name, of in rules.items()} | {
            "kinds": sorted({one.after(one.alerts or [])[0][2] for one in drifted if one.after(one.alerts or [])})
        }
        print(result[traffic.name])
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {"budget": BUDGET, "unit": UNIT, "quiet": QUIET, "share": SHARE, "seconds": round(time.time() - began)}
        out.write_text(json.dumps({"about": about, "figures": result}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
