"""The ranking score as a mixture of few columns whose weights are learned online.

    counts and age of items ──► prior ───────────┐
    pairs in histories ───────► co-visitation ───┼─► Σ w · column, w by segment of users ─► score
    two-tower on the residual ─► ⟨u, v⟩ ─────────┘

`observe` updates state (histories, counts, pairs) with every event; `learn` moves parameters (weights, towers).
"""

from collections import Counter, deque
from typing import NamedTuple

import numpy as np

from feed.features import pair_counts
from feed.features.covisitation import CoVisitation, Relation
from feed.models.mixture import prior
from feed.models.mixture.chunks import CHUNK, SAMPLED, Builder, Chunk, Person, moment
from feed.models.mixture.content import Content
from feed.models.mixture.history import History
from feed.models.mixture.log import Catalogue, Rows
from feed.models.mixture.parts import WHOLE, Parts
from feed.models.mixture.prior import Prior
from feed.models.mixture.residual import Residual
from feed.models.mixture.tower import Attributes
from feed.models.mixture.weights import Weights

KEPT = 2**27  # offsets of the latest training positives: 256 MB
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
TAGS = 256  # the most frequent ones are told apart
FLOOR = 0.001
SCALE = 3.0
START = {"count_1d": 0.3, "two_tower": 1.0}


class _Target(NamedTuple):
    """A positive on `item` by a person, of the items in `possible` (n,), by columns (c, n) and counts (n,) of the moment.

    `beside`: the other items of the request in which it was shown.
    """

    person: Person
    item: int
    columns: np.ndarray
    possible: np.ndarray
    counts: np.ndarray
    beside: frozenset[int]


class Mixture:
    """Scores of all items for a user, learned as events come."""

    _asked: tuple[int, float, np.ndarray] | None  # the columns last asked for, until something is observed

    def __init__(self, parts: Parts = WHOLE, seed: int = 0) -> None:
        self._liked_relations = LIKED_RELATIONS if parts.covisitation else {}
        self._met_relations = MET_RELATIONS if parts.covisitation else {}
        self._parts, self._seed = parts, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Start from nothing and learn the rows, in order."""
        self._open(catalogue)
        size = CHUNK * (catalogue.n_items if catalogue.n_items <= self._parts.small else SAMPLED + CHUNK)
        chunks: deque[Chunk] = deque(maxlen=max(KEPT // max(size, 1), 1))
        for k in range(len(rows.user)):
            if rows.first[k] and (chunk := self._learn_weights(self._target(k, rows, fitted=True))) is not None:
                chunks.append(chunk)
            self.observe(k, rows)
        if self._parts.two_tower:
            self.residual.fit(list(chunks))
        self._asked = None

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (n_items,) for the user at that time; changes nothing."""
        scores: np.ndarray = self.weights.of(self._history(user).positives) @ self._columns(user, at)
        return scores

    def observe(self, k: int, rows: Rows) -> None:
        """Row k has happened: it changes the user's history and the items' counts."""
        user, item, at = int(rows.user[k]), int(rows.item[k]), float(rows.at[k])
        history = self._histories.setdefault(user, History())
        history.see(item, at)
        self.prior.see(item, at)
        if not rows.shown[k]:
            met = history.met()
            if item not in met:
                for table in self._met_tables.values():
                    table.add(met, item)
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

    def freeze(self, k: int, rows: Rows) -> None:
        """Row k begins an event that `learn` will get later, when it has become positive: it is learned as of now."""
        self._frozen[k] = self._target(k, rows)

    def learn(self, k: int, rows: Rows) -> None:
        """The event that begins with row k is learned from: as it was frozen, or else as of now, before it is observed."""
        chunk = self._learn_weights(self._frozen.pop(k) if k in self._frozen else self._target(k, rows))
        if chunk is not None:
            self.residual.learn(chunk)
            self._asked = None

    def _target(self, k: int, rows: Rows, fitted: bool = False) -> _Target:
        user, item, at = int(rows.user[k]), int(rows.item[k]), float(rows.at[k])
        history = self._history(user)
        possible = self._created <= at
        possible[history.seen()] = False
        beside = _beside(k, rows, fitted) if self._parts.skipped else frozenset()
        return _Target(self._person(user, at), item, self._columns(user, at), possible, self.positives.copy(), beside)

    def _learn_weights(self, target: _Target) -> Chunk | None:
        """One step of the weights; what the two-tower will learn, when there is enough of it."""
        person, item, columns, possible, counts, beside = target
        chunk = None
        if self._parts.two_tower:
            others = self.weights.of(person.positives)[:-1] @ columns[:-1]  # the two-tower's column is the last
            if not self._parts.residual:
                others = np.zeros_like(others)
            chunk = self._builder.add(person, item, others, possible, counts)
        if self._parts.mixing:
            skipped = sorted(beside.difference(self._history(person.user).liked()))
            self.weights.step(person.positives, columns, item, possible, self._rng, skipped, self._parts.skipped)
        return chunk

    def _open(self, catalogue: Catalogue) -> None:
        n = catalogue.n_items
        self._created = catalogue.created
        self._rng = np.random.default_rng(self._seed)
        self._histories: dict[int, History] = {}
        self._frozen: dict[int, _Target] = {}
        self.prior = Prior(catalogue.created)
        self.positives, self.meetings = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._liked_tables = {
            name: CoVisitation(relation, pair_counts.empty(n)) for name, relation in self._liked_relations.items()
        }
        self._met_tables = {
            name: CoVisitation(relation, pair_counts.empty(n)) for name, relation in self._met_relations.items()
        }
        tables = [*self._liked_tables, *self._met_tables]
        attributes = _attributes(catalogue) if self._parts.attributes else _unknown(catalogue)
        self._content = Content(attributes)
        names = [*(prior.NAMES if self._parts.prior else ()), *tables, *(f"{name}_linear" for name in tables)]
        names += self._content.names if tables else ()
        names += ["two_tower"] if self._parts.two_tower else []
        self.weights = Weights(names, START)
        self.residual = Residual(attributes, self._seed, self._parts)
        self._builder = Builder(n, self._rng, self._parts)
        self._asked = None

    def _person(self, user: int, at: float) -> Person:
        history = self._history(user)
        return Person(user, history.liked(), history.positives, moment(at, history.last))

    def _history(self, user: int) -> History:
        return self._histories.get(user) or History()

    def _columns(self, user: int, at: float) -> np.ndarray:
        """float32 (columns, n_items), each centred."""
        if self._asked is not None and self._asked[:2] == (user, at):
            return self._asked[2]
        history, n = self._history(user), len(self._created)
        parts = [self.prior.columns(at)] if self._parts.prior else []
        together = [table.column(history.liked(), self.positives) for table in self._liked_tables.values()]
        together += [table.column(history.met(), self.meetings) for table in self._met_tables.values()]
        x = np.array(together, np.float32).reshape(len(together), n)
        parts += [np.log(x + FLOOR), SCALE * x]
        if together:
            parts.append(SCALE * self._content.columns(history.liked()))
        if self._parts.two_tower:
            parts.append(self.residual.column(self._person(user, at), self.positives)[None])
        columns = np.concatenate(parts)
        columns -= columns.mean(axis=1, keepdims=True)
        self._asked = user, at, columns
        return columns


def _beside(k: int, rows: Rows, fitted: bool) -> frozenset[int]:
    """The other items of the request in which row k was shown; `fitted`: less those that are known to be taken later."""
    if not rows.shown[k]:
        return frozenset()
    user, at = rows.user[k], rows.at[k]
    request = np.arange(np.searchsorted(rows.at, at), np.searchsorted(rows.at, at, side="right"))
    request = request[(rows.user[request] == user) & rows.shown[request] & (rows.item[request] != rows.item[k])]
    if fitted:
        request = request[~rows.first[request]]
    return frozenset(rows.item[request].tolist())


def _attributes(catalogue: Catalogue) -> Attributes:
    content = [codes for codes in (catalogue.category, catalogue.creator) if codes is not None and codes.any()]
    codes = np.array(content, np.int64).reshape(len(content), catalogue.n_items).T
    frequent = [tag for tag, _ in Counter(tag for own in catalogue.tags for tag in own).most_common(TAGS)]
    place = {tag: i for i, tag in enumerate(frequent)}
    tags = np.zeros((catalogue.n_items, len(frequent)), np.float32)
    for item, own in enumerate(catalogue.tags):
        tags[item, [place[tag] for tag in own if tag in place]] = 1.0 / max(len(own), 1)
    return Attributes(np.asarray(catalogue.user_features, np.int64), codes, tags)


def _unknown(catalogue: Catalogue) -> Attributes:
    users, n = len(catalogue.user_features), catalogue.n_items
    return Attributes(np.zeros((users, 0), np.int64), np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32))
