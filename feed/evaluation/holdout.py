"""The held-out later slice of a log, visit by visit: of all that was there, does what the user took stand on top?

A visit is a user's run of engagements without a pause of 30 minutes. It is ranked as the feed at its beginning would have been:
the user's features just before the first engagement, the items' at that moment, the full catalogue less what the user has
consumed (unless it may be shown again) and what does not exist yet. Relevant is every positive of the visit.

What stands where in a log depends on what was shown: a policy that showed what was popular makes popularity look good over
the full catalogue. `auc_looked_at` is free of that: it asks only whether what was taken stands above what the user looked at
in the same visit and left, which is what decides the click-through of a feed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from feed.evaluation import metrics
from feed.events import KINDS, POSITIVES, Impression, kind
from feed.features import BatchState, FeatureSpace, Inputs, kept_away
from feed.features.near import Nearby
from feed.models.pairs import Evidence, Log, Pair, visits_of

GROUP = 16  # visits that share a moment of the catalogue
FIGURES = ("auc", "ndcg_at_10", "precision_at_50", "recall_at_50", "auc_looked_at")


@dataclass(frozen=True)
class Visits:
    """q visits at one moment of a catalogue of m items; `near`, of each visit, is what the user's history says of them.

    `begins`: the events they begin with. `users` Inputs (q), `items` Inputs (m), `positives` float32 (m, 1 + half-lives): how
    many each item has had, ever and decayed. `eligible`, `relevant` (positive) and `left` (looked at, not positive) are bool
    (q, m).
    """

    user_ids: tuple[str, ...]
    begins: tuple[int, ...]
    users: Inputs
    items: Inputs
    positives: np.ndarray
    eligible: np.ndarray
    relevant: np.ndarray
    left: np.ndarray
    near: tuple[Nearby, ...]


Score = Callable[[Visits], np.ndarray]


def popularity(visits: Visits, column: int) -> np.ndarray:
    """The scores of a list, float32 (q, m): a column of the positives, the same for everybody."""
    return np.broadcast_to(visits.positives[:, column], visits.eligible.shape)


def per_visit(groups: Sequence[Visits], score: Score, seed: int) -> dict[str, np.ndarray]:
    """Each figure of `FIGURES`, float64 (visits,), where `score` gives float (q, m) for a group."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
    for group in groups:
        scores = np.where(group.eligible, score(group), -np.inf)
        hits = metrics.hits_of(metrics.top(scores, 50, rng), group.relevant)
        relevant = group.relevant.sum(axis=1)
        parts["auc"].append(metrics.auc_of_rows(scores, group.relevant, group.eligible))
        parts["ndcg_at_10"].append(metrics.ndcg(hits[:, :10], relevant))
        parts["precision_at_50"].append(metrics.precision(hits))
        parts["recall_at_50"].append(metrics.recall(hits, relevant))
        parts["auc_looked_at"].append(metrics.auc_of_rows(scores, group.relevant, group.relevant | group.left))
    return {name: np.concatenate(values) for name, values in parts.items()}


def summary(groups: Sequence[Visits], score: Score, seed: int) -> dict[str, dict[str, float]]:
    """For each figure its mean over visits and the 95 % interval of a bootstrap over users; without the undefined ones.

    `auc_looked_at` is undefined in a log that has nothing but positives.
    """
    users = np.array([user for group in groups for user in group.user_ids])
    figures = {}
    for name, values in per_visit(groups, score, seed).items():
        if np.isnan(values).all():
            continue
        figures[name] = metrics.figure(values, users, seed)
    return figures


def counted(log: Log) -> tuple[str, ...]:
    """The kinds of event that count as positive in this log: views in one that has nothing else (see `feed.models.pairs`)."""
    positives = tuple(name for name in KINDS if name in POSITIVES)
    return positives if any(kind(event) in POSITIVES for event in log.events) else ("view",)


class VisitCollector:
    """Freezes visits while a log is replayed; `look` wants the state just before each event of `stops`.

    `pairs` are those of the slice of the `log`, `before` the earlier ones, from which items have their evidence. Only visits
    with a positive count; of more than `bound` so many are drawn at random.
    """

    def __init__(
        self, log: Log, space: FeatureSpace, before: Sequence[Pair], pairs: Sequence[Pair], bound: int, rng: np.random.Generator
    ) -> None:
        self._log, self._space, self._evidence = log, space, Evidence(space, before)
        self._counted, self._ever, self._ever_until = counted(log), Counter[str](), 0
        visits = [visit for visit in visits_of(pairs) if any(pair.positive for pair in visit)]
        kept = [visits[i] for i in np.sort(rng.choice(len(visits), min(bound, len(visits)), replace=False))]
        self._visits = {visit[0].event: visit for visit in kept}
        self.stops = list(self._visits)
        self._pending: list[_Visit] = []
        self._groups: list[Visits] = []

    def look(self, stop: int, state: BatchState) -> None:
        """Freeze the visit that begins with the event `stop`, if there is one."""
        if (visit := self._visits.get(stop)) is None:
            return
        if not self._pending:
            self._freeze_catalogue(stop, state, visit[0].at)
        user = state.user(visit[0].user_id)
        eligible = self._there.copy()
        away = kept_away(user, visit[0].at, self._log.repeats, state.items.by_id)
        eligible[[row for item_id in away if (row := state.items.row(item_id)) is not None]] = False
        relevant, left = np.zeros_like(eligible), np.zeros_like(eligible)
        for pair in visit:
            (relevant if pair.positive else left)[state.items.row(pair.item_id)] = True
        if (relevant & eligible).any():
            inputs = self._space.user_inputs([user], visit[0].at)
            self._pending.append(
                _Visit(
                    visit[0].user_id,
                    stop,
                    inputs,
                    eligible,
                    relevant & eligible,
                    left & ~relevant & eligible,
                    state.items.nearby(user, visit[0].at),
                )
            )
        if len(self._pending) == GROUP:
            self._close()

    def groups(self) -> list[Visits]:
        """All that was frozen."""
        if self._pending:
            self._close()
        return self._groups

    def _freeze_catalogue(self, stop: int, state: BatchState, now: float) -> None:
        table = state.items
        self._there = table.known & (table.created <= now)
        self._items = self._evidence.mask(self._space.item_inputs(table, None, now), table.ids)
        new = (event for event in self._log.events[self._ever_until : stop] if not isinstance(event, Impression))
        self._ever.update(event.item_id for event in new if kind(event) in self._counted)
        self._ever_until = stop
        ever = np.array([[self._ever[item_id]] for item_id in table.ids], np.float64)
        lately = table.sums(now)[:, [KINDS.index(name) for name in self._counted]].sum(axis=1)
        self._positives = np.concatenate([ever, lately], axis=1).astype(np.float32)

    def _close(self) -> None:
        self._groups.append(
            Visits(
                tuple(visit.user_id for visit in self._pending),
                tuple(visit.begins for visit in self._pending),
                Inputs.concat([visit.user for visit in self._pending]),
                self._items,
                self._positives,
                np.stack([visit.eligible for visit in self._pending]),
                np.stack([visit.relevant for visit in self._pending]),
                np.stack([visit.left for visit in self._pending]),
                tuple(visit.near for visit in self._pending),
            )
        )
        self._pending = []


@dataclass(frozen=True)
class _Visit:
    user_id: str
    begins: int
    user: Inputs
    eligible: np.ndarray
    relevant: np.ndarray
    left: np.ndarray
    near: Nearby
