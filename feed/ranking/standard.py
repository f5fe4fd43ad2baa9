"""The standard feed: the one ordered list of what happens between a user's state and a feed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from feed.events import utc
from feed.features import ItemTable, UserState
from feed.models.heads import sigmoid
from feed.models.snapshot import Snapshot
from feed.ranking import filters, scorers, selection, sources
from feed.ranking.arms import Policy, arm_of
from feed.ranking.index import Index
from feed.ranking.selection import Places
from feed.ranking.types import POPULAR, RANDOM, Feed, FeedItem, digest, request_id
from feed.wire import Position

USERS_AT_ONCE = 256  # bounds memory: 256 x 5,000 float32 scores are 5 MB


@dataclass(frozen=True)
class Candidates:
    """n candidates of some users: `rows` of the index, `popularity`, `freshness` and `category` (n,), `eligible` and the
    model's `logits` (users, n).

    `liking` (users, category codes): by category, because only a feed that is explored spreads it over the candidates.
    `ranked` int64 (users, at most feed size): the best by value, as columns, best first, padded with -1.
    """

    rows: np.ndarray
    eligible: np.ndarray
    logits: np.ndarray
    popularity: np.ndarray
    freshness: np.ndarray
    category: np.ndarray
    liking: np.ndarray
    ranked: np.ndarray


def candidates(snapshot: Snapshot, index: Index, states: Sequence[UserState], now: float, policy: Policy) -> Candidates:
    """The product's policy: what may be shown to these users at `now`, what the model thinks of it, and what it is worth.

        value = sum_k weight_k P_k - correction * log(popularity share)

    over the tasks of the objective that this version has heads for; if there is none, the logit stands for the sum.
    """
    rows, repeats = sources.catalogue(index), policy.repeats_of(snapshot.manifest)
    eligible = filters.showable(index, rows, now) & filters.not_kept_away(index, rows, states, now, repeats)
    inputs, near = snapshot.space.user_inputs(states, now), [index.table.nearby(state, now) for state in states]
    users = scorers.user_vectors(snapshot, inputs)
    logits, popularity = scorers.logits(users, index.vectors, near)[:, rows], scorers.popularity(index, rows)
    objective = policy.objective.among(snapshot.heads)
    value = logits
    if objective.weights:
        value = scorers.value(snapshot, inputs, index.vectors, near, objective)[:, rows]
    if policy.popularity_correction:
        value = value - policy.popularity_correction * scorers.log_popularity(popularity)
    return Candidates(
        rows, eligible, logits, popularity, scorers.freshness(index, rows, now), index.category[rows],
        scorers.liking(index, states, now), selection.best(value, eligible, policy.feed_size),
    )  # fmt: skip


def places(user: int, of: Candidates, arm: str, policy: Policy, draw: np.random.Generator) -> Places:
    """What stands where in the feed of this user (a row of the candidates), by arm."""
    eligible = of.eligible[user]
    if arm == POPULAR:
        return selection.popular(of.popularity, eligible, policy.feed_size)
    if arm == RANDOM:
        return selection.drawn(eligible, policy.feed_size, draw)
    ranked = of.ranked[user]
    return selection.learned(ranked[ranked >= 0], eligible, proposals(user, of), policy.explore_every, draw)


def proposals(user: int, of: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """What may be tried beside uniform draws, (n,) each: new items of the user's categories, and the popular ones of them.

    Decision 9 says why these, and how much sooner a trial ends by them.
    """
    liking = of.liking[user]
    new = of.freshness * (liking[of.category] if liking.any() else 1.0)
    return new, new * np.sqrt(of.popularity)


@dataclass(frozen=True)
class Ranking:
    """What the model alone would show: its best items of each user, best first, whatever the user's arm.

    `rows` int64 (users, k): rows of the item table, padded with -1; `scores` float64 (users, k): sigmoid(logit), NaN
    where padded.
    """

    users: list[str]
    rows: np.ndarray
    scores: np.ndarray


class Ranker:
    """Ranks users with one version of the model over one item table.

    `generation` counts changes of the champion; `space` is how the version reads users and items; `ranked_by` says what
    orders a feed, `repeats` when an item may come again; `clock` is the wall clock, for `made_at` only. The table is read when
    the ranker is made and at each `refresh`, what goes together at each ranking. The same states, table, times and version give
    the same feeds.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        version: str,
        generation: int,
        table: ItemTable,
        policy: Policy,
        now: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.version, self.generation, self.policy = version, generation, policy
        self._snapshot, self._table, self._clock = snapshot, table, clock
        self.space = snapshot.space
        self.ranked_by, self.repeats = policy.ranked_by(snapshot.heads), policy.repeats_of(snapshot.manifest)
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Take over the table as it is; items' features and vectors as of `now` (seconds since 1970). Raises `BadModel`."""
        self._index = Index.of(self._snapshot, self._table, now)

    def rank(self, states: Sequence[UserState], now: float) -> list[Feed]:
        """The users' feeds at `now` (event time, seconds since 1970), in order."""
        feeds = []
        for part, of in self._candidates(states, now):
            feeds += [self._feed(state, user, of) for user, state in enumerate(part)]
        return feeds

    def model_ranking(self, states: Sequence[UserState], now: float) -> Ranking:
        """The model's best items of these users: no arms, no exploration."""
        size = min(self.policy.feed_size, len(self._index))
        rows, scores = np.full((len(states), size), -1), np.full((len(states), size), np.nan)
        start = 0
        for part, of in self._candidates(states, now):
            here = slice(start, start + len(part))
            there = of.ranked >= 0
            rows[here] = np.where(there, of.rows[of.ranked], -1)
            scores[here] = np.where(there, sigmoid(np.take_along_axis(of.logits, of.ranked, axis=1)), np.nan)
            start += len(part)
        return Ranking([state["user_id"] for state in states], rows, scores)

    def _candidates(self, states: Sequence[UserState], now: float) -> Iterator[tuple[Sequence[UserState], Candidates]]:
        for start in range(0, len(states), USERS_AT_ONCE):
            part = states[start : start + USERS_AT_ONCE]
            yield part, candidates(self._snapshot, self._index, part, now, self.policy)

    def _feed(self, state: UserState, user: int, of: Candidates) -> Feed:
        user_id, position = state["user_id"], position_of(state)
        seed = int.from_bytes(digest(self.policy.arm_salt, user_id, position))
        arm = arm_of(user_id, self.policy)
        chosen = places(user, of, arm, self.policy, np.random.default_rng(seed))
        ids = self._index.ids
        rows = of.rows[chosen.columns].tolist()
        scores = sigmoid(of.logits[user, chosen.columns]).tolist()
        items = zip(rows, scores, chosen.propensity.tolist(), chosen.source, strict=True)
        return Feed(
            generation=self.generation,
            position=position,
            user_id=user_id,
            request_id=request_id(user_id, self.generation, position),
            arm=arm,
            model_version=self.version,
            ranked_by=self.ranked_by,
            made_at=utc(self._clock()),
            items=tuple(FeedItem(ids[row], score, propensity, source) for row, score, propensity, source in items),
        )


def position_of(state: UserState) -> Position | None:
    """The place in the log up to which this state is known; None of a user without events."""
    position = state.get("position")
    return None if position is None else Position(**position)
