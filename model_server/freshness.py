"""Whether stored feeds keep up with the features: a feed that does not know what its user's state knows is behind."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore
from feed.settings import LATE_SECONDS
from feed.wire import Position

log = structlog.get_logger()

SAY_SECONDS = 10.0  # between two lines of the log
WATCHED = 50  # users at a time: reading them takes some milliseconds a second


class Freshness:
    """Watches the feeds of some users who were served a stored one, until each has caught up with the features.

    A feed is made from the state that is in Redis at that moment. So one that is behind, and has not been made anew since it
    was first seen to be, lags at least as long as that; how long ago its user was last active does not matter.
    """

    def __init__(self, features: FeatureStore, feeds: FeedStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._features, self._feeds, self._clock = features, feeds, clock
        self._served: set[str] = set()
        self._behind: dict[
            str, tuple[Position | None, float]
        ] = {}  # user -> what the feed knows, since when that is too little
        self._say_next = -SAY_SECONDS
        self.seconds = 0.0
        """How far the one that is furthest behind lags, as of the last look."""

    def served(self, user_id: str) -> None:
        """This user has been served a stored feed."""
        if len(self._served) < WATCHED:
            self._served.add(user_id)

    def look(self) -> None:
        """Look at those served since the last look, and at those that were behind; to be called about every second."""
        served, self._served = self._served, set()
        users = [*self._behind, *(served - self._behind.keys())][:WATCHED]
        now, behind = self._clock(), {}
        feeds = self._feeds.read_many(users)  # before the states: a feed may be behind one that comes meanwhile
        for user, feed, state in zip(users, feeds, self._features.users(users), strict=True):
            if feed is None or state is None or not lacks(feed.position, state.get("position")):
                continue
            known, since = self._behind.get(user, (feed.position, now))
            behind[user] = (feed.position, since if known == feed.position else now)
        self._behind = behind
        lags = sorted(now - since for _, since in behind.values())
        self.seconds = lags[-1] if lags else 0.0
        if self.seconds > LATE_SECONDS and now >= self._say_next:
            self._say_next = now + SAY_SECONDS
            late = sum(lag > LATE_SECONDS for lag in lags)
            log.warning(
                "stored feeds lag behind the features", users=f"{late} of {len(users)} looked at",
                seconds=round(self.seconds, 1), remedy="is the feeds agent running? Send fewer events, or stop other processes",
            )  # fmt: skip


def lacks(feed: Position | None, state: Any) -> bool:
    """Whether a feed made at this position lacks something of a state (its `position` as JSON has it)."""
    if state is None:
        return False
    position = msgspec.convert(state, Position)
    if feed is not None and (feed.topic_id, feed.partition) == (position.topic_id, position.partition):
        return feed.offset < position.offset
    return feed != position  # of two logs: the feed was made before or after, but not from this state
