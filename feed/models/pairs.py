"""Training pairs out of a log: what somebody took, what they looked at and left, and what was there and they never met.

A pair is a user and an item with any engagement. It is positive with a click, like, share or comment and no hide; in a log of
views alone (and hides) a view does. It is frozen just before the user's *first* engagement with the item: later, the item
stands in the user's own history and gives the answer away. Items are frozen once a chunk, before its first pair. So no
input knows the future; the label of a pair is what followed it, however late.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feed.catalogue import Item, User
from feed.events import POSITIVES, Engagement, Event, kind
from feed.features import BatchState, FeatureSpace, Inputs
from feed.features.space import ITEM_EVIDENCE

CHUNK = 32  # pairs that share a moment of the catalogue and its sampled items
SAMPLED = 64  # items drawn a chunk


class Pair(NamedTuple):
    """`event`: index of the user's first engagement with the item, at `at` (seconds since 1970)."""

    event: int
    at: float
    user_id: str
    item_id: str
    positive: bool


@dataclass(frozen=True)
class Log:
    """A log in memory; events in time order."""

    items: Sequence[Item]
    users: Sequence[User]
    events: Sequence[Event]


@dataclass(frozen=True)
class Chunks:
    """c chunks of p pairs and r sampled items each.

    `users`: Inputs of c * p rows; `items`: Inputs of c * (p + r) rows, in each chunk the pairs' own first; `positive`: bool
    (c, p); `negative`: bool (c, p, r), False where the user did engage with the sampled item.
    """

    users: Inputs
    items: Inputs
    positive: np.ndarray
    negative: np.ndarray

    def __len__(self) -> int:
        return len(self.positive)


def pairs_of(log: Log) -> list[Pair]:
    """The pairs of a log among the items of its catalogue, in the order of their first engagement."""
    catalogue = {item.item_id for item in log.items}
    first: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    viewed: set[tuple[str, str]] = set()
    hidden: set[tuple[str, str]] = set()
    for i, event in enumerate(log.events):
        if isinstance(event, Engagement) and event.item_id in catalogue:
            pair = (event.user_id, event.item_id)
            first.setdefault(pair, i)
            name = kind(event)
            (taken if name in POSITIVES else viewed if name == "view" else hidden).add(pair)
    wanted = (taken or viewed) - hidden
    return [Pair(i, log.events[i].at, *pair, pair in wanted) for pair, i in first.items()]


def replay(log: Log, stops: Sequence[int]) -> Iterator[tuple[int, BatchState]]:
    """Fold the log; yields the state just before each event in `stops` (ascending; one past the end is allowed)."""
    state = BatchState(log.items, log.users)
    done = 0
    for stop in stops:
        for event in log.events[done:stop]:
            state.apply(event)
        done = stop
        yield stop, state


class Evidence:
    """Positives of each item so far, so that an item's own row is read from its fifth on, as it will be when serving.

    Without this, items without a row would be those that *ended* with few positives, and row 0 would learn that every new
    item is a bad one.
    """

    def __init__(self, space: FeatureSpace, before: Sequence[Pair]) -> None:
        self._column = [vocabulary for _, vocabulary in space.item_spec.categorical].index("item")
        self._counts: dict[str, int] = {}
        for pair in before:
            self.add(pair)

    def add(self, pair: Pair) -> None:
        """One more pair."""
        self._counts[pair.item_id] = self._counts.get(pair.item_id, 0) + pair.positive

    def mask(self, items: Inputs, ids: Sequence[str]) -> Inputs:
        """`items` (n rows) with the rows of those `ids` (n) unknown that have too little evidence so far."""
        known = np.array([self._counts.get(item_id, 0) >= ITEM_EVIDENCE for item_id in ids])
        categorical = items.categorical.copy()
        categorical[:, self._column] *= known
        return Inputs(items.numeric, categorical, items.bag_ids, items.bag_weights)


class ChunkCollector:
    """Freezes pairs into chunks while a log is replayed; `look` wants the state just before each event of `stops`.

    `pairs` are those to freeze, `before` the earlier ones. Items that a user engaged with in either are no negatives. Pairs
    after the last whole chunk are left out.
    """

    def __init__(self, space: FeatureSpace, before: Sequence[Pair], pairs: Sequence[Pair], rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._engaged: dict[str, set[str]] = {}
        for pair in (*before, *pairs):
            self._engaged.setdefault(pair.user_id, set()).add(pair.item_id)
        whole = [pairs[i : i + CHUNK] for i in range(0, len(pairs) - CHUNK + 1, CHUNK)]
        self._starts = {chunk[0].event: chunk for chunk in whole}
        self._pairs = {pair.event: pair for chunk in whole for pair in chunk}
        self.stops = list(self._pairs)
        self._evidence = Evidence(space, before)
        self._users: list[Inputs] = []
        self._items: list[Inputs] = []
        self._negative: list[list[bool]] = []
        self._sampled: list[str] = []

    def look(self, stop: int, state: BatchState) -> None:
        """Freeze the pair whose first engagement is the event `stop`, if there is one."""
        if (pair := self._pairs.get(stop)) is None:
            return
        if chunk := self._starts.get(stop):
            self._freeze_items(chunk, state)
        self._users.append(self._space.user_inputs([state.user(pair.user_id)], pair.at))
        mine = self._engaged[pair.user_id]
        self._negative.append([item_id not in mine for item_id in self._sampled])
        self._evidence.add(pair)

    def chunks(self) -> Chunks:
        """All that was frozen; at least one chunk."""
        positive = np.array([pair.positive for pair in self._pairs.values()]).reshape(-1, CHUNK)
        negative = np.array(self._negative, bool).reshape(-1, CHUNK, SAMPLED)
        return Chunks(Inputs.concat(self._users), Inputs.concat(self._items), positive, negative)

    def _freeze_items(self, chunk: Sequence[Pair], state: BatchState) -> None:
        table, now = state.items, chunk[0].at
        there = np.flatnonzero(table.known & (table.created <= now))
        sampled = self._rng.choice(there, SAMPLED, replace=len(there) < SAMPLED)
        own = [table.row(pair.item_id) for pair in chunk]
        rows = np.concatenate([np.array(own, np.int64), sampled])
        ids = [table.ids[row] for row in rows]
        self._sampled = ids[CHUNK:]
        self._items.append(self._evidence.mask(self._space.item_inputs(table, rows, now), ids))
