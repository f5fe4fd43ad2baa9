"""When the windows of a partition close because nothing comes: on a real broker and a real Redis, batch by batch."""

import asyncio
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from faust.types import TP
from structlog.testing import capture_logs

from deploy import embedded
from feed import wire
from feed.events import Impression, Like, Shown, utc
from feed.examples import Example, decode_record
from feed.io import kafka
from feed.io.redis import FeatureStore, connect
from stream_processors.features import LOOK_SECONDS, FeaturesAgent
from stream_processors.folder import Folder

IDLE_LOOKS = 3
PLACE = TP(wire.INTERACTIONS.name, 0)
SHOWN = Impression(event_id="r", user_id="1", occurred_at=utc(1.7e9), items=(Shown(item_id="a", position=0),))
LIKED = Like(event_id="l", user_id="1", occurred_at=utc(1.7e9 + 60), item_id="a")


@pytest.fixture
def server(tmp_path) -> Iterator[embedded.Server]:
    """A broker of this test's own, to freeze."""
    with embedded.start_broker(embedded.free_port(), tmp_path) as started:
        yield started


class System:
    """The agent, driven by hand: what it is given, how often it looks, what it has sent."""

    def __init__(self, broker: str, redis_url: str, sender: kafka.Sender) -> None:
        self.broker, self.sender = broker, sender
        topic_ids = kafka.ensure_topics(broker, 1, wire.TOPICS)
        self.tail = kafka.Tail(broker, wire.INTERACTIONS)
        self.agent = FeaturesAgent(
            FeatureStore(connect(redis_url)), sender, Folder(1, 300.0, 1800.0), topic_ids, self.tail, IDLE_LOOKS * LOOK_SECONDS
        )
        self.sent = 0
        self.topic_id = topic_ids[wire.INTERACTIONS.name]
        self.client = connect(redis_url)

    def send(self, *events) -> None:
        for event in events:
            self.sender.send(wire.INTERACTIONS, event.user_id, event)
        self.sender.flush()

    def fold(self, *events) -> None:
        """Hand the agent the batch of these, which were sent next."""
        records = [SimpleNamespace(offset=self.sent + n, key=b"1", value=wire.encode(e)) for n, e in enumerate(events)]
        start, self.sent = self.sent, self.sent + len(events)
        acknowledged = []
        batch = SimpleNamespace(
            tp=PLACE,
            start=start,
            end=self.sent,
            records=records,
            stale=False,
            again=False,
            caught_up=False,
            ack=lambda: acknowledged.append(True),
        )
        asyncio.run(self.agent.apply(batch))
        assert acknowledged

    def look(self, times: int) -> None:
        for _ in range(times):
            asyncio.run(self.agent.close_idle([PLACE]))

    def open(self) -> int:
        """Of how many users something is open."""
        return self.client.hlen(f"open:{self.topic_id}:0")

    def examples(self) -> list[Example]:
        return [decode_record(record.value) for record in kafka.read_topic(self.broker, wire.TRAINING_EXAMPLES)]


@pytest.fixture
def system(server, redis_url) -> Iterator[System]:
    with kafka.Sender(server.address) as sender:
        made = System(server.address, redis_url, sender)
        yield made
        made.tail.close()


def test_windows_close_when_the_broker_has_had_nothing_more_for_the_idle_time(system):
    system.send(SHOWN)
    system.fold(SHOWN)
    system.look(IDLE_LOOKS)  # the first of them after a batch does not count
    assert system.examples() == []
    system.look(1)
    assert [example.example_id for example in system.examples()] == ["r"]


def test_an_engagement_that_waits_for_its_request_is_too_late_when_nothing_comes_and_that_is_said_once(system):
    waits = Like(event_id="w", user_id="2", occurred_at=utc(1.7e9), item_id="a", request_id="never shown")
    system.send(waits)
    system.fold(waits)
    assert system.open() == 1
    with capture_logs() as lines:
        system.look(3 * IDLE_LOOKS)
    assert system.open() == 0
    assert [(line["engagements"], line["in_all"]) for line in lines if "too late" in line["event"]] == [(1, 1)]
    assert system.examples() == []


def test_records_that_are_not_folded_yet_keep_windows_open_however_long_it_takes(system):
    system.send(SHOWN)
    system.fold(SHOWN)
    system.look(1)
    system.send(LIKED)  # there, but no worker has come to it
    system.look(3 * IDLE_LOOKS)
    system.fold(LIKED)
    system.look(1 + IDLE_LOOKS)
    (example,) = system.examples()
    assert example.rows[0].labels == {"like": 1}


def test_a_broker_that_does_not_answer_keeps_windows_open_and_the_idle_time_starts_anew(system, server, monkeypatch):
    monkeypatch.setattr(kafka, "ANSWER_SECONDS", 0.3)
    system.send(SHOWN)
    system.fold(SHOWN)
    system.look(IDLE_LOOKS)  # one more would close
    os.kill(server.pid, signal.SIGSTOP)
    try:
        system.look(2 * IDLE_LOOKS)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    system.look(IDLE_LOOKS - 1)
    system.send(LIKED)
    system.fold(LIKED)
    system.look(1 + IDLE_LOOKS)
    (example,) = system.examples()
    assert example.rows[0].labels == {"like": 1}
