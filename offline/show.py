"""Look at what Redis holds: `python offline/show.py feed 42`."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feed import errors, logs, settings
from feed.catalogue import Item
from feed.errors import FeedError
from feed.events import utc
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect
from feed.ranking.types import Feed

app = typer.Typer(add_completion=False, help="Look at what Redis holds.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Keeps `feed` a command of its own, however many there are."""


@app.command()
def feed(
    user_id: Annotated[str, typer.Argument(help="whose feed")],
    top: Annotated[int, typer.Option(help="how many places", min=1)] = 500,
) -> None:
    """A user's feed as it is served: its items by name, and how it came to be."""
    configuration = settings.load()
    logs.setup(configuration, "show")
    client = connect(configuration.redis)
    found = FeedStore(client).read(user_id)
    if found is None:
        known = FeatureStore(client).users([user_id])[0] is not None
        raise FeedError(
            f"no feed for user {user_id!r}: "
            + (
                "is the feeds agent running? `python offline/rank.py` ranks everybody"
                if known
                else "no such user has acted yet"
            )
        )
    items = FeatureStore(client).contents([item.item_id for item in found.items])
    console = Console()
    console.print(origin(found, time.time()), highlight=False, markup=False, soft_wrap=True)
    lines = list(places(found, items))[:top]
    if console.is_terminal:
        table = Table("rank", "item", "title", "category", "score", "source")
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)
    else:  # for other programs: one line a place, columns apart by tabs
        for line in lines:
            print("\t".join(" ".join(text.split()) for text in line))


def origin(shown: Feed, now: float) -> str:
    """How the feed came to be, in one line; `now`: the wall clock (seconds since 1970)."""
    age = max(now - shown.made_at.timestamp(), 0.0)
    at = shown.position
    where = "no event yet" if at is None else f"up to offset {at.offset} of partition {at.partition}"
    return (
        f"user {shown.user_id}: arm {shown.arm}, model {shown.model_version} (generation {shown.generation}), "
        f"ranked by {shown.ranked_by}, made {ago(age)} ago at {utc(round(shown.made_at.timestamp())):%Y-%m-%d %H:%M:%S} UTC, "
        f"{where}, request {shown.request_id}"
    )


def ago(seconds: float) -> str:
    """A length of time in the unit that says most."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def places(shown: Feed, items: dict[str, Item]) -> list[tuple[str, ...]]:
    """Rank, item id, title, category, score and source of each place, as text."""
    lines: list[tuple[str, ...]] = []
    for rank, place in enumerate(shown.items, 1):
        item = items.get(place.item_id)
        title, category = (item.title, item.category) if item else (None, None)
        score = "" if place.score is None else f"{place.score:.4f}"
        lines.append((str(rank), place.item_id, title or "", category or "", score, place.source))
    return lines


if __name__ == "__main__":
    errors.run(app)
