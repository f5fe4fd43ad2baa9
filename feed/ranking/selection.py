"""From eligible candidates to the places of a feed: what stands where, and with which probability.

Columns are numbered as the candidates are. All chance comes from the generator that is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feed.ranking.types import EXPLORE, MODEL, POPULAR, RANDOM


@dataclass(frozen=True)
class Places:
    """k places, best first: `columns` int64 (k,), `propensity` float64 (k,) and `source` of each (see `feed.ranking.types`)."""

    columns: np.ndarray
    propensity: np.ndarray
    source: list[str]


def best(scores: np.ndarray, eligible: np.ndarray, size: int) -> np.ndarray:
    """The `size` best eligible columns of each user, best first, padded with -1; int64 (users, at most size)."""
    size = min(size, scores.shape[1])
    if size == 0:
        return np.empty((len(scores), 0), np.int64)
    masked = np.where(eligible, scores, -np.inf)
    columns = np.sort(np.argpartition(masked, -size, axis=1)[:, -size:], axis=1)
    values = np.take_along_axis(masked, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    columns, values = np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)
    return np.where(np.isneginf(values), -1, columns)


def learned(
    ranked: np.ndarray, eligible: np.ndarray, proposals: Sequence[np.ndarray], every: int, draw: np.random.Generator
) -> Places:
    """The model's best, but of each `every` places one, itself drawn, holds an item drawn from all that are eligible.

    `ranked` int64 (k,): the model's best, best first; `eligible` bool (n,); `proposals`: float64 (n,) each, at least 0, what
    else than a model may say for an item. Drawn first, then passed over by the model: a draw that leaves out what the model
    likes would be no evidence about it. Without replacement, each time in proportion to the mean over the proposals w and the
    uniform one of w(item) / sum of w. A drawn item's propensity is that share among all that were not drawn before it.
    """
    k = len(ranked)
    drawn = _drawn_places(k, every, draw)
    places = np.zeros(k, np.bool_)
    places[drawn] = True
    columns, propensity = np.empty(k, np.int64), np.ones(k)
    if len(drawn):
        pool = np.flatnonzero(eligible)
        q = _mixture([proposal[pool] for proposal in proposals], len(pool))
        found = draw.choice(len(pool), len(drawn), replace=False, p=q)
        columns[places] = pool[found]
        left = 1.0 - np.concatenate([[0.0], np.cumsum(q[found])[:-1]])
        propensity[places] = q[found] / np.maximum(left, q[found])  # the last one left has 1, whatever was rounded
    columns[~places] = ranked[~np.isin(ranked, columns[places])][: k - len(drawn)]
    return Places(columns, propensity, [EXPLORE if p else MODEL for p in places])


def _mixture(proposals: Sequence[np.ndarray], n: int) -> np.ndarray:
    """float64 (n,), sums to 1; a proposal that proposes nothing is left out."""
    shares = [np.full(n, 1.0 / n), *(proposal / total for proposal in proposals if (total := proposal.sum()) > 0)]
    return np.asarray(np.mean(shares, axis=0))


def _drawn_places(k: int, every: int, draw: np.random.Generator) -> np.ndarray:
    """One place in each block of `every`; in the last, shorter block maybe none. int64, ascending."""
    if every == 0:
        return np.empty(0, np.int64)
    blocks = np.arange(0, k, every)
    places = blocks + draw.integers(every, size=len(blocks))
    return np.asarray(places[places < k])


def popular(popularity: np.ndarray, eligible: np.ndarray, size: int) -> Places:
    """The most popular eligible ones; `popularity` float64 (n,)."""
    pool = np.flatnonzero(eligible)
    columns = pool[np.argsort(-popularity[pool], kind="stable")][:size]
    return Places(columns, np.ones(len(columns)), [POPULAR] * len(columns))


def drawn(eligible: np.ndarray, size: int, draw: np.random.Generator) -> Places:
    """Eligible ones in uniformly drawn order: each of the E stands at each place with probability 1 / E."""
    pool = np.flatnonzero(eligible)
    columns = draw.choice(pool, min(size, len(pool)), replace=False) if len(pool) else pool
    return Places(columns, np.full(len(columns), 1.0 / max(len(pool), 1)), [RANDOM] * len(columns))
