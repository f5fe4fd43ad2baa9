"""The audience of a running system: finds its world again, reads the feeds that are served, sends what people do with them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import structlog

from feed import wire
from feed.catalogue import User
from feed.errors import FeedError, OtherCatalogue
from feed.events import Shown
from feed.features import UserState, consumed
from feed.features.user import PROFILE
from feed.io.feeds import FeedStore
from feed.io.kafka import Sender
from feed.io.redis import TRANSIENT, FeatureStore
from feed.ranking.types import Feed
from producers import history
from producers.audience import PAUSE, TOP, Audience, Served, Visit
from producers.freshness import Freshness
from producers.world import KIND, World

log = structlog.get_logger()

AT_ONCE = 1000  # users read from Redis together
REDIS_SECONDS = 1.0  # between two tries while it is away
FRESH_SECONDS = 1.0  # real time after which a feed has followed what its user did: nobody comes back sooner
EVENTS_PER_VISIT = 7.0  # about: the impression, 4.7 views, 0.8 clicks and what follows them


class Clock:
    """Simulated time, seconds since 1970: goes on from `start`, `scale` times as fast, and never passes the wall clock."""

    def __init__(
        self,
        start: float,
        scale: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._scale, self._monotonic = start, scale, monotonic
        self._began = monotonic()
        self.wall = wall

    def now(self) -> float:
        """The time in the world."""
        return min(self._start + (self._monotonic() - self._began) * self._scale, self.wall())


class Live:
    """The world's people, in front of the feeds of a running system."""

    def __init__(
        self,
        world: World,
        store: FeatureStore,
        feeds: FeedStore,
        sender: Sender,
        time_scale: float,
        topic_id: str,
    ) -> None:
        """`topic_id`: of `interactions`."""
        start = store.now() or history.END
        self.world = world
        self._store, self._feeds, self._sender = store, feeds, sender
        self.clock = Clock(start, time_scale)
        self._draw = np.random.default_rng([world.seed, 3, int(start)])
        self.audience = join(world, store, [world.seed, 4, int(start)], max(PAUSE, FRESH_SECONDS * time_scale))
        self._per_visit = EVENTS_PER_VISIT
        self._freshness = Freshness(topic_id)

    def act(self, events: float) -> list[Visit]:
        """Let people come who leave about this many events; fewer if few are free and have a feed, none while Redis is away."""
        n = math.ceil(events / self._per_visit)
        if events <= 0:
            return []
        now, wall = self.clock.now(), self.clock.wall()
        try:
            found = self._feeds.read_many(self.audience.visitors(now, n))
            feeds = [
                served(feed, self._freshness.age(feed, time.monotonic())) for feed in found if feed is not None and feed.items
            ]
            self._meet(feeds)
        except TRANSIENT as error:
            log.warning("waiting for Redis", error=str(error))
            time.sleep(REDIS_SECONDS)
            return []
        visits = self.audience.step(feeds, now, wall)
        for visit in visits:
            for event in visit.events[:-1]:
                self._sender.send(wire.INTERACTIONS, visit.user_id, event)
            acknowledged = self._freshness.sent(visit.user_id, time.monotonic())
            self._sender.send(wire.INTERACTIONS, visit.user_id, visit.events[-1], acknowledged=acknowledged)
            self._per_visit += 0.01 * (len(visit.events) - self._per_visit)
        return visits

    def arrive(self, users: int, items: int) -> None:
        """New users and items come into the world and are published."""
        now = self.clock.now()
        for _ in range(users):
            user = self.world.new_user(now, self._draw)
            self._sender.send(wire.USERS, user.user_id, user)
        for _ in range(items):
            item = self.world.new_item(now, self._draw)
            self._sender.send(wire.ITEMS, item.item_id, item)
        self.audience.grow()

    def drift(self, share: float) -> int:
        """The tastes of a share of the users change; returns of how many."""
        return len(self.world.drift(share, self._draw))

    def _meet(self, feeds: list[Served]) -> None:
        """Get to know items that others have published. Raises `FeedError` for one that no catalogue describes."""
        unknown = sorted({item.item_id for feed in feeds for item in feed.items} - self.world.item_row.keys())
        if unknown:
            self.world.add_items(list(self._store.contents(unknown).values()))
        if missing := [item_id for item_id in unknown if item_id not in self.world.item_row]:
            raise FeedError(f"a feed shows item {missing[0]!r}, which no catalogue describes: was Redis emptied?")


def find_world(held: Mapping[str, Any] | None, users: int | None, items: int | None, seed: int | None) -> World:
    """The world that the system holds, by its catalogue claim; options that are not None must agree with it.

    Raises `OtherCatalogue` if they do not, or if the system holds a log; `FeedError` if it holds nothing yet.
    """
    if held is None:
        raise FeedError("the system holds no world yet: let `seed` fill it first (`make up`, or `docker compose up`)")
    remedy = "Empty it (`make up` afresh, or `docker compose down -v`) to have another"
    if held.get("kind") != KIND:
        raise OtherCatalogue(f"the system holds {held.get('kind')} {held.get('name')!r}, not a simulated world. {remedy}")
    for name, wanted in (("users", users), ("items", items), ("seed", seed)):
        if wanted is not None and wanted != held[name]:
            raise OtherCatalogue(
                f"--{name} {wanted}: the system holds a world with --{name} {held[name]}. Leave it out. {remedy}"
            )
    world = World(held["users"], held["items"], held["seed"])
    if any(held.get(name) != value for name, value in world.description.items()):
        raise OtherCatalogue(f"the system's world {dict(held)} was made by another version of this code. {remedy}")
    return world


def join(world: World, store: FeatureStore, seed: list[int], pause: float) -> Audience:
    """The world's people with what Redis knows of them: later arrivals too, and what each has consumed."""
    world.add_items(list(store.load_items().by_id.values()))
    audience = Audience(world, seed, pause=pause)
    for user_id, state in _states(store):
        if user_id not in world.user_row and user_id.isdecimal():  # the world's ids are whole numbers: others are not simulated
            world.add_users([_user(user_id, state)])
            audience.grow()
        if user_id in world.user_row:
            audience.remember(user_id, consumed(state))
    return audience


def served(feed: Feed, age: float | None = None) -> Served:
    """The top of this feed, as its user sees it; `age` in seconds."""
    shown = (
        Shown(item.item_id, place, score=item.score, propensity=item.propensity, source=item.source)
        for place, item in enumerate(feed.items[:TOP])
    )
    return Served(feed.user_id, tuple(shown), feed.arm, feed.model_version, age)


def _states(store: FeatureStore) -> Iterator[tuple[str, UserState]]:
    ids = sorted(store.all_user_ids())
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        for user_id, state in zip(part, store.users(part), strict=True):
            if state is not None:
                yield user_id, state


def _user(user_id: str, state: UserState) -> User:
    profile = {name: state["profile"].get(name) for name in PROFILE}
    return User(user_id=user_id, **profile)
