"""What was published, held against what has arrived: whoever publishes a log or ranks a catalogue is told what is missing.

    items, users ──► Redis knows them by id            events ──► none of them is in dead-letters

A part can be missing for a while, when Redis is being filled anew. It is waited for.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import redis
import structlog

from feed import wire
from feed.address import Broker
from feed.catalogue import Item, User
from feed.dataset import Dataset, events_of, items_of, users_of
from feed.errors import NotArrived, Unreadable
from feed.events import Event
from feed.io import kafka
from feed.io.letters import Letter, digest, read_letters, shortened
from feed.io.redis import CATALOGUE, WIPING, FeatureStore

log = structlog.get_logger()

PATIENCE_SECONDS = 30.0  # without any progress
LOOK_SECONDS = 0.5
AT_ONCE = 1000
NAMED = 3  # of what is missing, in a message


@dataclass(frozen=True)
class Described:
    """The items that the topic `items` describes, and why those of `refused` can not be used."""

    items: frozenset[str]
    refused: Mapping[str, str]


def read_described(broker: Broker | str) -> Described:
    """What the topic describes by now; the last record of an item counts. Raises `FeedError` if there is no such topic."""
    letters = read_letters(broker)
    items: dict[str, str | None] = {}
    for record in kafka.read_topic(broker, wire.ITEMS):  # an item's records are in one partition, so they are in order
        item_id = (record.key or b"").decode(errors="replace")
        if record.value is None:
            items.pop(item_id, None)
            continue
        letter = letters.of(record)
        try:
            item_id, reason = wire.decode_item(record.value).item_id, None if letter is None else letter.reason
        except Unreadable as error:
            reason = shortened(str(error))
        if reason is None or item_id not in items:  # a record that cannot be used leaves the item as it was
            items[item_id] = reason
    return Described(frozenset(items), {item_id: reason for item_id, reason in items.items() if reason is not None})


def require_catalogue(
    store: FeatureStore, dataset: Dataset, wait: Callable[[], None], letters: Callable[[], Sequence[Letter]]
) -> None:
    """Return when Redis knows every item and user of `dataset`.

    `wait` returns when the features have got to the end of what was published. `letters`: the dead letters that have come
    since. Raises `NotArrived` that names some of what is missing, with the reason if there is one.
    """
    ids = {"items": dataset.items["item_id"].tolist(), "users": dataset.users["user_id"].tolist()}
    before, since = -1, time.monotonic()
    while True:
        wait()
        lost = {"items": unknown_items(store, ids["items"]), "users": unknown_users(store, ids["users"])}
        left = sum(map(len, lost.values()))
        if not left:
            return
        refused = {(letter.topic, letter.key): letter for letter in letters()}
        reasons = {name: [refused[name, one] for one in lost[name] if (name, one) in refused] for name in lost}
        explained = sum(map(len, reasons.values())) == left
        if left != before:
            before, since = left, time.monotonic()
        if explained or time.monotonic() - since > PATIENCE_SECONDS:
            said = [_missing(name, len(ids[name]), lost[name], reasons[name]) for name in lost if lost[name]]
            raise NotArrived(f"{'; '.join(said)}. Correct the tables, and publish them into an empty system")
        time.sleep(LOOK_SECONDS)


def require_used(dataset: Dataset, letters: Iterable[Letter]) -> None:
    """Raise `NotArrived` if any of these letters holds an event, item or user of `dataset`."""
    values = {letter.digest: letter for letter in letters}
    if not values:
        return
    counts, refused = {"interactions": 0, "items": 0, "users": 0}, dict[str, list[str]]()
    reasons: dict[str, str] = {}
    for message in chain(events_of(dataset), items_of(dataset), users_of(dataset)):
        topic, name = _named(message)
        counts[topic] += 1
        if (letter := values.get(digest(wire.encode(message)))) is not None:
            refused.setdefault(topic, []).append(name)
            reasons.setdefault(topic, letter.reason)
    if refused:
        said = (
            f"{len(names):,} of {counts[topic]:,} {topic} are in dead-letters and count nowhere, such as {_some(names)}: "
            f"{reasons[topic]}"
            for topic, names in refused.items()
        )
        raise NotArrived("; ".join(said))


def wait_for_letters(
    client: redis.Redis, store: FeatureStore, topic_ids: Mapping[str, str], places: Iterable[tuple[str, int]]
) -> None:
    """Return when the messages that these partitions (topic, partition) have caused until now are sent."""
    seconds, micros = client.time()
    now = int(seconds) * 1000 + int(micros) // 1000
    for topic, partition in places:
        began = time.monotonic()
        while (first := store.outbox(topic_ids[topic], partition, 1)) and int(first[0][0].split(b"-")[0]) <= now:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise NotArrived(
                    f"what {topic}/{partition} has caused is not sent in {PATIENCE_SECONDS:.0f} s: is the features agent there?"
                )
            time.sleep(0.1)


def wait_for_items(store: FeatureStore, described: Described) -> list[str]:
    """Return when Redis knows all items that are described and can be used, or gets no more of them.

    Returns those that it does not know. While it is being filled anew they are waited for as long as that takes.
    """
    usable = sorted(described.items - described.refused.keys())
    lost, before, since = unknown_items(store, usable), -1, time.monotonic()
    while (filling := store.standing().state in (WIPING, CATALOGUE)) or (lost and time.monotonic() - since < PATIENCE_SECONDS):
        if len(lost) != before or filling:
            before, since = len(lost), time.monotonic()
            log.warning("waiting for Redis, which lacks items", items=before, filled_anew=filling)
        time.sleep(LOOK_SECONDS)
        lost = unknown_items(store, usable)
    return lost


def unknown_items(store: FeatureStore, ids: Sequence[str]) -> list[str]:
    """Those of these items that Redis has no description of."""
    parts = (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
    return [item_id for part in parts for known in [store.contents(part)] for item_id in part if item_id not in known]


def unknown_users(store: FeatureStore, ids: Sequence[str]) -> list[str]:
    """Those of these users of whom Redis has nothing."""
    parts = (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
    return [user_id for part in parts for user_id, state in zip(part, store.users(part), strict=True) if state is None]


def _missing(name: str, published: int, lost: Sequence[str], letters: Sequence[Letter]) -> str:
    known = f"{published:,} {name} were published, and Redis knows {published - len(lost):,} of them; missing are {_some(lost)}"
    return f"{known} ({len(letters):,} in dead-letters: {letters[0].reason})" if letters else known


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def _named(message: Event | Item | User) -> tuple[str, str]:
    if isinstance(message, Item):
        return wire.ITEMS.name, message.item_id
    return (wire.USERS.name, message.user_id) if isinstance(message, User) else (wire.INTERACTIONS.name, message.event_id)
