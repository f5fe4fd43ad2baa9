"""The contract between processes: topics, keys, partitions, and messages as bytes (JSON, schema version 1).

A record without value on a compacted topic (Kafka's tombstone) is no message: `Deleted` says whom or what its key names.

Every reader goes through `decode_*`, which raises `Unreadable` with a reason that names the field; the caller sends the
bytes to `dead-letters`. Partitions follow the Java client's murmur2 of the key, so that any client which uses it sends a
user's events to the same partition.
"""

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Union

import msgspec
from msgspec import Struct

from feed.catalogue import Item, User
from feed.errors import Unreadable
from feed.events import ENGAGEMENTS, KINDS, Engagement, Event, Id, Impression, Text, unknown_kind

LARGEST_MESSAGE = 1024 * 1024  # bytes of an event, item or user: what a broker takes unless it is told otherwise
LARGEST = 2 * LARGEST_MESSAGE  # bytes of any record: a message, in base64, with what is said about it


@dataclass(frozen=True)
class Topic:
    """A topic's name and how it is created; `partitions` 0 means: as many as `interactions` (a setting)."""

    name: str
    partitions: int = 0
    compacted: bool = False
    days: int | None = None  # how long its records are kept; None: as the broker is set
    bytes: int | None = None  # of its largest record; None: as the broker is set (1 MiB)


INTERACTIONS = Topic("interactions")
# as many partitions as interactions: one partition of both owns all that is known of a user (see feed.io.redis)
USERS = Topic("users", compacted=True)
ITEMS = Topic("items", partitions=2, compacted=True)
FEATURE_UPDATES = Topic("feature-updates", days=7)  # only the newest matter: features themselves are in Redis
# one partition, so there is one learner at a time; by far the largest, and made of `interactions`; messages: feed.examples
TRAINING_EXAMPLES = Topic("training-examples", partitions=1, days=30, bytes=LARGEST)
ALERTS = Topic("alerts", partitions=1)
DEAD_LETTERS = Topic("dead-letters", partitions=1, bytes=LARGEST)
TOPICS = (INTERACTIONS, USERS, ITEMS, FEATURE_UPDATES, TRAINING_EXAMPLES, ALERTS, DEAD_LETTERS)


def topics(examples_days: int) -> tuple[Topic, ...]:
    """`TOPICS`, with training examples kept for so long."""
    return tuple(replace(topic, days=examples_days) if topic is TRAINING_EXAMPLES else topic for topic in TOPICS)


class Position(Struct, frozen=True):
    """A place in a log: everything before `offset` of this partition. The topic's id, because a recreated topic starts at 0."""

    topic_id: str
    partition: int
    offset: int


class Deleted(Struct, frozen=True):
    """What a record without value says: the item is removed, or the user erased, that has this id."""

    id: str


class FeatureUpdate(Struct, frozen=True):
    """The users of one partition whose features changed in one batch, and the position up to which they did."""

    users: tuple[str, ...]
    position: Position


class DeadLetter(Struct, frozen=True):
    """What could not be used: where it came from, why, and the bytes themselves (base64 in JSON).

    Of a record, `position` is its place in `topic`; `value` is None if it had none or is too large to be sent. An example too
    large for a record has no bytes there: `topic` is `interactions`, `position` is the next to be read when its window closed,
    and `reason` names the request.
    """

    topic: str
    position: Position
    reason: str
    key: bytes | None
    value: bytes | None


class Corrupt(bytes):
    """The value of a record that stands for records which cannot be read: it has no bytes, but says why."""

    reason: str

    def __new__(cls, reason: str) -> "Corrupt":
        """No bytes, and `reason`."""
        made = super().__new__(cls)
        made.reason = reason
        return made


def _without_bytes(value: Any) -> None:
    if not isinstance(value, Corrupt):
        raise TypeError(f"a {type(value).__name__} has no JSON")


encode = msgspec.json.Encoder(enc_hook=_without_bytes).encode

_item = msgspec.json.Decoder(Item)
_user = msgspec.json.Decoder(User)
_update = msgspec.json.Decoder(FeatureUpdate)
_letter = msgspec.json.Decoder(DeadLetter)


def decode_event(value: bytes | None) -> Event:
    """The event in `value`. Raises `Unreadable`."""
    try:
        return _decode(_events(*ENGAGEMENTS.values()), value, "event", LARGEST_MESSAGE)  # type: ignore[no-any-return]
    except Unreadable as error:
        if (name := _kind_of(value)) is None or name in KINDS:
            raise
        raise Unreadable(f"not a valid event (docs/event-schema.md): event {name!r} {unknown_kind(name)}") from error


@cache
def _events(*engagements: type[Engagement]) -> msgspec.json.Decoder[Any]:
    """Reads impressions and these."""
    return msgspec.json.Decoder(Union[(Impression, *engagements)])


class _Kind(Struct):
    event: Text


_kind = msgspec.json.Decoder(_Kind)


def _kind_of(value: bytes | None) -> str | None:
    """The kind that an event which cannot be read says it has; None if it says none."""
    try:
        return _kind.decode(value or b"").event
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_item(value: bytes | None) -> Item:
    """The item in `value`. Raises `Unreadable`."""
    return _decode(_item, value, "item", LARGEST_MESSAGE)  # type: ignore[no-any-return]


def decode_user(value: bytes | None) -> User:
    """The user in `value`. Raises `Unreadable`."""
    return _decode(_user, value, "user", LARGEST_MESSAGE)  # type: ignore[no-any-return]


def decode_deleted(key: bytes | None) -> Deleted:
    """What a record without value deletes, by its key. Raises `Unreadable`."""
    try:
        return Deleted(msgspec.convert((key or b"").decode(), Id))
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Unreadable(f"the record has no value, and its key is no id, so it deletes nothing: {error}") from error


def undated(timestamp: int, now: float, future_seconds: float) -> str | None:
    """Why a record of this time (milliseconds since 1970) cannot say until when somebody is erased; None if it can.

    `now`: seconds since 1970.
    """
    ahead = timestamp / 1000 - now
    if timestamp >= 0 and ahead <= future_seconds:
        return None
    return (
        f"the time of the record, {timestamp} ms since 1970, is missing or {ahead:.0f} s in the future: whatever came until "
        "then would be erased. Send it again with the time of now"
    )


def decode_update(value: bytes | None) -> FeatureUpdate:
    """The feature update in `value`. Raises `Unreadable`."""
    return _decode(_update, value, "feature update")  # type: ignore[no-any-return]


def decode_letter(value: bytes | None) -> DeadLetter:
    """The dead letter in `value`. Raises `Unreadable`."""
    return _decode(_letter, value, "dead letter")  # type: ignore[no-any-return]


def _decode(decoder: msgspec.json.Decoder[Any], value: bytes | None, what: str, most: int = LARGEST) -> Any:
    if value is None:
        raise Unreadable(f"no {what}: the record has no value")
    if len(value) > most:
        raise Unreadable(f"not a valid {what}: it has {len(value):,} bytes, at most {most:,} are possible")
    if isinstance(value, Corrupt):
        raise Unreadable(value.reason)
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # a ValidationError is a DecodeError
        raise Unreadable(f"not a valid {what} (schema version 1, docs/event-schema.md): {error}") from error


@lru_cache(maxsize=200_000)
def partition_of(key: str, partitions: int) -> int:
    """The partition of `key` among `partitions`, as the Java client's default partitioner chooses it.

    Reference: org.apache.kafka.common.utils.Utils.murmur2 (MurmurHash2, seed 0x9747b28c), then made positive.
    """
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
