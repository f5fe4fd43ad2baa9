"""Training pairs out of a log: what somebody took, what they looked at and left, and what was there and they never met.

A pair is a user and an item with any engagement. It is positive with a click, like, share or comment and no hide; in a log of
views alone (and hides) a view does. It is frozen just before the user's *first* engagement with the item: later, the item
stands in the user's own history and gives the answer away. Items are frozen once a chunk, before its first pair. So no
input knows the future; the label of a pair is what followed it, however late.

Where items may be shown again (`Log.repeats`), taking one begins anew what can be learned of it: the user's next engagement
with it is a pair of its own, if it comes more than `PAUSE_SECONDS` after the one before and no sooner than the rule allows.
It is frozen just before that, when the history does know the item, as it will when serving; its label is what happened from
there to the next such pair. So what was taken before and is viewed and skipped today is negative today.

A log that shows things, of which fewer were viewed than taken, does not say what was left. There a pair is also what an
impression showed and, by where it stood, was probably looked at (`feed.models.examination`). It is frozen just before the
impression, and so is what was taken of it.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feed.catalogue import Item, User
from feed.events import NEGATIVES, POSITIVES, Event, Impression, kind
from feed.features import BatchState, FeatureSpace, Inputs, kept_away, own_items
from feed.features.frozen import UserFeatures, freeze_user
from feed.features.near import SAID
from feed.features.space import ITEM_EVIDENCE
from feed.models import examination
from feed.repeats import NEVER, Repeats

PAUSE_SECONDS = 30 * 60  # between two visits
CHUNK = 32  # pairs that share a moment of the catalogue and its sampled items
SAMPLED = 64  # items drawn a chunk


class Pair(NamedTuple):
    """`event`: index of the user's first engagement with the item (since it was taken), or look at it, at `at` (seconds since
    1970)."""

    event: int
    at: float
    user_id: str
    item_id: str
    positive: bool


@dataclass(frozen=True)
class Log:
    """A log in memory; events in time order. `repeats`: when its items may be shown again to who took them."""

    items: Sequence[Item]
    users: Sequence[User]
    events: Sequence[Event]
    repeats: Repeats = NEVER


@dataclass
class _Met:
    """A pair in the making: index of its first event, time of its newest, time when its user last took the item, ever."""

    event: int
    at: float
    taken_at: float | None
    positive: bool = False
    viewed: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Chunks:
    """c chunks of p pairs and r sampled items each.

    `users`: Inputs of c * p rows; `items`: Inputs of c * (p + r) rows, in each chunk the pairs' own first; `positive`: bool
    (c, p); `negative`: bool (c, p, r), False where the user did engage with the sampled item; `near`: float16 (c, p, 1 + r, 4),
    what the user's history says of the pair's own item and of the sampled ones (see `feed.features.near`).
    """

    users: Inputs
    items: Inputs
    positive: np.ndarray
    negative: np.ndarray
    near: np.ndarray

    def __len__(self) -> int:
        return len(self.positive)


def pairs_of(log: Log, seed: int = 0) -> list[Pair]:
    """The pairs of a log among the items of its catalogue, in the order of their first engagement.

    `seed`: of what is drawn as looked at in a log without views; of another log nothing is drawn.
    """
    wait = {item.item_id: log.repeats.seconds(item.category) for item in log.items}
    looks = examination.looks(log.events, seed) if examination.untold(log.events) else {}
    found: list[tuple[str, str, _Met]] = []
    newest: dict[tuple[str, str], _Met] = {}

    def meet(i: int, event: Event, item_id: str) -> _Met:
        met = newest.get((event.user_id, item_id))
        taken_at = None if met is None else met.taken_at
        again = met is not None and taken_at is not None and event.at - met.at > PAUSE_SECONDS
        if met is None or (again and event.at - (taken_at or 0.0) >= wait[item_id]):
            met = newest[event.user_id, item_id] = _Met(i, event.at, taken_at)
            found.append((event.user_id, item_id, met))
        met.at = event.at
        return met

    for i, event in enumerate(log.events):
        if isinstance(event, Impression):
            for item_id in looks.get(i, ()):
                if item_id in wait:
                    meet(i, event, item_id)
        elif event.item_id in wait:
            met, name = meet(i, event, event.item_id), kind(event)
            if name in POSITIVES:
                met.positive, met.taken_at = True, event.at
            elif name in NEGATIVES:
                met.refused = True
            elif name == "view":
                met.viewed = True
    taken = any(met.positive for _, _, met in found)
    return [
        Pair(met.event, log.events[met.event].at, user_id, item_id, (met.positive if taken else met.viewed) and not met.refused)
        for user_id, item_id, met in found
    ]


def visits_of(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs by visit, a user's run without a pause of `PAUSE_SECONDS`, in the order of the visits' first."""
    visits: list[list[Pair]] = []
    last: dict[str, list[Pair]] = {}
    for pair in pairs:
        visit = last.get(pair.user_id)
        if visit is None or pair.at - visit[-1].at > PAUSE_SECONDS:
            visit = last[pair.user_id] = []
            visits.append(visit)
        visit.append(pair)
    return visits


class Folded(NamedTuple):
    """The state just before the event `stop` of a log."""

    stop: int
    state: BatchState


def replay(log: Log, stops: Sequence[int], begun: Folded | None = None) -> Iterator[tuple[int, BatchState]]:
    """Fold the log; yields the state just before each event in `stops` (ascending; one past the end is allowed).

    It goes on with the state of `begun`, if there is one, which must not be beyond the first of `stops`.
    """
    done, state = begun or (0, BatchState(log.items, log.users))
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
        return dataclasses.replace(items, categorical=categorical)


class ChunkCollector:
    """Freezes pairs into chunks while a log is replayed; `look` wants the state just before each event of `stops`.

    `pairs` are those to freeze, `before` the earlier ones. Items that a user engaged with in either are no negatives, but for
    those that `repeats` lets come again at that moment and that the user does not engage with in the same visit: they could
    have been shown as well. Pairs after the last whole chunk are left out.
    """

    def __init__(
        self,
        space: FeatureSpace,
        before: Sequence[Pair],
        pairs: Sequence[Pair],
        rng: np.random.Generator,
        repeats: Repeats = NEVER,
    ) -> None:
        self._space, self._rng, self._repeats = space, rng, repeats
        self._in_visit: dict[tuple[str, int], set[str]] = {}
        for visit in visits_of([*before, *pairs]) if repeats.ever else ():
            ids = {pair.item_id for pair in visit}
            self._in_visit.update({(pair.user_id, pair.event): ids for pair in visit})
        self._engaged: dict[str, set[str]] = {}
        for pair in (*before, *pairs):
            self._engaged.setdefault(pair.user_id, set()).add(pair.item_id)
        whole = [pairs[i : i + CHUNK] for i in range(0, len(pairs) - CHUNK + 1, CHUNK)]
        self._pairs = [pair for chunk in whole for pair in chunk]
        self._at: dict[int, list[tuple[Pair, Sequence[Pair]]]] = {}  # by event, with the chunk that a pair begins
        for chunk in whole:
            for k, pair in enumerate(chunk):
                self._at.setdefault(pair.event, []).append((pair, chunk if k == 0 else ()))
        self.stops = list(self._at)
        self._evidence = Evidence(space, before)
        self._frozen: list[UserFeatures] = []  # of the chunk that is not yet whole: inputs of one user are slow, and large
        self._users: list[Inputs] = []
        self._items: list[Inputs] = []
        self._negative: list[np.ndarray] = []
        self._near: list[np.ndarray] = []
        self._sampled: list[str] = []
        self._sampled_rows = np.zeros(0, np.int64)

    def look(self, stop: int, state: BatchState) -> None:
        """Freeze the pairs of the event `stop`: none, one, or what was looked at of an impression."""
        for pair, chunk in self._at.get(stop, ()):
            if chunk:
                self._freeze_items(chunk, state)
            user = state.user(pair.user_id)
            self._frozen.append(freeze_user(user, pair.at))
            if len(self._frozen) == CHUNK:
                self._users.append(self._space.frozen_users(self._frozen))
                self._frozen = []
            rows = np.array([state.items.row(pair.item_id), *self._sampled_rows], np.int64)
            self._near.append(state.items.nearby(user, pair.at).at(rows).astype(np.float16))
            mine = self._engaged[pair.user_id].difference(self._again(pair, state))
            self._negative.append(np.array([item_id not in mine for item_id in self._sampled]))
            self._evidence.add(pair)

    def chunks(self) -> Chunks:
        """All that was frozen; at least one chunk. To be called once."""
        positive = np.array([pair.positive for pair in self._pairs]).reshape(-1, CHUNK)
        negative = np.stack(self._negative).reshape(-1, CHUNK, SAMPLED)
        near = np.stack(self._near).reshape(-1, CHUNK, 1 + SAMPLED, len(SAID))
        users, self._users = Inputs.concat(self._users), []  # some 2 KB a pair, which need not stay twice
        items, self._items = Inputs.concat(self._items), []
        return Chunks(users, items, positive, negative, near)

    def _again(self, pair: Pair, state: BatchState) -> Collection[str]:
        """What the user has taken before and could be shown at that moment, but does not engage with."""
        if not self._repeats.ever:
            return ()
        user = state.user(pair.user_id)
        away = kept_away(user, pair.at, self._repeats, state.items.by_id)
        return {*own_items(user, pair.at).ids} - {*away} - self._in_visit[pair.user_id, pair.event]

    def _freeze_items(self, chunk: Sequence[Pair], state: BatchState) -> None:
        table, now = state.items, chunk[0].at
        there = np.flatnonzero(table.known & (table.created <= now))
        sampled = self._rng.choice(there, SAMPLED, replace=len(there) < SAMPLED)
        own = [table.row(pair.item_id) for pair in chunk]
        rows = np.concatenate([np.array(own, np.int64), sampled])
        ids = [table.ids[row] for row in rows]
        self._sampled, self._sampled_rows = ids[CHUNK:], sampled
        self._items.append(self._evidence.mask(self._space.item_inputs(table, rows, now), ids))
