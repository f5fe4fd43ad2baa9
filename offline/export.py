"""What the topics hold, in the data format: `python offline/export.py --out DIR`.

Users and items as they were published last, interactions in time order: all, or those of the newest `--days`. Removed items and
erased people (with what they did until then) are left out. So are unreadable records, counted: they are in `dead-letters`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import structlog
import typer
from rich import print

from feed import dataset, logs, settings, wire
from feed.address import Broker
from feed.catalogue import Item, User
from feed.dataset import Dataset, Format
from feed.errors import Unreadable, run
from feed.io import kafka
from feed.wire import Deleted

log = structlog.get_logger()
NEVER = -2  # before the time of any record: one without a time has -1
T = TypeVar("T")


@dataclass
class Reader:
    """Reads topics of the broker; `unreadable` counts, by topic, the records left out so far."""

    broker: Broker
    unreadable: dict[str, int] = field(default_factory=dict)

    def messages(self, topic: wire.Topic, decode: Callable[[bytes | None], T]) -> Iterator[tuple[int, T | Deleted]]:
        """What `decode` makes of the topic's records, one partition after the other, each with its time (milliseconds)."""
        for record in sorted(kafka.read_topic(self.broker, topic), key=lambda record: (record.partition, record.offset)):
            try:
                deletes = record.value is None and topic.compacted
                yield record.timestamp, wire.decode_deleted(record.key) if deletes else decode(record.value)
            except Unreadable:
                self.unreadable[topic.name] = self.unreadable.get(topic.name, 0) + 1


def export(reader: Reader, days: float | None = None) -> Dataset:
    """The topics as a dataset; the last entry of a user or item counts, events of one instant keep their user's order.

    Removed items are left out, and all that was recorded of erased people until then. `days`: only events this much before the
    newest (event time).
    """
    items: dict[str, Item] = {}
    for _, item in reader.messages(wire.ITEMS, wire.decode_item):
        if isinstance(item, Deleted):
            items.pop(item.id, None)
        else:
            items[item.item_id] = item
    users, erased = _users(reader)
    found = [
        event
        for at, event in reader.messages(wire.INTERACTIONS, wire.decode_event)
        if not isinstance(event, Deleted) and at > erased.get(event.user_id, NEVER)
    ]
    events = sorted(found, key=lambda event: event.occurred_at)
    if days is not None and events:
        events = events[bisect_left(events, events[-1].at - days * 86_400, key=lambda event: event.at) :]
    return dataset.from_events(events, items.values(), users.values())


def _users(reader: Reader) -> tuple[dict[str, User], dict[str, int]]:
    """The users as they were described last, and who was erased, until when (milliseconds since 1970)."""
    users: dict[str, User] = {}
    erased: dict[str, int] = {}
    for at, user in reader.messages(wire.USERS, wire.decode_user):
        user_id = user.id if isinstance(user, Deleted) else user.user_id
        if at <= erased.get(user_id, NEVER):
            continue
        if isinstance(user, Deleted):
            erased[user_id] = at
            users.pop(user_id, None)
        else:
            users[user_id] = user
    return users, erased


def main(
    out: Annotated[Path, typer.Option(help="folder to write users, items and interactions into")],
    format: Annotated[Format, typer.Option(help="of the files")] = "parquet",
    days: Annotated[
        float | None, typer.Option(min=0, help="interactions of so many days before the newest; default: all")
    ] = None,
) -> None:
    """Write what the topics hold in the project's data format."""
    configuration = settings.load()
    logs.setup(configuration, "export")
    reader = Reader(configuration.broker)
    tables = export(reader, days)
    dataset.write(tables, out, format)
    for topic, count in reader.unreadable.items():
        log.warning("unreadable records left out", topic=topic, records=count)
    print(f"{out}: {len(tables.users):,} users, {len(tables.items):,} items, {len(tables.interactions):,} interactions")


if __name__ == "__main__":
    run(lambda: typer.run(main))
