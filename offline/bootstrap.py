"""Train a two-tower model on a log and register it; the first one of a registry becomes champion, later ones challenger.

    folder in the data format ─► events ─► pairs, in order of time ─┬─ first 80 %: features fitted, weights trained
                                                                    ├─ next 10 %: judge of each epoch (AUC), early stopping;
                                                                    │             the heads fitted (`feed.models.heads`)
                                                                    └─ last 10 %: the figures, beside those of popularity

The weights that are served are the ones that were measured; trained on the last fifth as well they were no better.

`python offline/bootstrap.py --data DIR`
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import torch
import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from feed import dataset, errors, logs, settings
from feed.errors import BadData, BadModel, NotPromoted
from feed.evaluation import ablation, holdout, repeated
from feed.evaluation.ablation import Comparison
from feed.evaluation.holdout import VisitCollector, Visits
from feed.evaluation.quick import Quick
from feed.events import KINDS, NEGATIVES, POSITIVES, kind, utc
from feed.features import BatchState, FeatureSpace
from feed.features.counts import HALF_LIVES
from feed.models import examination, fusion, heads, snapshot
from feed.models.examination import Examination
from feed.models.fusion import Choices
from feed.models.heads import Heads
from feed.models.pairs import CHUNK, ChunkCollector, Chunks, Folded, Log, Pair, pairs_of, replay
from feed.models.train import Trained, train
from feed.models.two_tower import TwoTower, scores
from feed.ranking.arms import Policy
from feed.registry import Registry
from feed.repeats import Repeats
from feed.settings import FUTURE_SECONDS
from offline import findings
from offline.findings import Figures

EPOCHS = 8
JUDGED, MEASURED = 0.1, 0.1  # shares of the pairs
FEWEST_ITEMS = 3  # with fewer there is no ranking, so nothing could be judged or measured
NEWEST_PAIRS = 200_000  # bounds memory: about 2 KB a pair
VISITS_JUDGED, VISITS_MEASURED = 500, 2000
FOLDED = 1000  # events between two looks at the progress bar
THREADS = 1  # two are hardly faster on matrices this small, and ten times slower while anything else needs a core

log = structlog.get_logger()


@dataclass(frozen=True)
class Frozen:
    """The features, and what was frozen with them: chunks to train on, visits to judge and to measure by, and, to fit and to
    measure the heads, the pairs of these two slices (None: too few). `begun`: the state before the judged slice, to be folded
    on once."""

    space: FeatureSpace
    chunks: Chunks
    judged: list[Visits]
    measured: list[Visits]
    looked: tuple[Chunks | None, Chunks | None]
    begun: Folded


@dataclass(frozen=True)
class Outcome:
    """The registered version, whether it serves, and its figures beside those of a list of what is popular lately."""

    version: str
    champion: bool
    figures: Figures


@dataclass(frozen=True)
class Slices:
    """The pairs by time: all before the `judged` ones train, the `measured` ones come last."""

    trained: list[Pair]
    judged: list[Pair]
    measured: list[Pair]


def run(
    data: Path,
    registry: Path,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    context: Sequence[str] = (),
    future_seconds: float = FUTURE_SECONDS,
    repeats: Repeats | None = None,
) -> Outcome:
    """Train on the log in folder `data`, register, print the figures. Raises `BadData` for a log that cannot be used.

    `context`, `future_seconds`: as for `feed.dataset.read`. `repeats`: when items may be shown again; None: as the log says.
    """
    torch.set_num_threads(THREADS)
    console = Console()
    log = read(data, context, future_seconds)
    measured = repeated.measure(log.events, {item.item_id for item in log.items})
    log = replace(log, repeats=measured.rule if repeats is None else repeats)
    slices = slices_of(pairs_of(log, seed), data)
    require_choice(log, slices, data)
    registry.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is said before the training
    with Progress(console=Console(stderr=True), transient=True) as progress:
        frozen, trained, fitted_to = learn(log, slices, progress, epochs=epochs, seed=seed)
        compared, figures = measure(log, slices, frozen, trained.model, progress, seed)
    found, head_figures = fit_heads(trained.model, frozen, log, slices)
    weights = {"fitted_to": fitted_to, "weights": trained.model.fusion.tolist()}
    about = {**manifest(log, slices, trained, seed, figures), "fusion": weights, "heads": head_figures}
    about["parts"] = asdict(compared)
    about["repeats"] = {**measured._asdict(), "rule": str(log.repeats), "by": "the log" if repeats is None else "FEED_REPEATS"}
    looks = examination.of(log.events)
    outcome = register(Registry(registry), trained, frozen.space, about, found, looks)
    for found_out in (findings.table(figures), findings.parts_table(compared)):
        console.print(found_out)
    console.print(findings.verdict(compared, figures), highlight=False)
    console.print(f"{findings.SCORE[score_of(trained.model)]} ({fitted_to}).", highlight=False)
    console.print(f"{measured}; may be shown again: {log.repeats} (by {about['repeats']['by']}).", highlight=False)
    if looks:
        places = ", ".join(f"{theta:.2f}" for theta in looks.theta[:10])
        console.print(
            "Fewer things were viewed than taken, so what was looked at is estimated: from the top, places are looked at with "
            f"{places}, and {looks.taken:.1%} of looks are taken.", highlight=False,
        )  # fmt: skip
    if head_figures:
        console.print(findings.heads_table(head_figures))
    console.print(
        f"Version {outcome.version}, epoch {trained.epoch}: "
        + ("champion" if outcome.champion else "challenger; another version serves"),
        highlight=False,
    )
    return outcome


def read(data: Path, context: Sequence[str], future_seconds: float) -> Log:
    """The log in folder `data`, in memory. Raises `BadData`, also if nobody does anything in it."""
    tables = dataset.read(data, context, future_seconds)
    events = list(dataset.events_of(tables))
    kinds = {kind(event) for event in events}
    if events and kinds <= {"impression", *NEGATIVES}:
        raise BadData(
            f"{data}: nothing to learn from: all {len(events)} events of the log are "
            f"{' and '.join(f'{name}s' for name in sorted(kinds))}, so nobody is seen to look at or to like anything; add rows "
            f"of view, {_positives()}"
        )
    return Log(list(dataset.items_of(tables)), list(dataset.users_of(tables)), events)


def _positives() -> str:
    *first, last = (name for name in KINDS if name in POSITIVES)
    return f"{', '.join(first)} or {last}"


def require_choice(log: Log, slices: Slices, data: Path) -> None:
    """Raises `BadData` where there is nothing to rank: no item exists when the log begins, or next to none ever does."""
    first = slices.trained[0].at
    there = sum(item.created is None or item.created <= first for item in log.items)
    if len(log.items) < FEWEST_ITEMS or not there:
        raise BadData(
            f"{data}: nothing to rank: of the {len(log.items)} items of the catalogue {there} exist at {utc(first)}, "
            f"when training begins, and {FEWEST_ITEMS} are needed in all; correct created_at, or leave it empty where unknown"
        )


def slices_of(pairs: list[Pair], data: Path) -> Slices:
    """The newest pairs, cut in three by time. Raises `BadData` if a slice has nothing to learn or to measure."""
    kept = pairs[-NEWEST_PAIRS:]
    first, second = int(len(kept) * (1 - JUDGED - MEASURED)), int(len(kept) * (1 - MEASURED))
    slices = Slices(kept[:first], kept[first:second], kept[second:])
    parts = (slices.trained, slices.judged, slices.measured)
    if len(slices.trained) < CHUNK or not all(any(pair.positive for pair in part) for part in parts):
        raise BadData(
            f"{data}: too little to learn from: {len(pairs)} pairs of a user and an item of the catalogue, "
            f"{sum(pair.positive for pair in pairs)} of them positive ({_positives()}; if there is none, view), "
            f"and some are needed in each tenth of the log's time; take a longer log, or check that interactions and items "
            "name the same item_id"
        )
    return slices


def learn(log: Log, slices: Slices, progress: Progress, *, epochs: int = EPOCHS, seed: int) -> tuple[Frozen, Trained, str]:
    """Freeze the pairs and train on them; the judged visits choose the epoch, and to them the fusion weights are fitted.

    Returns in a few words, too, how these came about.
    """
    with part(progress, "folding") as folding:
        frozen = freeze(log, slices, seed, progress, folding)
    with part(progress, "training") as training:
        trained = train(
            frozen.space, frozen.chunks, lambda model: auc(model, frozen.judged), epochs=epochs, seed=seed,
            stepped=lambda step, steps: progress.update(training, completed=step, total=steps),
        )  # fmt: skip
    with part(progress, "fusion", slices.judged[-1].event - frozen.begun.stop) as fused:
        choices = fusion.collect(
            trained.model, frozen.space, log, slices.judged, seed, frozen.begun,
            lambda stop: progress.update(fused, completed=stop - frozen.begun.stop),
        )  # fmt: skip
        fitted_to = fuse(trained.model, choices, frozen.judged, seed)
    return frozen, trained, fitted_to


def fuse(model: TwoTower, choices: Choices, judged: Sequence[Visits], seed: int) -> str:
    """Fit the fusion weights; where a list of what is popular lately is proven better on the judged visits, become that list.

    Returns in a few words how they came about. Where propensities are known the fit takes out what was shown. Held-out visits
    do not, so there no list is compared with the score.
    """
    weights, squares, how = fusion.fit(choices)
    model.fusion.copy_(weights)
    model.fusion_squares.copy_(squares)
    if np.isfinite(choices.propensity).any():
        return f"{how}; not compared with a list of what is popular, because propensities are known"
    if (better := ablation.better_list(model, judged, seed)) is None:
        return how
    place, ahead = better
    weights, squares = fusion.of_list(choices, place)
    model.fusion.copy_(weights)
    model.fusion_squares.copy_(squares)
    lately = ablation.span(float(HALF_LIVES[place]))
    return (
        f"{how}; of the judged visits a list of what was popular in the last {lately} had {findings.interval(ahead)} more "
        "NDCG@10, so the score is that list"
    )


def score_of(model: TwoTower) -> str:
    """What the score is made of: "logit", "list" or "fused"."""
    if not model.fused:
        return "logit"
    return "fused" if model.fusion[:, 0].any() else "list"


def measure(
    log: Log, slices: Slices, frozen: Frozen, model: TwoTower, progress: Progress, seed: int
) -> tuple[Comparison, Figures]:
    """What serves, on the measured visits: its parts beside simple lists, and more figures of it and the list chosen."""
    with part(progress, "measuring", len(frozen.judged) + len(frozen.measured)) as task:
        quick = Quick(log, slices.judged[0].event)
        compared = ablation.compare(model, frozen.judged, frozen.measured, quick, seed, lambda: progress.advance(task))
        column = 1 + int(np.flatnonzero(compared.half_life == HALF_LIVES)[0])
        figures = {
            "learned": holdout.summary(frozen.measured, lambda visits: logits(model, visits), seed),
            ablation.DECAYED: holdout.summary(frozen.measured, lambda visits: holdout.popularity(visits, column), seed),
        }
    return compared, figures


@contextmanager
def part(progress: Progress, name: str, total: int | None = None) -> Iterator[TaskID]:
    """A bar with the time remaining while a part of the bootstrap runs; without a terminal a line when it is done."""
    task, begun = progress.add_task(name, total=total), time.monotonic()
    yield task
    known = progress.tasks[-1].total
    progress.update(task, completed=known or 1, total=known or 1)
    if not progress.console.is_terminal and not progress.disable:
        log.info("bootstrap: part done", part=name, seconds=round(time.monotonic() - begun, 1))


def freeze(log: Log, slices: Slices, seed: int, progress: Progress, task: TaskID | None = None) -> Frozen:
    """Fold the log up to the judged slice to fit the features, from there on to freeze the visits and pairs of both later
    slices, and once more up to it to freeze the pairs to train on."""
    end, n = slices.judged[0].event, len(log.events)
    task = progress.add_task("folding") if task is None else task
    progress.update(task, total=end + n)
    state = BatchState(log.items, log.users)
    for done, _ in replay(log, [*range(0, end, FOLDED), end], Folded(0, state)):
        progress.update(task, completed=done)
    positives = Counter(pair.item_id for pair in slices.trained if pair.positive)
    space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, positives)
    rng = np.random.default_rng(seed)
    until_judged = [*slices.trained, *slices.judged]
    chunks = ChunkCollector(space, [], slices.trained, rng, log.repeats)
    judged = VisitCollector(log, space, slices.trained, slices.judged, VISITS_JUDGED, rng)
    measured = VisitCollector(log, space, until_judged, slices.measured, VISITS_MEASURED, rng)
    looked = [
        ChunkCollector(space, before, pairs, np.random.default_rng([seed, 1]), log.repeats)
        for before, pairs in ((slices.trained, slices.judged), (until_judged, slices.measured))
    ]
    later: list[ChunkCollector | VisitCollector] = [judged, measured, *looked]
    for stop, _ in replay(log, sorted({stop for collector in later for stop in collector.stops}), Folded(end, state)):
        for collector in later:
            collector.look(stop, state)
        progress.update(task, completed=stop)
    state = BatchState(log.items, log.users)
    for stop, _ in replay(log, sorted({*chunks.stops, end}), Folded(0, state)):
        chunks.look(stop, state)
        progress.update(task, completed=n + stop)
    fitted, newest = (collector.chunks() if collector.stops else None for collector in looked)
    return Frozen(space, chunks.chunks(), judged.groups(), measured.groups(), (fitted, newest), Folded(end, state))


def fit_heads(model: TwoTower, frozen: Frozen, log: Log, slices: Slices) -> tuple[Heads, dict[str, dict[str, float]]]:
    """Heads of what followed the judged pairs, and their figures on the measured ones, both by task."""
    fitted, later = frozen.looked
    if fitted is None or later is None:
        return {}, {}
    labels, later_labels = heads.followed(log, slices.judged)[: fitted.positive.size], heads.followed(log, slices.measured)
    found = heads.fit(heads.products(model, fitted), labels)
    return found, heads.figures(found, labels, heads.products(model, later), later_labels[: later.positive.size])


def logits(model: TwoTower, visits: Visits) -> np.ndarray:
    """float32 (q, m) for q visits and m items."""
    with torch.no_grad():
        return scores(model.user_vectors(visits.users), model.item_vectors(visits.items), visits.near).numpy()


def auc(model: TwoTower, judged: Sequence[Visits]) -> float:
    """The mean over visits of the AUC over the catalogue: of all figures the one with the least noise."""
    return float(np.nanmean(holdout.per_visit(judged, lambda visits: logits(model, visits), 0)["auc"]))


def manifest(log: Log, slices: Slices, trained: Trained, seed: int, figures: Figures) -> dict[str, Any]:
    """What is written about the version: JSON, times in UTC."""
    return {
        "created_by": "offline/bootstrap.py",
        "created_at": utc(time.time()).isoformat(),
        "parent": None,
        "learned_until": log.events[-1].at,  # of the last tenth it only took its figures; no trial is to use that again
        "position": None,
        "data": {
            "users": len({user.user_id for user in log.users} | {event.user_id for event in log.events}),
            "items": len(log.items),
            "events": len(log.events),
            "from": log.events[0].occurred_at.isoformat(),
            "to": log.events[-1].occurred_at.isoformat(),
        },
        "trained_on": {
            "pairs": len(slices.trained),
            "positives": sum(pair.positive for pair in slices.trained),
            "until": utc(slices.trained[-1].at).isoformat(),
        },
        "measured_from": utc(slices.measured[0].at).isoformat(),
        "seed": seed,
        "epoch": trained.epoch,
        "judgements": list(trained.judgements),
        "figures": figures,
    }


def replaceable(registry: Registry) -> int:
    """The generation that a new version may follow unjudged: 0, or that of a champion whose files are corrupt or gone."""
    try:
        if champion := registry.champion():
            snapshot.load(champion.path)
    except BadModel as error:
        log.warning("the champion cannot serve, so the new version replaces it", error=str(error))
        return registry.generation()
    return 0


def register(
    registry: Registry,
    trained: Trained,
    space: FeatureSpace,
    about: dict[str, Any],
    found: Heads,
    looks: Examination | None,
) -> Outcome:
    """Publish the version as a challenger; make it champion if there is none that can serve."""
    generation = replaceable(registry)
    version = registry.publish(
        lambda folder: snapshot.save(folder, trained.model, space, about, heads=found, examination=looks), challenger=True
    )
    try:
        registry.promote(version, generation=generation, evidence={"by": about["created_by"], "why": "nobody could serve"})
    except NotPromoted:
        return Outcome(version, False, about["figures"])
    return Outcome(version, True, about["figures"])


def main(
    data: Annotated[Path, typer.Option(help="folder in the data format (docs/event-schema.md)")],
    registry: Annotated[Path | None, typer.Option(help="folder of the model registry; default: FEED_REGISTRY")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="at most; training stops when the judge says so")] = EPOCHS,
    seed: Annotated[int, typer.Option(min=0, help="same log and seed, same weights")] = 0,
    context: Annotated[list[str] | None, typer.Option(help="a further column of interactions to keep; may be repeated")] = None,
) -> None:
    """Train a two-tower model on a log and register it."""
    configuration = settings.load()
    logs.setup(configuration, "bootstrap")
    run(
        data, registry or configuration.registry, epochs=epochs, seed=seed, context=context or (),
        future_seconds=configuration.future_seconds, repeats=Policy.of(configuration).repeats,
    )  # fmt: skip


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
