"""Positives as the two-tower learns them: in chunks, frozen as of the moment they happened.

A chunk is 32 positives in a row, compared with every item of a small catalogue, or with each other and a sample of a large one:
then log q is taken off, q the chance of an item to be among the candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feed.models.mixture.parts import WHOLE, Parts

CHUNK = 32
SAMPLED = 512  # candidates of a larger catalogue
HISTORY = 50
DECAY = 0.9
TRAINED = 20.0  # positives at which an item's own embedding counts half
CONTEXT = (24, 7, 8)  # hours of the day and days of the week (UTC), and lengths of a pause
PAUSES = (60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)  # seconds


class Moment(NamedTuple):
    """Codes of `CONTEXT`: hour, weekday (0 = Thursday, as 1970 began), how long ago the user's last event was (7 = never)."""

    hour: int = 0
    weekday: int = 0
    pause: int = 7


class Person(NamedTuple):
    """A user (row of the profiles), the latest items liked, the latest first, the number of positives, and the moment."""

    user: int
    liked: Sequence[int]
    positives: int
    moment: Moment = Moment()


@dataclass(frozen=True)
class Chunk:
    """m positives with what was known just before each, and the items they are compared with.

    `users` int64 (m,) rows of the profiles; `history` int64 (m, 50) and its `weights` float32 (m, 50), 0 where there is
    nothing; `positives` float32 (m,) log(1 + number); `moments` int64 (m, 3); `candidates` int64 (s,) item codes, the same
    array in chunks that share them, with their `evidence` float32 (s,); `target` int64 (m,) places among them; `offset`
    float16 (m, s), -inf for what could not have been taken.
    """

    users: np.ndarray
    history: np.ndarray
    weights: np.ndarray
    positives: np.ndarray
    moments: np.ndarray
    candidates: np.ndarray
    target: np.ndarray
    offset: np.ndarray
    evidence: np.ndarray


def evidence(counts: np.ndarray) -> np.ndarray:
    """float32 (n,): n / (n + 20), how far an item with n positives can have been trained itself, from 0 to 1."""
    share: np.ndarray = (counts / (counts + TRAINED)).astype(np.float32)
    return share


def moment(at: float, last: float | None) -> Moment:
    """Of a user at `at`, whose last event was at `last` (seconds since 1970; None: there was none)."""
    days, seconds = divmod(at, 86400.0)
    pause = 7 if last is None else int(np.searchsorted(PAUSES, at - last, side="right"))
    return Moment(int(seconds // 3600), int(days % 7), pause)


def rows(people: Sequence[Person]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`users`, `history`, `weights`, `positives` and `moments` of a `Chunk`."""
    history = np.zeros((len(people), HISTORY), np.int64)
    weights = np.zeros((len(people), HISTORY), np.float32)
    for row, person in enumerate(people):
        latest = person.liked[:HISTORY]
        history[row, : len(latest)] = latest
        strengths = DECAY ** np.arange(len(latest))
        weights[row, : len(latest)] = strengths / np.sqrt(max(strengths.sum(), 1.0))
    users = np.array([person.user for person in people], np.int64)
    moments = np.array([person.moment for person in people], np.int64)
    return users, history, weights, np.log1p(np.array([person.positives for person in people], np.float32)), moments


class Builder:
    """Collects positives of a catalogue of n items until they are a chunk."""

    def __init__(self, n: int, rng: np.random.Generator, parts: Parts = WHOLE) -> None:
        self._n, self._rng, self._parts = n, rng, parts
        self._every = np.arange(n)
        self._people: list[Person] = []
        self._items: list[int] = []
        self._offsets: list[np.ndarray] = []

    def add(self, person: Person, item: int, scores: np.ndarray, possible: np.ndarray, counts: np.ndarray) -> Chunk | None:
        """A positive on `item` where the other columns gave `scores`, of those in `possible`; the chunk, when it is full.

        `scores` float (n,), `possible` bool (n,), `counts` int (n,) of positives so far.
        """
        offset = np.where(possible, scores - scores.max(), -np.inf).astype(np.float16)
        offset[item] = scores[item] - scores.max()
        self._people.append(person)
        self._items.append(item)
        self._offsets.append(offset)
        return self._close(counts) if len(self._items) == CHUNK else None

    def _close(self, counts: np.ndarray) -> Chunk:
        items, offsets, candidates = np.array(self._items), np.stack(self._offsets), self._every
        if self._n > self._parts.small:
            sampled = min(SAMPLED, self._n)
            candidates = np.union1d(items, self._rng.choice(self._n, sampled, replace=False))
            offsets = offsets[:, candidates]
            if self._parts.logq:
                chance = CHUNK * counts[candidates] / max(counts.sum(), 1) + sampled / self._n
                offsets -= np.log(np.minimum(chance, 1.0)).astype(np.float16)
        chunk = Chunk(
            *rows(self._people), candidates, np.searchsorted(candidates, items), offsets, evidence(counts[candidates])
        )
        self._people, self._items, self._offsets = [], [], []
        return chunk
