"""A score that is a weighted sum of columns; the weights are learned online, one step a positive.

    score(i) = (w + w_s) . z_i,   loss = -log softmax(score)_i over the items that could have been taken
    g = sum_j softmax(score)_j z_j - z_i,   for w and for w_s:   G += g²,   w -= 0.2 g / sqrt(G)

with z_i the item's columns (`columns`), each centred over the catalogue, s the user's segment (0, 1-9 or 10 positives and more)
and G starting at 1. What all segments share is learned from all, so that one which is rare begins where the others are.
Reference: Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning" (Adagrad).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from feed.evaluation.baselines.columns import Counts, Group, History
from feed.evaluation.baselines.liked import Liked
from feed.evaluation.rows import Catalogue, Rows

SEGMENTS = (1, 10)  # positives from which on a user is in the next segment
SHARED = 0  # the row of what all segments share
RATE = 0.2
SAMPLED = 4096  # of a larger catalogue as many items are drawn for a step, and each stands for n / SAMPLED of them
START = {"count_1d": 0.3}
SEEN = 1000  # latest items of a user that are no candidates


class Weights:
    """`values` float32 (4, c), what is shared and a row a segment, and `squares`, of the gradients; c columns by `names`."""

    def __init__(self, names: Sequence[str], start: Mapping[str, float]) -> None:
        self.values = np.zeros((len(SEGMENTS) + 2, len(names)), np.float32)
        self.values[SHARED] = [start.get(name, 0.0) for name in names]
        self.squares = np.ones_like(self.values)

    def of(self, positives: int) -> np.ndarray:
        """float32 (c,): the weights for a user with so many positives."""
        weights: np.ndarray = self.values[SHARED] + self.values[segment(positives)]
        return weights

    def step(self, positives: int, z: np.ndarray, item: int, possible: np.ndarray, rng: np.random.Generator) -> None:
        """Learn that a user with so many positives took `item`, of those in `possible`, bool (n,), by the columns z, (c, n)."""
        logits = self.of(positives) @ z
        own, own_column = float(logits[item]), z[:, item]
        logits[~possible] = -np.inf
        logits[item] = -np.inf
        if (n := len(logits)) > SAMPLED:
            drawn = rng.choice(n, SAMPLED, replace=False)
            logits, z = logits[drawn] + np.float32(np.log(n / SAMPLED)), z[:, drawn]
        top = max(float(logits.max()), own)
        odds = np.exp(logits - top)
        share = odds / (odds.sum() + np.exp(own - top))
        gradient = z @ share - share.sum() * own_column
        for row in (SHARED, segment(positives)):
            self.squares[row] += gradient**2
            self.values[row] -= RATE * gradient / np.sqrt(self.squares[row])


def segment(positives: int) -> int:
    """1, 2 or 3: the row of the segment of a user with so many positives."""
    return 1 + int(np.searchsorted(SEGMENTS, positives, side="right"))


class _Target(NamedTuple):
    """A positive on `item` by a user with so many positives, by columns (c, n), of the items in `possible`, bool (n,)."""

    positives: int
    columns: np.ndarray
    item: int
    possible: np.ndarray


class Weighted:
    """Scores of all items for a user by the columns of some groups."""

    _asked: tuple[int, float, np.ndarray] | None  # the columns last asked for, until something is observed

    def __init__(self, groups: Sequence[Callable[[Catalogue], Group]], seed: int) -> None:
        self._made_of, self._seed = groups, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Start from nothing and learn the rows, in order."""
        self._created, self._rng = catalogue.created, np.random.default_rng(self._seed)
        self._groups = [made(catalogue) for made in self._made_of]
        self.weights = Weights([name for group in self._groups for name in group.names], START)
        self._positives = np.zeros(catalogue.n_users, np.int64)
        self._seen, self._frozen, self._asked = Liked(), {}, None
        for k in range(len(rows.user)):
            if rows.first[k]:
                self.learn(k, rows)
            self.observe(k, rows)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (n,) for the user at that time; changes nothing."""
        scores: np.ndarray = self.weights.of(self._positives[user]) @ self._columns(user, at)
        return scores

    def observe(self, k: int, rows: Rows) -> None:
        """Row k has happened: it changes the user's history and the items' counts."""
        self._seen.add(int(rows.user[k]), int(rows.item[k]))
        self._positives[rows.user[k]] += rows.positive[k]
        for group in self._groups:
            group.observe(k, rows)
        self._asked = None

    def freeze(self, k: int, rows: Rows) -> None:
        """Row k begins an event that `learn` will get later, when it has become positive: it is learned as of now."""
        self._frozen[k] = self._target(k, rows)

    def learn(self, k: int, rows: Rows) -> None:
        """The event that begins with row k is learned from: as it was frozen, or else as of now, before it is observed."""
        target = self._frozen.pop(k) if k in self._frozen else self._target(k, rows)
        self.weights.step(*target, self._rng)

    _frozen: dict[int, _Target]  # by row

    def _target(self, k: int, rows: Rows) -> _Target:
        user, at = int(rows.user[k]), float(rows.at[k])
        possible = self._created <= at
        possible[self._seen.of(user)[-SEEN:]] = False
        return _Target(int(self._positives[user]), self._columns(user, at), int(rows.item[k]), possible)

    def _columns(self, user: int, at: float) -> np.ndarray:
        """float32 (c, n), each centred."""
        if self._asked is None or self._asked[:2] != (user, at):
            columns = np.concatenate([group.columns(user, at) for group in self._groups])
            columns -= columns.mean(axis=1, keepdims=True)
            self._asked = user, at, columns
        return self._asked[2]


def prior(seed: int = 0) -> Weighted:
    """By counts and age alone."""
    return Weighted([Counts], seed)


def prior_covisitation(seed: int = 0) -> Weighted:
    """By what goes with the user's past, too."""
    return Weighted([Counts, History], seed)
