"""The features agent: what happened goes in, what is known of users and items comes out, each event effectively once.

    interactions, users, items ─► fold (pure) ─► one Redis script (states, counts, open windows, position, outbox)
                                                     └─► feature-updates, training-examples, dead-letters

`python stream_processors/features.py`
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import structlog

from feed import logs, settings, wire
from feed.errors import FeedError, run
from feed.features import ItemTable
from feed.io import kafka
from feed.io.redis import TRANSIENT, Change, FeatureStore, claim_topics, connect
from feed.wire import Position
from stream_processors import transport
from stream_processors.folder import Folder
from stream_processors.transport import Batch

log = structlog.get_logger()

REFRESH_SECONDS = 2.0
REFRESH_SHARE = 0.1  # of the time that refreshes may take
SENT_AT_ONCE = 500  # messages: so many may be sent twice if the broker goes away meanwhile, and so many are held in memory
LOOK_SECONDS = 1.0  # between two looks for partitions that are idle


class FeaturesAgent:
    """Applies batches to Redis: skips what the position says is done, rewinds to where Redis is, retries what failed.

    The item table is what examples freeze. It counts this worker's own events at once and takes over those of others, and new
    items, every `REFRESH_SECONDS`.
    """

    def __init__(
        self,
        store: FeatureStore,
        sender: kafka.Sender,
        folder: Folder,
        topic_ids: Mapping[str, str],
        tail: kafka.Tail,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._sender, self._folder, self._topic_ids = store, sender, folder, topic_ids
        self._tail = tail
        self._topics = {topic.name: topic for topic in wire.TOPICS}
        self._one_at_a_time = asyncio.Lock()  # the store serves one thread
        self._table = ItemTable()
        self._idle, self._clock = idle_seconds, clock
        self._refresh_due = -1.0
        # by partition of interactions: for how long it has been seen to be idle; negative: something has come since the last
        # look, infinite: and its windows are closed
        self._quiet: dict[int, float] = {}

    async def apply(self, batch: Batch) -> None:
        """Apply, skip or rewind `batch`, waiting for Redis and the broker as long as it takes; then acknowledge it."""

        async def attempt() -> bool:
            if batch.tp.topic == wire.INTERACTIONS.name:
                self._quiet[batch.tp.partition] = -LOOK_SECONDS
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
        topic_id, other_id = self._topic_ids[topic.name], self._other_id(topic)
        position = self._store.position(topic_id, partition)
        other = position if topic is wire.ITEMS else self._store.position(other_id, partition)
        if position < batch.start:
            self._table = self._store.load_items()  # which may have counted what Redis has lost, and will count it again
            return position
        records = [record for record in batch.records if record.offset >= position]
        if records:
            self._refresh()
            end = Position(topic_id, partition, batch.end)
            change = self._folder.fold(topic, records, end, self._store, self._table)
            if not self._store.apply(change, position, other_id, other).done:
                return None
            self._count(change)
            _say_late(change)
        self.send_outbox(topic.name, partition)
        return int(batch.end)

    def _other_id(self, topic: wire.Topic) -> str:
        """The topic that changes the same users; items change no user, so only their own position guards them."""
        other = {wire.INTERACTIONS: wire.USERS, wire.USERS: wire.INTERACTIONS}.get(topic, topic)
        return self._topic_ids[other.name]

    def _refresh(self) -> None:
        began = self._clock()
        if began >= self._refresh_due:
            self._store.refresh_items(self._table)
            self._refresh_due = self._clock() + max(REFRESH_SECONDS, (self._clock() - began) / REFRESH_SHARE)

    def _count(self, change: Change) -> None:
        """What this worker has just told Redis, it need not read from there."""
        for item in change.items.values():
            self._table.upsert(item)
        for event in change.events:
            self._table.add(event)
        for item_id, after in change.taken:
            self._table.take(item_id, after)

    async def close_idle(self, assigned: Sequence[Any]) -> None:
        """Close the windows of partitions of `interactions` that have been idle for `idle_seconds`; to be called every second.

        Idle is a partition while the broker answers that it has nothing which Redis has not. Silence is not an answer: after an
        outage, or while there is something left to read, the time starts anew. It is counted in looks, so that no time counts
        during which this process stood still.
        """
        mine = sorted({tp.partition for tp in assigned if tp.topic == wire.INTERACTIONS.name})
        # a new owner begins at 0: there may be windows of the one before
        self._quiet = {p: self._quiet.get(p, 0.0) for p in mine}
        looked_at = [p for p in mine if 0 <= self._quiet[p] < float("inf")]
        try:
            async with self._one_at_a_time:
                positions = await asyncio.to_thread(self._positions, looked_at)
            ended = await asyncio.to_thread(self._tail.ended, positions) if positions else set()
            for partition in mine:
                if self._quiet[partition] < 0 or partition in ended:
                    self._quiet[partition] += LOOK_SECONDS
                elif partition in positions:
                    self._quiet[partition] = 0.0
                if self._idle <= self._quiet[partition] < float("inf"):
                    await self._close_one(partition, positions[partition])
        except (*TRANSIENT, FeedError) as error:
            for partition in looked_at:
                self._quiet[partition] = 0.0
            log.warning("windows not closed yet", error=str(error) or repr(error))

    def _positions(self, partitions: Sequence[int]) -> dict[int, int]:
        topic_id = self._topic_ids[wire.INTERACTIONS.name]
        return {partition: self._store.position(topic_id, partition) for partition in partitions}

    async def _close_one(self, partition: int, position: int) -> None:
        async with self._one_at_a_time:
            self._quiet[partition] = float("inf")  # until the next batch, which may come meanwhile
            done = await asyncio.to_thread(self._close, partition, position)
        if not done:
            self._quiet[partition] = 0.0

    def _close(self, partition: int, position: int) -> bool:
        """Whether nothing is open any more; not if something has come, or somebody else has been faster."""
        topic_id, other_id = self._topic_ids[wire.INTERACTIONS.name], self._other_id(wire.INTERACTIONS)
        if self._store.position(topic_id, partition) != position:
            return False
        other = self._store.position(other_id, partition)
        change = self._folder.close(Position(topic_id, partition, position), self._store)
        if change.marks == change.marks_before:  # every window that closes counts, as an example or as what came too late
            return True
        done = self._store.apply(change, position, other_id, other).done
        if done:
            _say_late(change)
            self.send_outbox(wire.INTERACTIONS.name, partition)
        return done

    def send_outbox(self, topic: str, partition: int) -> None:
        """Send what batches of this partition have caused and nobody is known to have sent; oldest first."""
        topic_id = self._topic_ids[topic]
        while waiting := self._store.outbox(topic_id, partition, SENT_AT_ONCE):
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


def _say_late(change: Change) -> None:
    before, after = change.marks_before, change.marks
    if before and after and after.late > before.late:
        log.warning(
            "engagements that came too late are in no example", partition=change.position.partition,
            engagements=after.late - before.late, in_all=after.late,
        )  # fmt: skip


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "features")
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    client = connect(configuration.redis)
    claim_topics(client, topic_ids)
    folder = Folder(configuration.partitions, configuration.future_seconds, configuration.attribution_seconds)
    tail = kafka.Tail(configuration.broker, wire.INTERACTIONS)
    with kafka.Sender(configuration.broker) as sender, closing(tail):
        agent = FeaturesAgent(FeatureStore(client), sender, folder, topic_ids, tail, configuration.idle_seconds)
        app = transport.make_app("features", configuration)
        for topic in (wire.ITEMS, wire.USERS, wire.INTERACTIONS):
            transport.consume(app, topic, agent.apply)
        transport.every(app, 5.0, lambda: agent.send_left_over(transport.assigned(app)))
        transport.every(app, LOOK_SECONDS, lambda: agent.close_idle(transport.assigned(app)))
        transport.run(app)


if __name__ == "__main__":
    run(main)
