"""What `transport` is made of: Faust's consumer, handing out whole batches of consecutive records.

Stock Faust takes four asyncio tasks a record and acknowledges records whose agent has failed. Here, for each partition and
between two rebalances:

* batches are contiguous: the first starts at the committed offset (or where it was rewound to), each next one where the last
  one ended. A hole in the offsets (retention, compaction, transactions) is let through only after a second fetch has shown it;
* no batch has records of which some were acknowledged before, and some were not: such a fetch is handed out as two;
* a batch from before a rebalance or a rewind is `stale`: whoever holds it drops it, and its acknowledgement is ignored;
* only what was acknowledged without a gap is committed, and a rewind does not take a commit back: what the committed offset
  says is that whatever lies before it was acknowledged once.

Private methods of Faust and aiokafka are used: both are pinned, and tests/integration/test_transport.py holds the contract.
"""

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import structlog
from aiokafka.consumer import fetcher
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from faust.topics import Topic as FaustTopic
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from feed.io.fetched import COMMITTED, Fetched
from stream_processors.watchdog import View

log = structlog.get_logger()
quiet = logging.getLogger("faust")  # where Faust's own steps go; else they would go under the module's name

FETCH_WAIT_MS = 200  # the embedded broker scans its partitions at each fetch: not less


class Batch:
    """Consecutive records of one partition: `start` <= every offset < `end`.

    `again`: all of them were acknowledged before they were delivered, by this worker or another. `caught_up`: with them, all
    that was acknowledged before a rewind has come again.
    """

    __slots__ = ("_consumer", "_mark", "again", "caught_up", "end", "records", "start", "tp")

    def __init__(self, tp: TP, start: int, records: Sequence[Any], consumer: "Consumer") -> None:
        self.tp, self.start, self.end, self.records = tp, start, records[-1].offset + 1, records
        self._consumer, self._mark = consumer, consumer.mark(tp)
        once = consumer.acknowledged_once(tp)
        self.again, self.caught_up = self.end <= once, start < once <= self.end

    @property
    def stale(self) -> bool:
        """Whether a rebalance or a rewind has made this batch void."""
        return self._mark != self._consumer.mark(self.tp) or not self._consumer.flow_active

    def ack(self) -> bool:
        """Allow the commit up to `end`; False if this batch is stale, or one before it was not acknowledged."""
        return self._consumer.ack_batch(self)

    def touch(self) -> None:
        """Tell the watchdog that work on this batch goes on: it takes long, or waits for something that has been said."""
        self._consumer.progress[self.tp.topic] += 1

    async def rewind(self, offset: int) -> None:
        """Have the partition delivered again from `offset`; this makes every batch of it so far void."""
        if not self.stale:
            await self._consumer.rewind(self.tp, offset)

    async def hold(self) -> None:
        """Deliver nothing of the partition until it is rewound; this makes every batch of it so far void."""
        if not self.stale:
            await self._consumer.hold(self.tp, self.start)


class BatchTopic(FaustTopic):
    """A topic whose agent receives `Batch` objects."""


class Records(fetcher.PartitionRecords):  # type: ignore[misc]
    """A fetch as aiokafka hands it out, with `Fetched` in place of its own batches."""

    def _unpack_records(self) -> Iterator[Any]:
        fetched = Fetched(self._tp.topic, self._tp.partition, self._records)
        self._records: Any = fetched
        self._aborted_transactions: list[Any] = self._aborted_transactions or fetched.aborted()
        yield from super()._unpack_records()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches, with a wait, an isolation and an assignor that Faust has no setting for."""

    logger = quiet

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._isolation_level = COMMITTED
        fetcher.PartitionRecords = Records
        # ranges: partition n of two topics with as many partitions goes to one member, so nobody contends for its users
        consumer._partition_assignment_strategy = [RangePartitionAssignor]
        return consumer


class Consumer(driver.Consumer):
    """Hands whole batches to the channels of `BatchTopic`s."""

    logger = quiet
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.progress: Counter[str] = Counter()  # by topic: how often its agent has acknowledged, rewound or touched
        self.assigned: frozenset[TP] = frozenset()
        self._rebalances = 0
        self._epoch: Counter[TP] = Counter()  # counts rewinds
        self._next: dict[TP, int] = {}  # where the next batch must start
        self._done: dict[TP, int] = {}  # acknowledged up to here
        self._once: dict[TP, int] = {}  # acknowledged up to here before, if perhaps not since a rewind
        self._hole: dict[TP, tuple[int, int]] = {}  # (expected, found): seen once, to be confirmed
        self.held: set[TP] = set()
        self._blocked_by: str | None = None  # the topic whose queue is full, so that nothing is delivered
        super().__init__(*args, **kwargs)

    def mark(self, tp: TP) -> tuple[int, int]:
        """What a batch of `tp` must carry to be current."""
        return self._rebalances, self._epoch[tp]

    def ack_batch(self, batch: Batch) -> bool:
        """See `Batch.ack`."""
        if batch.stale or self._done.get(batch.tp) != batch.start:
            return False
        self._done[batch.tp] = batch.end
        self._once[batch.tp] = max(self._once.get(batch.tp, 0), batch.end)
        batch.touch()
        return True

    def acknowledged_once(self, tp: TP) -> int:
        """Up to where `tp` has been acknowledged at any time."""
        return self._once.get(tp, 0)

    async def acknowledged(self, tp: TP) -> int | None:
        """Up to where `tp` has been acknowledged since it was last rewound; None if that is not known now."""
        expected = await self._expected(tp)
        return None if expected is None else self._done.get(tp, expected)

    async def hold(self, tp: TP, offset: int) -> None:
        """See `Batch.hold`; `offset` is where the partition stands meanwhile."""
        self._turn(tp, offset)
        self.held.add(tp)
        self.pause_partitions([tp])

    async def rewind(self, tp: TP, offset: int) -> None:
        """Have `tp` delivered again from `offset`, whether anything new comes or not. Nothing happens during a rebalance."""
        if tp not in self.assigned or not self.flow_active:
            return
        self._turn(tp, offset)
        await self.seek(tp, offset)
        if tp in self.held and tp in self.assigned:
            self.held.discard(tp)
            self.resume_partitions([tp])

    def _turn(self, tp: TP, offset: int) -> None:
        self._epoch[tp] += 1
        self._next[tp] = self._done[tp] = offset
        self._hole.pop(tp, None)
        self.progress[tp.topic] += 1

    def view(self) -> View:
        """What the watchdog judges, as of now."""
        return View(
            self.assigned, dict(self._done), dict(self._next), dict(self.progress), self._blocked_by, frozenset(self.held)
        )

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """A rebalance begins: what was delivered is void."""
        await super().on_partitions_revoked(revoked)  # commits what was acknowledged
        self._rebalances += 1
        self.assigned = frozenset()
        for of_partition in (self._next, self._done, self._once, self._hole, self.held):
            of_partition.clear()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """A rebalance ends."""
        await super().on_partitions_assigned(assigned, generation_id)
        self.assigned = frozenset(assigned)
        log.info("partitions assigned", count=len(assigned), partitions=_described(assigned))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own check sees no batches and would report every busy partition as stuck; the watchdog judges instead."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _seek(self, partition: TP, offset: int) -> None:
        # Faust calls aiokafka's seek from the main thread: a fetch going on in the consumer thread then moves the position on
        # again, and the seek is lost
        await self._thread.call_thread(self._seek_in_thread, partition, offset)

    async def _seek_in_thread(self, partition: TP, offset: int) -> None:
        consumer = self._thread._ensure_consumer()
        if partition in consumer.assignment():
            consumer.seek(partition, offset)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        yield from (tp for tp in list(self._done) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._done[tp] if tp in self._done else super()._new_offset(tp)

    async def _expected(self, tp: TP) -> int | None:
        """Where the next batch of `tp` must start; None: not known now, fetch again."""
        if tp not in self._next:
            # not from Faust's _read_offset: after a rebalance it can resume the flow before it has set that
            mark = self.mark(tp)
            try:
                committed = await self._thread.call_thread(self._thread._ensure_consumer().committed, tp)
            except (KafkaError, AssertionError) as error:
                log.warning("no committed offset yet", partition=str(tp), error=repr(error))
                return None
            if mark != self.mark(tp):
                return None
            if tp not in self._next:  # the keeper asks, too: what has been delivered meanwhile counts
                self._next[tp] = self._once[tp] = committed or 0
        return self._next[tp]

    async def _start_of(self, tp: TP, first: int) -> int | None:
        """The start of a batch whose first record is at `first`; None: fetch again."""
        expected = await self._expected(tp)
        if expected is None:
            return None
        if first == expected or self._hole.get(tp) == (expected, first):
            self._hole.pop(tp, None)
            return min(expected, first)
        self._hole[tp] = (expected, first)
        # each transaction leaves one, so it is no news
        log.debug("offsets are not contiguous: fetching again", partition=str(tp), expected=expected, got=first)
        await self.seek(tp, expected)
        return None

    async def _drain_messages(self, fetcher: Any) -> None:
        def stopping() -> bool:
            return bool(self._stopped.is_set() or fetcher._stopped.is_set())

        try:
            while not stopping():
                rebalances, epoch = self._rebalances, self._epoch.copy()
                try:
                    fetched, _ = await self._wait_next_records(1.0)
                except asyncio.CancelledError:
                    # a rebalance cancels the pending fetch; only a cancel of this task may end the loop
                    task = asyncio.current_task()
                    if stopping() or self.app.should_stop:
                        return
                    if task is None or task.cancelling():
                        raise
                    await asyncio.sleep(0.02)
                    continue
                if not fetched:
                    await asyncio.sleep(0)
                for found, records in (fetched or {}).items():
                    if rebalances != self._rebalances or not self.flow_active:
                        break  # Faust seeks to the committed offsets before it resumes
                    tp = ensure_TP(found)
                    if epoch[tp] == self._epoch[tp]:
                        await self._deliver(tp, records, stopping)
                    else:  # rewound during this fetch, which has moved the position on: its records must come again
                        await self.seek(tp, self._next[tp])
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _deliver(self, tp: TP, records: Sequence[Any], stopping: Callable[[], bool]) -> None:
        mark = self.mark(tp)
        start = await self._start_of(tp, records[0].offset)
        if start is None or mark != self.mark(tp):
            return
        fresh = bisect_left(records, self.acknowledged_once(tp), key=attrgetter("offset"))
        for part in (records[:fresh], records[fresh:]):
            if part and mark == self.mark(tp):
                await self._hand_out(Batch(tp, start, part, self), stopping)
                start = part[-1].offset + 1

    async def _hand_out(self, batch: Batch, stopping: Callable[[], bool]) -> None:
        tp = batch.tp
        for channel in self.app.topics._tp_index.get(tp, ()):  # type: ignore[attr-defined]
            # not put(): a rebalance clears the queue, which cancels whoever waits there and would crash the fetcher
            while channel.queue.full() and not batch.stale and not stopping():
                self._blocked_by = tp.topic
                await asyncio.sleep(0.002)
            self._blocked_by = None
            if batch.stale or stopping():
                return
            channel.queue.put_nowait(batch)
        self._done.setdefault(tp, batch.start)
        self._next[tp] = batch.end


class Transport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = Consumer


def _described(partitions: set[TP]) -> str:
    of_topic = {tp.topic: ",".join(str(n) for t, n in sorted(partitions) if t == tp.topic) for tp in sorted(partitions)}
    return "; ".join(f"{topic} {numbers}" for topic, numbers in of_topic.items())
