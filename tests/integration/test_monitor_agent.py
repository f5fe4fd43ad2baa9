"""The monitor agent as a process, on a real broker."""

import json
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from feed import wire
from feed.errors import Unreadable
from feed.examples import RaiseRate, decode_record
from feed.io import kafka
from feed.monitoring.alerts import decode_alert
from tests.integration.service import service, wait_until
from tests.monitoring.streams import stream

CHANGE = 1500


def monitor_agent(broker: str, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {"FEED_KAFKA": broker, "FEED_LOG_FORMAT": "json", "FEED_SESSION_SECONDS": "2"}
    return service("stream_processors/monitor.py", log, settings)


def committed(broker: str) -> int:
    view = kafka.GroupView(broker, "feedloop-monitor", [wire.TRAINING_EXAMPLES.name])
    try:
        return view.read()[wire.TRAINING_EXAMPLES.name, 0].committed or 0
    finally:
        view.close()


def alerts(broker: str):
    return [decode_alert(record.value) for record in kafka.read_topic(broker, wire.ALERTS)]


def commands(broker: str) -> list[RaiseRate]:
    found = []
    for record in kafka.read_topic(broker, wire.TRAINING_EXAMPLES):
        try:
            message = decode_record(record.value)
        except Unreadable:
            continue
        if isinstance(message, RaiseRate):
            found.append(message)
    return found


def said(log: Path) -> list[str]:
    events = [json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{")]
    return [event for event in events if event.startswith("DRIFT ALERT")]


def test_a_drift_is_told_in_the_log_on_the_topic_and_to_the_learner_and_a_killed_agent_does_not_repeat_it(own_broker, tmp_path):
    kafka.ensure_topics(own_broker, 8, wire.TOPICS)
    log = tmp_path / "monitor.log"
    examples = list(stream(4000, lambda k, example: 0.35 if k < CHANGE else 0.15))
    with kafka.Sender(own_broker) as sender:

        def send(part):
            for example in part:
                sender.send(wire.TRAINING_EXAMPLES, example.user.user_id, example)
            sender.flush()
            return sender.positions()[wire.TRAINING_EXAMPLES.name, 0]

        send(examples[:1000])
        sender.send_raw(wire.TRAINING_EXAMPLES.name, 0, b"", b"not an example")
        send(examples[900:1000])  # copies
        end = send(examples[1000:3000])
        with monitor_agent(own_broker, log) as agent:
            wait_until(lambda: committed(own_broker) >= end, "the reading of all examples")
            (alert,) = alerts(own_broker)
            assert alert.segment == "everybody"
            assert CHANGE < alert.sequence < 3000
            (command,) = commands(own_broker)
            assert command.factor > 1
            assert command.why == alert.alert_id
            (line,) = said(log)
            assert "of everybody" in line
            assert "since 2025-06-16" in line
            assert "The learner learns 3 times as fast" in line
            agent.kill()
            agent.wait()
        end = send(examples[3000:])
        with monitor_agent(own_broker, log):
            wait_until(lambda: committed(own_broker) >= end, "the reading of what came later")
        assert alerts(own_broker) == [alert]
        assert commands(own_broker) == [command]
        assert said(log) == [line]
    assert "reading again what was there before" in log.read_text()
