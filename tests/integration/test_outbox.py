"""Sending what batches have caused, on a real broker and a real Redis."""

from contextlib import closing
from types import SimpleNamespace

import pytest

from feed import wire
from feed.errors import FeedError, Lost
from feed.io import kafka
from feed.io.redis import Change, FeatureStore, FoldStore, Message, connect
from feed.wire import Position
from stream_processors.features import SENT_AT_ONCE, FeaturesAgent
from stream_processors.folder import Folder

MESSAGES = 3 * SENT_AT_ONCE + 100


def test_after_an_outage_only_what_was_being_sent_is_sent_again(own_broker, redis_url, monkeypatch):
    topic_ids = kafka.ensure_topics(own_broker, 1, wire.TOPICS)
    store = FeatureStore(connect(redis_url))
    topic, topic_id = wire.INTERACTIONS.name, topic_ids[wire.INTERACTIONS.name]
    caused = [Message(wire.DEAD_LETTERS.name, 0, b"", b"%d" % n) for n in range(MESSAGES)]
    assert store.apply(Change(Position(topic_id, 0, 1), messages=caused), 0, "other", 0).done
    with kafka.Sender(own_broker) as sender, closing(kafka.Tail(own_broker, wire.INTERACTIONS)) as tail:
        agent = FeaturesAgent(store, sender, Folder(1, 300.0, 1800.0), topic_ids, tail, 10.0)
        flush, flushed = sender.flush, []

        def flush_twice_only() -> None:
            flush()
            flushed.append(True)
            if len(flushed) == 2:
                raise FeedError("the broker went away before it said that it had these")

        monkeypatch.setattr(sender, "flush", flush_twice_only)
        with pytest.raises(FeedError):
            agent.send_outbox(topic, 0)
        assert len(store.outbox(topic_id, 0)) == MESSAGES - SENT_AT_ONCE
        monkeypatch.setattr(sender, "flush", flush)
        agent.send_outbox(topic, 0)
    assert store.outbox(topic_id, 0) == []
    read = [int(record.value) for record in kafka.read_topic(own_broker, wire.DEAD_LETTERS)]
    again = range(SENT_AT_ONCE, 2 * SENT_AT_ONCE)
    assert read == [*range(2 * SENT_AT_ONCE), *again, *range(2 * SENT_AT_ONCE, MESSAGES)]


@pytest.mark.parametrize("lose", ["flushall", "outbox"])
def test_a_batch_whose_messages_are_lost_before_they_are_sent_is_not_acknowledged(own_broker, redis_url, monkeypatch, lose):
    topic_ids = kafka.ensure_topics(own_broker, 1, wire.TOPICS)
    client = connect(redis_url)
    topic, topic_id = wire.INTERACTIONS.name, topic_ids[wire.INTERACTIONS.name]
    record = SimpleNamespace(offset=0, key=b"u", value=b"no event", timestamp=0)
    batch = SimpleNamespace(
        tp=SimpleNamespace(topic=topic, partition=0), start=0, end=1, records=[record], again=False, caught_up=False
    )
    with kafka.Sender(own_broker) as sender, closing(kafka.Tail(own_broker, wire.INTERACTIONS)) as tail:
        agent = FeaturesAgent(FoldStore(client), sender, Folder(1, 300.0, 1800.0), topic_ids, tail, 10.0)
        send = agent.send_outbox

        def lose_and_send(of: str, partition: int) -> None:
            client.flushall() if lose == "flushall" else client.delete(f"outbox:{topic_id}:{partition}")
            send(of, partition)

        monkeypatch.setattr(agent, "send_outbox", lose_and_send)
        if lose == "flushall":
            assert agent._try(batch) == -1
        else:
            with pytest.raises(Lost, match="outbox:"):
                agent._try(batch)
    assert list(kafka.read_topic(own_broker, wire.DEAD_LETTERS)) == []
