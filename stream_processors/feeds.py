"""The feeds agent: whose features changed goes in, their feeds come out, within a second.

    feature-updates ─► the batch's users ─► states from Redis ─► ranker ─► feed:{user id} (one guarded script)
    every half second: changed items and a new champion ─► the ranker

A feed is made from the state that is in Redis when it is read, which is the update's or a later one; the script refuses an
older feed. So batches may be repeated, and a batch is acknowledged when its feeds are written.

`python stream_processors/feeds.py`
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
import torch

from feed import logs, settings, wire
from feed.errors import NoChampion, Unreadable, run
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import TRANSIENT, FeatureStore, connect
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.registry import Registry
from stream_processors import transport
from stream_processors.transport import Batch

log = structlog.get_logger()

LOOK_SECONDS = 0.25  # how often to ask whether a refresh is due
USERS_AT_ONCE = 1000  # read, ranked and written together


class FeedsAgent:
    """Ranks the users of each batch once."""

    def __init__(self, live: Live, features: FeatureStore, feeds: FeedStore) -> None:
        self._live, self._features, self._feeds = live, features, feeds

    async def apply(self, batch: Batch) -> None:
        """Rank the batch's users, waiting for Redis and for a champion as long as it takes; then acknowledge it."""
        users = changed_users(batch.records)

        async def attempt() -> bool:
            await asyncio.to_thread(self.rank, users)
            batch.ack()
            return True

        await transport.persist(batch, attempt, (*TRANSIENT, NoChampion))

    def rank(self, users: Sequence[str]) -> int:
        """Write the feeds of these users as of now; returns how many were written. Raises `NoChampion`."""
        written = 0
        for start in range(0, len(users), USERS_AT_ONCE):
            states = self._features.users(users[start : start + USERS_AT_ONCE])
            written += self._feeds.write(self._live.rank([state for state in states if state is not None]))
        return written

    async def refresh(self) -> None:
        """Bring in changed items and a new champion, so that both are there before the next batch is."""
        try:
            await asyncio.to_thread(self._live.refresh)
        except TRANSIENT as error:
            log.debug("not refreshed", error=repr(error))


def changed_users(records: Sequence[Any]) -> list[str]:
    """The distinct users of these updates, in order of appearance; unreadable ones are reported and left out."""
    users: dict[str, None] = {}
    for record in records:
        try:
            users.update(dict.fromkeys(wire.decode_update(record.value).users))
        except Unreadable as error:
            log.error("unreadable feature update", offset=record.offset, reason=str(error))
    return list(users)


def main() -> None:
    """Run the agent until it is told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "feeds")
    torch.set_num_threads(1)  # spinning threads would slow down everything else on the machine
    kafka.ensure_topics(configuration.kafka, configuration.partitions)
    client = connect(configuration.redis)
    features = FeatureStore(client)
    live = Live(Registry(configuration.registry), Policy.of(configuration), features.refresh_items, features.now)
    agent = FeedsAgent(live, features, FeedStore(client))
    app = transport.make_app("feeds", configuration)
    transport.consume(app, wire.FEATURE_UPDATES, agent.apply)
    transport.every(app, LOOK_SECONDS, agent.refresh)
    transport.run(app)


if __name__ == "__main__":
    run(main)
