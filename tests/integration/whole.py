"""Every service that follows a log, as processes of their own, on a real broker and Redis, with a champion that serves."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from feed import wire
from feed.io import kafka
from feed.io.kafka import GroupView
from feed.io.redis import FeatureStore, connect
from feed.registry import Registry
from tests.integration.service import service
from tests.small import promote, snapshot, world

SERVICES = {
    "features": "stream_processors/features.py",
    "feeds": "stream_processors/feeds.py",
    "learner": "stream_processors/learner.py",
    "monitor": "stream_processors/monitor.py",
    "gatekeeper": "offline/gatekeeper.py",
}
PARTITIONS = 8


@dataclass
class Whole:
    """The running system; `processes` and their logs (`folder`/NAME.log) by service."""

    broker: str
    redis_url: str
    folder: Path
    topic_ids: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def store(self) -> FeatureStore:
        """A store of the caller's own."""
        return FeatureStore(connect(self.redis_url))

    @property
    def registry(self) -> Registry:
        """Where the versions are."""
        return Registry(self.folder / "registry")

    def ended(self) -> dict[str, int]:
        """The services that do not run any more, with their status."""
        return {name: status for name, process in self.processes.items() if (status := process.poll()) is not None}

    def said(self, name: str) -> str:
        """Everything a service has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def lag(self, name: str, topic: wire.Topic) -> int:
        """Records of the topic that a service has not acknowledged: all there are, if it has committed nothing."""
        view = GroupView(self.broker, f"feedloop-{name}", [topic.name])
        try:
            logs = view.read().values()
            return sum(max(log.end - (log.committed if log.committed is not None else log.first), 0) for log in logs)
        finally:
            view.close()

    def letters(self) -> list[wire.DeadLetter]:
        """Everything in dead-letters."""
        return [wire.decode_letter(record.value) for record in kafka.read_topic(self.broker, wire.DEAD_LETTERS)]


@contextmanager
def whole_system(broker: str, redis_url: str, folder: Path, **settings: str) -> Iterator[Whole]:
    """Start everything; all is stopped at the end."""
    people = world(users=12, items=40)
    promote(folder / "registry", snapshot(people))
    environment = {
        "FEED_KAFKA": broker,
        "FEED_REDIS": redis_url,
        "FEED_REGISTRY": str(folder / "registry"),
        "FEED_LOG_FORMAT": "console",
        "FEED_SNAPSHOT_SECONDS": "1",
        "FEED_IDLE_SECONDS": "2",
        **settings,
    }
    topic_ids = kafka.ensure_topics(broker, PARTITIONS, wire.TOPICS)
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(service(script, folder / f"{name}.log", environment)) for name, script in SERVICES.items()
        }
        yield Whole(broker, redis_url, folder, topic_ids, processes)
