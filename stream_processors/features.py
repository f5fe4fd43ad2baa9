"""The features agent: what happened goes in, what is known of users and items comes out, each event effectively once.

    interactions, users, items ─► fold (pure) ─► one Redis script (states, counts, open windows, position, outbox)
                                                     └─► feature-updates, training-examples, dead-letters

`python stream_processors/features.py`
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import structlog
from msgspec.structs import replace
from redis import RedisError

from feed import logs, settings, wire
from feed.errors import FeedError, Lost, run
from feed.features import ItemTable
from feed.io import kafka
from feed.io.recovery import require_no_eviction
from feed.io.redis import TRANSIENT, WIPING, Change, FeatureStore, FoldStore, Standing, connect
from feed.wire import Position
from stream_processors import keeper, transport
from stream_processors.folder import Folder, feature_updates
from stream_processors.lag import Lag
from stream_processors.transport import Batch

log = structlog.get_logger()

REFRESH_SECONDS = 2.0
REFRESH_SHARE = 0.1  # of the time that refreshes may take
SENT_AT_ONCE = 500  # messages: so many may be sent twice if the broker goes away meanwhile, and so many are held in memory
LOOK_SECONDS = 1.0  # between two looks for partitions that are idle


class FeaturesAgent:
    """Applies batches to Redis: skips what the position says is done, retries what failed, holds what cannot be applied now.

    That is while Redis is behind the batch or is being filled anew; the keeper then has the partition delivered again from
    where Redis is. `report` is told of keys that were found missing or unreadable, and in which epoch.

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
        report: Callable[[str, Sequence[str]], None] = lambda epoch, keys: None,
    ) -> None:
        self._report = report
        self._epoch = ""  # the last one seen
        self._store, self._sender, self._folder, self._topic_ids = store, sender, folder, topic_ids
        self._tail = tail
        self._topics = {topic.name: topic for topic in wire.TOPICS}
        self._one_at_a_time = asyncio.Lock()  # the store serves one thread
        self._table, self._table_epoch = ItemTable(), ""
        self._idle, self._clock = idle_seconds, clock
        self._refresh_due = -1.0
        # by partition of interactions: for how long it has been seen to be idle; negative: something has come since the last
        # look, infinite: and its windows are closed
        self._quiet: dict[int, float] = {}

    async def apply(self, batch: Batch) -> None:
        """Apply, skip or hold `batch`, waiting for Redis and the broker as long as it takes; then acknowledge it."""

        async def attempt() -> bool:
            if batch.tp.topic == wire.INTERACTIONS.name:
                self._quiet[batch.tp.partition] = -LOOK_SECONDS
            position = await self._alone(self._try, batch)
            if position is None:
                return False  # another worker was faster: look again
            if position < batch.start:
                await batch.hold()
            else:
                batch.ack()
            return True

        await transport.persist(batch, attempt, (*TRANSIENT, FeedError))

    async def _alone(self, act: Callable[..., Any], *arguments: object) -> Any:
        """`act` in a thread, nothing else beside it; what is lost is reported before it is raised."""
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(act, *arguments)
            except Lost as lost:
                self._report(self._epoch, lost.keys)
                raise
            except TRANSIENT:
                raise
            except RedisError as error:  # whatever ails Redis, nothing else is to blame
                raise FeedError(f"Redis does not do what it should: {error!r}") from error

    def _try(self, batch: Batch) -> int | None:
        """The position found or reached; None if somebody else has moved it meanwhile, -1 if nothing can be applied now."""
        topic, partition = self._topics[batch.tp.topic], batch.tp.partition
        place, other = (self._topic_ids[topic.name], partition), (self._other_id(topic), partition)
        standing = self._standing(place, other)
        if not keeper.admitted(topic.name, standing.state):
            return -1
        position = standing.offsets[place]
        if position < batch.start:
            return position
        first = batch.records[0].offset
        if topic is wire.INTERACTIONS and batch.start == 0 < first:
            log.warning("the log begins late: what was before is gone and cannot be folded", partition=partition, first=first)
        records = [record for record in batch.records if record.offset >= position]
        if records:
            if topic is wire.INTERACTIONS:
                self._refresh()
            if not self._apply(batch, topic, records, Position(*place, position), batch.end, standing):
                return None
        self.send_outbox(topic.name, partition)
        after = self._standing(place)
        if after.epoch != standing.epoch or after.state == WIPING or after.offsets[place] < batch.end:
            return -1  # Redis was lost in between, perhaps with messages that were not sent: the batch comes again
        return int(batch.end)

    def _apply(
        self, batch: Batch, topic: wire.Topic, records: Sequence[Any], start: Position, end: int, standing: Standing
    ) -> bool:
        """Apply records of `batch` that reach from `start` to `end`; False if somebody else has moved a position.

        If they cannot be folded they are applied in halves, until the guilty record is alone and is set aside.
        """
        reached = replace(start, offset=end)
        other = self._other_id(topic)
        found = start.offset if topic is wire.ITEMS else standing.offsets[other, start.partition]

        def apply(change: Change) -> bool:
            if batch.again:  # what it caused was sent then, and half of a history makes worse feeds than those that are there
                change.messages = []
            if batch.caught_up and end == batch.end and topic is wire.INTERACTIONS:
                change.messages += feature_updates(self._store.members(start.partition), reached)
            return self._store.apply(change, start.offset, other, found, standing.epoch).done

        try:
            change = self._folder.fold(topic, records, reached, self._store, self._table)
            applied = apply(change)
        except (RedisError, *TRANSIENT, FeedError, MemoryError):
            raise
        except Exception as error:
            if len(records) > 1:
                half = len(records) // 2
                middle = replace(start, offset=records[half].offset)
                first = self._apply(batch, topic, records[:half], start, middle.offset, standing)
                return first and self._apply(batch, topic, records[half:], middle, end, standing)
            change = self._folder.set_aside(topic, records[0], reached, error)
            applied = apply(change)
        if applied:
            self._count(change)
            _say_late(change)
            _say_deleted(change)
        return applied

    def _standing(self, *places: tuple[str, int]) -> Standing:
        """What `positions` says now."""
        standing = self._store.standing(*places)
        if not standing.epoch and self._epoch:
            return standing._replace(state=WIPING)  # Redis was emptied: it is for the keeper to begin
        self._epoch = standing.epoch
        return standing

    def _other_id(self, topic: wire.Topic) -> str:
        """The topic that changes the same users; items change no user, so only their own position guards them."""
        other = {wire.INTERACTIONS: wire.USERS, wire.USERS: wire.INTERACTIONS}.get(topic, topic)
        return self._topic_ids[other.name]

    def _refresh(self) -> None:
        began = self._clock()
        if self._table_epoch != self._epoch:  # the table may have counted what Redis has lost, and would count it again
            self._table = self._store.load_items()
            self._table_epoch, self._refresh_due = self._epoch, began
        if began >= self._refresh_due:
            self._store.refresh_items(self._table)
            self._refresh_due = self._clock() + max(REFRESH_SECONDS, (self._clock() - began) / REFRESH_SHARE)

    def _count(self, change: Change) -> None:
        """What this worker has just told Redis, it need not read from there."""
        for item_id, item in change.items.items():
            if item is None:
                self._table.remove(item_id)
            else:
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
            positions = await self._alone(self._positions, looked_at)
            ended = await asyncio.to_thread(self._tail.ended, positions) if positions else set()
            for partition in mine:
                if self._quiet[partition] < 0 or partition in ended:
                    self._quiet[partition] += LOOK_SECONDS
                elif partition in looked_at:
                    self._quiet[partition] = 0.0
                if self._idle <= self._quiet[partition] < float("inf"):
                    await self._close_one(partition, positions[partition])
        except (*TRANSIENT, FeedError) as error:
            for partition in looked_at:
                self._quiet[partition] = 0.0
            log.warning("windows not closed yet", error=str(error) or repr(error))

    def _positions(self, partitions: Sequence[int]) -> dict[int, int]:
        """Where these partitions are; nothing while Redis is being filled."""
        topic_id = self._topic_ids[wire.INTERACTIONS.name]
        standing = self._standing(*((topic_id, partition) for partition in partitions))
        if not keeper.admitted(wire.INTERACTIONS.name, standing.state):
            return {}
        return {partition: offset for (_, partition), offset in standing.offsets.items()}

    async def _close_one(self, partition: int, position: int) -> None:
        if not await self._alone(self._close, partition, position):
            self._quiet[partition] = 0.0

    def _close(self, partition: int, position: int) -> bool:
        """Whether nothing is open any more; not if something has come, or somebody else has been faster."""
        self._quiet[partition] = float("inf")  # until the next batch, which may come meanwhile
        place = self._topic_ids[wire.INTERACTIONS.name], partition
        other = self._other_id(wire.INTERACTIONS), partition
        standing = self._standing(place, other)
        if standing.offsets[place] != position or not keeper.admitted(wire.INTERACTIONS.name, standing.state):
            return False
        change = self._folder.close(Position(*place, position), self._store)
        if change.marks == change.marks_before:  # every window that closes counts, as an example or as what came too late
            return True
        done = self._store.apply(change, position, other[0], standing.offsets[other], standing.epoch).done
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
                await self._alone(self.send_outbox, tp.topic, tp.partition)
            except (*TRANSIENT, FeedError) as error:
                log.warning("outbox not sent yet", partition=str(tp), error=str(error) or repr(error))


def _say_late(change: Change) -> None:
    before, after = change.marks_before, change.marks
    if before and after and after.late > before.late:
        log.warning(
            "engagements that came too late are in no example", partition=change.position.partition,
            engagements=after.late - before.late, in_all=after.late,
        )  # fmt: skip


def _say_deleted(change: Change) -> None:
    """By numbers: whoever is erased is not to be named in a log."""
    items = sum(item is None for item in change.items.values())
    if items or change.erased:
        log.info("deleted", partition=change.position.partition, items=items, users=len(change.erased))


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "features")
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    client = connect(configuration.redis)
    require_no_eviction(client, configuration.redis)
    folder = Folder(configuration.partitions, configuration.future_seconds, configuration.attribution_seconds)
    lag = Lag(
        "features lag behind the events",
        "a log sent at full speed is caught up with; else send fewer events, stop other processes, or set senders' clocks",
    )
    app = transport.make_app("features", configuration)
    consumed = (wire.ITEMS, wire.USERS, wire.INTERACTIONS)
    tails = {topic.name: kafka.Tail(configuration.broker, topic) for topic in consumed}
    with ExitStack() as stack:
        sender = stack.enter_context(kafka.Sender(configuration.broker))
        group = kafka.GroupView(configuration.broker, app.conf.id, [topic.name for topic in consumed])
        for close in (group.close, *(tail.close for tail in tails.values())):
            stack.callback(close)
        watched = keeper.Keeper(client, topic_ids, group.read, tails)
        watched.start(configuration.redis)
        agent = FeaturesAgent(
            FoldStore(client), sender, folder, topic_ids, tails[wire.INTERACTIONS.name], configuration.idle_seconds,
            report=watched.report,
        )  # fmt: skip
        transport.consume(app, wire.ITEMS, agent.apply)
        transport.consume(app, wire.USERS, agent.apply)
        transport.consume(app, wire.INTERACTIONS, lag.timed(agent.apply))
        transport.every(app, keeper.LOOK_SECONDS, lambda: watched.look(transport.consumer(app)))
        transport.every(app, 5.0, lambda: agent.send_left_over(transport.assigned(app)))
        transport.every(app, LOOK_SECONDS, lambda: agent.close_idle(transport.assigned(app)))
        transport.run(app)


if __name__ == "__main__":
    run(main)
