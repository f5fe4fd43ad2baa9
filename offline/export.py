"""What the topics hold, in the data format: `python offline/export.py --out DIR`.

Users and items as they were published last, interactions in time order: all, or those of the newest `--days`. Unreadable
records are counted and left out: they are in `dead-letters`.
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
from feed.dataset import Dataset, Format
from feed.errors import Unreadable, run
from feed.io import kafka

log = structlog.get_logger()
T = TypeVar("T")


@dataclass
class Reader:
    """Reads topics of the broker; `unreadable` counts, by topic, the records left out so far."""

    broker: Broker
    unreadable: dict[str, int] = field(default_factory=dict)

    def messages(self, topic: wire.Topic, decode: Callable[[bytes | None], T]) -> Iterator[T]:
        """What `decode` makes of the topic's records, one partition after the other."""
        for record in sorted(kafka.read_topic(self.broker, topic), key=lambda record: (record.partition, record.offset)):
            try:
                yield decode(record.value)
            except Unreadable:
                self.unreadable[topic.name] = self.unreadable.get(topic.name, 0) + 1


def export(reader: Reader, days: float | None = None) -> Dataset:
    """The topics as a dataset; the last entry of a user or item counts, events of one instant keep their user's order.

    `days`: only events this much before the newest (event time).
    """
    users = {user.user_id: user for user in reader.messages(wire.USERS, wire.decode_user)}
    items = {item.item_id: item for item in reader.messages(wire.ITEMS, wire.decode_item)}
    events = sorted(reader.messages(wire.INTERACTIONS, wire.decode_event), key=lambda event: event.occurred_at)
    if days is not None and events:
        events = events[bisect_left(events, events[-1].at - days * 86_400, key=lambda event: event.at) :]
    return dataset.from_events(events, items.values(), users.values())


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
