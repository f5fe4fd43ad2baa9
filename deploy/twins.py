"""The demo's experiment: two users with one profile and one history; one of them likes ten items of one category."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from feed import wire
from feed.catalogue import Item, User
from feed.errors import FeedError
from feed.events import Click, Event, Like, new_event_id, utc
from feed.features import UserState
from feed.features.user import PROFILE
from feed.io.feeds import FeedStore
from feed.io.kafka import Sender
from feed.io.redis import FeatureStore, connect
from feed.ranking.arms import arm_of
from feed.ranking.types import LEARNED, Feed
from feed.settings import Settings

LIKES = 10
TOP = 10
PAST = 8  # clicks of their common history
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Outcome:
    """The feeds' tops, as items: the fan's before and after the likes, and the twin's at the end; the category liked."""

    category: str
    before: list[Item]
    after: list[Item]
    twin: list[Item]

    def share(self, top: Sequence[Item]) -> float:
        """The category's share of a top."""
        return sum(item.category == self.category for item in top) / len(top)


class Twins:
    """Runs the experiment on a live system."""

    def __init__(self, settings: Settings, seed: int) -> None:
        client = connect(settings.redis)
        self._settings, self._draw = settings, random.Random(seed)
        self._store, self._feeds = FeatureStore(client), FeedStore(client)
        self._items = self._store.load_items().by_id

    def run(self) -> Outcome:
        """Raises `FeedError` if a feed does not come within half a minute."""
        model = self._somebody()
        fan, twin = (self._learned(name) for name in ("fan", "twin"))
        with Sender(self._settings.broker) as sender:
            for name in (fan, twin):
                profile = {field: model["profile"][field] for field in PROFILE if field in model["profile"]}
                sender.send(wire.USERS, name, User(user_id=name, **profile))
                self._act(sender, name, Click, model["recent"][-PAST:])
            before = self._feed(fan, PAST)
            category = self._unloved(before)
            seen = self._state(fan)["seen"]
            liked = [i for i, item in self._items.items() if item.category == category and i not in seen]
            self._act(sender, fan, Like, self._draw.sample(sorted(liked), LIKES))
        return Outcome(category, before, self._feed(fan, PAST + LIKES), self._feed(twin, PAST))

    def _somebody(self) -> UserState:
        """A user with enough of a history to copy."""
        for user_id in sorted(self._store.all_user_ids()):
            state = self._store.users([user_id])[0]
            if state is not None and len(state["recent"]) >= PAST:
                return state
        raise FeedError(f"no user has {PAST} clicks: raise --interactions")

    def _learned(self, kind: str) -> str:
        """A user id that the hash puts into the learned arm."""
        return next(name for n in range(1000) if arm_of(name := f"{kind}-{n}", self._settings) == LEARNED)

    def _act(self, sender: Sender, user_id: str, kind: type[Click] | type[Like], item_ids: Sequence[str]) -> None:
        at = utc(self._store.now())
        events: list[Event] = [
            kind(event_id=new_event_id(at, self._draw), user_id=user_id, item_id=item_id, occurred_at=at)
            for item_id in item_ids
        ]
        for event in events:
            sender.send(wire.INTERACTIONS, user_id, event)
        sender.flush()

    def _state(self, user_id: str) -> UserState:
        state = self._store.users([user_id])[0]
        if state is None:
            raise FeedError(f"nothing is known of {user_id}")
        return state

    def _feed(self, user_id: str, engagements: int) -> list[Item]:
        """The feed's top, once made from a state that holds this many engagements."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            state, feed = self._store.users([user_id])[0], self._feeds.read(user_id)
            if state is not None and state["features"]["total_interactions"] >= engagements and _current(feed, state):
                assert feed is not None
                return [self._items[item.item_id] for item in feed.items[:TOP] if item.item_id in self._items]
            time.sleep(0.05)
        raise FeedError(f"no feed for {user_id} within {PATIENCE_SECONDS:.0f} s: are the agents running?")

    def _unloved(self, top: Sequence[Item]) -> str:
        """The category that the top has least of, among those with enough items to like."""
        of_category: dict[str, int] = {}
        for item in self._items.values():
            if item.category is not None:
                of_category[item.category] = of_category.get(item.category, 0) + 1
        large = sorted(category for category, n in of_category.items() if n >= 3 * LIKES)
        if not large:
            raise FeedError(f"no category has {3 * LIKES} items: raise --items")
        return min(large, key=lambda category: (sum(item.category == category for item in top), category))


def _current(feed: Feed | None, state: UserState) -> bool:
    position = msgspec.convert(state["position"], wire.Position)
    return feed is not None and feed.position == position
