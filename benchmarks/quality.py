"""`make bench-quality`: how well the served model ranks a log beside the baselines, learning online and frozen.

    movielens   MovieLens-100K, positives are ratings 4 and 5; a seed is one of codes, draws and ties
    world       a simulated world of 1,000 users and 2,000 items, 50,000 engagements of its past; a seed is another world

Everything is ranked by the functions of `offline/evaluate.py`, progressively and on its tuning slice: what is tried again and
again must not be tried on the test slice. Baselines are tuned there as always, for the first seed; others take what was found.

`python -m benchmarks.quality [--log world] [--only served --only "served, frozen"] [--seeds 0,1,2]` writes var/quality.json
after every run, in place of the run before of that name; `python -m benchmarks.report` makes tables and plots of it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from feed import dataset, errors, settings
from feed.dataset import Dataset
from feed.errors import BadSetting
from feed.evaluation.models import Parameters
from feed.evaluation.protocol import Outcome
from feed.evaluation.rows import Log, load
from feed.evaluation.slices import slices
from feed.events import POSITIVES
from offline import evaluate
from producers import history, movielens
from producers.world import World

OUT = Path(__file__).parents[1] / "var" / "quality.json"
USERS, ITEMS, INTERACTIONS = 1000, 2000, 50_000
FROZEN, ONLINE = 0, 1  # weights learn never, or every target

Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A log for each seed and what counts as positive in it."""

    make: Callable[[int], Dataset]
    positive: Sequence[str]


@dataclass(frozen=True)
class Row:
    """A line of the tables: a model with some parameters given, or taken over from the row `like`; the others are tuned."""

    model: str
    learn_every: int = FROZEN
    fixed: Parameters = field(default_factory=dict)
    like: str | None = None


def world(seed: int) -> Dataset:
    """A simulated world's past."""
    made = World(USERS, ITEMS, seed)
    return dataset.from_events(history.make(made, INTERACTIONS).events, made.items, made.users)


SOURCES = {"movielens": Source(lambda seed: movielens.load(), ("like",)), "world": Source(world, sorted(POSITIVES))}
BASELINES: Mapping[str, Row] = {
    "popular": Row("popular"),
    "decayed-popular": Row("decayed-popular"),
    "item-knn": Row("item-knn"),
    "als": Row("als"),
    "bpr": Row("bpr"),
    "ease": Row("ease"),
    "ease-prior": Row("ease-prior"),
    "sasrec": Row("sasrec", fixed={"width": 64, "layers": 2}),  # as its authors have it; tuning these too takes an hour
    "naive-two-tower, frozen": Row("naive-two-tower", fixed={"online_rate": 0.0}),
    "naive-two-tower": Row("naive-two-tower", ONLINE, like="naive-two-tower, frozen"),
    "prior": Row("prior", ONLINE),
    "prior-covisitation": Row("prior-covisitation", ONLINE),
}
OURS: Mapping[str, Row] = {"served": Row("served", ONLINE), "served, frozen": Row("served")}
ROWS = {**BASELINES, **OURS}


def measure(name: str, log_name: str, seed: int, data: Dataset, known: Runs) -> dict[str, Any]:
    """One row on one log: who was ranked when, what it was worth, and the report of `offline/evaluate.py`."""
    row, positive = ROWS[name], SOURCES[log_name].positive
    window = settings.load().attribution_seconds
    log = load(data, positive, window, seed)
    fixed, tune = parameters(name, log_name, seed, known)
    plan = evaluate.Plan(row.model, "progressive", 1, row.learn_every, seed, fixed, tune)
    outcome, result = evaluate.run(data, plan, log, slices(log.rows), test=False)
    return {"log": log_name, "row": name, "seed": seed, **result, **columns(outcome, log)}


def parameters(name: str, log_name: str, seed: int, known: Runs) -> tuple[Parameters, bool]:
    """What is given, and whether the rest is to be tuned: not where another seed has done it."""
    row, mine = ROWS[name], [run for run in known if run["log"] == log_name]
    for run in mine:
        if run["row"] == name and run["seed"] != seed and run["tuned"]:
            return run["run"]["parameters"], False
    like: Parameters = next((run["run"]["parameters"] for run in mine if run["row"] == row.like), {})
    taken = {key: value for key, value in like.items() if key not in ROWS[str(row.like)].fixed}
    return {**taken, **row.fixed}, True


def columns(outcome: Outcome, log: Log) -> dict[str, list[Any]]:
    """Of each target the row of the log, the user with the number of earlier events, whether the item is younger than a day,
    and NDCG@10."""
    targets = outcome.targets
    return {
        "key": targets.key.tolist(),
        "user": log.user_ids[targets.user].tolist(),
        "earlier": targets.earlier.tolist(),
        "young": np.isin(targets.key, outcome.young.key).astype(int).tolist(),
        "ndcg": targets.values["ndcg_at_10"].round(5).tolist(),
    }


def main(
    log: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(SOURCES)}; default: both")] = None,
    only: Annotated[list[str] | None, typer.Option(help="rows to run, as they are named in docs/quality.md")] = None,
    seeds: Annotated[str, typer.Option(help="seeds, separated by commas")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="where the runs go")] = OUT,
) -> None:
    """Measure."""
    torch.set_num_threads(evaluate.THREADS)
    for name, given, known in (("--log", log, SOURCES), ("--only", only, ROWS)):
        if wrong := [one for one in given or () if one not in known]:
            raise BadSetting(f"{name} {wrong[0]!r} is none of {', '.join(known)}")
    if not all(seed.isdigit() for seed in seeds.split(",")):
        raise BadSetting(f"--seeds {seeds!r}: whole numbers are needed, like 0,1,2")
    runs: Runs = json.loads(out.read_text())["runs"] if out.exists() else []
    for seed in map(int, seeds.split(",")):
        for log_name in log or SOURCES:
            data = SOURCES[log_name].make(seed)
            for name in only or ROWS:
                run = measure(name, log_name, seed, data, runs)
                runs = [old for old in runs if (old["log"], old["row"], old["seed"]) != (log_name, name, seed)] + [run]
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps({"runs": runs}) + "\n")
                figure, seconds = run["figures"]["all"]["ndcg_at_10"], run["figures"]["seconds"]
                took = ", ".join(f"{what} {value:.0f} s" for what, value in seconds.items())
                print(f"{log_name} {seed}, {name}: NDCG@10 {figure['mean']:.4f}; {took}", flush=True)


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
