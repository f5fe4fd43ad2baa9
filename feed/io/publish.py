"""A log through the topics: users and items, then, once these are in everybody's features, the events in time order.

What is already in the topic is not sent again, so a log that was stopped half-way goes on where it was. At the end, what has
arrived in the features is held against what was published (`feed.io.arrived`).
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis
import structlog

from feed import wire
from feed.address import Broker
from feed.dataset import WORLD_FILE, Dataset, events_of, items_of, users_of
from feed.errors import BadData, FeedError, Unreadable
from feed.events import Event
from feed.io import arrived, kafka
from feed.io.letters import Letters, read_letters
from feed.io.redis import FeatureStore, claim_catalogue

log = structlog.get_logger()

PATIENCE_SECONDS = 60.0  # without any progress of the features
REPORT_SECONDS, SAY_SECONDS = 0.1, 5.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Published:
    """Users, items and events acknowledged in this call, events that were there before, and each partition's next offset."""

    users: int
    items: int
    events: int
    events_before: int
    positions: Mapping[tuple[str, int], int]


def describe(path: Path, dataset: Dataset) -> dict[str, object]:
    """What `claim_catalogue` remembers of the log in `path`: a hash of its messages, and its name or what its world is.

    Raises `BadData` when its `world.json` is not a JSON object.
    """
    digest = hashlib.sha256()
    for messages in (users_of(dataset), items_of(dataset), events_of(dataset)):
        for message in messages:
            digest.update(wire.encode(message))
    described: dict[str, object] = {"kind": "log", "name": path.resolve().name}
    if (world := path / WORLD_FILE).is_file():
        try:
            described = msgspec.json.decode(world.read_bytes(), type=dict[str, object])
        except msgspec.DecodeError as error:
            raise BadData(
                f"{world}: {error}; it was written by producers/generate.py: remove it to have a log like any"
            ) from error
    return {**described, "content": digest.hexdigest()[:16]}


def publish_log(
    broker: Broker | str,
    client: redis.Redis,
    topic_ids: Mapping[str, str],
    dataset: Dataset,
    description: Mapping[str, object],
    speed: float = 0.0,
    progress: Progress = lambda done, total: None,
) -> Published:
    """Publish `dataset`; `progress(done, total)` hears of events acknowledged, those of earlier calls included.

    `speed`: seconds of the log per second, 0: as fast as possible. Needs the features agent, and returns when the features
    contain everything. Raises `OtherCatalogue` if the system holds another world or log, `NotArrived` if something of it does
    not count, `FeedError` if nothing takes it in. `KeyboardInterrupt` goes through after what was sent is acknowledged.
    """
    events = list(events_of(dataset))
    claim_catalogue(client, description)
    store, letters = FeatureStore(client), read_letters(broker)
    done = _publish(broker, store, topic_ids, dataset, events, letters, speed, progress)
    log.info("published; waiting for the features to get there", users=done.users, items=done.items, events=done.events)
    wait_for_features(store, topic_ids, done.positions)
    arrived.wait_for_letters(client, store, topic_ids, done.positions)
    arrived.require_used(dataset, read_letters(broker).since(letters))
    return done


def _publish(
    broker: Broker | str,
    store: FeatureStore,
    topic_ids: Mapping[str, str],
    dataset: Dataset,
    events: Sequence[Event],
    letters: Letters,
    speed: float,
    progress: Progress,
) -> Published:
    with kafka.Sender(broker) as sender:
        described = publish_catalogue(sender, dataset)
        ends = sender.positions()
        arrived.require_catalogue(
            store, dataset, lambda: wait_for_features(store, topic_ids, ends), lambda: read_letters(broker).since(letters)
        )
        there, positions = _published(broker, letters)
        left = [event for event in events if (event.user_id, event.event_id) not in there]
        before = len(events) - len(left)
        if before:
            log.info("going on where an earlier run stopped", events=before)

        def report() -> None:
            progress(before + sender.acked - sum(described), len(events))

        try:
            publish_events(sender, left, speed, report)
        except KeyboardInterrupt:
            sender.flush()
            report()
            raise
        sender.flush()
        report()
        return Published(*described, sender.acked - sum(described), before, positions | sender.positions())


def publish_catalogue(sender: kafka.Sender, dataset: Dataset) -> tuple[int, int]:
    """Send and flush the users and items; returns how many there are of each."""
    users = items = 0
    for users, user in enumerate(users_of(dataset), 1):  # noqa: B007
        sender.send(wire.USERS, user.user_id, user)
    for items, item in enumerate(items_of(dataset), 1):  # noqa: B007
        sender.send(wire.ITEMS, item.item_id, item)
    sender.flush()
    return users, items


def publish_events(
    sender: kafka.Sender, events: Iterable[Event], speed: float = 0.0, report: Callable[[], None] = lambda: None
) -> None:
    """Send events that are in time order, not waiting for their acknowledgement.

    `speed`: seconds of the log per second, counted from the first event; 0: as fast as possible.
    """
    began, first, reported = time.monotonic(), None, 0.0
    for event in events:
        first = event.at if first is None else first
        if speed and (wait := began + (event.at - first) / speed - time.monotonic()) > 0:
            report()
            time.sleep(wait)
        sender.send(wire.INTERACTIONS, event.user_id, event)
        if (now := time.monotonic()) - reported > REPORT_SECONDS:
            report()
            reported = now


def wait_for_features(store: FeatureStore, topic_ids: Mapping[str, str], targets: Mapping[tuple[str, int], int]) -> None:
    """Wait until the features contain everything before `targets`, which are offsets by (topic, partition).

    Raises `FeedError` after a minute without progress.
    """
    before, since, said = -1, time.monotonic(), 0.0
    while True:
        missing = {
            (topic, partition): target - store.position(topic_ids[topic], partition)
            for (topic, partition), target in targets.items()
        }
        left = sum(max(n, 0) for n in missing.values())
        if left == 0:
            return
        if left != before:
            before, since = left, time.monotonic()
            if since - said > SAY_SECONDS:
                log.info("features are catching up", records_left=left)
                said = since
        elif time.monotonic() - since > PATIENCE_SECONDS:
            where = ", ".join(f"{topic}/{partition}" for (topic, partition), n in missing.items() if n > 0)
            raise FeedError(
                f"no progress for {PATIENCE_SECONDS:.0f} s, {left} records left in {where}: is the features agent running?"
            )
        time.sleep(0.2)


def _published(broker: Broker | str, letters: Letters) -> tuple[Collection[tuple[str, str]], dict[tuple[str, int], int]]:
    """User and id of the events in the topic that count, and where its partitions end."""
    ids, ends = set(), {}
    for record in kafka.read_topic(broker, wire.INTERACTIONS):
        ends[record.topic, record.partition] = record.offset + 1
        if letters.of(record) is None:
            try:
                event = wire.decode_event(record.value)
            except Unreadable:
                continue
            ids.add((event.user_id, event.event_id))
    return ids, ends
