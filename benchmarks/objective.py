"""What tables of weights and the popularity correction do in the closed loop of `benchmarks.loop`, and what heads say there.

For each world the same frozen champion and people, ranked by the logit, by tables, and with the correction dialled up:

    share        of the best possible click-through, in the learned arm; expected clicks, so that chance counts little
    coverage     different items shown in the learned arm over all items
    popularity   of what was shown there: mean decayed positives over the catalogue's mean, as of the moment
    clicks, ...  in 1,000 requests of the learned arm

and of a learner that goes on from the champion with its heads: what they predict after `LEARNED_FROM` examples, what followed.

`python -m benchmarks.objective [--seeds 3] [--requests 2000] [--worlds DIR]` prints tables and writes var/objective.json.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.curves import ends, resamples
from benchmarks.learning import PER_STEP, POLICY, seed_world
from benchmarks.loop import learned, start
from benchmarks.page import table as markdown
from feed.events import Impression, kind
from feed.examples import Example
from feed.features.near import columns
from feed.learning.learner import Learner
from feed.models import heads
from feed.models.heads import DWELL_SECONDS
from feed.models.snapshot import Snapshot
from feed.models.two_tower import NEAR
from feed.objective import TASKS, Objective
from feed.ranking.types import LEARNED
from producers.audience import TOP

OUT = Path(__file__).parents[1] / "var" / "objective.json"
TABLE = "click=1 like=2 share=3 comment=3 dwell=0.3 hide=-10"
SETTINGS = (("", 0.0), ("", 0.1), ("", 0.3), ("", 1.0), ("click=1", 0.0), (TABLE, 0.0), ("click=1 hide=-100", 0.0))
LEARNED_FROM, JUDGED_ON = 2000, 1000  # examples


def run(seed: int, folder: Path, table: str, dial: float, requests: int) -> dict[str, Any]:
    """One audience in front of one way of ranking."""
    policy = replace(POLICY, objective=Objective.parse(table), popularity_correction=dial)
    loop, champion, version = start(seed, folder, policy)
    loop.serve(champion, version, 1)
    done, shown, popularity = Counter[str](), set[str](), []
    while len(loop.requests.user) < requests:
        counts = loop.state.items.popularity(loop.now)
        loop.step(PER_STEP)
        for event in (event for visit in loop.visits if visit.arm == LEARNED for event in visit.events):
            done[kind(event)] += 1
            if isinstance(event, Impression):
                top = [item.item_id for item in event.items[:TOP]]
                shown.update(top)
                places = [place for item_id in top if (place := loop.state.items.row(item_id)) is not None]
                popularity.append(float(counts[places].mean() / counts.mean()))
    columns = learned(vars(loop.requests))
    return {
        "seed": seed, "table": table, "dial": dial, **columns,
        "coverage": len(shown) / len(loop.state.items), "popularity": float(np.mean(popularity)),
        "done": {name: 1000 * done[name] / len(columns["user"]) for name in (*TASKS[:4], "hide")},
    }  # fmt: skip


def share(runs: Sequence[dict[str, Any]]) -> float:
    """Of the best possible click-through."""
    return sum(sum(run["expected"]) for run in runs) / sum(sum(run["best"]) for run in runs)


def differences(runs: Sequence[dict[str, Any]], to: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Share of `runs` less that of `to`, the same worlds, with a 95 % interval from a bootstrap over users."""
    users = sorted({(run["seed"], user) for run in (*runs, *to) for user in run["user"]})
    row = {user: k for k, user in enumerate(users)}

    def sums(of: Sequence[dict[str, Any]]) -> np.ndarray:
        total = np.zeros((2, len(users)))
        for one in of:
            at = [row[one["seed"], user] for user in one["user"]]
            np.add.at(total[0], at, one["expected"])
            np.add.at(total[1], at, one["best"])
        return total

    drawn, a, b = resamples(len(users)), sums(runs), sums(to)
    low, high = ends((drawn @ a[0]) / (drawn @ a[1]) - (drawn @ b[0]) / (drawn @ b[1]))
    return float(a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()), low, high


def carried(seed: int, folder: Path) -> dict[str, Any]:
    """The champion's heads on its own weights and on those of a learner after `LEARNED_FROM` examples, on the next ones."""
    loop, champion, version = start(seed, folder, POLICY)
    loop.serve(champion, version, 1)
    learner = Learner.begin(version, champion, lambda name: (name, champion))
    examples: list[Example] = list(loop.past)
    before = len(examples)
    while len(examples) < before + LEARNED_FROM + JUDGED_ON:
        examples += loop.step(PER_STEP)
    for offset, example in enumerate(examples[: before + LEARNED_FROM]):
        learner.take(offset, example)
    later = [example for example in examples[before + LEARNED_FROM :] if not example.organic]
    learned = Snapshot(learner.weights.average, learner.space, {}, learner.heads)
    return {"seed": seed, "steps": learner.progress.steps} | {
        f"{name}, {arm}": judged(of, [example for example in later if example.arm == arm])
        for name, of in (("champion", champion), ("learner", learned))
        for arm in dict.fromkeys(example.arm for example in later)
    }


@torch.no_grad()
def judged(of: Snapshot, examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Predicted, followed and log-loss of each head over the rows that were looked at."""
    z, labels = [], []
    for example in examples:
        if rows := [row for row in example.rows if row.labels]:
            u = of.model.terms(of.space.frozen_users([example.user]))
            v = of.model.item_vectors(of.space.frozen_items([row.item for row in rows]))
            v[:, -NEAR:] = torch.from_numpy(columns(np.array([row.near for row in rows])))
            z.append((u * v).double().numpy())
            labels += [
                [row.dwell_ms > 1000 * DWELL_SECONDS if task == "dwell" else task in row.labels for task in TASKS]
                for row in rows
            ]
    followed = np.array(labels)
    return heads.figures(of.heads, followed, np.concatenate(z), followed)


def lines(runs: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of all runs."""
    columns = "ranked by", "share of the best", "less the logit's", "coverage", "popularity", "clicks", "likes", "shares"
    told = []
    logit = [run for run in runs if (run["table"], run["dial"]) == SETTINGS[0]]
    for table, dial in SETTINGS:
        mine = [run for run in runs if (run["table"], run["dial"]) == (table, dial)]
        if not mine:
            continue
        worlds = {run["seed"] for run in mine}
        points, low, high = differences(mine, [run for run in logit if run["seed"] in worlds])
        name = (f"`{table}`" if table else "logit") + (f" - {dial:g} log popularity" if dial else "")
        coverage, popularity = (float(np.mean([run[column] for run in mine])) for column in ("coverage", "popularity"))
        done = [f"{np.mean([run['done'][task] for run in mine]):.1f}" for task in mine[0]["done"]]
        ahead = f"{100 * points:+.1f} ({100 * low:+.1f} – {100 * high:+.1f})"
        told.append([name, f"{share(mine):.1%}", ahead, f"{coverage:.1%}", f"{popularity:.2f}", *done])
    return markdown([*columns, "comments", "hides"], told)


def main() -> None:
    """Run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--worlds", type=Path, help="folder of seeded worlds to keep and reuse")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        worlds = options.worlds or Path(temporary)
        runs: list[dict[str, Any]] = []
        learners: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            seed_world(seed, worlds)
            for table, dial in SETTINGS:
                runs.append(run(seed, worlds / str(seed), table, dial, options.requests))
                print(lines(runs), flush=True)
            learners.append(carried(seed, worlds / str(seed)))
            print(json.dumps(learners[-1]), flush=True)
            OUT.parent.mkdir(exist_ok=True)
            OUT.write_text(json.dumps({"requests": options.requests, "runs": runs, "learners": learners}) + "\n")


if __name__ == "__main__":
    main()
