"""Whole batches through Faust, on a real broker: exactly what is in the log, whatever happens to the worker."""

import inspect
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import aiokafka
import pytest
import redis
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faust.app.base import App
from faust.topics import Topic as FaustTopic
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver

from feed.io import kafka
from feed.wire import Topic

WORKER = Path(__file__).with_name("transport_worker.py")
PARTITIONS = 4


class Workers:
    """Starts workers on topics of this test, and looks at what they have kept."""

    def __init__(self, broker, store, redis_url, topic):
        self.broker, self.store, self.redis_url, self.topic = broker, store, redis_url, topic
        self.running = []

    def start(self, *topics, name="one"):
        command = [sys.executable, str(WORKER), self.broker, self.redis_url, *(topics or [self.topic]), name]
        self.running.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
        return self.running[-1]

    def got(self):
        return [[int(v) for v in self.store.lrange(f"got:{self.topic}/{n}", 0, -1)] for n in range(PARTITIONS)]

    def wait_until(self, holds, seconds=40.0):
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.store.keys()
            time.sleep(0.05)

    def wait_for(self, count):
        self.wait_until(lambda: sum(self.store.llen(f"got:{self.topic}/{n}") for n in range(PARTITIONS)) >= count)


@pytest.fixture
def topic(broker, request):
    kafka.ensure_topics(broker, PARTITIONS, [Topic(request.node.name)])
    return request.node.name


@pytest.fixture
def workers(broker, redis_url, topic):
    made = Workers(broker, redis.Redis.from_url(redis_url), redis_url, topic)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


@pytest.fixture
def send(broker, topic):
    with kafka.Sender(broker) as sender:

        def send(values):
            for value in values:
                sender.send_raw(topic, value % PARTITIONS, b"", str(value).encode())
            sender.flush()

        yield send


def split(values):
    return [[value for value in values if value % PARTITIONS == n] for n in range(PARTITIONS)]


def test_everything_arrives_once_and_in_order_also_after_the_state_lost_its_tail(workers, send):
    send(range(20_000))
    worker = workers.start()
    workers.wait_for(20_000)
    assert workers.got() == split(range(20_000))

    for n in range(PARTITIONS):  # as a Redis that comes back with an older file
        with workers.store.pipeline(transaction=True) as both:
            both.ltrim(f"got:{workers.topic}/{n}", 0, 999)
            both.set(f"position:{workers.topic}/{n}", 1000)
            both.execute()
    send(range(20_000, 22_000))
    workers.wait_for(22_000)
    assert workers.got() == split(range(22_000))

    worker.terminate()
    assert worker.wait(15) == 0


def test_a_killed_worker_loses_and_repeats_nothing(workers, send):
    first = workers.start()
    workers.wait_until(lambda: workers.store.get("assigned:one"))
    send(range(2_000))
    workers.wait_for(1)
    first.kill()
    send(range(2_000, 20_000))
    workers.start()
    workers.wait_for(20_000)
    assert workers.got() == split(range(20_000))


def test_all_partitions_of_all_topics_are_assigned_and_equal_numbers_go_together(workers, broker, topic):
    also = f"{topic}-also"
    kafka.ensure_topics(broker, PARTITIONS, [Topic(also), Topic(f"{topic}-small", partitions=2)])
    topics = [topic, also, f"{topic}-small"]

    def assigned(name):
        places = (workers.store.get(f"assigned:{name}") or b"").decode().split()
        return {t: {int(p.split("/")[1]) for p in places if p.split("/")[0] == t} for t in topics}

    workers.start(*topics, name="one")
    workers.wait_until(lambda: assigned("one") == {topic: {0, 1, 2, 3}, also: {0, 1, 2, 3}, f"{topic}-small": {0, 1}})
    workers.start(*topics, name="two")
    workers.wait_until(
        lambda: [len(n) for n in assigned("one").values()] == [len(n) for n in assigned("two").values()] == [2, 2, 1]
    )
    for name in ("one", "two"):
        assert assigned(name)[topic] == assigned(name)[also]
    assert assigned("one")[topic] | assigned("two")[topic] == {0, 1, 2, 3}


def test_a_worker_that_hangs_blocks_or_fails_ends(workers, broker, topic):
    with kafka.Sender(broker) as sender:
        for value in (b"hang", b"block", b"fail"):
            kafka.ensure_topics(broker, PARTITIONS, [Topic(f"{topic}-{value.decode()}")])
            sender.send_raw(f"{topic}-{value.decode()}", 0, b"", value)
    hangs, blocks, fails = (workers.start(f"{topic}-{how}") for how in ("hang", "block", "fail"))
    assert (hangs.wait(40), blocks.wait(40), fails.wait(40)) == (3, 3, 1)


def test_the_private_parts_of_faust_and_aiokafka_that_are_used_are_there():
    assert (version("faust-streaming"), version("aiokafka")) == ("0.15.3", "0.14.0"), (
        "read transport.py against the new version"
    )
    for owner, names in {
        faust_consumer.Consumer: "_new_offset _filter_tps_with_pending_acks _drain_messages _wait_next_records",
        driver.Consumer: "verify_event_path _new_consumer_thread _seek on_partitions_revoked on_partitions_assigned",
        driver.AIOKafkaConsumerThread: "_create_worker_consumer _ensure_consumer call_thread",
        App: "_create_directories",
        driver.Transport: "Consumer",
    }.items():
        assert [name for name in names.split() if not hasattr(owner, name)] == [], owner
    made = inspect.getsource(aiokafka.AIOKafkaConsumer)
    for attribute in ("fetch_max_wait_ms=self._fetch_max_wait_ms", "assignors=self._partition_assignment_strategy"):
        assert attribute in made  # read when the consumer starts, so that they can be set before
    assert "_tp_index" in inspect.getsource(sys.modules["faust.transport.conductor"])
    assert hasattr(RangePartitionAssignor, "assign")
    assert hasattr(Fetcher, "fetched_records")
    assert "maxsize" in inspect.signature(FaustTopic.__init__).parameters
