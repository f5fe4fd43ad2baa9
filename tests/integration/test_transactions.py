"""Of a transaction what was committed counts, and nothing else; what nobody is handed is no lag, and no reason to wait.

Here on the embedded broker, which holds open transactions back but does not name aborted ones; on Apache Kafka in tests/e2e.
"""

import json
from contextlib import closing

import pytest
from confluent_kafka import Producer
from faust.types import TP
from kafka import KafkaProducer

from feed import wire
from feed.io import kafka
from stream_processors.watchdog import Judge, View
from tests.integration.service import service
from tests.integration.test_codecs import clicked, clicks, exported, letters, wait_until

PARTITION = wire.partition_of("p1", 2)


@pytest.fixture
def topics(own_broker):
    kafka.ensure_topics(own_broker, 2, wire.TOPICS)
    return own_broker


@pytest.fixture
def producer(topics):
    made = Producer(
        {"bootstrap.servers": topics, "transactional.id": "t", "partitioner": "murmur2_random", "compression.type": "lz4",
         "log_level": 0}
    )  # fmt: skip
    made.init_transactions(10)
    return made


def begin(producer, values):
    producer.begin_transaction()
    for value in values:
        producer.produce("interactions", value, "p1")
    assert producer.flush(10) == 0


def commit(producer, values):
    begin(producer, values)
    producer.commit_transaction(10)


def abort(producer, values):
    begin(producer, values)
    producer.abort_transaction(10)


def read(broker):
    return [record.value for record in kafka.read_topic(broker, wire.INTERACTIONS)]


def test_only_what_was_committed_is_counted_and_exported(topics, producer, redis_url, tmp_path):
    settings = {"FEED_KAFKA": topics, "FEED_REDIS": redis_url, "FEED_PARTITIONS": "2", "FEED_SESSION_SECONDS": "2"}
    with service("stream_processors/features.py", tmp_path / "log", settings) as process:
        abort(producer, clicks("p1", 3))  # the first thing in the log
        for _ in range(3):
            commit(producer, clicks("p1", 10))
            abort(producer, clicks("p1", 10))
        wait_until(lambda: clicked(redis_url, "p1") == 30)
        begin(producer, clicks("p1", 10))
        plain = KafkaProducer(bootstrap_servers=topics)
        plain.send("interactions", clicks("p1", 1)[0].encode(), b"p1").get(10)  # behind the open transaction: it waits, too
        assert clicked(redis_url, "p1") == 30
        producer.abort_transaction(10)
        wait_until(lambda: clicked(redis_url, "p1") == 31)
        abort(producer, clicks("p1", 10))
        commit(producer, clicks("p1", 1))
        wait_until(lambda: clicked(redis_url, "p1") == 32)
        plain.close()
        assert process.poll() is None
    assert exported(topics) == (32, {})
    assert letters(topics) == []


def test_two_producers_at_once_are_told_apart(topics, producer):
    other = KafkaProducer(bootstrap_servers=topics, transactional_id="other")
    other.init_transactions()
    begin(producer, [b"a", b"b"])
    other.begin_transaction()
    other.send("interactions", b"other", b"p1").get(10)
    assert read(topics) == []  # nobody knows yet
    producer.abort_transaction(10)
    assert read(topics) == []  # the other's, which is open, is behind the aborted ones, and its end is not known
    other.commit_transaction()
    commit(producer, [b"c"])
    assert read(topics) == [b"other", b"c"]
    other.close()


def test_an_aborted_transaction_at_the_end_is_the_end_however_large(topics, producer):
    with closing(kafka.Tail(topics, wire.INTERACTIONS)) as tail:
        commit(producer, [b"a"])
        assert (tail.holding({PARTITION: 0}), tail.ended({PARTITION: 0})) == ({PARTITION}, set())
        assert (tail.holding({PARTITION: 1}), tail.ended({PARTITION: 1})) == (set(), {PARTITION})  # behind it is its marker
        for _ in range(3):  # several fetches long
            abort(producer, [json.dumps({"n": n}).ljust(2_000, "x") for n in range(100)])
        assert (tail.holding({PARTITION: 1}), tail.ended({PARTITION: 1})) == (set(), {PARTITION})
        begin(producer, [b"b"])
        end = 1 + 1 + 3 * 101
        assert (tail.holding({PARTITION: end}), tail.ended({PARTITION: end})) == (set(), set())  # not known: neither
        producer.commit_transaction(10)
        assert (tail.holding({PARTITION: end}), tail.ended({PARTITION: end})) == ({PARTITION}, set())


def test_the_watchdog_lets_stand_what_nobody_is_handed(topics, producer):
    """After a restart a worker stands before markers and aborted records for ever: that is no stall."""
    commit(producer, [b"a"])
    abort(producer, [b"b"] * 5)
    place, judge = TP("interactions", PARTITION), Judge(15.0)
    logs = {place: kafka.Log(0, 8, 1)}
    view = View(frozenset([place]), {place: 1}, {place: 1}, {}, None)
    with closing(kafka.Tail(topics, wire.INTERACTIONS)) as tail:

        def holds(tp, position):
            return tp.partition in tail.holding({tp.partition: position})

        assert [judge.stalled(now, logs, view, holds) for now in range(0, 60, 5)] == [None] * 12
        commit(producer, [b"c"])
        assert [judge.stalled(now, logs, view, holds) for now in range(60, 90, 5)][-1] is not None
