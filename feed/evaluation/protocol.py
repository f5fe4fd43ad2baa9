"""The two protocols: `progressive` ranks every target before it is seen and learns on; `static` ranks once, at the split.

    for each row, in order:   a target begins here?  rank the full catalogue ─► learn (when its label is known) ─► observe

Candidates are all items that exist, less those the user has met in any row (unless repeats count); never a sample.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from feed.errors import BadSetting
from feed.evaluation.ranking import Ranker, Ranking
from feed.evaluation.rows import Catalogue, Log, Rows
from feed.evaluation.slices import Slice

DAY = 86400.0
Progress = Callable[[int, int], None]


class Recommender(Protocol):
    """What is evaluated. Users and items are codes; `rows` is the whole log, of which nothing after row k may be used."""

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Learn weights and state from the training rows; whatever was known before is forgotten."""

    def scores(self, user: int, at: float) -> np.ndarray:
        """float (m,): the scores of all items for the user at time `at`; changes nothing."""

    def observe(self, k: int, rows: Rows) -> None:
        """Row k has happened: history and counts."""

    def learn(self, k: int, rows: Rows) -> None:
        """The target that begins at row k is learned by the weights. Only called when weights learn online."""


@runtime_checkable
class Freezing(Protocol):
    """A recommender that can learn a target later than it was ranked, from what it knew then."""

    def freeze(self, k: int, rows: Rows) -> None:
        """Row k begins a target that `learn` will get later: keep its inputs as of now."""


@dataclass
class Outcome:
    """What was ranked: `targets` all, `young` those of items younger than a day; by row (progressive) or by user (static).

    `shown`: for impressions in the slice user codes, scores and labels. `seconds` by activity, `counts` of what was done.
    """

    targets: Ranking
    young: Ranking
    shown: tuple[np.ndarray, np.ndarray, np.ndarray]
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], None]) -> None:
        begun = time.perf_counter()
        work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


class Seen:
    """Which items each user has met, and how many events each has had."""

    def __init__(self, rows: Rows, catalogue: Catalogue, end: int) -> None:
        self._created, self._repeats = catalogue.created, rows.repeats
        self._met: dict[int, list[int]] = {}
        self.events = np.bincount(rows.user[:end][rows.opens[:end]], minlength=catalogue.n_users)
        met = np.flatnonzero(rows.new[:end] & rows.opens[:end])
        for user, item in zip(rows.user[met].tolist(), rows.item[met].tolist(), strict=True):
            self._met.setdefault(user, []).append(item)

    def add(self, k: int, rows: Rows) -> None:
        """Row k has happened."""
        if rows.opens[k]:
            self.events[rows.user[k]] += 1
            if rows.new[k]:
                self._met.setdefault(int(rows.user[k]), []).append(int(rows.item[k]))

    def candidates(self, user: int, at: float) -> np.ndarray:
        """bool (m,): what could be recommended."""
        possible: np.ndarray = self._created <= at
        if not self._repeats:
            possible[self._met.get(user, [])] = False
        return possible


def progressive(
    model: Recommender, log: Log, part: Slice, *, state_every: int = 1, learn_every: int = 0, seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Outcome:  # fmt: skip
    """Fit on the rows before the slice, then rank, learn and observe row by row.

    `state_every`: state is brought up to date every so many events; `learn_every`: weights every so many targets, 0 = frozen.
    Raises `BadSetting` for a `learn_every` beyond 1 of a recommender that cannot keep its inputs until then.
    """
    return _Progressive(model, log, part, state_every, learn_every, seed).run(progress)


class _Progressive:
    def __init__(self, model: Recommender, log: Log, part: Slice, state_every: int, learn_every: int, seed: int) -> None:
        if learn_every > 1 and not isinstance(model, Freezing):
            raise BadSetting(f"--learn-every {learn_every}: this model learns each target at once or not at all: 1 or 0")
        self._model, self._part = model, part
        self._state_every, self._learn_every = state_every, learn_every
        self._rows, self._catalogue = log.rows.until(part.end), log.catalogue
        self._decided = self._rows.decided()
        self._ranker, self._clock = Ranker(seed), _Clock()
        self._unseen: list[int] = []
        self._events_unseen = 0
        self._unlearned: list[int] = []
        self._waiting: dict[int, int] = {}
        self._learned = 0
        self._request: tuple[int, float, np.ndarray] | None = None
        self._shown: list[tuple[int, float, bool]] = []

    def run(self, progress: Progress) -> Outcome:
        rows, part, catalogue = self._rows, self._part, self._catalogue
        self._clock.run("fit", lambda: self._model.fit(rows.until(part.start), catalogue))
        self._seen = Seen(rows, catalogue, part.start)
        for k in range(part.start, part.end):
            if rows.opens[k]:
                self._open(k)
            if self._learn_every:
                self._learn(k)
            self._seen.add(k, rows)
            self._observe(k)
            if not k % 256:
                progress(k - part.start, part.end - part.start)
        ranking = self._ranker.ranking()
        at = rows.at[ranking.key]
        young = at - catalogue.created[rows.item[ranking.key]] < DAY
        shown = np.array(self._shown, np.float64).reshape(-1, 3)
        counts = {"training_rows": part.start, "targets": len(ranking), "learned": self._learned}
        labelled = shown[:, 0].astype(np.int64), shown[:, 1], shown[:, 2].astype(bool)
        return Outcome(ranking, ranking.where(young), labelled, self._clock.seconds, counts)

    def _open(self, k: int) -> None:
        rows = self._rows
        user, at = int(rows.user[k]), float(rows.at[k])
        if rows.first[k]:
            self._clock.run("rank", lambda: self._rank(k, user, at))
        if rows.shown[k]:
            if self._request is None or self._request[:2] != (user, at):
                self._request = user, at, np.array(self._model.scores(user, at))
            self._shown.append((user, float(self._request[2][rows.item[k]]), self._decided[k] >= 0))

    def _rank(self, k: int, user: int, at: float) -> None:
        candidates = self._seen.candidates(user, at)
        scores = self._model.scores(user, at)
        self._ranker.add(k, user, int(self._seen.events[user]), scores, candidates, self._rows.item[k : k + 1])

    def _learn(self, k: int) -> None:
        """A target is learned once its label is known: at its positive row, which may come later than it was ranked."""
        rows = self._rows
        if rows.first[k]:
            decided = int(self._decided[k])
            if rows.at[decided] == rows.at[k]:
                self._unlearned.append(k)
            else:
                self._waiting[decided] = k
            if isinstance(self._model, Freezing) and (self._learn_every > 1 or rows.at[decided] > rows.at[k]):
                self._model.freeze(k, rows)
        if (before := self._waiting.pop(k, None)) is not None:
            self._unlearned.append(before)
        if len(self._unlearned) >= self._learn_every:
            due, self._unlearned = self._unlearned, []
            self._clock.run("learn", lambda: self._each(self._model.learn, due))
            self._learned += len(due)

    def _observe(self, k: int) -> None:
        self._unseen.append(k)
        self._events_unseen += int(self._rows.opens[k])
        if self._state_every == 1 or self._events_unseen >= self._state_every:
            due, self._unseen, self._events_unseen = self._unseen, [], 0
            self._clock.run("observe", lambda: self._each(self._model.observe, due))

    def _each(self, do: Callable[[int, Rows], None], ks: list[int]) -> None:
        for k in ks:
            do(k, self._rows)


def static(
    model: Recommender, log: Log, part: Slice, *, seed: int = 0, progress: Progress = lambda done, total: None
) -> Outcome:
    """Fit on the rows before the slice and rank once for each user who has targets in it, as of its first row.

    Items that were made later cannot be in a list; as targets they count as missed.
    """
    rows, catalogue = log.rows.until(part.end), log.catalogue
    clock, ranker, of_young = _Clock(), Ranker(seed), Ranker(seed)
    clock.run("fit", lambda: model.fit(rows.until(part.start), catalogue))
    seen, at = Seen(rows, catalogue, part.start), float(rows.at[part.start])
    targets = part.start + np.flatnonzero(rows.first[part.start : part.end])
    shown = part.start + np.flatnonzero((rows.shown & rows.opens)[part.start : part.end])
    decided, found = rows.decided(), np.zeros(len(shown))
    users = np.unique(np.concatenate([rows.user[targets], rows.user[shown]]))
    young = targets[rows.at[targets] - catalogue.created[rows.item[targets]] < DAY]
    targets_of, young_of, shown_of = (_by_user(rows.user[ks], catalogue.n_users) for ks in (targets, young, shown))

    def rank(user: int) -> None:
        scores, candidates, events = model.scores(user, at), seen.candidates(user, at), int(seen.events[user])
        found[shown_of[user]] = scores[rows.item[shown[shown_of[user]]]]
        for one, ks in ((ranker, targets[targets_of[user]]), (of_young, young[young_of[user]])):
            if len(ks):
                one.add(user, user, events, scores, candidates, np.unique(rows.item[ks]))

    for done, user in enumerate(users.tolist()):
        clock.run("rank", lambda user=user: rank(user))  # type: ignore[misc]
        progress(done + 1, len(users))
    ranking = ranker.ranking()
    counts = {"training_rows": part.start, "targets": len(targets), "learned": 0}
    return Outcome(ranking, of_young.ranking(), (rows.user[shown], found, decided[shown] >= 0), clock.seconds, counts)


def _by_user(users: np.ndarray, n: int) -> list[np.ndarray]:
    """For each of n users the places where they stand in `users`."""
    order = np.argsort(users, kind="stable")
    return np.split(order, np.searchsorted(users[order], np.arange(1, n)))
