"""What a log says of each item for a user, in groups of columns: how popular it is, and what it has to do with the user's past.

`Counts`, c_h(i) the positives of i decayed with half-life h, from a quarter of an hour to a month:

    log(c_h + 0.02) for each h,   log(1 + age in hours), from the item's first event where nobody says when it was made

`History`, x_i the cosine-normalised sum of `feed.features.covisitation` over what the user liked, or met, for six relations:

    log(x_i + 0.001),   3 x_i

and for category, creator and tags, over the user's latest positives j_0, j_1, ...,   3 sum_k 0.9^k s(j_k, i) / sum_k 0.9^k

with s = 1 where both have the same category (creator), else 0; of tags, how many both have over the product of their numbers.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from feed.evaluation.baselines.liked import Liked
from feed.evaluation.rows import NONE, Catalogue, Rows
from feed.features import pair_counts
from feed.features.covisitation import CoVisitation, Relation

HALF_LIVES_DAYS = np.array([0.01, 0.05, 0.25, 1.0, 7.0, 30.0])
HALF_LIVES = 86400.0 * HALF_LIVES_DAYS  # seconds
RATES = (-np.log(2.0) / HALF_LIVES[:, None]).astype(np.float32)
COUNT_FLOOR = 0.02  # a count of nothing: log 0.02 = -3.9
LIKED = {"liked_together": Relation(0.9, 50, both=True), "liked_next": Relation(0.7, 10)}
MET = {
    "met_together": Relation(0.9, 50, both=True),
    "met_next": Relation(0.7, 10),
    "met_soon": Relation(0.5, 6),
    "met_at_once": Relation(1.0, 1),
}
KEPT = 50  # latest items of a user that are read
TAGS = 256  # the most frequent ones are told apart
DECAY = 0.9
FLOOR, SCALE = 0.001, 3.0


class Group(Protocol):
    """Columns of n items, `names`; made of the catalogue, nothing has happened yet."""

    names: tuple[str, ...]

    def observe(self, k: int, rows: Rows) -> None:
        """Row k has happened."""

    def columns(self, user: int, at: float) -> np.ndarray:
        """float32 (columns, n) for the user at time `at` (seconds since 1970)."""


class Counts:
    """Decayed counts, float32 (6, n), as of each item's newest positive, `_since`, and when each began, -inf unknown."""

    names = (*(f"count_{days:g}d" for days in HALF_LIVES_DAYS), "age")

    def __init__(self, catalogue: Catalogue) -> None:
        self._sums = np.zeros((len(HALF_LIVES), catalogue.n_items), np.float32)
        self._since = np.zeros(catalogue.n_items)
        self._begun = catalogue.created.copy()

    def observe(self, k: int, rows: Rows) -> None:
        """Rows come in the order of time."""
        item, at = int(rows.item[k]), float(rows.at[k])
        if self._begun[item] == -np.inf:
            self._begun[item] = at
        if rows.positive[k]:
            self._sums[:, item] *= np.exp2((self._since[item] - at) / HALF_LIVES)
            self._sums[:, item] += 1.0
            self._since[item] = at

    def columns(self, user: int, at: float) -> np.ndarray:
        """float32 (7, n), the same for everybody."""
        passed = np.maximum(at - self._since, 0.0).astype(np.float32)
        counts = np.exp(passed * RATES)  # numpy's exp2 takes ten times as long for what has long faded
        counts *= self._sums
        counts += np.float32(COUNT_FLOOR)
        known = np.isfinite(self._begun)
        hours = np.where(known, np.maximum(at - np.where(known, self._begun, at), 0.0), 0.0) / 3600.0
        return np.concatenate([np.log(counts), np.log1p(hours, dtype=np.float32)[None]])


class History:
    """Pairs of items in users' pasts of positives and of engagements, and what items have in common."""

    def __init__(self, catalogue: Catalogue) -> None:
        n = catalogue.n_items
        self._liked, self._met = _Pasts(LIKED, n, repeats=True), _Pasts(MET, n, repeats=False)
        self._codes = [codes for codes in (catalogue.category, catalogue.creator) if codes.any()]
        frequent = [tag for tag, _ in Counter(tag for own in catalogue.tags for tag in own).most_common(TAGS)]
        place = {tag: i for i, tag in enumerate(frequent)}
        self._tags = np.zeros((n, len(frequent)), np.float32)
        for item, own in enumerate(catalogue.tags):
            self._tags[item, [place[tag] for tag in own if tag in place]] = 1.0 / max(len(own), 1)
        pairs = (*LIKED, *MET)
        attributes = (f"attribute_{i}" for i in range(len(self._codes)))
        self.names = (*pairs, *(f"{name}_linear" for name in pairs), *attributes, "tags")

    def observe(self, k: int, rows: Rows) -> None:
        """An engagement joins what its user met, a positive what he liked."""
        user, item = int(rows.user[k]), int(rows.item[k])
        if not rows.shown[k]:
            self._met.add(user, item)
        if rows.positive[k]:
            self._liked.add(user, item)

    def columns(self, user: int, at: float) -> np.ndarray:
        """float32 (12 + attributes + 1, n)."""
        x = np.array([*self._liked.columns(user), *self._met.columns(user)], np.float32)
        return np.concatenate([np.log(x + FLOOR), SCALE * x, SCALE * self._content(self._liked.latest(user))])

    def _content(self, liked: list[int]) -> np.ndarray:
        columns = np.zeros((len(self._codes) + 1, len(self._tags)), np.float32)
        if liked:
            strengths = (DECAY ** np.arange(len(liked))).astype(np.float32)
            strengths /= strengths.sum()
            for i, codes in enumerate(self._codes):
                shares = np.bincount(codes[liked], strengths, minlength=int(codes.max()) + 1)
                shares[NONE] = 0.0
                columns[i] = shares[codes]
            columns[-1] = self._tags @ (strengths @ self._tags[liked])
        return columns


class _Pasts:
    """Users' latest items, and how these go together; `repeats`: one that is among them already counts again."""

    def __init__(self, relations: Mapping[str, Relation], n: int, repeats: bool) -> None:
        self._past, self._totals, self._repeats = Liked(), np.zeros(n, np.int64), repeats
        self._tables = [CoVisitation(relation, pair_counts.empty(n)) for relation in relations.values()]

    def add(self, user: int, item: int) -> None:
        """The newest item of a user."""
        before = self.latest(user)
        if self._repeats or item not in before:
            for table in self._tables:
                table.add([j for j in before if j != item], item)
            self._totals[item] += 1
        self._past.add(user, item)

    def latest(self, user: int) -> list[int]:
        """The items that are read, the latest first."""
        latest: list[int] = self._past.of(user)[: -KEPT - 1 : -1].tolist()
        return latest

    def columns(self, user: int) -> list[np.ndarray]:
        """float32 (n,) of each relation."""
        return [table.column(self.latest(user), self._totals) for table in self._tables]
