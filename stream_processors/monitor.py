"""The monitor agent: says so when the world has changed for the worse, and sets going what helps.

    training-examples ─► DriftMonitor (in memory) ─┬─► log: DRIFT ALERT ...
                                                   ├─► alerts: offline re-trains (`offline/schedule.py`)
                                                   └─► training-examples: RaiseRate, for the learner

The detectors' state is in memory only. After a start or a rebalance the agent reads the newest `REREAD` records before its
committed position again, in silence; the topic `alerts` says what has been told, so nothing is told twice.

`python stream_processors/monitor.py`
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from kafka.errors import KafkaError

from feed import logs, settings, wire
from feed.address import Broker
from feed.errors import FeedError, Unreadable, run
from feed.examples import Example, RaiseRate, SetAside
from feed.io import kafka
from feed.monitoring.alerts import Alert, decode_alert, headline
from feed.monitoring.drift import DriftMonitor
from stream_processors import transport
from stream_processors.transport import Batch

log = structlog.get_logger()

REREAD = 20_000  # records
FACTOR, EXAMPLES = 3.0, 5_000  # of the learner's rate, and for how long
COOLING = 5_000  # examples between two commands to raise it


class MonitorAgent:
    """Shows every example to the detectors and acts on their alerts."""

    def __init__(self, broker: Broker, sender: kafka.Sender) -> None:
        self._broker, self._sender = broker, sender
        self._monitor = DriftMonitor()
        self._set_aside = SetAside()
        self._next: int | None = None  # the record that the detectors have not seen yet
        self._live_from = 0  # what is before this offset was there before the start
        self._told: dict[tuple[int, int], Alert] = {}  # by source and sequence of the example that raised it
        self._waiting: list[Alert] = []  # raised and not yet sent
        self._since_raise = COOLING  # examples

    async def apply(self, batch: Batch) -> None:
        """Look at the batch's examples, waiting for the broker as long as it takes; then acknowledge it."""

        async def attempt() -> bool:
            if batch.start != self._next:
                await asyncio.to_thread(self._begin, batch.start)
                if self._next != batch.start:
                    await batch.rewind(self._next or 0)
                    return True
            await asyncio.to_thread(self._look, batch.records)
            batch.ack()
            return True

        await transport.persist(batch, attempt, (FeedError, KafkaError))

    def _begin(self, start: int) -> None:
        """Forget everything and learn what has been told; `start` is the first record that nobody has judged."""
        self._told, self._waiting = {}, []
        for record in kafka.read_topic(self._broker, wire.ALERTS):
            try:
                alert = decode_alert(record.value)
            except Unreadable as error:
                log.error("unreadable alert", offset=record.offset, reason=str(error))
                continue
            self._told[alert.source, alert.sequence] = alert
        self._monitor, self._since_raise = DriftMonitor(), COOLING
        self._live_from, self._next = start, max(0, start - REREAD)
        if start:
            log.info("reading again what was there before", records=start - self._next, alerts_told=len(self._told))

    def _look(self, records: Sequence[Any]) -> None:
        """Show these records to the detectors; raises `FeedError` while an alert is not acknowledged (then look again)."""
        self._tell_waiting()
        for record in records:
            if record.offset < (self._next or 0):
                continue  # seen in an earlier attempt
            found = self._set_aside.read(record.offset, record.value)
            if isinstance(found, RaiseRate):
                self._since_raise = 0
            if isinstance(found, Example):
                self._since_raise += 1
                self._see(found, live=record.offset >= self._live_from)
            self._next = record.offset + 1
            self._tell_waiting()
        self._sender.flush()

    def _see(self, example: Example, live: bool) -> None:
        try:
            alerts = self._monitor.see(example)
        except Exception as error:
            self._set_aside.example(example, error)
            return
        if told := self._told.get((example.source, example.sequence)):
            self._monitor.told(told.kind)
        elif live:
            self._waiting += alerts

    def _tell_waiting(self) -> None:
        while self._waiting:
            self._tell(self._waiting[0])
            del self._waiting[0]

    def _tell(self, alert: Alert) -> None:
        raises = alert.retrain and self._since_raise >= COOLING
        if raises:  # first: an alert that is in its topic has been acted on; a command may come twice
            command = RaiseRate(FACTOR, EXAMPLES, alert.alert_id)
            self._sender.send(wire.TRAINING_EXAMPLES, "monitor", command)
            self._sender.flush()
            self._since_raise = 0
        self._sender.send(wire.ALERTS, alert.kind, alert)
        self._told[alert.source, alert.sequence] = alert
        log.warning(f"DRIFT ALERT: {headline(alert)}. {remedy(alert, raises)}", **about(alert))


def remedy(alert: Alert, raises: bool) -> str:
    """What the system does about it, in words."""
    if not alert.retrain:
        return "Nothing is learned faster from inputs that have changed: look at where they come from"
    learner = f"learns {FACTOR:g} times as fast for {EXAMPLES:,} examples" if raises else "learns faster already"
    return f"The learner {learner}; a re-train on the recent log is asked for"


def about(alert: Alert) -> dict[str, Any]:
    """The alert's particulars, as fields of a log line."""
    return {
        "alert": alert.alert_id,
        "kind": alert.kind,
        "segment": alert.segment,
        "also": ", ".join(alert.also) or None,
        "model_version": alert.model_version,
    }


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "monitor")
    kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    with kafka.Sender(configuration.broker) as sender:
        agent = MonitorAgent(configuration.broker, sender)
        app = transport.make_app("monitor", configuration)
        transport.consume(app, wire.TRAINING_EXAMPLES, agent.apply)
        transport.run(app)


if __name__ == "__main__":
    run(main)
