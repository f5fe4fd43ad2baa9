"""The features agent: what happened goes in, what is known of users and items comes out, each event effectively once.

    interactions, users, items ─► fold (pure) ─► one Redis script (states, counts, position, outbox)
                                                     └─► feature-updates, dead-letters

`python stream_processors/features.py`
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from feed import logs, settings, wire
from feed.catalogue import Item
from feed.errors import FeedError, Unreadable, run
from feed.events import Engagement, Event
from feed.features import UserState, counts, new_user, update_profile, update_user
from feed.features.user import NUMERIC, numeric_values
from feed.io import kafka
from feed.io.redis import TRANSIENT, Change, FeatureStore, Message, claim_topics, connect
from feed.wire import DeadLetter, FeatureUpdate, Position
from stream_processors import transport
from stream_processors.transport import Batch

log = structlog.get_logger()


class Folder:
    """Turns records of one partition into a `Change`; reads nothing but what `states` and `contents` give it."""

    def __init__(self, partitions: int, future_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._partitions, self._future, self._clock = partitions, future_seconds, clock

    def fold(
        self,
        topic: wire.Topic,
        records: Sequence[Any],
        end: Position,
        states: Callable[[Sequence[str]], Sequence[UserState | None]],
        contents: Callable[[Sequence[str]], Mapping[str, Item]],
    ) -> Change:
        """The change that `records` (with .offset, .key, .value) of `topic` make; unusable ones become dead letters."""
        change = Change(end)
        if topic is wire.ITEMS:
            for item in self._readable(change, topic, records, wire.decode_item):
                change.items[item.item_id] = item
            return change
        if topic is wire.USERS:
            users = list(self._readable(change, topic, records, wire.decode_user, self._misplaced_user))
            self._load(change, [user.user_id for user in users], states)
            for user in users:
                update_profile(change.users[user.user_id], user)
        else:
            events = list(self._readable(change, topic, records, wire.decode_event, self._misplaced_event))
            self._load(change, [event.user_id for event in events], states)
            self._fold_events(change, events, contents)
        for state in change.users.values():
            self._finish(state, end)
        if change.users:
            update = FeatureUpdate(tuple(change.users), end)
            change.messages.append(
                Message(wire.FEATURE_UPDATES.name, end.partition, str(end.partition).encode(), wire.encode(update))
            )
        return change

    def _fold_events(
        self, change: Change, events: Sequence[Event], contents: Callable[[Sequence[str]], Mapping[str, Item]]
    ) -> None:
        items = contents(sorted({event.item_id for event in events if isinstance(event, Engagement)}))
        counted: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for event in events:
            update_user(change.users[event.user_id], event, items)
            fields = counts.fields(event)
            for item_id in counts.shown_or_engaged(event):
                of_item = counted[item_id]
                for name in fields:
                    of_item[name] += 1
            change.newest = max(change.newest, event.at)
        change.counts.update(counted)

    def _load(self, change: Change, ids: Sequence[str], states: Callable[[Sequence[str]], Sequence[UserState | None]]) -> None:
        distinct = list(dict.fromkeys(ids))
        for user_id, state in zip(distinct, states(distinct), strict=True):
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
        refuse: Callable[[Any, int], str | None] = lambda message, partition: None,
    ) -> list[Any]:
        readable = []
        for record in records:
            try:
                message = decode(record.value)
                reason = refuse(message, change.position.partition)
            except Unreadable as error:
                reason = str(error)
            if reason is None:
                readable.append(message)
                continue
            place = Position(change.position.topic_id, change.position.partition, record.offset)
            letter = DeadLetter(topic.name, place, reason, record.key, record.value)
            change.messages.append(Message(wire.DEAD_LETTERS.name, 0, record.key or b"", wire.encode(letter)))
            log.warning("dead letter", topic=topic.name, partition=place.partition, offset=place.offset, reason=reason)
        return readable

    def _misplaced_user(self, user: Any, partition: int) -> str | None:
        right = wire.partition_of(user.user_id, self._partitions)
        if partition == right:
            return None
        return (
            f"user {user.user_id!r} belongs to partition {right}, not {partition}: use the user id as the key and the "
            "partitioner murmur2 (librdkafka: partitioner=murmur2_random)"
        )

    def _misplaced_event(self, event: Event, partition: int) -> str | None:
        ahead = event.at - self._clock()
        if ahead > self._future:
            return (
                f"occurred_at {event.occurred_at.isoformat()} is {ahead:.0f} s in the future (at most {self._future:.0f} s are "
                "accepted): set the sender's clock, or FEED_FUTURE_SECONDS"
            )
        return self._misplaced_user(event, partition)


class FeaturesAgent:
    """Applies batches to Redis: skips what the position says is done, rewinds to where Redis is, retries what failed."""

    def __init__(self, store: FeatureStore, sender: kafka.Sender, folder: Folder, topic_ids: Mapping[str, str]) -> None:
        self._store, self._sender, self._folder, self._topic_ids = store, sender, folder, topic_ids
        self._topics = {topic.name: topic for topic in wire.TOPICS}
        self._one_at_a_time = asyncio.Lock()  # the store serves one thread

    async def apply(self, batch: Batch) -> None:
        """Apply, skip or rewind `batch`, waiting for Redis and the broker as long as it takes; then acknowledge it."""

        async def attempt() -> bool:
            async with self._one_at_a_time:
                position = await asyncio.to_thread(self._try, batch)
            if position is None:
                return False  # another worker was faster: look again
            if position < batch.start:
                log.warning("Redis is behind the log: rewinding", partition=str(batch.tp), to=position, start=batch.start)
                await batch.rewind(position)
            else:
                batch.ack()
            return True

        await transport.persist(batch, attempt, (*TRANSIENT, FeedError))

    def _try(self, batch: Batch) -> int | None:
        """The position found or reached; None if somebody else has moved it meanwhile."""
        topic, partition = self._topics[batch.tp.topic], batch.tp.partition
        topic_id = self._topic_ids[topic.name]
        other_id = self._topic_ids[(wire.USERS if topic is wire.INTERACTIONS else wire.INTERACTIONS).name]
        if topic is wire.ITEMS:
            other_id = topic_id  # items change no user: only their own position guards them
        position = self._store.position(topic_id, partition)
        other = position if topic is wire.ITEMS else self._store.position(other_id, partition)
        if position < batch.start:
            return position
        records = [record for record in batch.records if record.offset >= position]
        if records:
            end = Position(topic_id, partition, batch.end)
            change = self._folder.fold(topic, records, end, self._store.users, self._store.contents)
            if not self._store.apply(change, position, other_id, other).done:
                return None
        self.send_outbox(topic.name, partition)
        return int(batch.end)

    def send_outbox(self, topic: str, partition: int) -> None:
        """Send what batches of this partition have caused and nobody is known to have sent; oldest first."""
        topic_id = self._topic_ids[topic]
        if waiting := self._store.outbox(topic_id, partition):
            for _, message in waiting:
                self._sender.send_raw(message.topic, message.partition, message.key, message.value)
            self._sender.flush()
            self._store.sent(topic_id, partition, [entry for entry, _ in waiting])

    async def send_left_over(self, assigned: Sequence[Any]) -> None:
        """A new owner sends what is left first (also when no new batch ever comes)."""
        for tp in assigned:
            try:
                async with self._one_at_a_time:
                    await asyncio.to_thread(self.send_outbox, tp.topic, tp.partition)
            except (*TRANSIENT, FeedError) as error:
                log.warning("outbox not sent yet", partition=str(tp), error=str(error) or repr(error))


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "features")
    topic_ids = kafka.ensure_topics(configuration.kafka, configuration.partitions)
    client = connect(configuration.redis)
    claim_topics(client, topic_ids)
    folder = Folder(configuration.partitions, configuration.future_seconds)
    with kafka.Sender(configuration.kafka) as sender:
        agent = FeaturesAgent(FeatureStore(client), sender, folder, topic_ids)
        app = transport.make_app("features", configuration)
        for topic in (wire.ITEMS, wire.USERS, wire.INTERACTIONS):
            transport.consume(app, topic, agent.apply)
        transport.every(app, 5.0, lambda: agent.send_left_over(transport.assigned(app)))
        transport.run(app)


if __name__ == "__main__":
    run(main)
