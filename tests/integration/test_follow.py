"""Following a log: everything from an offset on, and word when nothing comes."""

from feed.io import kafka
from feed.wire import Topic


def test_it_begins_at_the_offset_goes_on_with_what_comes_and_says_when_nothing_does(broker):
    topic = Topic("followed", partitions=1)
    kafka.ensure_topics(broker, 1, [topic])
    with kafka.Sender(broker) as sender:

        def send(*numbers):
            for number in numbers:
                sender.send_raw(topic.name, 0, b"", str(number).encode())
            sender.flush()

        send(0, 1, 2)
        records = kafka.follow_topic(broker, topic, 1, seconds=0.2)
        found = [(r.offset, r.value) for r in until_quiet(records)]
        send(3)
        more = [(r.offset, r.value) for r in until_quiet(records)]
        records.close()
    assert found == [(1, b"1"), (2, b"2")]
    assert more == [(3, b"3")]


def until_quiet(records):
    """What comes until nothing does, after something has."""
    found = []
    for record in records:
        if record is not None:
            found.append(record)
        elif found:
            return found
    raise AssertionError("the log ended")
