"""The fold: records of one partition in, one `Change` with all their effects out.

Pure but for what it reads of the store; what cannot be used becomes a dead letter among the change's messages.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from feed import wire
from feed.attribution import Attribution
from feed.errors import Unreadable, last_line
from feed.events import Engagement, Event
from feed.features import FrozenItems, ItemTable, UserState, counts, is_repeat, new_user, update_profile, update_user
from feed.features.near import taken
from feed.features.user import NUMERIC, numeric_values
from feed.io.redis import Change, FeatureStore, Message
from feed.wire import DeadLetter, Deleted, FeatureUpdate, Position

log = structlog.get_logger()

USERS_OF_AN_UPDATE = 500  # in one message: 128 characters each, of up to 12 bytes, are less than a record may have
MOST_BYTES = wire.LARGEST - 4096  # of a message's value: the rest is for its key and for what is around them


class Folder:
    """Turns records of one partition into a `Change`; changes nothing, and reads nothing but `store` and the item table."""

    def __init__(
        self,
        partitions: int,
        future_seconds: float,
        attribution_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._partitions, self._future, self._clock = partitions, future_seconds, clock
        self._attribution = attribution_seconds

    def fold(self, topic: wire.Topic, records: Sequence[Any], end: Position, store: FeatureStore, table: ItemTable) -> Change:
        """The change that `records` (.offset, .key, .value, .timestamp) of `topic` make; unusable ones become dead letters.

        `table`: the items as they are frozen into examples.
        """
        change = Change(end)
        if topic is wire.ITEMS:
            for _, item in self._readable(change, topic, records, wire.decode_item):
                if isinstance(item, Deleted):
                    change.items[item.id] = None
                else:
                    change.items[item.item_id] = item
            return change
        if topic is wire.USERS:
            self._fold_users(change, self._readable(change, topic, records, wire.decode_user, self._unusable_user), store)
        else:
            readable = self._readable(change, topic, records, wire.decode_event, self._unusable_event)
            erased = store.erased(list(dict.fromkeys(event.user_id for _, event in readable)))
            events = [(r.offset, event) for r, event in readable if not _is_erased(erased, event.user_id, r)]
            if skipped := len(readable) - len(events):
                change.tallies["erased"] += skipped
            self._load(change, [event.user_id for _, event in events], store)
            self._fold_events(change, events, store, table)
        for state in change.users.values():
            self._finish(state, end)
        change.messages += feature_updates(list(change.users), end)
        return change

    def set_aside(self, topic: wire.Topic, record: Any, end: Position, error: Exception) -> Change:
        """The change that a record makes whose fold has failed with `error`, for whatever reason: a dead letter."""
        place = Position(end.topic_id, end.partition, record.offset)
        log.error(
            "a record that this code cannot fold is set aside: a programming error, please report it",
            topic=topic.name, partition=place.partition, offset=place.offset, exc_info=error,
        )  # fmt: skip
        change = Change(end)
        change.tallies["set_aside"] += 1
        reason = f"the fold failed, which is a programming error: {last_line(error)}"
        self._refuse(change, DeadLetter(topic.name, place, reason, record.key, record.value))
        return change

    def close(self, at: Position, store: FeatureStore) -> Change:
        """The change that closes every window of a partition that has nothing more to read, `at` its position."""
        change = Change(at)
        windows = self._windows(at, store, ItemTable(), 0.0, (), float("inf"))
        self._emit(change, windows, everything=True)
        return change

    def _fold_users(self, change: Change, readable: Sequence[tuple[Any, Any]], store: FeatureStore) -> None:
        """Take over profiles, and erase: of a user who is erased nothing counts that was recorded until then."""
        ids = list(dict.fromkeys(_user_id(message) for _, message in readable))
        states, erased = dict(zip(ids, store.users(ids), strict=True)), store.erased(ids)
        for record, message in readable:
            user_id = _user_id(message)
            if _is_erased(erased, user_id, record):
                continue
            if isinstance(message, Deleted):
                erased[user_id] = change.erased[user_id] = record.timestamp
                states[user_id] = None
                change.users.pop(user_id, None)
            else:
                state = states[user_id] = change.users[user_id] = states[user_id] or new_user(user_id)
                update_profile(state, message)

    def _fold_events(self, change: Change, placed: Sequence[tuple[int, Event]], store: FeatureStore, table: ItemTable) -> None:
        """`placed`: events, each with its offset."""
        events = [event for _, event in placed]
        if not events:
            return
        change.newest = max(event.at for event in events)
        windows = self._windows(change.position, store, table, events[0].at, [event.user_id for event in events], change.newest)
        items = store.contents(sorted({event.item_id for event in events if isinstance(event, Engagement)}))
        counted: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for offset, event in placed:
            state = change.users[event.user_id]
            if is_repeat(state, event):
                change.tallies["repeats"] += 1
                continue
            change.tallies["events"] += 1
            windows.add(event, state, offset)
            if (first := taken(state, event)) is not None:
                change.taken.append(first)
            update_user(state, event, items)
            fields = counts.fields(event)
            for item_id in counts.shown_or_engaged(event):
                of_item = counted[item_id]
                for name in fields:
                    of_item[name] += 1
                of_item[counts.FIRST] = min(of_item.get(counts.FIRST, int(event.at)), int(event.at))
            change.events.append(event)
        change.counts.update(counted)
        self._emit(change, windows)

    def _windows(
        self, end: Position, store: FeatureStore, table: ItemTable, now: float, users: Sequence[str], newest: float
    ) -> Attribution:
        """The partition's open windows: those of `users` and those that are over by `newest`."""
        marks = store.marks(end.topic_id, end.partition)
        ids = sorted({*users, *store.due(end.topic_id, end.partition, max(marks.clock, newest))})
        found = zip(ids, store.pending(end.topic_id, end.partition, ids), strict=True)
        pending = {user_id: of_user for user_id, of_user in found if of_user is not None}
        # the batch may begin with an event of long ago, and what is in it was shown to people of today
        return Attribution(self._attribution, end.partition, marks, pending, FrozenItems(table, max(now, marks.clock)))

    def _emit(self, change: Change, windows: Attribution, everything: bool = False) -> None:
        for example in windows.close(everything):
            key, value = example.user.user_id.encode(), wire.encode(example)
            if len(value) <= MOST_BYTES:
                change.messages.append(Message(wire.TRAINING_EXAMPLES.name, 0, key, value))
                continue
            reason = (
                f"the example {example.example_id} of user {example.user.user_id} has {len(value)} bytes with its "
                f"{len(example.rows)} items, more than a record may have: show fewer items in one impression, or give them "
                "fewer and shorter tags and attributes"
            )
            self._refuse(change, DeadLetter(wire.INTERACTIONS.name, change.position, reason, key, None))
        for failed in windows.failed:
            log.error("an example cannot be made", user=failed.user_id, request=failed.request, exc_info=failed.error)
            reason = f"no example of request {failed.request} of user {failed.user_id}: {last_line(failed.error)}"
            self._refuse(change, DeadLetter(wire.INTERACTIONS.name, change.position, reason, failed.user_id.encode(), None))
        change.pending, change.marks, change.marks_before = windows.pending, windows.marks, windows.before

    def _load(self, change: Change, ids: Sequence[str], store: FeatureStore) -> None:
        distinct = list(dict.fromkeys(ids))
        for user_id, state in zip(distinct, store.users(distinct), strict=True):
            change.users[user_id] = new_user(user_id) if state is None else state

    def _finish(self, state: UserState, end: Position) -> None:
        """Put the readable values of the moment and the position beside the state."""
        values = numeric_values(state, state["last"] or 0.0)
        state["features"] = {name: round(value, 4) for name, value in zip(NUMERIC, values, strict=True)}
        state["position"] = {"topic_id": end.topic_id, "partition": end.partition, "offset": end.offset}

    def _readable(
        self,
        change: Change,
        topic: wire.Topic,
        records: Sequence[Any],
        decode: Callable[[bytes | None], Any],
        refuse: Callable[[Any, Any, int], str | None] = lambda record, message, partition: None,
    ) -> list[tuple[Any, Any]]:
        """The records that can be used, each with its message."""
        readable = []
        for record in records:
            try:
                deletes = record.value is None and topic.compacted
                message = wire.decode_deleted(record.key) if deletes else decode(record.value)
                reason = refuse(record, message, change.position.partition)
            except Unreadable as error:
                reason = str(error)
            if reason is None:
                readable.append((record, message))
                continue
            place = Position(change.position.topic_id, change.position.partition, record.offset)
            self._refuse(change, DeadLetter(topic.name, place, reason, record.key, record.value))
        return readable

    def _refuse(self, change: Change, letter: DeadLetter) -> None:
        change.tallies["dead_letters"] += 1
        place, value = letter.position, wire.encode(letter)
        # what came in a compressed batch can be larger than one that is not
        if len(value) + len(letter.key or b"") > MOST_BYTES:
            reason = f"{letter.reason[:1000]} (the record is too large for {wire.DEAD_LETTERS.name}: it is left where it is)"
            letter = DeadLetter(letter.topic, place, reason, None, None)
            value = wire.encode(letter)
        change.messages.append(Message(wire.DEAD_LETTERS.name, 0, letter.key or b"", value))
        log.warning("dead letter", topic=letter.topic, partition=place.partition, offset=place.offset, reason=letter.reason)

    def _unusable_user(self, record: Any, message: Any, partition: int) -> str | None:
        if reason := self._misplaced(_user_id(message), partition):
            return reason
        return wire.undated(record.timestamp, self._clock(), self._future) if isinstance(message, Deleted) else None

    def _misplaced(self, user_id: str, partition: int) -> str | None:
        right = wire.partition_of(user_id, self._partitions)
        if partition == right:
            return None
        return (
            f"user {user_id!r} belongs to partition {right}, not {partition}: use the user id as the key and the "
            "partitioner murmur2 (librdkafka: partitioner=murmur2_random)"
        )

    def _unusable_event(self, record: Any, event: Event, partition: int) -> str | None:
        ahead = event.at - self._clock()
        if ahead > self._future:
            return (
                f"occurred_at {event.occurred_at.isoformat()} is {ahead:.0f} s in the future (at most {self._future:.0f} s are "
                "accepted): set the sender's clock, or FEED_FUTURE_SECONDS"
            )
        return self._misplaced(event.user_id, partition)


def feature_updates(users: Sequence[str], end: Position) -> list[Message]:
    """The messages that tell whose features have changed."""
    key = str(end.partition).encode()
    parts = (tuple(users[start : start + USERS_OF_AN_UPDATE]) for start in range(0, len(users), USERS_OF_AN_UPDATE))
    return [
        Message(wire.FEATURE_UPDATES.name, end.partition, key, wire.encode(FeatureUpdate(part, end))) for part in parts
    ]  # fmt: skip


def _user_id(message: Any) -> str:
    return str(message.id if isinstance(message, Deleted) else message.user_id)


def _is_erased(erased: Mapping[str, int], user_id: str, record: Any) -> bool:
    """Whether the record is not later than the erasure of its user."""
    return user_id in erased and record.timestamp <= erased[user_id]
