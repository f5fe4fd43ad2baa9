"""What the topics hold, in the data format: `python offline/export.py --out DIR`.

Users and items as they were published last, interactions in time order: all, or those of the newest `--days`. What the stream
does not count is left out, and told by its reason: whatever is in `dead-letters`, and what would be there if the features
agent had got to it. So are removed items, and erased people with what they did until then. Of a user's events of one id there
is one.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
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
from feed.events import Event
from feed.io import kafka
from feed.io.kafka import Record
from feed.io.letters import Letters, read_letters, shortened
from feed.settings import FUTURE_SECONDS
from feed.wire import Deleted

log = structlog.get_logger()
NEVER = -2  # before the time of any record: one without a time has -1
T = TypeVar("T")
REASONS = 20  # of one topic that are told; the others are counted together


@dataclass
class Reader:
    """Reads topics of the broker as the stream does.

    `unreadable` counts, by topic, the records left out so far, `reasons` by topic and reason. `future_seconds`: how far ahead
    of the clock an event may be.
    """

    broker: Broker | str
    future_seconds: float = FUTURE_SECONDS
    unreadable: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)

    def messages(self, topic: wire.Topic, decode: Callable[[bytes | None], T]) -> Iterator[tuple[int, T | Deleted]]:
        """What `decode` makes of the topic's records, one partition after the other, each with its time (milliseconds)."""
        found: list[tuple[int, int, int, T | Deleted]] = []
        for record in kafka.read_topic(self.broker, topic):
            try:
                deletes = record.value is None and topic.compacted
                message = wire.decode_deleted(record.key) if deletes else decode(record.value)
                self._require_used(record, message)
            except Unreadable as error:
                self._leave_out(topic.name, str(error))
            else:
                found.append((record.partition, record.offset, record.timestamp, message))
        yield from ((at, message) for _, _, at, message in sorted(found, key=itemgetter(0, 1)))

    @cached_property
    def _letters(self) -> Letters:
        return read_letters(self.broker)

    def _require_used(self, record: Record, message: object) -> None:
        """Raises `Unreadable` for a message that the stream does not count."""
        if (letter := self._letters.of(record)) is not None:
            raise Unreadable(letter.reason)
        erases = isinstance(message, Deleted) and record.topic == wire.USERS.name
        if erases and (reason := wire.undated(record.timestamp, time.time(), self.future_seconds)):
            raise Unreadable(reason)
        if isinstance(message, Event):
            if message.at > time.time() + self.future_seconds:
                raise Unreadable("occurred_at lies in the future")
            # written anew it can be longer, 1e15 as 1000000000000000.0
            if len(record.value or b"") > wire.LARGEST_MESSAGE // 2 and len(wire.encode(message)) > wire.LARGEST_MESSAGE:
                raise Unreadable("written anew the event is larger than a record may be")

    def _leave_out(self, topic: str, reason: str) -> None:
        self.unreadable[topic] = self.unreadable.get(topic, 0) + 1
        reasons = self.reasons.setdefault(topic, Counter())
        reason = shortened(reason)
        reasons[reason if reason in reasons or len(reasons) < REASONS else "other reasons"] += 1


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
    found: dict[tuple[str, str], Event] = {}
    copies = 0
    for at, event in reader.messages(wire.INTERACTIONS, wire.decode_event):
        if not isinstance(event, Deleted) and at > erased.get(event.user_id, NEVER):
            copies += found.setdefault((event.user_id, event.event_id), event) is not event
    if copies:
        log.info("copies of events left out", records=copies)
    events = sorted(found.values(), key=lambda event: event.occurred_at)
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
    reader = Reader(configuration.broker, configuration.future_seconds)
    tables = export(reader, days)
    dataset.write(tables, out, format)
    for topic, count in reader.unreadable.items():
        log.warning("records left out that the stream does not count", topic=topic, records=count)
        for reason, records in reader.reasons[topic].most_common():
            log.warning("left out", topic=topic, records=records, reason=reason)
    print(f"{out}: {len(tables.users):,} users, {len(tables.items):,} items, {len(tables.interactions):,} interactions")


if __name__ == "__main__":
    run(lambda: typer.run(main))
