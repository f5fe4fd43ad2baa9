"""`make demo-refusals`: six bad challengers against a champion trained on a simulated past, tried on what people do next.

The champion, the world, the examples and the trial are the real ones (`benchmarks.loop`, `feed.trial`); the challengers are
made bad on purpose. Half of the people get random feeds instead of the usual twentieth, so that evidence comes sooner. Exit
status 1 if one is promoted, or refused for another reason than its own. About two minutes, no servers.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.loop import Loop, seeded, start
from feed import errors
from feed.examples import Example, Row
from feed.features.frozen import UserFeatures, nearby
from feed.features.near import first_form
from feed.models.adam import Adam
from feed.models.pairs import pairs_of
from feed.models.snapshot import Snapshot
from feed.models.train import RATE, train
from feed.models.two_tower import VECTOR, TwoTower, near_logits
from feed.ranking.arms import Policy
from feed.settings import FUTURE_SECONDS
from feed.trial import Comparison, LastSeen, Scorer, Verdict, judge, level
from offline import bootstrap

USERS, ITEMS, INTERACTIONS = 600, 2000, 30_000
LIMIT = 6000  # requests with evidence: a trial in front of the public has 20,000
CHUNK = 64
BATCH, PASSES = 64, 5

console = Console()


@dataclass
class Bad:
    """A bad challenger: what is wrong with it, and what its verdict must be: the decision and words of the reason."""

    name: str
    scorer: Scorer
    decision: str
    reasons: tuple[str, ...]
    comparison: Comparison
    verdict: Verdict | None = None

    @property
    def right(self) -> bool:
        """Whether it was stopped, and for its own reason."""
        v = self.verdict
        return v is not None and v.decision == self.decision and v.why.startswith(self.reasons)


class Shifted(Scorer):
    """The same model with its intercept one logit higher."""

    def logits(self, examples: Sequence[Example], rows: Sequence[Row], owner: np.ndarray) -> np.ndarray:
        """As `Scorer.logits`."""
        return super().logits(examples, rows, owner) + 1.0

    def catalogue(self, examples: Sequence[Example], catalogue: LastSeen) -> np.ndarray:
        """As `Scorer.catalogue`."""
        return super().catalogue(examples, catalogue) + 1.0


def not_finite(champion: Snapshot) -> Snapshot:
    """One weight in each table of the champion's is NaN."""
    model = copy.deepcopy(champion.model)
    with torch.no_grad():
        for table in model.tables:
            table[:, 0] = float("nan")
    return replace(champion, model=model)


def popularity(champion: Snapshot) -> Snapshot:
    """Weights by which every user gets the same list: the items of which the most was taken within seven days."""
    model = TwoTower(champion.space.user_spec, champion.space.item_spec, champion.space.sizes).eval()
    column = champion.space.item_spec.numeric.index("engagement_7d")
    user, first, last = (
        cast(nn.Linear, tower.layers[k]) for tower, k in ((model.user_tower, 3), (model.item_tower, 0), (model.item_tower, 3))
    )
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        user.bias[0] = 1.0
        first.weight[0, column] = 1.0
        first.bias[0] = 5.0  # features are clipped at -5: ReLU takes nothing away
        last.weight[0, 0] = 1.0
    return replace(champion, model=model)


def shuffled_labels(data: Path, seed: int) -> Snapshot:
    """Trained as the champion was, but what was taken, left and never met is dealt out at random."""
    log = bootstrap.read(data, (), FUTURE_SECONDS)
    slices = bootstrap.slices_of(pairs_of(log), data)
    with Progress(transient=True) as progress:
        frozen = bootstrap.freeze(log, slices, seed, progress)
    space, chunks = frozen.space, frozen.chunks
    rng = np.random.default_rng(seed)
    pairs, rows = chunks.positive.shape[1], chunks.positive.shape[1] + chunks.negative.shape[2]
    dealt = np.concatenate([chunk * rows + rng.permutation(rows) for chunk in range(len(chunks))])
    labels = rng.permutation(chunks.positive.ravel()).reshape(-1, pairs)
    said = np.take_along_axis(chunks.near, rng.random(chunks.near.shape[:3]).argsort(axis=2)[..., None], axis=2)
    shuffled = replace(chunks, items=chunks.items.take(dealt), positive=labels, near=said)
    trained = train(space, shuffled, lambda model: 0.0, epochs=1, seed=seed)
    return Snapshot(trained.model, space, {})


def in_batch_softmax(champion: Snapshot, past: Sequence[Example], seed: int) -> Snapshot:
    """The champion, trained on by a softmax over each batch's own positives: no correction for popularity, no replay."""
    torch.manual_seed(seed)
    model = copy.deepcopy(champion.model).train()
    taken = [(example.user, row) for example in past for row in example.rows if row.positive]
    optimiser = Adam(model.parameters())
    for start_of in list(range(0, len(taken) - BATCH, BATCH)) * PASSES:
        batch = taken[start_of : start_of + BATCH]
        users = model.user_logits(champion.space.frozen_users([user for user, _ in batch]))
        items = model.item_logits(champion.space.frozen_items([row.item for _, row in batch]))
        loss = cross_entropy(users[:, :VECTOR] @ items.T + near_logits(users, near_of(batch)), torch.arange(BATCH))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(RATE)
    return replace(champion, model=model.eval())


def near_of(batch: Sequence[tuple[UserFeatures, Row]]) -> torch.Tensor:
    """float32 (n, n, 2): what co-visitation says of each one's item to each user, as the logit reads it."""
    place = {row.item.item_id: k for k, (_, row) in enumerate(batch)}
    places = np.array([place[row.item.item_id] for _, row in batch])
    near = np.stack([nearby(user.near, place).at(places) for user, _ in batch])
    for k, (_, row) in enumerate(batch):
        near[k, places == places[k]] = row.near
    return torch.from_numpy(first_form(near))


def challengers(champion: Snapshot, past: Sequence[Example], data: Path) -> list[Bad]:
    """The six; each has the level of a first trial."""

    def bad(name: str, scorer: Scorer, decision: str, *reasons: str) -> Bad:
        return Bad(name, scorer, decision, reasons, Comparison(Scorer(champion), scorer, level(1, [])))

    worse = "worse by the test"
    return [
        bad("weights of NaN", Scorer(not_finite(champion)), "refuse", "not finite"),
        bad("shuffled labels", Scorer(shuffled_labels(data, 1)), "refuse", worse),
        bad("popularity only", Scorer(popularity(champion)), "refuse", worse, "guardrail item coverage"),
        bad("in-batch softmax, no correction, no replay", Scorer(in_batch_softmax(champion, past, 1)), "refuse", worse),
        bad("intercept shifted by one logit", Shifted(champion), "refuse", "no better ranking"),
        bad("a copy of the champion", Scorer(champion), "give up", f"nothing shown after {LIMIT}"),
    ]


def try_all(loop: Loop, bads: Sequence[Bad], say: Callable[[int, int], None]) -> None:
    """Show every challenger the same examples until each has its verdict."""
    catalogue = LastSeen()
    catalogue.add(loop.past, 0)
    waiting: list[Example] = []
    seen = 0
    while any(bad.verdict is None for bad in bads):
        waiting += loop.step(60)
        while len(waiting) >= CHUNK:
            chunk, waiting = waiting[:CHUNK], waiting[CHUNK:]
            seen += CHUNK
            for bad in bads:
                if bad.verdict is None:
                    bad.comparison.see(chunk, catalogue)
                    bad.verdict = judge(bad.comparison, LIMIT)
            catalogue.add(chunk, seen)
            say(bads[-1].comparison.evidence, sum(bad.verdict is not None for bad in bads))


def table(bads: Sequence[Bad]) -> Table:
    """One line a challenger."""
    shown = Table("challenger", "verdict", "why", "requests", "", title="Six bad challengers", show_lines=True)
    for bad in bads:
        if v := bad.verdict:
            mark = "[green]as it must be[/]" if bad.right else "[red]WRONG[/]"
            shown.add_row(bad.name, v.decision, v.why, f"{v.figures['requests']:,}", mark)
    return shown


def run(folder: Path) -> None:
    """Make a world, its champion and the six; try them; print. Exits with status 1 if any verdict is wrong."""
    console.print("A simulated past, and a champion trained on it:")
    seeded(0, folder, USERS, ITEMS, INTERACTIONS)
    loop, champion, version = start(0, folder, Policy(random_share=0.5))
    loop.serve(champion, version, 1)
    console.print("Making the challengers ...")
    bads = challengers(champion, loop.past, folder / "data")
    with Progress(transient=True) as progress:
        task = progress.add_task("people look at feeds", total=LIMIT)
        try_all(loop, bads, lambda evidence, done: progress.update(task, completed=evidence))
    console.print(table(bads))
    if wrong := [bad.name for bad in bads if not bad.right]:
        sys.exit(f"wrong verdicts: {', '.join(wrong)}")
    console.print("All six were stopped, each for its own reason.")


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="feedloop-bench-") as folder:
        run(Path(folder))


if __name__ == "__main__":
    errors.run(main)
