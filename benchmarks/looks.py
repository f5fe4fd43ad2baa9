"""What rows shown and left are worth where no view says who looked (decision 10), in the closed loop of `benchmarks.loop`.

Views are taken out of each world's past and out of all that its people do later. They reach nobody; only that people are not
shown again what they have looked at is as in other benchmarks. On such a past bootstrap trains three times,

    taken    nothing that was only shown is a negative
    shown    all that was shown and left is one
    drawn    of that as much as people look at, by the log itself (`feed.models.examination`), as bootstrap does

and each is served with frozen weights for `--drift-at` requests. Then, from the version `drawn` on, where tastes stay and where
those of half of the people change after that many requests,

    frozen     that version for ever
    without    a learner that learns from no row that was shown and left; every version that it publishes serves at once
    with       the same, but as many of these rows pass as looked at (`feed.learning.loss`), as learners do

Share is that of the best possible click-through, of the learned arm. AUC: is what was taken ranked above what stood at the same
place and was not, over the rows of all people together; of bootstraps in the last eleventh of the past, of learners in front
of what `frozen` served, each 900 examples before they are learned from. Intervals are 95 %, by bootstrap over users.

`python -m benchmarks.looks [--seeds 2] [--requests 9000] [--drift-at 3000] [--worlds DIR]` prints tables and writes
var/looks.json.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
import torch

from benchmarks.curves import Interval, Scenario, ends, resamples, scenarios
from benchmarks.learning import PER_STEP, POLICY, PUBLISH, Online, Run
from benchmarks.loop import Loop
from benchmarks.page import interval, points, table
from feed import dataset
from feed.events import Event, Impression, View
from feed.examples import Example
from feed.features.near import columns
from feed.learning.learner import Learner
from feed.learning.loss import join, prepare
from feed.models import examination, snapshot
from feed.models.snapshot import Snapshot
from feed.models.two_tower import NEAR
from feed.ranking.types import Feed
from feed.registry import Registry
from offline import bootstrap
from producers import generate
from producers.audience import Served
from producers.live import served
from producers.world import World

OUT = Path(__file__).parents[1] / "var" / "looks.json"
DEEP = replace(POLICY, feed_size=200)  # what people have looked at is left out afterwards, so a feed must be longer than a page
LAST = 11  # of so many parts of the past: later than all that bootstrap trains on
BOOTSTRAPS, LEARNERS = ("taken", "shown", "drawn"), ("frozen", "without", "with")
NAMES = ("tastes stay", "tastes change")


class Unseen(Loop):
    """A loop whose log has no views."""

    def __init__(self, world: World, events: Sequence[Event], seed: int) -> None:
        super().__init__(world, events, seed, DEEP)
        for event in events:
            if isinstance(event, View):
                self.audience.remember(event.user_id, [event.item_id])

    def heard(self, events: Sequence[Event]) -> Sequence[Event]:
        """All but the views."""
        return unseen(events)

    def shown(self, feed: Feed) -> Served:
        """The first of what its user has not looked at."""
        seen, row = self.audience.seen[self.world.user_row[feed.user_id]], self.world.item_row
        return served(msgspec.structs.replace(feed, items=tuple(item for item in feed.items if row[item.item_id] not in seen)))


def unseen(events: Sequence[Event]) -> list[Event]:
    """Without the views."""
    return [event for event in events if not isinstance(event, View)]


def all_shown(events: Sequence[Event], seed: int) -> dict[int, list[str]]:
    """As `examination.looks`, had people looked at everything."""
    return {i: [row.item_id for row in event.items] for i, event in enumerate(events) if isinstance(event, Impression)}


LOOKS: Mapping[str, Callable[[Sequence[Event], int], dict[int, list[str]]]] = {
    "taken": lambda events, seed: {},
    "shown": all_shown,
    "drawn": examination.looks,
}


def past(seed: int, folder: Path) -> list[Event]:
    """A world's past, with its views; made if it is not there, and beside it the same without them."""
    if not (folder / "unseen").exists():
        generate.generate(folder / "data", 1000, 5000, 50_000, seed)
        tables = dataset.read(folder / "data")
        heard = unseen(list(dataset.events_of(tables)))
        dataset.write(
            dataset.from_events(heard, list(dataset.items_of(tables)), list(dataset.users_of(tables))), folder / "unseen"
        )
    return list(dataset.events_of(dataset.read(folder / "data")))


def bootstrapped(kind: str, seed: int, folder: Path) -> Snapshot:
    """What was trained on the past without views; as it is if it is there."""
    registry = Registry(folder / kind)
    if registry.champion() is None:
        with mock.patch.object(examination, "looks", LOOKS[kind]):
            bootstrap.run(folder / "unseen", folder / kind, seed=seed)
    champion = registry.champion()
    assert champion is not None
    return snapshot.load(champion.path)


def act(loop: Loop, kind: str, start: Snapshot, requests: int, drift_at: int | None) -> tuple[Run, list[Example]]:
    """People in front of this version and, by `kind`, of what a learner makes of it; also the examples that came of it."""
    columns = loop.requests
    run = Run(loop.world.seed, kind, drift_at, columns.user, columns.arm, columns.expected, columns.best)
    loop.serve(start, "start", 1)
    examples: list[Example] = []
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        registry = Registry(Path(temporary))
        registry.promote(registry.publish(lambda folder: save(folder, start)))
        online = Online(loop, Path(temporary), run, gated=False, replay=True) if kind in ("without", "with") else None
        if online:
            online.see(loop.past, past=True)
        while len(run.user) < requests:
            if len(run.user) >= (drift_at or requests) and not any(what == "drift" for _, what in run.happened):
                loop.drift(0.5)
                run.happened.append((len(run.user), "drift"))
            found = loop.step(PER_STEP)
            run.events += [len(visit.events) for visit in loop.visits]
            examples += found
            if online:
                online.see(found)
    return run, examples


def save(folder: Path, of: Snapshot) -> None:
    """All of a version that learners go on with."""
    snapshot.save(folder, of.model, of.space, of.manifest, heads=of.heads, examination=of.examination)


class Ranked(NamedTuple):
    """n rows of examples: `stratum` int64 (n,), within which they are compared; `taken` bool (n,); `user` str (n,); `logits`
    float64 (n,) by whose they are."""

    stratum: np.ndarray
    taken: np.ndarray
    user: np.ndarray
    logits: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, examples: Sequence[Example], by: Mapping[str, Snapshot]) -> "Ranked":
        """The rows of what was shown, by place."""
        shown = [example for example in examples if not example.organic]
        rows = [(row.position or 0, row.positive, example.user.user_id) for example in shown for row in example.rows]
        place, taken, user = (np.array(column) for column in zip(*rows, strict=True))
        return cls(place, taken, user, {kind: logits(model, shown) for kind, model in by.items()})

    @classmethod
    def concat(cls, parts: Sequence["Ranked"]) -> "Ranked":
        """Rows of different parts are not compared."""
        strata = np.concatenate([k * examination.PLACES + part.stratum for k, part in enumerate(parts)])
        taken, user = np.concatenate([part.taken for part in parts]), np.concatenate([part.user for part in parts])
        return cls(
            strata, taken, user, {kind: np.concatenate([part.logits[kind] for part in parts]) for kind in parts[0].logits}
        )

    def auc(self) -> dict[str, np.ndarray]:
        """float64 (1 + DRAWS,) by whose: the AUC within strata, then that in resamples of the users."""
        names, number = np.unique(self.user, return_inverse=True)
        often = np.vstack([np.ones(len(names)), resamples(len(names))])
        found = {}
        for kind, mine in self.logits.items():
            right, pairs = np.zeros(len(often)), np.zeros(len(often))
            for stratum in np.unique(self.stratum):
                rows = np.flatnonzero(self.stratum == stratum)
                rows = rows[np.argsort(mine[rows], kind="stable")]
                taken, left = (often[:, number[rows]] * of for of in (self.taken[rows], ~self.taken[rows]))
                right += (taken * np.cumsum(left, axis=1)).sum(axis=1)
                pairs += taken.sum(axis=1) * left.sum(axis=1)
            found[kind] = right / pairs
        return found


@torch.no_grad()
def logits(of: Snapshot, examples: Sequence[Example]) -> np.ndarray:
    """float64 (rows,): of the examples' rows, in order."""
    found = []
    for k in range(0, len(examples), 64):
        rows = join([prepare(example, of.space) for example in examples[k : k + 64]], [], of.space)
        u = of.model.user_vectors(rows.users)[torch.from_numpy(rows.owner)]
        near = (u[:, -NEAR:] * torch.from_numpy(columns(rows.near))).sum(dim=1)
        found.append(((u * of.model.item_vectors(rows.items)).sum(dim=1) + near).double().numpy())
    return np.concatenate(found)


def followed(starts: Mapping[str, Snapshot], before: Sequence[Example], examples: Sequence[Example]) -> Ranked:
    """What each version, and the learner that goes on from it if it is to, makes of examples before they are learned from."""
    learners = {
        kind: Learner.begin(kind, of, lambda name: (name, starts[name])) for kind, of in starts.items() if kind != "frozen"
    }
    offset, parts = 0, []
    for part in (before, *(examples[k : k + PUBLISH] for k in range(0, len(examples), PUBLISH))):
        if part is not before:
            now = {kind: Snapshot(one.weights.average, one.space, {}) for kind, one in learners.items()}
            parts.append(Ranked.of(part, {**starts, **now}))
        for learner in learners.values():
            for k, example in enumerate(part, offset):
                learner.take(k, example)
        offset += len(part)
    return Ranked.concat(parts)


def world(seed: int, folder: Path, requests: int, drift_at: int) -> tuple[list[Run], dict[str, Any]]:
    """All runs in one world; what bootstraps trained on, and the AUC by whose it is, first itself and then in resamples."""
    events = past(seed, folder)
    trained = {kind: bootstrapped(kind, seed, folder) for kind in BOOTSTRAPS}
    starts = {kind: trained["drawn"] for kind in LEARNERS} | {"without": replace(trained["drawn"], examination=None)}

    def loop() -> Loop:
        return Unseen(World(1000, 5000, seed), events, seed=0)

    runs = [act(loop(), kind, start, drift_at, None)[0] for kind, start in trained.items()]
    before = loop().past
    auc = {"bootstraps": Ranked.of(before[-(len(before) // LAST) :], trained).auc()}
    for name, drift in zip(NAMES, (None, drift_at), strict=True):
        for kind, start in starts.items():
            run, examples = act(loop(), kind, start, requests, drift)
            runs.append(run)
            if kind == "frozen":
                auc[name] = followed(starts, before, examples).auc()
    about = {kind: of.manifest["trained_on"] for kind, of in trained.items()}
    return runs, {
        "seed": seed,
        "trained_on": about,
        "auc": {of: {k: v.tolist() for k, v in a.items()} for of, a in auc.items()},
    }


def auc_of(drawn: np.ndarray) -> str:
    """An AUC that comes with its resamples."""
    return "{:.3f} ({:.3f} – {:.3f})".format(*drawn_interval(drawn))


def drawn_interval(drawn: np.ndarray) -> Interval:
    """Of a figure that comes with its resamples."""
    return float(drawn[0]), *ends(drawn[1:])


def bootstraps(runs: Sequence[dict[str, Any]], worlds: Sequence[dict[str, Any]], drift_at: int) -> str:
    """The Markdown table of what bootstrap takes for a negative."""
    mine = [run for run in runs if run["kind"] in BOOTSTRAPS]
    rows = []
    for one in worlds:
        (of,) = scenarios({"drift_at": drift_at, "runs": [run for run in mine if run["seed"] == one["seed"]]})
        auc = one["auc"]["bootstraps"]
        phase = next(iter(of.phases))
        cells = [f"{interval(*of.share(kind, phase))}, {auc_of(np.array(auc[kind]))}" for kind in BOOTSTRAPS]
        rows.append([f"world {one['seed']}: share, AUC", *cells])
        about = [one["trained_on"][kind] for kind in BOOTSTRAPS]
        rows.append(
            [f"world {one['seed']}: trained on", *(f"{of['pairs']:,} pairs, {of['positives']:,} positive" for of in about)]
        )
    (of,) = scenarios({"drift_at": drift_at, "runs": mine})
    rows.append(
        ["points of share less `taken`", "", *(points(*of.difference(kind, "taken", phase)) for kind in BOOTSTRAPS[1:])]
    )
    return table(["", *BOOTSTRAPS], rows)


def learners(of: Scenario, worlds: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of what learners learn from."""
    name = NAMES[of.drifts]
    rows = [[kind, *(interval(*of.share(kind, phase)) for phase in of.phases)] for kind in LEARNERS]
    pairs = ("with", "without"), ("with", "frozen"), ("without", "frozen")
    rows += [[f"{a} - {b}, points", *(points(*of.difference(a, b, phase)) for phase in of.phases)] for a, b in pairs]
    header = ["", *of.phases, *(f"AUC, world {one['seed']}" for one in worlds)]
    aucs = [{kind: np.array(drawn) for kind, drawn in one["auc"][name].items()} for one in worlds]
    for row, kind in zip(rows, LEARNERS, strict=False):
        row += [auc_of(auc[kind]) for auc in aucs]
    for row, (a, b) in zip(rows[len(LEARNERS) :], pairs, strict=True):
        row += ["{:+.3f} ({:+.3f} – {:+.3f})".format(*drawn_interval(auc[a] - auc[b])) for auc in aucs]
    return table(header, rows)


def page(result: dict[str, Any]) -> str:
    """All tables."""
    drift_at, worlds = result["drift_at"], result["worlds"]
    runs = [run for run in result["runs"] if run["kind"] in LEARNERS]
    parts = [bootstraps(result["runs"], worlds, drift_at)]
    for of in scenarios({"drift_at": drift_at, "runs": runs}):
        parts += [f"Where {NAMES[of.drifts]}:", learners(of, worlds)]
    return "\n\n".join(parts)


def main() -> None:
    """Run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=9_000)
    parser.add_argument("--drift-at", type=int, default=3_000)
    parser.add_argument("--worlds", type=Path, help="folder of worlds and what was trained in them, to keep and reuse")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"requests": options.requests, "drift_at": options.drift_at, "runs": [], "worlds": []}
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        for seed in range(options.seeds):
            folder = (options.worlds or Path(temporary)) / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            runs, about = world(seed, folder, options.requests, options.drift_at)
            result["runs"] += [vars(run) for run in runs]
            result["worlds"].append(about)
            OUT.parent.mkdir(exist_ok=True)
            OUT.write_text(json.dumps(result) + "\n")
            print(page(result), flush=True)


if __name__ == "__main__":
    main()
