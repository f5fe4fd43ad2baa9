"""What the monitor agent tells, and what it does not tell again, on a real broker."""

from itertools import count

import pytest

from feed import wire
from feed.examples import RaiseRate, decode_record
from feed.io import kafka
from feed.monitoring.alerts import Alert, decode_alert
from stream_processors.monitor import COOLING, MonitorAgent, remedy
from tests.monitoring.streams import stream

CHANGE = 1200


@pytest.fixture
def broker_of_its_own(own_broker):
    kafka.ensure_topics(own_broker, 1, wire.TOPICS)
    return own_broker


def records(examples, offset=0):
    return [kafka.Record("training-examples", 0, n, b"", wire.encode(e)) for n, e in zip(count(offset), examples, strict=False)]


def told(broker: str) -> list[Alert]:
    return [decode_alert(record.value) for record in kafka.read_topic(broker, wire.ALERTS)]


def test_what_was_told_before_a_crash_is_not_told_again_and_what_was_there_before_the_start_not_at_all(broker_of_its_own):
    found = records(stream(2500, lambda k, example: 0.35 if k < CHANGE else 0.12))
    with kafka.Sender(broker_of_its_own) as sender:
        first = MonitorAgent(broker_of_its_own, sender)
        first._begin(0)
        first._look(found)
        (alert,) = told(broker_of_its_own)
        assert alert.sequence > CHANGE
        crashed = MonitorAgent(broker_of_its_own, sender)  # nothing of the batch was committed: all of it comes again
        crashed._begin(0)
        crashed._look(found)
        assert told(broker_of_its_own) == [alert]
        commands = [decode_record(record.value) for record in kafka.read_topic(broker_of_its_own, wire.TRAINING_EXAMPLES)]
        assert commands == [RaiseRate(3.0, 5000, alert.alert_id)]


def test_what_was_there_before_the_committed_position_is_read_in_silence(broker_of_its_own):
    found = records(stream(2500, lambda k, example: 0.35 if k < CHANGE else 0.12))
    with kafka.Sender(broker_of_its_own) as sender:
        agent = MonitorAgent(broker_of_its_own, sender)
        agent._begin(2500)
        agent._look(found)
    assert told(broker_of_its_own) == []


def test_the_rate_is_raised_at_most_once_per_cooling_period(broker_of_its_own):
    with kafka.Sender(broker_of_its_own) as sender:
        agent = MonitorAgent(broker_of_its_own, sender)
        agent._begin(0)
        agent._since_raise = COOLING - 3000  # a command was seen in the log not long ago
        agent._look(records(stream(2500, lambda k, example: 0.35 if k < CHANGE else 0.12)))
        (alert,) = told(broker_of_its_own)
        assert list(kafka.read_topic(broker_of_its_own, wire.TRAINING_EXAMPLES)) == []
    assert "learns faster already" in remedy(alert, raises=False)
