"""The feeds agent: whose features changed goes in, their feeds come out, within a second.

    feature-updates ─► the batch's users ─► states from Redis ─► ranker ─► feed:{user id} (one guarded script)
    three times a second: changed items ─► the ranker; ten times a second: a new champion ─► the ranker
    a new champion ─► everybody of this worker's partitions, between the batches
    items that may be shown no more ─► out of all feeds at once; who had them is ranked again between the batches

A feed is made from the state that is in Redis when it is read, which is the update's or a later one; the script refuses an
older feed. So batches may be repeated, and a batch is acknowledged when its feeds are written.

`python stream_processors/feeds.py`
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import structlog
import torch

from feed import logs, settings, wire
from feed.errors import FeedError, NoChampion, Unreadable, run
from feed.features import UserState
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import TRANSIENT, FeatureStore, Stamp, connect
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.registry import Registry
from stream_processors import transport
from stream_processors.lag import Lag
from stream_processors.transport import Batch

log = structlog.get_logger()
T = TypeVar("T")

LOOK_SECONDS = 0.1  # how often to ask whether a refresh is due, and what may be shown no more
FOLLOW_SECONDS = 0.1  # how often to look who serves
REFILL_SECONDS = 0.5  # between two looks for feeds that have become shorter: by then the ranker knows of it, too
USERS_AT_ONCE = 1000  # read, ranked and written together
USERS_BETWEEN = 50  # of those that are ranked between batches: a batch waits for one such chunk, some 50 ms


class FeedsAgent:
    """Ranks the users of each batch once."""

    def __init__(self, live: Live, features: FeatureStore, feeds: FeedStore) -> None:
        self._live, self._features, self._feeds = live, features, feeds
        self._turn = asyncio.Lock()  # of batches and of `Everybody`: who waits longest is next
        self._ailing: dict[str, str] = {}  # what is not done at the moment, and why
        self.set_aside = 0  # users who could not be ranked, so far

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
            written += self._write([state for state in states if state is not None])
        return written

    def _write(self, states: Sequence[UserState]) -> int:
        """Rank and write; those who cannot be ranked are found by halves and left with the feed that they have."""
        try:
            return self._feeds.write(self._live.rank(states))
        except (*TRANSIENT, NoChampion):
            raise
        except Exception as error:
            if len(states) > 1:
                half = len(states) // 2
                return self._write(states[:half]) + self._write(states[half:])
            self.set_aside += 1
            self._features.tally("feeds.set_aside")
            log.error(
                "a user whom this code cannot rank is set aside: a programming error, please report it",
                user=states[0].get("user_id"), set_aside=self.set_aside, exc_info=error,
            )  # fmt: skip
            return 0

    async def between(self, act: Callable[[], T]) -> T:
        """Do this in a thread when no batch is being ranked."""
        async with self._turn:
            return await asyncio.to_thread(act)

    async def rank_between(self, users: Sequence[str]) -> int:
        """As `rank`, when no batch is being ranked."""
        return await self.between(lambda: self.rank(users))

    async def refresh(self) -> None:
        """Bring in changed items and a new champion, so that both are there before the next batch is."""
        await self.or_say("items and champion are not refreshed", lambda: asyncio.to_thread(self._live.refresh))

    async def follow(self) -> None:
        """Bring in a new champion, if there is one."""
        await self.or_say("the champion is not followed", lambda: asyncio.to_thread(self._live.follow))

    async def or_say(self, ailing: str, act: Callable[[], Awaitable[object]]) -> None:
        """What fails, as when Redis or the registry's files (a folder without permission) cannot be read, is said once."""
        try:
            await act()
            self._ailing.pop(ailing, None)
        except Exception as error:
            if self._ailing.get(ailing) != repr(error):
                expected = isinstance(error, (*TRANSIENT, FeedError))
                log.log(
                    logging.WARNING if expected else logging.ERROR, ailing, error=str(error) or repr(error),
                    still_ranking_with=self._live.version, exc_info=None if expected else error,
                )  # fmt: skip
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


class Withdrawals:
    """Takes what may be shown no more out of everybody's feed, whether or not anything else happens to them.

    Every worker goes through all feeds, whosever they are: it may itself have written one while another worker did so. At its
    start it looks for what a worker before it has left.
    """

    def __init__(self, agent: FeedsAgent, live: Live, features: FeatureStore, feeds: FeedStore) -> None:
        self._agent, self._live, self._features, self._feeds = agent, live, features, feeds
        self._stamp: Stamp | None = None  # of the newest withdrawal that has been seen to
        self._expired: set[str] = set()  # until they are known to be gone
        self._shortened: set[str] = set()  # users, until they are ranked again

    async def take_out(self) -> None:
        """Take out what may be shown no more since the last call; to be called several times a second."""
        await self._agent.or_say("items have not left the feeds", self._take_out_all)

    async def refill(self) -> None:
        """Rank those whose feed has become shorter."""
        await self._agent.or_say("feeds are not refilled", self._refill)

    async def _take_out_all(self) -> None:
        await asyncio.to_thread(self._take_out_withdrawn)
        self._expired |= await asyncio.to_thread(self._live.expired)
        if expired := frozenset(self._expired):
            await asyncio.to_thread(self._take_out, expired)
            # what was being ranked meanwhile, as of a moment before
            await self._agent.between(lambda: self._take_out(expired))
            self._expired -= expired

    async def _refill(self) -> None:
        while self._shortened:
            users = list(itertools.islice(self._shortened, USERS_BETWEEN))
            await self._agent.rank_between(users)
            self._shortened.difference_update(users)

    def _take_out_withdrawn(self) -> None:
        """By records: from now on the script that writes feeds leaves them out, so that once is enough."""
        if not (now := self._live.now()):
            return  # before the first event nothing dated exists, and nobody has a feed of it
        withdrawn, stamp = self._features.withdrawn(self._stamp)
        if withdrawn is None:
            shown = sorted(self._feeds.items())
            items = self._features.contents(shown)
            withdrawn = {i for i in shown if (item := items.get(i)) is None or not item.showable(now)}
        self._take_out(withdrawn)
        self._stamp = stamp

    def _take_out(self, items: Collection[str]) -> None:
        if items:
            users = self._feeds.take_out(items)
            self._shortened |= users
            log.info("items left the feeds", items=len(items), users=len(users))


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
    withdrawals = Withdrawals(agent, live, features, feeds)
    app = transport.make_app("feeds", configuration)

    async def catch_up() -> None:
        def owned() -> set[int]:
            return {tp.partition for tp in transport.assigned(app)}

        await agent.or_say("not everybody is ranked yet", lambda: everybody.catch_up(owned))

    lag = Lag("feeds lag behind the features", "send fewer events, or stop other processes of this machine")
    transport.consume(app, wire.FEATURE_UPDATES, lag.timed(agent.apply))
    transport.every(app, LOOK_SECONDS, agent.refresh)
    transport.every(app, FOLLOW_SECONDS, agent.follow)
    transport.every(app, LOOK_SECONDS, catch_up)
    transport.every(app, LOOK_SECONDS, withdrawals.take_out)
    transport.every(app, REFILL_SECONDS, withdrawals.refill)
    transport.run(app)


if __name__ == "__main__":
    run(main)
