"""What each part of the served model is worth in front of people, in the closed loop of `benchmarks.loop`.

A champion is trained on a world's past without the part, with it otherwise alike, and serves the same people for good; features
follow what they do. Shares of the best possible click-through are of the learned arm, differences are paired with the whole
model's in the same worlds and of the same training seeds, intervals by bootstrap over users. Beside them the figures of the
past's last tenth, which no training saw. Then the learner, serving untried after a drift, with replay and without.

`python -m benchmarks.parts [--only "without ids"] [--worlds DIR]` writes var/parts.json after every run, in place of the run
before of that name; `python -m benchmarks.report` makes the tables of docs/learning.md of it.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import page
from benchmarks.learning import PER_STEP, POLICY, run_one, seed_world
from benchmarks.loop import learned, start
from benchmarks.objective import differences, share
from benchmarks.page import table
from feed.evaluation import holdout
from feed.evaluation.holdout import Visits
from feed.features import FeatureSpace, Inputs, ItemTable, UserFeatures
from feed.models import heads
from feed.models.pairs import CHUNK, SAMPLED, Chunks, Log, pairs_of
from feed.models.snapshot import Snapshot
from feed.models.train import Further, train
from feed.models.two_tower import VECTOR, TwoTower
from feed.objective import TASKS
from feed.settings import FUTURE_SECONDS
from offline import bootstrap
from offline.bootstrap import Frozen, Slices
from offline.evaluate import commit

OUT = Path(__file__).parents[1] / "var" / "parts.json"
WHOLE = "served"
LEARNERS = {"learner": True, "learner without replay": False}
REQUESTS = 3000
DRIFT_AT, LEARNER_REQUESTS, AT_THE_END = 3000, 9000, 1500
FIGURES = {"auc": "AUC", "auc_looked_at": "AUC, looked at", "ndcg_at_10": "NDCG@10"}
Runs = list[dict[str, Any]]


def same(inputs: Inputs) -> Inputs:
    """Nothing is left out."""
    return inputs


def bags(*names: str) -> Callable[[Inputs], Inputs]:
    """These bags are empty."""
    return lambda inputs: dataclasses.replace(
        inputs, bag_weights={name: w * (name not in names) for name, w in inputs.bag_weights.items()}
    )


def one_segment(inputs: Inputs) -> Inputs:
    """Everybody is in the first segment."""
    return dataclasses.replace(inputs, segment=np.zeros_like(inputs.segment))


@dataclass(frozen=True)
class Part:
    """What is left out. `users`, `items`: of what the towers read (`items` is told their space, too); `near`: co-visitation;
    `left`: rows looked at and left; `drawn`: items drawn; `tasks`: the weight of what heads add to the towers' loss.
    """

    users: Callable[[Inputs], Inputs] = same
    items: Callable[[Inputs, FeatureSpace], Inputs] = lambda inputs, space: inputs
    near: bool = True
    left: bool = True
    drawn: bool = True
    tasks: float = 0.0


def without_ids(inputs: Inputs, space: FeatureSpace) -> Inputs:
    """No item has a row of its own."""
    return dataclasses.replace(
        inputs, categorical=inputs.categorical * [name != "item" for _, name in space.item_spec.categorical]
    )


def without_counts(inputs: Inputs, space: FeatureSpace) -> Inputs:
    """All numbers of items are at their mean."""
    return dataclasses.replace(inputs, numeric=np.zeros_like(inputs.numeric))


def without_content(inputs: Inputs, space: FeatureSpace) -> Inputs:
    """Items have a row of their own, if they have one, and counts."""
    only = inputs.categorical * [name == "item" for _, name in space.item_spec.categorical]
    return dataclasses.replace(bags("tags")(inputs), categorical=only)


PARTS: Mapping[str, Part] = {
    WHOLE: Part(),
    "without co-visitation": Part(near=False),
    "one weight of co-visitation for all": Part(users=one_segment),
    "without history": Part(users=bags("recent")),
    "without affinities": Part(users=bags("categories", "creators", "tags", "lately_categories", "lately_tags")),
    "without ids": Part(users=bags("recent"), items=without_ids),
    "without content": Part(items=without_content),
    "without counts": Part(items=without_counts),
    "without shown-but-skipped": Part(left=False),
    "without drawn items": Part(drawn=False),
    "towers learn tasks, 0.1": Part(tasks=0.1),
    "towers learn tasks, 1": Part(tasks=1.0),
}


class Narrowed(FeatureSpace):
    """A space without a part."""

    part = Part()

    @classmethod
    def of(cls, space: FeatureSpace, part: Part) -> "Narrowed":
        """As `space`, without `part`."""
        found = cls.from_json(space.to_json())
        found.part = part
        return found

    def frozen_users(self, users: Sequence[UserFeatures]) -> Inputs:
        """As of any space, but for the part."""
        return self.part.users(super().frozen_users(users))

    def item_inputs(self, table: ItemTable, rows: np.ndarray | None, now: float) -> Inputs:
        """As of any space, but for the part."""
        return self.part.items(super().item_inputs(table, rows, now), self)

    def chunks(self, chunks: Chunks) -> Chunks:
        """Frozen in the whole space."""
        return dataclasses.replace(
            chunks,
            users=self.part.users(chunks.users),
            items=self.part.items(chunks.items, self),
            near=chunks.near * self.part.near,
            negative=chunks.negative & self.part.drawn,
        )

    def visits(self, groups: Sequence[Visits]) -> list[Visits]:
        """Frozen in the whole space."""
        return [
            dataclasses.replace(group, users=self.part.users(group.users), items=self.part.items(group.items, self))
            for group in groups
        ]


class MultiTask(TwoTower):
    """Towers with a head a task, trained with them: sigmoid(softplus(a_k) <u, v> + <w_k, u * v> + b_k)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heads = nn.Linear(VECTOR, len(TASKS))
        nn.init.zeros_(self.heads.weight)
        self.slopes = nn.Parameter(torch.zeros(len(TASKS)))


def tasks_loss(labels: np.ndarray, weight: float) -> Further:
    """Binary cross-entropy of what followed, `labels` bool (c, p, tasks), summed over tasks and rows, a positive row."""

    def loss(model: TwoTower, chunks: Chunks, which: np.ndarray) -> Tensor:
        assert isinstance(model, MultiTask)
        u = model.user_logits(chunks.users.take((which[:, None] * CHUNK + np.arange(CHUNK)).ravel()))
        v = model.item_logits(chunks.items.take((which[:, None] * (CHUNK + SAMPLED) + np.arange(CHUNK)).ravel()))
        z = u[:, :VECTOR] * v
        logits = model.heads(z) + F.softplus(model.slopes) * z.sum(dim=1, keepdim=True)
        wanted = torch.from_numpy(labels[which].reshape(logits.shape)).float()
        positives = max(1, int(chunks.positive[which].sum()))
        return weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / positives

    return loss


class Past:
    """A world's past, frozen for training: with the rows that were looked at and left, and without."""

    def __init__(self, seed: int, data: Path) -> None:
        self.log: Log = bootstrap.read(data, (), FUTURE_SECONDS)
        self.slices = bootstrap.slices_of(pairs_of(self.log, seed), data)
        self._seed = seed
        self._frozen: dict[bool, Frozen] = {}

    def frozen(self, left: bool) -> tuple[Frozen, Slices]:
        """And the slices it was frozen from."""
        trained = self.slices.trained if left else [pair for pair in self.slices.trained if pair.positive]
        slices = dataclasses.replace(self.slices, trained=trained)
        if left not in self._frozen:
            with Progress(disable=True) as progress:
                self._frozen[left] = bootstrap.freeze(self.log, slices, self._seed, progress)
        return self._frozen[left], slices


def train_without(part: Part, past: Past, seed: int) -> tuple[Snapshot, dict[str, float]]:
    """The champion, and its figures on the past's last tenth; its score is the logit alone, which is what worlds keep."""
    frozen, slices = past.frozen(part.left)
    space = Narrowed.of(frozen.space, part)
    judged, measured = space.visits(frozen.judged), space.visits(frozen.measured)
    more: dict[str, Any] = {}
    if part.tasks:
        positive = frozen.chunks.positive
        labels = heads.followed(past.log, slices.trained)[: positive.size].reshape(*positive.shape, len(TASKS))
        more = {"kind": MultiTask, "further": tasks_loss(labels, part.tasks)}
    trained = train(
        space, space.chunks(frozen.chunks), lambda model: bootstrap.auc(model, judged),
        epochs=bootstrap.EPOCHS, seed=seed, **more,
    )  # fmt: skip
    figures = holdout.per_visit(measured, lambda visits: bootstrap.logits(trained.model, visits), 0)
    return Snapshot(trained.model, space, {}), {name: float(np.nanmean(values)) for name, values in figures.items()}


def serve(seed: int, folder: Path, champion: Snapshot) -> dict[str, Any]:
    """Its requests."""
    loop, _, _ = start(seed, folder, POLICY)
    loop.serve(champion, "v", 1)
    while len(loop.requests.user) < REQUESTS:
        loop.step(PER_STEP)
    return learned(vars(loop.requests))


def learn(seed: int, worlds: Path, replay: bool) -> dict[str, Any]:
    """The last requests of a learner whose versions serve untried, after a drift."""
    run = run_one(seed, "ungated", DRIFT_AT, LEARNER_REQUESTS, worlds, replay)
    return learned(vars(run), LEARNER_REQUESTS - AT_THE_END)


def tables(measured: dict[str, Any]) -> dict[str, str]:
    """Markdown by name."""
    runs: Runs = measured["runs"]
    rows = []
    for name in [name for name in (*PARTS, *LEARNERS) if any(run["row"] == name for run in runs)]:
        whole = WHOLE if name in PARTS else next(iter(LEARNERS))
        of, to = ([run for run in runs if run["row"] == row] for row in (name, whole))
        cells = [name, f"{share(of):.1%} ({len(of)})", "" if name == whole else points(of, to)]
        for figure in FIGURES:
            values = [run["figures"][figure] for run in of if run["figures"]]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        rows.append(cells)
    found = [run for run in runs if run["row"] in PARTS]
    worlds, trainings = ({run[name] for run in found} for name in ("seed", "training"))
    commits = ", ".join(sorted({run["commit"] for run in runs}))
    setting = (
        f"{len(worlds)} worlds, {len(trainings)} trainings each, {REQUESTS:,} requests; the learner: {DRIFT_AT:,} requests, a "
        f"drift, then the last {AT_THE_END:,} of {LEARNER_REQUESTS:,}; measured at {commits}."
    )
    header = ["", "share of the best (runs)", "points less the whole's", *FIGURES.values()]
    return {"parts": f"{setting}\n\n{table(header, rows)}"}


def paired(mine: Runs, others: Runs) -> tuple[Runs, Runs]:
    """Those in worlds and of trainings that both have, in the same order."""
    of, to = ({(run["seed"], run.get("training", 0)): run for run in runs} for runs in (mine, others))
    both = [key for key in of if key in to]
    return [of[key] for key in both], [to[key] for key in both]


def points(mine: Runs, others: Runs) -> str:
    """Share of the one less that of the other in points, with its interval, and in how many runs it is ahead."""
    of, to = paired(mine, others)
    if not of:
        return ""
    ahead = sum(share([a]) > share([b]) for a, b in zip(of, to, strict=True))
    return page.points(*differences(of, to), ahead, len(of))


def main() -> None:
    """Run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help=f"of {', '.join((*PARTS, *LEARNERS))}; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="worlds")
    parser.add_argument("--trainings", type=int, default=1, help="of each world and part")
    parser.add_argument("--worlds", type=Path, help="folder of seeded worlds to keep and reuse")
    options = parser.parse_args()
    names = options.only or [*PARTS, *LEARNERS]
    if wrong := [name for name in names if name not in (*PARTS, *LEARNERS)]:
        parser.error(f"--only {wrong[0]!r} is none of {', '.join((*PARTS, *LEARNERS))}")
    torch.set_num_threads(1)
    runs: Runs = json.loads(OUT.read_text())["runs"] if OUT.exists() else []
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        worlds = options.worlds or Path(temporary)
        pasts: dict[int, Past] = {}
        for training, seed in [(training, seed) for training in range(options.trainings) for seed in range(options.seeds)]:
            seed_world(seed, worlds)
            folder = worlds / str(seed)
            past = pasts[seed] = pasts.get(seed) or Past(seed, folder / "data")
            for name in names:
                figures: dict[str, float] = {}
                if name in PARTS:
                    champion, figures = train_without(PARTS[name], past, training)
                    columns = serve(seed, folder, champion)
                elif training == 0:
                    columns = learn(seed, worlds, LEARNERS[name])
                else:
                    continue  # a learner draws nothing but from its log
                run = {"row": name, "seed": seed, "training": training, "commit": commit(), "figures": figures, **columns}
                key = (name, seed, training)
                runs = [old for old in runs if (old["row"], old["seed"], old["training"]) != key] + [run]
                OUT.parent.mkdir(exist_ok=True)
                OUT.write_text(json.dumps({"runs": runs}) + "\n")
                print(f"world {seed}, training {training}, {name}: {share([run]):.4f}", flush=True)
    print("\n\n".join(tables({"runs": runs}).values()))


if __name__ == "__main__":
    main()
