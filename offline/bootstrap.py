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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from feed import dataset, errors, logs, settings
from feed.errors import BadData, BadModel, NotPromoted
from feed.evaluation import holdout, repeated
from feed.evaluation.holdout import VisitCollector, Visits
from feed.events import KINDS, NEGATIVES, POSITIVES, kind, utc
from feed.features import FeatureSpace
from feed.models import examination, fusion, heads, snapshot
from feed.models.examination import Examination
from feed.models.heads import Heads
from feed.models.pairs import CHUNK, ChunkCollector, Chunks, Log, Pair, pairs_of, replay
from feed.models.train import Trained, train
from feed.models.two_tower import TwoTower, scores
from feed.ranking.arms import Policy
from feed.registry import Registry
from feed.repeats import Repeats
from feed.settings import FUTURE_SECONDS

EPOCHS = 8
JUDGED, MEASURED = 0.1, 0.1  # shares of the pairs
FEWEST_ITEMS = 3  # with fewer there is no ranking, so nothing could be judged or measured
NEWEST_PAIRS = 200_000  # bounds memory: about 2 KB a pair
VISITS_JUDGED, VISITS_MEASURED = 500, 2000
THREADS = 1  # two are hardly faster on matrices this small, and ten times slower while anything else needs a core

log = structlog.get_logger()

Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Frozen:
    """The features, and what was frozen with them: chunks to train on, visits to judge and to measure by, and, to fit and to
    measure the heads, the pairs of these two slices (None: too few)."""

    space: FeatureSpace
    chunks: Chunks
    judged: list[Visits]
    measured: list[Visits]
    looked: tuple[Chunks | None, Chunks | None]


@dataclass(frozen=True)
class Outcome:
    """The registered version, whether it serves, and its figures beside popularity's: {"learned", "popular"} by figure."""

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
        figures = {
            "learned": holdout.summary(frozen.measured, lambda visits: logits(trained.model, visits), seed),
            "popular": holdout.summary(frozen.measured, holdout.popularity, seed),
        }
    found, head_figures = fit_heads(trained.model, frozen, log, slices)
    weights = {"fitted_to": fitted_to, "weights": trained.model.fusion.tolist()}
    about = {**manifest(log, slices, trained, seed, figures), "fusion": weights, "heads": head_figures}
    about["repeats"] = {**measured._asdict(), "rule": str(log.repeats), "by": "the log" if repeats is None else "FEED_REPEATS"}
    looks = examination.of(log.events)
    outcome = register(Registry(registry), trained, frozen.space, about, found, looks)
    console.print(table(figures))
    console.print(
        ("Counts and co-visitation are part of the score (" if trained.model.fused
         else "The score is the logit alone: counts and co-visitation did not improve held-out positives (") + f"{fitted_to}).",
        highlight=False,
    )  # fmt: skip
    console.print(f"{measured}; may be shown again: {log.repeats} (by {about['repeats']['by']}).", highlight=False)
    learned, popular = (figures[name].get("auc", {}).get("mean", 0.0) for name in ("learned", "popular"))
    if learned < popular:
        console.print("It is behind a list of what is popular: a longer log may help; offline/evaluate.py compares others.")
    if looks:
        places = ", ".join(f"{theta:.2f}" for theta in looks.theta[:10])
        console.print(
            "Fewer things were viewed than taken, so what was looked at is estimated: from the top, places are looked at with "
            f"{places}, and {looks.taken:.1%} of looks are taken.", highlight=False,
        )  # fmt: skip
    if head_figures:
        console.print(heads_table(head_figures))
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
    frozen = freeze(log, slices, seed, progress)
    task = progress.add_task("training")
    trained = train(
        frozen.space, frozen.chunks, lambda model: auc(model, frozen.judged), epochs=epochs, seed=seed,
        stepped=lambda step, steps: progress.update(task, completed=step, total=steps),
    )  # fmt: skip
    weights, squares, fitted_to = fusion.fit(fusion.collect(trained.model, frozen.space, log, slices.judged, seed))
    trained.model.fusion.copy_(weights)
    trained.model.fusion_squares.copy_(squares)
    return frozen, trained, fitted_to


def freeze(log: Log, slices: Slices, seed: int, progress: Progress) -> Frozen:
    """Fold the log twice: to fit the features on the training slice, then to freeze every pair and visit as of its moment."""
    end = slices.judged[0].event
    task = progress.add_task("folding the log", total=end + len(log.events))
    for _, state in replay(log, [end]):
        positives = Counter(pair.item_id for pair in slices.trained if pair.positive)
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, positives)
    rng = np.random.default_rng(seed)
    until_judged = [*slices.trained, *slices.judged]
    chunks = ChunkCollector(space, [], slices.trained, rng, log.repeats)
    judged = VisitCollector(space, slices.trained, slices.judged, VISITS_JUDGED, rng, log.repeats)
    measured = VisitCollector(space, until_judged, slices.measured, VISITS_MEASURED, rng, log.repeats)
    looked = [
        ChunkCollector(space, before, pairs, np.random.default_rng([seed, 1]), log.repeats)
        for before, pairs in ((slices.trained, slices.judged), (until_judged, slices.measured))
    ]
    collectors: list[ChunkCollector | VisitCollector] = [chunks, judged, measured, *looked]
    for stop, state in replay(log, sorted({stop for collector in collectors for stop in collector.stops})):
        for collector in collectors:
            collector.look(stop, state)
        progress.update(task, completed=end + stop)
    progress.update(task, completed=end + len(log.events))
    fitted, later = (collector.chunks() if collector.stops else None for collector in looked)
    return Frozen(space, chunks.chunks(), judged.groups(), measured.groups(), (fitted, later))


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


def table(figures: Figures) -> Table:
    """The figures as a table: mean over visits, 95 % interval over users."""
    shown = Table("", *figures, title="Held-out last tenth: mean over visits (95 % interval over users)")
    for name, label in LABELS.items():
        cells = [f"{f['mean']:.4f} ({f['low']:.4f} – {f['high']:.4f})" for one in figures.values() if (f := one.get(name))]
        shown.add_row(label, *cells)
    return shown


def heads_table(figures: dict[str, dict[str, float]]) -> Table:
    """The heads' figures as a table."""
    shown = Table(
        "after a look", "predicted", "followed", "log-loss", "of the base rate", title="Heads on the held-out last tenth"
    )
    for task, of in figures.items():
        losses = f"{of['log_loss']:.4f}", f"{of['log_loss_of_base_rate']:.4f}"
        shown.add_row(task, f"{of['predicted']:.2%}", f"{of['followed']:.2%}", *losses)
    return shown


LABELS = {
    "auc": "AUC",
    "ndcg_at_10": "NDCG@10",
    "precision_at_50": "precision@50",
    "recall_at_50": "recall@50",
    "auc_looked_at": "AUC, looked at",
}


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
