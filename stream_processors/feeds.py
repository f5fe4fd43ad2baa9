"""The feeds agent: whose features changed goes in, their feeds come out, within a second.

    feature-updates ─► the batch's users ─► states from Redis ─► ranker ─► feed:{user id} (one guarded script)
    every half second: changed items ─► the ranker; ten times a second: a new champion ─► the ranker
    a new champion ─► everybody of this worker's partitions, between the batches

A feed is made from the state that is in Redis when it is read, which is the update's or a later one; the script refuses an
older feed. So batches may be repeated, and a batch is acknowledged when its feeds are written.

`python stream_processors/feeds.py`
"""

import asyncio
import math
from collections.abc import Callable, Collection, Iterator, Sequence
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
FOLLOW_SECONDS = 0.1  # how often to look who serves
USERS_AT_ONCE = 1000  # read, ranked and written together
USERS_BETWEEN = 50  # of those that are ranked between batches: a batch waits for one such chunk, some 50 ms


class FeedsAgent:
    """Ranks the users of each batch once."""

    def __init__(self, live: Live, features: FeatureStore, feeds: FeedStore) -> None:
        self._live, self._features, self._feeds = live, features, feeds
        self._turn = asyncio.Lock()  # of batches and of `Everybody`: who waits longest is next
        self._ailing: dict[str, str] = {}  # what is not done at the moment, and why

    async def apply(self, batch: Batch) -> None:
        """Rank the batch's users, waiting for Redis and for a champion as long as it takes; then acknowledge it."""
        users = changed_users(batch.records)

        async def attempt() -> bool:
            async with self._turn:
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

    async def rank_between(self, users: Sequence[str]) -> int:
        """As `rank`, when no batch is being ranked."""
        async with self._turn:
            return await asyncio.to_thread(self.rank, users)

    async def refresh(self) -> None:
        """Bring in changed items and a new champion, so that both are there before the next batch is."""
        await self._or_say("items and champion are not refreshed", self._live.refresh)

    async def follow(self) -> None:
        """Bring in a new champion, if there is one."""
        await self._or_say("the champion is not followed", self._live.follow)

    async def _or_say(self, ailing: str, act: Callable[[], None]) -> None:
        """Redis or the registry's files (a folder without permission, say) cannot be read: said once, until they can."""
        try:
            await asyncio.to_thread(act)
            self._ailing.pop(ailing, None)
        except TRANSIENT as error:
            if self._ailing.get(ailing) != repr(error):
                log.warning(ailing, error=str(error) or repr(error), still_ranking_with=self._live.version)
            self._ailing[ailing] = repr(error)


class Everybody:
    """After each change of the champion: new feeds for everybody in the partitions that this worker owns.

    Who was active last comes first. What is left to do is read from the feeds themselves (their generation), so a worker that
    starts or is given a partition goes on where another one stopped, and a newer champion makes the older re-ranking void.
    """

    def __init__(self, agent: FeedsAgent, live: Live, features: FeatureStore, feeds: FeedStore, partitions: int) -> None:
        self._agent, self._live, self._features, self._feeds, self._partitions = agent, live, features, feeds, partitions
        self._done: dict[int, int] = {}  # partition -> the generation that everybody in it has been ranked with

    async def catch_up(self, owned: Callable[[], Collection[int]]) -> int:
        """Rank whom the champion at hand has not ranked yet; returns how many feeds were written, usually 0.

        Returns early, to be called again, if the champion changes, a partition is lost or Redis is away.
        """
        generation = self._live.generation
        self._done = {partition: done for partition, done in self._done.items() if partition in owned()}
        partitions = {partition for partition in owned() if self._done.get(partition) != generation}
        written = 0
        if generation == 0 or not partitions:
            return written
        try:
            users = await asyncio.to_thread(self.behind, partitions, generation)
            for start in range(0, len(users), USERS_BETWEEN):
                if self._live.generation != generation or not partitions <= set(owned()):
                    return written
                written += await self._agent.rank_between(users[start : start + USERS_BETWEEN])
        except TRANSIENT as error:
            log.debug("not everybody is ranked yet", error=repr(error))
            return written
        self._done.update(dict.fromkeys(partitions, generation))
        if written:
            log.info("everybody is ranked with the new champion", generation=generation, users=written)
        return written

    def behind(self, partitions: Collection[int], generation: int) -> list[str]:
        """Users of these partitions whose feed is older than `generation` or missing, the one active last first."""
        found: list[tuple[float, str]] = []
        for users in self._chunks(partitions):
            held = self._feeds.generations(users)
            left = [user for user, its in zip(users, held, strict=True) if its < generation]
            for user, state in zip(left, self._features.users(left), strict=True):
                last = None if state is None else state["last"]
                found.append((-math.inf if last is None else last, user))
        return [user for _, user in sorted(found, reverse=True)]

    def _chunks(self, partitions: Collection[int]) -> Iterator[list[str]]:
        users: list[str] = []
        for user in self._features.all_user_ids():
            if wire.partition_of(user, self._partitions) in partitions:
                users.append(user)
                if len(users) == USERS_AT_ONCE:
                    yield users
                    users = []
        yield users


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
    kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    client = connect(configuration.redis)
    features, feeds = FeatureStore(client), FeedStore(client)
    live = Live(Registry(configuration.registry), Policy.of(configuration), features.refresh_items, features.now)
    agent = FeedsAgent(live, features, feeds)
    everybody = Everybody(agent, live, features, feeds, configuration.partitions)
    app = transport.make_app("feeds", configuration)

    async def catch_up() -> None:
        await everybody.catch_up(lambda: {tp.partition for tp in transport.assigned(app)})

    transport.consume(app, wire.FEATURE_UPDATES, agent.apply)
    transport.every(app, LOOK_SECONDS, agent.refresh)
    transport.every(app, FOLLOW_SECONDS, agent.follow)
    transport.every(app, LOOK_SECONDS, catch_up)
    transport.run(app)


if __name__ == "__main__":
    run(main)
