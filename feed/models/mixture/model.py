"""The ranking score as a mixture of few columns whose weights are learned online.

    counts of the catalogue ──► prior ───────────┐
    pairs in histories ───────► co-visitation ───┼─► Σ w · column, w by segment of users ─► score
    two-tower on the residual ─► ⟨u, v⟩ ─────────┘

`observe` updates state (histories, counts, pairs) with every event; `learn` moves parameters (weights, towers).
"""

from typing import Protocol

import numpy as np

from feed.models.mixture import prior
from feed.models.mixture.covisitation import CoVisitation, Relation
from feed.models.mixture.history import History
from feed.models.mixture.prior import Prior
from feed.models.mixture.weights import Weights

WARM = 4000  # of the latest training positives
LIKED_RELATIONS = {
    "liked_together": Relation(0.9, 50, both=True),
    "liked_next": Relation(0.7, 10),
}
MET_RELATIONS = {
    "met_together": Relation(0.9, 50, both=True),
    "met_next": Relation(0.7, 10),
    "met_soon": Relation(0.5, 6),
    "met_at_once": Relation(1.0, 1),
}
FLOOR = 0.001
SCALE = 3.0
START = {"count_1d": 0.3, "two_tower": 1.0}


class Rows(Protocol):
    """A log in the order of time: codes of users and items, int (n,), and when, float64 (n,) seconds since 1970.

    `positive` bool (n,); `first` bool (n,), those that are to be ranked: positives of an item that the user had not met.
    """

    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    positive: np.ndarray
    first: np.ndarray


class Catalogue(Protocol):
    """`n_items` items and when they were created, float64 (n_items,) seconds since 1970, -inf where unknown."""

    n_items: int
    created: np.ndarray


class Mixture:
    """Scores of all items for a user, learned as events come."""

    _asked: tuple[int, float, np.ndarray] | None  # the columns last asked for, until something is observed

    def __init__(self, covisitation: bool = True, seed: int = 0) -> None:
        self._liked_relations = LIKED_RELATIONS if covisitation else {}
        self._met_relations = MET_RELATIONS if covisitation else {}
        self._seed = seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Start from nothing and learn the rows, in order."""
        self._open(catalogue)
        targets = np.flatnonzero(rows.first)
        warm_from = targets[-WARM] if len(targets) > WARM else 0
        for k in range(len(rows.user)):
            if k >= warm_from and rows.first[k]:
                self.learn(k, rows)
            self.observe(k, rows)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (n_items,) for the user at that time; changes nothing."""
        scores: np.ndarray = self.weights.of(self._history(user).positives) @ self._columns(user, at)
        return scores

    def observe(self, k: int, rows: Rows) -> None:
        """Row k has happened: it changes the user's history and the items' counts."""
        user, item, at = int(rows.user[k]), int(rows.item[k]), float(rows.at[k])
        history = self._histories.setdefault(user, History())
        if not history.has_met(item):
            for table in self._met_tables.values():
                table.add(history.met(table.relation.window), item)
            self.meetings[item] += 1
        history.meet(item)
        if rows.positive[k]:
            liked = [j for j in history.liked() if j != item]
            for table in self._liked_tables.values():
                table.add(liked, item)
            self.prior.add(item, at)
            self.positives[item] += 1
            history.like(item)
        self._asked = None

    def learn(self, k: int, rows: Rows) -> None:
        """Row k, a positive on an item that the user had not met, is learned from; before it is observed."""
        user, item, at = int(rows.user[k]), int(rows.item[k]), float(rows.at[k])
        possible = self._created <= at
        history = self._history(user)
        possible[history.met()] = False
        self.weights.step(history.positives, self._columns(user, at), item, possible, self._rng)

    def _open(self, catalogue: Catalogue) -> None:
        n = catalogue.n_items
        self._created = catalogue.created
        self._rng = np.random.default_rng(self._seed)
        self._histories: dict[int, History] = {}
        self.prior = Prior(n)
        self.positives, self.meetings = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._liked_tables = {name: CoVisitation(relation, n) for name, relation in self._liked_relations.items()}
        self._met_tables = {name: CoVisitation(relation, n) for name, relation in self._met_relations.items()}
        tables = [*self._liked_tables, *self._met_tables]
        self.weights = Weights([*prior.NAMES, *tables, *(f"{name}_linear" for name in tables)], START)
        self._asked = None

    def _history(self, user: int) -> History:
        return self._histories.get(user) or History()

    def _columns(self, user: int, at: float) -> np.ndarray:
        """float32 (columns, n_items), each centred."""
        if self._asked is not None and self._asked[:2] == (user, at):
            return self._asked[2]
        history = self._history(user)
        together = [table.column(history.liked(table.relation.window), self.positives) for table in self._liked_tables.values()]
        together += [table.column(history.met(table.relation.window), self.meetings) for table in self._met_tables.values()]
        x = np.array(together, np.float32).reshape(len(together), len(self._created))
        columns = np.concatenate([self.prior.columns(at), prior.age(self._created, at)[None], np.log(x + FLOOR), SCALE * x])
        columns -= columns.mean(axis=1, keepdims=True)
        self._asked = user, at, columns
        return columns
