"""Topics, sending and reading, on a real broker."""

import os
import signal
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from deploy import embedded
from feed import wire
from feed.errors import BadSetting, FeedError
from feed.events import Click, utc
from feed.io import kafka
from feed.wire import LARGEST, Topic


def click(user_id, n):
    return Click(event_id=f"e{n}", user_id=user_id, item_id=str(n), occurred_at=utc(1e9 + n))


@pytest.fixture
def topic(broker, request):
    made = Topic(request.node.name[:100].replace("[", "-").replace("]", ""))
    kafka.ensure_topics(broker, 4, [made])
    return made


@pytest.fixture
def own_broker(tmp_path):
    """A broker of this test's own, to stop and to freeze."""
    with embedded.start_broker(embedded.free_port(), tmp_path) as server:
        yield server


def test_topics_are_created_once_with_their_partitions(broker):
    ids = kafka.ensure_topics(broker, 4, wire.TOPICS)
    assert set(ids) == {topic.name for topic in wire.TOPICS}
    assert len(set(ids.values())) == len(ids)
    assert kafka.ensure_topics(broker, 4, wire.TOPICS) == ids


def test_another_partition_count_is_refused_with_its_remedy(broker, topic):
    with pytest.raises(BadSetting, match=rf"{topic.name}.* has 4 partitions, not 8: set FEED_PARTITIONS=4"):
        kafka.ensure_topics(broker, 8, [topic])
    with pytest.raises(BadSetting, match="delete it, or create it with 3"):
        kafka.ensure_topics(broker, 4, [replace(topic, partitions=3)])


def test_what_is_sent_is_read_back_in_order_on_its_users_partition(broker, topic):
    events = [click(str(n % 50), n) for n in range(5000)]
    with kafka.Sender(broker) as sender:
        for event in events:
            sender.send(topic, event.user_id, event)
        sender.flush()
        assert sender.acked == 5000
        positions = sender.positions()
    records = list(kafka.read_topic(broker, topic))
    read = [wire.decode_event(record.value) for record in records]
    assert len(read) == 5000
    for user in map(str, range(50)):
        assert [e for e in read if e.user_id == user] == [e for e in events if e.user_id == user]
    assert all(record.partition == wire.partition_of(record.key.decode(), 4) for record in records)
    for partition in range(4):
        assert positions[topic.name, partition] == 1 + max(r.offset for r in records if r.partition == partition)


def test_an_empty_topic_is_read_as_empty_and_a_missing_one_is_named(broker, topic):
    assert list(kafka.read_topic(broker, topic)) == []
    with pytest.raises(FeedError, match="no topic nothing-here"):
        list(kafka.read_topic(broker, Topic("nothing-here")))


def test_a_log_is_at_its_end_only_behind_the_last_record_and_only_while_the_broker_answers(own_broker, monkeypatch):
    topic = Topic("tail")
    kafka.ensure_topics(own_broker.address, 4, [topic])
    with kafka.Sender(own_broker.address) as sender, closing(kafka.Tail(own_broker.address, topic)) as tail:
        assert tail.ended({0: 0, 2: 0}) == {0, 2}
        for n in range(5):
            sender.send_raw(topic.name, 0, b"a", bytes([n]))  # one batch of five
        sender.flush()
        for partition in (0, 1):
            tail.ended({partition: 0})  # an answer may be as old as the call before
        assert [tail.ended({0: read, 1: 0}) for read in (0, 1, 4)] == [{1}, {1}, {1}]
        assert tail.ended({0: 5, 1: 0}) == {0, 1}
        monkeypatch.setattr(kafka, "ANSWER_SECONDS", 0.3)
        os.kill(own_broker.pid, signal.SIGSTOP)
        tail.ended({0: 5})
        assert tail.ended({0: 5}) == set()
        os.kill(own_broker.pid, signal.SIGCONT)
        monkeypatch.setattr(kafka, "ANSWER_SECONDS", 10.0)
        assert tail.ended({0: 5}) == {0}


def test_a_message_that_cannot_be_sent_is_named(broker, topic):
    with kafka.Sender(broker) as sender:
        with pytest.raises(FeedError, match="no topic nothing-here"):
            sender.send(Topic("nothing-here"), "a", click("a", 1))
        with pytest.raises(FeedError, match=f"{topic.name}/0.*key b'big'"):
            sender.send_raw(topic.name, 0, b"big", bytes(LARGEST))
        with pytest.raises(FeedError, match=f"{topic.name}/9.*key b'far'"):
            sender.send_raw(topic.name, 9, b"far", b"")
        sender.flush()
        assert sender.acked == 0


def test_in_an_outage_nothing_counts_as_sent_and_afterwards_everything_is_there_once(own_broker):
    topic = Topic("outage")
    kafka.ensure_topics(own_broker.address, 4, [topic])
    with kafka.Sender(own_broker.address) as sender:
        sender.send(topic, "a", click("a", 0))
        sender.flush()
        os.kill(own_broker.pid, signal.SIGSTOP)
        for n in range(1, 301):
            sender.send(topic, str(n), click(str(n), n))
        with pytest.raises(FeedError, match=f"300 messages were not acknowledged by {own_broker.address}"):
            sender.flush(0.5)
        assert sender.acked == 1
        os.kill(own_broker.pid, signal.SIGCONT)
        sender.flush()
        assert sender.acked == 301
    records = list(kafka.read_topic(own_broker.address, topic))
    assert sorted(int(wire.decode_event(record.value).item_id) for record in records) == list(range(301))


def test_send_blocks_when_too_much_waits(own_broker, monkeypatch):
    monkeypatch.setattr(kafka, "UNACKNOWLEDGED", 100)
    topic = Topic("pressure")
    kafka.ensure_topics(own_broker.address, 4, [topic])
    with kafka.Sender(own_broker.address) as sender:
        sender.send(topic, "a", click("a", 0))
        sender.flush()
        os.kill(own_broker.pid, signal.SIGSTOP)
        sent = []

        def send_more():
            for n in range(1, 201):
                sender.send(topic, "a", click("a", n))
                sent.append(n)

        thread = threading.Thread(target=send_more)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        assert len(sent) == 100
        os.kill(own_broker.pid, signal.SIGCONT)
        thread.join(30)
        sender.flush()
        assert sender.acked == 201
    read = [int(wire.decode_event(r.value).item_id) for r in kafka.read_topic(own_broker.address, topic)]
    assert read == list(range(201))


def test_a_sender_that_is_left_in_an_outage_says_what_was_lost(own_broker, monkeypatch):
    kafka.ensure_topics(own_broker.address, 1, [Topic("left")])

    def leave():
        with kafka.Sender(own_broker.address) as sender:
            sender.send_raw("left", 0, b"a", b"{}")
            sender.flush()
            own_broker.stop()
            sender.send_raw("left", 0, b"a", b"{}")

    monkeypatch.setattr(kafka, "CLOSE_SECONDS", 0.5)
    with pytest.raises(FeedError, match="1 messages were not acknowledged"):
        leave()


def test_a_process_that_starts_before_the_broker_waits_for_it(tmp_path):
    port = embedded.free_port()
    waiter = threading.Thread(target=kafka.wait_for_broker, args=[f"{embedded.HOST}:{port}"])
    waiter.start()
    waiter.join(0.5)
    assert waiter.is_alive()
    with embedded.start_broker(port, tmp_path):
        waiter.join(15)
        assert not waiter.is_alive()
