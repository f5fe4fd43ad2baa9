"""The learner agent: goes on from the champion's weights, example by example, and publishes what it has learned.

    training-examples ─► Learner (in memory, its steps in a thread) ─► every `FEED_SNAPSHOT_SECONDS` a version, role challenger

A version holds the learner's whole state with its position in the log, so the newest one is where a start, or the owner after a
failover, goes on. A batch is acknowledged when a published version holds it, or at once while the learner is held. The agent
never promotes.

`python stream_processors/learner.py`
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
import torch

from feed import logs, settings, wire
from feed.errors import BadModel, FeedError, NoChampion, run
from feed.io import kafka
from feed.learning import state
from feed.learning.learner import Learner
from feed.models import snapshot
from feed.models.snapshot import Snapshot
from feed.registry import Registry
from stream_processors import transport
from stream_processors.transport import Batch

log = structlog.get_logger()

RECORDS_AT_ONCE = 256  # four steps, well under a second: then a rebalance is noticed and a version may be published
LOOK_SECONDS = 0.5  # how often to ask whether a version is due


class LearnerAgent:
    """Owns the learner of one log of examples, `topic_id`; publishes into `registry` `seconds` apart."""

    def __init__(self, registry: Registry, topic_id: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._topic_id, self._seconds, self._clock = registry, topic_id, seconds, clock
        self._learner: Learner | None = None
        self._one_at_a_time = asyncio.Lock()
        self._learned: list[Batch] = []  # whole batches that no published version holds yet
        self._published: tuple[int, str | None] = (0, None)  # examples learned, why held
        self._published_at = 0.0

    async def apply(self, batch: Batch) -> None:
        """Learn from the batch, waiting for a champion as long as it takes; it is acknowledged when that is published."""

        async def attempt() -> bool:
            async with self._one_at_a_time:
                position = await asyncio.to_thread(self._meet, batch.start)
                if position < batch.start:
                    log.info("going back to where the version ends", position=position, committed=batch.start)
                    self._learned.clear()
                    await batch.rewind(position)
                    return True
            for start in range(0, len(batch.records), RECORDS_AT_ONCE):
                async with self._one_at_a_time:
                    if batch.stale:
                        return False
                    await asyncio.to_thread(self._learn, batch.records[start : start + RECORDS_AT_ONCE])
                batch.touch()
            batch.records = ()  # it may wait for its acknowledgement for long
            self._learned.append(batch)
            return True

        await transport.persist(batch, attempt, (FeedError, OSError))

    async def publish(self, owner: bool) -> None:
        """Publish what was learned since the last version, if that is due and this worker owns the log."""
        async with self._one_at_a_time:
            self._learned = [batch for batch in self._learned if not batch.stale]
            kept = self._learner is not None and self._learner.progress.guard.held is not None
            if owner and self._due():
                try:
                    await asyncio.to_thread(self._publish)
                    kept = True
                except (FeedError, OSError) as error:
                    log.warning("not published yet", error=str(error))
                    kept = False
            for batch in self._learned:
                if kept:  # a held learner learns nothing that could be lost
                    batch.ack()
                else:
                    batch.touch()  # it waits for the next version, or for enough examples for a step
            if kept:
                self._learned.clear()

    def _meet(self, start: int) -> int:
        """Where the learner stands; it is read from the registry if it cannot go on at `start`. Raises `FeedError`."""
        if self._learner is None or self._learner.progress.position < start:
            self._learner = self._newest() or self._from_champion()
            self._published = self._to_tell(self._learner)
            self._published_at = self._clock()
        return self._learner.progress.position

    def _newest(self) -> Learner | None:
        """The learner in the newest version made from this log that can be read."""
        for version in reversed(self._registry.versions()):
            try:
                folder = self._registry.folder(version)
                manifest = snapshot.read_manifest(folder)
                if manifest.get("created_by") != state.CREATED_BY:
                    continue
                if (manifest.get("position") or {}).get("topic_id") != self._topic_id:
                    log.warning("learned from another log: not gone on from", version=version)
                    continue
                learner = state.load(folder, self._load)
            except BadModel as error:
                log.warning("cannot be gone on from, trying the version before", version=version, error=str(error))
                continue
            p = learner.progress
            log.info("going on", version=version, position=p.position, steps=p.steps, held=p.guard.held)
            return learner
        return None

    def _from_champion(self) -> Learner:
        champion = self._registry.champion()
        if champion is None:
            raise NoChampion("waiting for a champion to begin from: train one with `python offline/bootstrap.py`")
        log.info("beginning from the champion", version=champion.version)
        return Learner.begin(champion.version, snapshot.load(champion.path), self._load)

    def _load(self, version: str) -> tuple[str, Snapshot]:
        """The version a `Restart` names, or the champion if it is not there any more. Raises `FeedError`."""
        try:
            return version, snapshot.load(self._registry.folder(version))
        except BadModel as error:
            champion = self._registry.champion()
            if champion is None:
                raise
            log.error("beginning again from the champion instead", wanted=version, champion=champion.version, error=str(error))
            return champion.version, snapshot.load(champion.path)

    def _learn(self, records: Sequence[Any]) -> None:
        learner = self._learner
        assert learner is not None
        for record in records:
            held, parent, looks = learner.progress.guard.held, learner.progress.parent, learner.examination
            found = learner.set_aside.read(record.offset, record.value)
            if found is None:
                continue
            step = learner.take(record.offset, found)
            if step is not None and step.refused:
                log.warning("step refused", step=learner.progress.steps, why=step.refused)
            if learner.progress.parent != parent:
                log.info("beginning again", version=learner.progress.parent, before=parent)
            elif looks is not None and learner.examination is None:
                told = "views say from now on what was looked at; shown items without one are no evidence any more"
                log.warning(told, offset=record.offset, remedy="a re-train, if most that is looked at has no view")
            if learner.progress.guard.held and not held:
                remedy = "until a Restart record names a version to begin from"
                log.error("the learner is held", why=learner.progress.guard.held, until=remedy)

    def _due(self) -> bool:
        if self._learner is None:
            return False
        examples, held = self._to_tell(self._learner)
        newly_held = held is not None and held != self._published[1]
        return newly_held or (examples != self._published[0] and self._clock() - self._published_at >= self._seconds)

    def _publish(self) -> None:
        learner = self._learner
        assert learner is not None
        now = datetime.now(UTC).isoformat()
        version = self._registry.publish(lambda folder: state.save(folder, learner, self._topic_id, now), challenger=True)
        self._published, self._published_at = self._to_tell(learner), self._clock()
        p = learner.progress
        loss = None if p.running_loss is None else round(p.running_loss, 4)
        log.info(
            "published", version=version, steps=p.steps, examples=p.examples, position=p.position, loss=loss,
            rate=learner.rate, refused=p.guard.refused_ever,
        )  # fmt: skip

    @staticmethod
    def _to_tell(learner: Learner) -> tuple[int, str | None]:
        return learner.progress.examples, learner.progress.guard.held


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "learner")
    torch.set_num_threads(1)  # also for the bits: sums over several threads are not in one order
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    topic = wire.TRAINING_EXAMPLES
    agent = LearnerAgent(Registry(configuration.registry), topic_ids[topic.name], configuration.snapshot_seconds)
    app = transport.make_app("learner", configuration)
    transport.consume(app, topic, agent.apply)
    transport.every(app, LOOK_SECONDS, lambda: agent.publish(owner=bool(transport.assigned(app))))
    transport.run(app)


if __name__ == "__main__":
    run(main)
