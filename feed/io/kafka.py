"""Kafka for everything that is not a stream processor: topics, sending, reading a topic from its beginning.

All clients find the broker's version by themselves: an explicit one misreads newer brokers. A broker is given as `Broker`, or
as its servers alone where nothing is encrypted and nobody signs in. Everything is read committed (`feed.io.fetched`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import stamina
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import AuthorizationError, KafkaConnectionError, KafkaError, KafkaTimeoutError, TopicAlreadyExistsError
from msgspec import Struct

from feed.address import Broker
from feed.errors import BadSetting, FeedError, Refused
from feed.io.diagnosis import diagnose_kafka, kafka_options, reach
from feed.io.fetched import COMMITTED, Fetched
from feed.wire import LARGEST, Topic, encode, partition_of

log = structlog.get_logger()

UNACKNOWLEDGED = 20_000  # messages sent and not yet acknowledged: from there on `send` blocks
SAY_SECONDS = 5.0  # between two lines that say what is waited for
FLUSH_SECONDS = 60.0
CLOSE_SECONDS = 5.0
QUIET_SECONDS = 1.0  # a topic is read to its end when its end was reached and nothing has come for this long
STILL_SECONDS = 0.5  # a fetch that has not got on for this long will not get on
ANSWER_SECONDS = 5.0  # a broker that has not answered by then is away
_FOREVER_MS = 2**31 - 1
_HUNDRED_YEARS_MS = 36_500 * 86_400_000  # the broker adds it to the time: the largest number would overflow there
_VIEW_MS = 5_000


class Record(NamedTuple):
    """One record of a topic; `timestamp`: when it was sent, by the sender's clock (milliseconds since 1970)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0


def wait_for_broker(broker: Broker | str) -> None:
    """Return when one of its servers answers; waits as long as it takes, saying for what and where.

    Raises `Refused` if there is one that cannot be used: TLS where there is none (or none where there is), a wrong password.
    """
    _connect(broker).close()


def ensure_topics(broker: Broker | str, partitions: int, topics: Sequence[Topic]) -> dict[str, str]:
    """Create what is missing of `topics`, once the broker answers; returns the id of each by its name.

    `partitions`: of those topics that do not have a number of their own. Raises `BadSetting` if one is there with another
    number of partitions, because a user's events would then be spread differently than they have been; `Refused` as
    `wait_for_broker`, or if this user may not create them.
    """
    servers, admin = str(broker), _connect(broker)
    try:
        there = {found["name"]: found for found in admin.describe_topics()}
        for topic in topics:
            if topic.name not in there:
                _create(admin, topic, topic.partitions or partitions)
        there = {found["name"]: found for found in admin.describe_topics([topic.name for topic in topics])}
    except AuthorizationError as error:
        raise Refused(
            f"the user of Kafka at {servers} may not create its topics ({error}): let somebody create them (docs/settings.md), "
            "or allow it"
        ) from error
    finally:
        admin.close()
    for topic in topics:
        wanted, found = topic.partitions or partitions, len(there[topic.name]["partitions"])
        if found != wanted:
            raise BadSetting(
                f"topic {topic.name} at {servers} has {found} partitions, not {wanted}: "
                + (f"set FEED_PARTITIONS={found}" if not topic.partitions else f"delete it, or create it with {wanted}")
                + ", or point FEED_KAFKA at another broker"
            )
    return {topic.name: str(there[topic.name]["topic_id"]) for topic in topics}


class Sender:
    """Sends messages: keyed, acknowledged by all replicas, idempotent, in batches. For any number of threads.

    Nothing is dropped: in an outage it keeps trying, and `send` blocks once `UNACKNOWLEDGED` messages wait. As a context
    manager it flushes and closes at the end. Waits for the broker when it is made.
    """

    def __init__(self, broker: Broker | str) -> None:
        self._broker, self._servers = broker, str(broker)
        self._change = threading.Condition()
        self._sent = self._acked = self._failed = 0
        self._error: BaseException | None = None
        self._next: dict[tuple[str, int], int] = {}
        self._partitions: dict[str, int] = {}
        wait_for_broker(broker)
        self._producer = KafkaProducer(
            **kafka_options(Broker.of(broker)),
            acks="all",
            enable_idempotence=True,
            linger_ms=50,
            batch_size=131_072,
            max_request_size=LARGEST,
            request_timeout_ms=10_000,
            delivery_timeout_ms=_FOREVER_MS,  # how long to wait is the caller's decision: see `flush`
            max_block_ms=10_000,
            reconnect_backoff_max_ms=1_000,
            allow_auto_create_topics=False,
        )

    @property
    def acked(self) -> int:
        """How many messages the broker has acknowledged."""
        return self._acked

    def positions(self) -> dict[tuple[str, int], int]:
        """The next offset after the last acknowledged message, by (topic, partition)."""
        with self._change:
            return dict(self._next)

    def send(
        self,
        topic: Topic,
        key: str,
        message: Struct,
        partition: int | None = None,
        acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        """Send `message`, to `key`'s own partition if none is given. Blocks and raises as `send_raw`."""
        if partition is None:
            partition = partition_of(key, self._count(topic.name))
        self.send_raw(topic.name, partition, key.encode(), encode(message), acknowledged)

    def send_raw(
        self, topic: str, partition: int, key: bytes, value: bytes | None, acknowledged: Callable[[int], None] | None = None
    ) -> None:
        """Send bytes, None to delete what the key names; blocks while too many messages wait for their acknowledgement.

        `acknowledged` is called with the message's offset, in another thread (-1 if the broker had it already).

        Raises `FeedError` if this message cannot be sent, or if the broker has refused earlier ones since this was last said.
        """
        with self._change:
            if self._failed:
                self._raise_failed()
            if self._waiting >= UNACKNOWLEDGED:
                self._wait_for_room()
            self._sent += 1
        try:
            future = self._producer.send(topic, value, key=key, partition=partition)
        except (KafkaError, ValueError, TypeError) as error:
            with self._change:
                self._sent -= 1
            raise FeedError(f"not sent to {topic}/{partition} at {self._servers}, key {key!r}: {error}") from error
        if acknowledged is not None:
            future.add_callback(lambda metadata: acknowledged(metadata.offset))
        future.add_callback(self._on_ack)
        future.add_errback(self._on_failure)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Return when everything that was sent is acknowledged.

        Raises `FeedError` with the number of messages that were refused, or that are still not acknowledged after `seconds`
        (these are not given up: they stay queued).
        """
        deadline = time.monotonic() + seconds
        while self._waiting and not self._failed and (left := deadline - time.monotonic()) > 0:
            try:
                self._producer.flush(min(left, SAY_SECONDS))  # sends partly filled batches at once
            except KafkaTimeoutError:
                self._say_waiting()
            with self._change:
                self._change.wait_for(lambda: self._failed or not self._waiting, 0.05)
        with self._change:
            if self._failed:
                self._raise_failed()
            if self._waiting:
                raise FeedError(
                    f"{self._waiting} messages were not acknowledged by {self._servers} within {seconds:.0f} s: "
                    "is the broker running?"
                )

    def close(self) -> None:
        """Close the connection; what is not acknowledged by then is given up."""
        try:
            self._producer.close(CLOSE_SECONDS)
        except KafkaTimeoutError:  # it gave up waiting before it closed anything, and would try once more when collected
            self._producer._sender.force_close()
            self._producer._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush(CLOSE_SECONDS)
        finally:
            self.close()

    @property
    def _waiting(self) -> int:
        return self._sent - self._acked - self._failed

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = _partitions(self._broker, topic)
        return self._partitions[topic]

    def _wait_for_room(self) -> None:
        while self._waiting > UNACKNOWLEDGED // 2 and not self._failed:
            before = self._acked
            self._change.wait(SAY_SECONDS)
            if self._acked == before and not self._failed:
                self._say_waiting()

    def _say_waiting(self) -> None:
        log.warning("waiting for the broker", servers=self._servers, unacknowledged=self._waiting)

    def _on_ack(self, metadata: Any) -> None:
        with self._change:
            self._acked += 1
            place = (metadata.topic, metadata.partition)
            if metadata.offset >= self._next.get(place, 0):  # -1 if it was a repetition that the broker had already
                self._next[place] = metadata.offset + 1
            self._wake()

    def _on_failure(self, error: BaseException) -> None:
        with self._change:
            self._failed += 1
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._failed or self._waiting in (0, UNACKNOWLEDGED // 2):  # not at each message: that costs a thread switch
            self._change.notify_all()

    def _raise_failed(self) -> None:
        failed, error = self._failed, self._error
        self._sent, self._failed, self._error = self._sent - failed, 0, None
        raise FeedError(f"{failed} messages were refused by {self._servers}: {error}") from error


def read_topic(broker: Broker | str, topic: Topic) -> Iterator[Record]:
    """All records of `topic` from its beginning to what is there when this is called, in order within each partition.

    What arrives while it reads may be among them. Raises `FeedError` if there is no such topic.
    """
    places = [TopicPartition(topic.name, n) for n in range(_partitions(broker, topic.name))]
    consumer = _consumer(broker, fetch_max_wait_ms=200)
    try:
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        quiet_since = None
        while quiet_since is None or time.monotonic() - quiet_since < QUIET_SECONDS:
            found = consumer.poll(200, max_records=10_000)
            for records in found.values():
                for r in records:
                    yield Record(r.topic, r.partition, r.offset, r.key, r.value, r.timestamp)
            # the embedded broker names an end up to one batch too early, so the end alone is not the end
            if found or any(consumer.position(place) < end for place, end in ends.items()):
                quiet_since = None
            else:
                quiet_since = quiet_since or time.monotonic()
    finally:
        consumer.close()


def follow_topic(broker: Broker | str, topic: Topic, offset: int, seconds: float = QUIET_SECONDS) -> Iterator[Record | None]:
    """The records of partition 0 of `topic` from `offset` on (or from its first that is kept), as they come, without end.

    None when nothing has come for `seconds`, so that the caller can do other work; an outage of the broker is such a silence,
    of which kafka-python's own lines tell. Raises `FeedError` if there is no such topic. Close it to close the connection.
    """
    place = TopicPartition(topic.name, 0)
    _partitions(broker, topic.name)
    consumer = _consumer(broker, auto_offset_reset="earliest")
    try:
        consumer.assign([place])
        consumer.seek(place, offset)
        while True:
            found = consumer.poll(int(seconds * 1000), max_records=1_000).get(place, [])
            for r in found:
                yield Record(r.topic, r.partition, r.offset, r.key, r.value, r.timestamp)
            if not found:
                yield None
    finally:
        consumer.close()


class Log(NamedTuple):
    """What the broker says of one partition: its first offset, its end, and where the group's next record is (or None)."""

    first: int
    end: int
    committed: int | None


class GroupView:
    """How far a consumer group is in its topics, asked over a connection of its own, without joining the group.

    The embedded broker names ends up to one batch too early: a lag found here is one, but a small one may not be found.
    """

    def __init__(self, broker: Broker | str, group: str, topics: Sequence[str]) -> None:
        """Raises `KafkaError` if no broker answers within two seconds."""
        self._topics = topics
        self._consumer = _consumer(
            broker,
            group_id=group,
            bootstrap_timeout_ms=2_000,
            request_timeout_ms=_VIEW_MS,
        )

    def read(self) -> dict[tuple[str, int], Log]:
        """Every partition of the topics. Raises `KafkaError` if no broker answers within some seconds."""
        places = [TopicPartition(t, n) for t in self._topics for n in sorted(self._consumer.partitions_for_topic(t) or ())]
        firsts, ends = self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
        return {
            (p.topic, p.partition): Log(firsts[p], ends[p], self._consumer.committed(p, timeout_ms=_VIEW_MS)) for p in places
        }

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


class Tail:
    """Whether a topic's log holds anything that counts from given offsets on. It has a connection, and serves one thread.

    Asked by fetching from there. An end offset would not do: it counts what nobody is handed, markers and aborted transactions,
    and the embedded broker names it up to one batch too early.
    """

    def __init__(self, broker: Broker | str, topic: Topic) -> None:
        """Connects when it is first asked."""
        self._broker, self._topic = broker, topic
        self._consumer: KafkaConsumer | None = None

    def ended(self, positions: Mapping[int, int]) -> set[int]:
        """Those of `positions` (partition -> offset) from which on there is nothing, by the broker's own answer.

        Where it gives none within `ANSWER_SECONDS`, that is not known, and the partition is not among them; who needs the
        broker says that it is away. An answer may be as old as the call before.
        """
        return self._ask(positions)[1]

    def holding(self, positions: Mapping[int, int]) -> set[int]:
        """Those of `positions` from which on the broker has handed out a record that counts; none of them if it is away."""
        return self._ask(positions)[0]

    def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            self._consumer.close()

    def _ask(self, positions: Mapping[int, int]) -> tuple[set[int], set[int]]:
        try:
            return self._fetch({TopicPartition(self._topic.name, p): offset for p, offset in positions.items()})
        except KafkaError:
            return set(), set()

    def _fetch(self, places: Mapping[TopicPartition, int]) -> tuple[set[int], set[int]]:
        if self._consumer is None:
            self._consumer = _consumer(
                self._broker,
                auto_offset_reset="earliest",
                bootstrap_timeout_ms=2_000,
                request_timeout_ms=_VIEW_MS,
                fetch_max_wait_ms=200,
                max_partition_fetch_bytes=65_536,
                enable_incremental_fetch_sessions=False,  # an answer in a session leaves out what has not changed
            )
        consumer, holding = self._consumer, set[TopicPartition]()
        consumer.unsubscribe()  # and forget what was answered before
        consumer.assign(list(places))
        for place, offset in places.items():
            consumer.seek(place, offset)

        def ended(place: TopicPartition) -> bool:
            end = consumer.highwater(place)
            return place not in holding and end is not None and consumer.position(place) >= end  # behind markers and the like

        began = moved = time.monotonic()
        before: list[int] = []
        while not all(place in holding or ended(place) for place in places):
            found = consumer.poll(100, max_records=10_000)
            consumer.pause(*found)
            holding |= found.keys()
            now, positions = time.monotonic(), [consumer.position(place) for place in places]
            if positions != before:
                before, moved = positions, now
            answered = all(consumer.highwater(place) is not None for place in places)
            # it stays before the end at a transaction that is not decided, and moves on over many that were aborted
            if now - began > ANSWER_SECONDS or (answered and now - moved > STILL_SECONDS):
                break
        return {place.partition for place in holding}, {place.partition for place in places if ended(place)}


class _Records(Fetcher.PartitionRecords):  # type: ignore[misc]
    """A fetch as kafka-python hands it out, with `Fetched` in place of its own batches."""

    def _unpack_records(self, tp: TopicPartition, records: Any, *deserializers: Any) -> Iterator[Any]:
        fetched = Fetched(tp.topic, tp.partition, records)
        self.aborted_transactions: deque[Any] = self.aborted_transactions or deque(fetched.aborted())
        yield from super()._unpack_records(tp, fetched, *deserializers)


def _consumer(broker: Broker | str, **options: Any) -> KafkaConsumer:
    options |= {"enable_auto_commit": False, "isolation_level": COMMITTED}
    consumer = KafkaConsumer(**kafka_options(Broker.of(broker)), **options)
    consumer._fetcher.PartitionRecords = _Records
    return consumer


def _connect(broker: Broker | str) -> KafkaAdminClient:
    broker, away = Broker.of(broker), ""
    for attempt in stamina.retry_context(on=KafkaError, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0):
        with attempt:
            if attempt.num > 1:
                if why := diagnose_kafka(broker):
                    raise Refused(why)
                log.warning("waiting for the broker", servers=str(broker), error=away, attempt=attempt.num)
            try:
                reach(broker)
                return KafkaAdminClient(**kafka_options(broker), bootstrap_timeout_ms=2_000)
            except OSError as error:
                away = str(error)
                raise KafkaConnectionError(away) from error
            except KafkaError as error:
                away = str(error)
                raise
    raise AssertionError("unreachable: attempts are unlimited")


def _partitions(broker: Broker | str, topic: str) -> int:
    """How many partitions `topic` has. Raises `FeedError` if it is not there."""
    admin = _connect(broker)
    try:
        # of all topics: the embedded broker creates a topic that is asked for by name
        counts = {found["name"]: len(found["partitions"]) for found in admin.describe_topics()}
    finally:
        admin.close()
    if topic not in counts:
        raise FeedError(f"no topic {topic} at {broker}: start a stream processor, which creates it")
    return counts[topic]


def _create(admin: KafkaAdminClient, topic: Topic, partitions: int) -> None:
    settings: dict[str, Any] = {"num_partitions": partitions, "replication_factor": -1}  # as the broker has it set
    configs = {
        "cleanup.policy": "compact" if topic.compacted else None,
        # a state that is computed anew must still be told what was deleted
        "delete.retention.ms": str(_HUNDRED_YEARS_MS) if topic.compacted else None,
        "retention.ms": None if topic.days is None else str(topic.days * 86_400_000),
        "max.message.bytes": None if topic.bytes is None else str(topic.bytes),
    }
    settings["configs"] = {name: value for name, value in configs.items() if value is not None}
    try:
        admin.create_topics({topic.name: settings}, wait_for_metadata=True)
        log.info("created topic", topic=topic.name, partitions=partitions)
    except TopicAlreadyExistsError:
        pass  # another process was faster; its partitions are checked like any other's
