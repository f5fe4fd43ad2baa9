"""Rank everybody: the model's best items of every user, into Redis and `rankings.csv`, with quality figures and a report.

    Redis (or --data: a log folded in memory) ─► states, item table ─► Ranker ─┬─► feed:{user id} (as served: arms, exploration)
                                                                               └─► rankings.csv, figures (the model's ranking)

The catalogue is what the topic `items` describes. Coverage is of all of it; its items that are in dead-letters, or that Redis
has lost, are named.

If the champion changes meanwhile, it begins again with the new one. The feeds written until then are whole and of an older
generation: the script lets them overwrite nobody's newer feed, and the new ones overwrite them.

`python offline/rank.py`
"""

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import structlog
import typer
from kafka.errors import KafkaError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from feed import dataset, errors, logs, settings
from feed.address import Broker
from feed.errors import BadModel, FeedError, NoChampion, NotArrived
from feed.events import utc
from feed.features import BatchState, FeatureSpace, ItemTable, UserState
from feed.io import kafka
from feed.io.arrived import Described, read_described, wait_for_items
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect, must_answer
from feed.monitoring.quality import QUANTILES, Quality, measure
from feed.ranking.arms import Policy
from feed.ranking.live import load
from feed.ranking.standard import Ranker
from feed.registry import Registry
from feed.settings import Settings
from offline.report import execution_report

log = structlog.get_logger()

USERS_AT_ONCE = 1000  # read, ranked and written together
NO_CATALOGUE = Described(frozenset(), {})
HEADER = ("user_id", "item_id", "score", "rank")


@dataclass(frozen=True)
class Audience:
    """Everybody to rank: the item table, the newest event time (seconds since 1970), and how to get at the users' states.

    `store`, `feeds`: where all of it is from, and where the feeds go; None: from files, and nowhere. `missing`: how many items
    of the catalogue are not in the table; `lost`: those of them that should be.
    """

    table: ItemTable
    now: float
    ids: list[str]
    states: Iterator[list[UserState]]
    store: FeatureStore | None = None
    feeds: FeedStore | None = None
    missing: int = 0
    lost: Sequence[str] = ()

    def take_out_expired(self) -> None:
        """Take out of the feeds what may be shown no more by now; what records have withdrawn is not in them."""
        if self.store is not None and self.feeds is not None:
            before = self.table.showable(self.now)
            self.store.refresh_items(self.table)
            gone = before & ~self.table.showable(self.store.now())[: len(before)]
            self.feeds.take_out([self.table.ids[row] for row in np.flatnonzero(gone).tolist()])


def run(configuration: Settings, output: Path, data: Path | None = None, described: Described = NO_CATALOGUE) -> Quality:
    """Rank everybody with the champion, write `output` and, without `data`, everybody's feed; print figures and report.

    `data`: a folder in the data format, read instead of Redis. `described`: what Redis should know; items that it lacks are
    waited for. Raises `NoChampion`, `BadData`, `BadModel`, also for a model that knows nothing of this catalogue, `FeedError`
    if there is nobody to rank or nothing to rank them, and `NotArrived`, when all is written, if Redis has lost items.
    """
    registry = Registry(configuration.registry)
    quality = None
    while quality is None:
        champion = registry.champion()
        if champion is None:
            raise NoChampion(
                f"no champion in {configuration.registry}: train one with `python offline/bootstrap.py`, or set FEED_REGISTRY "
                "to the registry that has one"
            )
        if data is None:
            audience = from_redis(configuration.redis, described)
        else:
            audience = from_files(data, configuration.future_seconds)
        ranker = load(champion, audience.table, Policy.of(configuration), audience.now)
        check_catalogue(champion.version, in_common(ranker.space, audience.table, audience.now))
        quality = rank_all(ranker, audience, output, registry.generation)
        audience.take_out_expired()
    console = Console()
    console.print(figures(quality))
    console.print(f"Model {ranker.version}; rankings in {output}\n", highlight=False, soft_wrap=True)
    console.print(execution_report(quality, utc(time.time())), end="", highlight=False, markup=False, soft_wrap=True)
    if audience.lost:
        raise NotArrived(
            f"Redis does not know {len(audience.lost)} items that the topic items describes, such as {audience.lost[0]!r}: "
            "they are in no feed. Is the features agent running, and does Redis evict keys (maxmemory-policy)?"
        )
    return quality


def read_catalogue(broker: Broker | str) -> Described:
    """What the topic `items` describes; nothing, with a warning, if no broker answers or there is no such topic."""
    try:
        kafka.GroupView(broker, "rank", ()).close()
        return read_described(broker)
    except (KafkaError, FeedError) as error:
        log.warning(
            "whether the catalogue is whole is not known: coverage is of what Redis knows", error=str(error) or repr(error)
        )
        return NO_CATALOGUE


def from_redis(url: str, described: Described = NO_CATALOGUE) -> Audience:
    """Everybody of whom Redis knows anything, and the items that it knows of those described."""
    client = connect(url)
    store = FeatureStore(client)
    lost = wait_for_items(store, described)
    if described.refused:
        item_id, reason = next(iter(described.refused.items()))
        log.warning(
            "items of the catalogue are in dead-letters: they are in no feed", items=len(described.refused), first=item_id,
            reason=reason,
        )  # fmt: skip
    table = store.load_items()
    ids = sorted(store.all_user_ids(), key=natural)
    parts = (ids[start : start + USERS_AT_ONCE] for start in range(0, len(ids), USERS_AT_ONCE))
    states = ([state for state in store.users(part) if state is not None] for part in parts)
    missing = len([item_id for item_id in described.items if item_id not in table.by_id])
    return Audience(table, store.now(), ids, states, store, FeedStore(client), missing, lost)


def from_files(path: Path, future_seconds: float) -> Audience:
    """Everybody in the log in folder `path`, folded from its beginning to its end. Raises `BadData`."""
    log = dataset.read(path, future_seconds=future_seconds)
    folded = BatchState(dataset.items_of(log), dataset.users_of(log))
    for event in dataset.events_of(log):
        folded.apply(event)
    ids = sorted(folded.users, key=natural)
    parts = (ids[start : start + USERS_AT_ONCE] for start in range(0, len(ids), USERS_AT_ONCE))
    return Audience(folded.items, folded.now, ids, ([folded.users[i] for i in part] for part in parts))


def natural(user_id: str) -> tuple[int, str]:
    """Sorts "9" before "10"."""
    return len(user_id), user_id


def check_catalogue(version: str, known: dict[str, bool]) -> None:
    """Warn of a model that knows only a part of the catalogue, by what `in_common` says. Raises `BadModel` if it knows none."""
    strange = [name for name, some in known.items() if not some]
    content = [some for name, some in known.items() if name != "item"]  # ids that are numbers are alike anywhere
    if content and not any(content):
        raise BadModel(
            f"model {version} knows no {' and no '.join(strange)} of this catalogue: it was trained on another, so nothing was "
            "ranked. Train one on this, in a registry of its own: `python offline/bootstrap.py --data DIR --registry NEW`, and "
            "set FEED_REGISTRY to NEW"
        )
    if strange:
        log.warning(
            "the model was trained on another catalogue: train one on this, with `python offline/bootstrap.py`",
            version=version, none_known_of=strange,
        )  # fmt: skip


def in_common(space: FeatureSpace, table: ItemTable, now: float) -> dict[str, bool]:
    """Of category, creator, tag and item, those of which model and catalogue both have some: whether they share any."""
    inputs = space.item_inputs(table, None, now)
    found = {vocabulary: inputs.categorical[:, column] for column, (_, vocabulary) in enumerate(space.item_spec.categorical)}
    found["tag"] = inputs.bag_ids["tags"]
    has = {
        "category": bool(table.category.any()),
        "creator": bool(table.creator.any()),
        "tag": any(item.tags for item in table.by_id.values()),
        "item": bool(table.by_id),
    }
    return {name: bool(found[name].any()) for name, there in has.items() if there and space.sizes[name] > 1}


def rank_all(ranker: Ranker, audience: Audience, output: Path, serving: Callable[[], int]) -> Quality | None:
    """Rank and write; `output` appears when it is complete.

    None, and `output` is as it was, if meanwhile the `serving` generation is no more the ranker's. Raises `FeedError`, and
    `output` is as it was, if no user gets any item.
    """
    aside = output.with_name(f".{output.name}.writing")
    output.parent.mkdir(parents=True, exist_ok=True)
    rows, scores = [], []
    with (
        aside.open("w", newline="", encoding="utf-8") as file,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("ranking users", total=len(audience.ids))
        write_header(file)
        for states in audience.states:
            ranking = ranker.model_ranking(states, audience.now)
            write_rankings(file, ranking.users, ranking.rows, ranking.scores, audience.table.ids)
            if audience.feeds is not None:
                audience.feeds.write(ranker.rank(states, audience.now))
            rows.append(ranking.rows)
            scores.append(ranking.scores)
            progress.advance(task, len(states))
            if (now := serving()) != ranker.generation:
                log.warning("the champion has changed: beginning again", ranked_with=ranker.generation, serving=now)
                return None
    table = audience.table
    if not any((part >= 0).any() for part in rows):
        aside.unlink()
        raise FeedError(
            f"nobody was ranked: {len(audience.ids)} users are known and {table.known.sum()} items, and there must be "
            f"some that exist and that somebody has not consumed; {output} is as it was. Publish users and items first "
            "(docs/connect.md), or describe them in the folder's tables"
        )
    aside.replace(output)
    return measure(np.concatenate(rows), np.concatenate(scores), table.category, table.known, audience.missing)


def write_header(file: TextIO) -> None:
    """The names of the columns."""
    csv.writer(file, lineterminator="\n").writerow(HEADER)


def write_rankings(file: TextIO, users: list[str], rows: np.ndarray, scores: np.ndarray, ids: list[str]) -> None:
    """One line a user and item, rank 1 = best; `rows` and `scores` (users, k) as in `feed.ranking.standard.Ranking`."""
    writer = csv.writer(file, lineterminator="\n")
    for user_id, its_rows, its_scores in zip(users, rows.tolist(), scores.tolist(), strict=True):
        places = enumerate(zip(its_rows, its_scores, strict=True), 1)
        writer.writerows((user_id, ids[row], f"{score:.6f}", rank) for rank, (row, score) in places if row >= 0)


def figures(quality: Quality) -> Table:
    """The quality figures as a table."""
    table = Table("quality of the model's ranking", "value", title_justify="left")
    table.add_row("user coverage", f"{quality.user_coverage:.1%}")
    table.add_row("item coverage", f"{quality.item_coverage:.1%}")
    if quality.missing:
        table.add_row("items that are missing", f"{quality.missing}")
    table.add_row("items per feed", f"{quality.items_per_feed:.1f}")
    table.add_row("diversity (pairs of unlike category)", f"{quality.diversity:.1%}")
    table.add_row("Gini of exposure", f"{quality.gini:.3f}")
    for quantile, score in zip(QUANTILES, quality.scores, strict=True):
        table.add_row(f"score, {quantile:.0%} quantile", f"{score:.4f}")
    return table


def main(
    data: Annotated[
        Path | None, typer.Option(help="read this folder in the data format instead of Redis; write rankings.csv only")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="where rankings.csv goes; without it, beside the registry's folder")
    ] = None,
) -> None:
    """Rank every user with the champion: into Redis and rankings.csv."""
    configuration = settings.load()
    logs.setup(configuration, "rank")
    with must_answer(configuration.redis, " while ranking"):
        described = read_catalogue(configuration.broker) if data is None else NO_CATALOGUE
        run(configuration, output or configuration.registry.parent / "rankings.csv", data, described)


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
