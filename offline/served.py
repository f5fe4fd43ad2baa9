"""The served model, as `offline/evaluate.py` evaluates models: what bootstrap trains, the same features, the learner's steps.

    rows ─► events ─┬─► bootstrap's training (all rows before the slice, in its own 80 / 10 / 10 %)
                    └─► state, one event after the other ─► logits
                          └─► windows ─► examples ─► learner, 64 a step (only if weights learn)

Weights that learn are the learner's moving average of the moment, which in the running system would have to pass a trial first.
Items and users are those of the tables, with all their attributes, under codes. What the protocol's rows leave out (device,
hour, request ids, propensities) the model does not see here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from feed import settings
from feed.attribution import Attribution, Marks, Pending
from feed.evaluation.rows import Catalogue, Rows
from feed.events import ENGAGEMENTS, KINDS, POSITIVES, Event, Impression, Shown, utc
from feed.features import BatchState, FrozenItems
from feed.learning.learner import Learner
from feed.models import examination
from feed.models.pairs import Log, pairs_of
from feed.models.snapshot import Snapshot
from feed.models.two_tower import OF_PRIOR, scores
from feed.repeats import ALWAYS, NEVER
from offline import bootstrap

REFRESHED = 32  # events after which items' vectors are made anew: rankers do so twice a second
NAME = Path("the rows before the slice")  # of the log, in an error


class Served:
    """What `Recommender` asks of a model (see `feed.evaluation.protocol`)."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Bootstrap on the rows. Raises `BadData` if there is too little to learn from."""
        items, users = list(catalogue.items), list(catalogue.users)
        repeats = ALWAYS if rows.repeats else NEVER
        log = Log(items, users, [event for _, event in events_of(rows, 0)], repeats)
        slices = bootstrap.slices_of(pairs_of(log, self._seed), NAME)
        bootstrap.require_choice(log, slices, NAME)
        with Progress(disable=True) as progress:
            frozen, trained, _ = bootstrap.learn(log, slices, progress, seed=self._seed)
        known = {"learned_until": float(rows.at[-1]), "repeats": {"rule": str(repeats)}}
        start = Snapshot(trained.model, frozen.space, known, examination=examination.of(log.events))
        self._space, self._model = frozen.space, trained.model
        self._learner = Learner.begin("bootstrap", start, lambda version: (version, start), self._seed)
        self._learns, self._window = False, settings.load().attribution_seconds
        self._pending: dict[str, Pending] = {}
        self._marks, self._offset = Marks(), 0
        self._state = BatchState(items, users)
        self._items_there = catalogue.n_items
        for event in log.events:
            self._state.apply(event)
        self._rows = len(rows)
        self._events: Iterator[tuple[int, Event]] = iter(())
        self._next: tuple[int, Event] | None = None
        self._stale = REFRESHED

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (m,): logits."""
        state, table = self._state.user(str(user)), self._state.items
        with torch.inference_mode():
            if self._stale >= REFRESHED:
                self._items = self._model.item_vectors(self._space.item_inputs(table, None, at))
                self._codes = np.array(table.ids, np.int64)
                self._stale = 0
            self._items[:, OF_PRIOR] = torch.from_numpy(table.prior(at)[: len(self._items)])
            users = self._model.user_vectors(self._space.user_inputs([state], at))
            logits = scores(users, self._items, [table.nearby(state, at)])[0].numpy()
        by_code = np.full(self._items_there, np.float32(logits.min()))
        by_code[self._codes] = logits
        return by_code

    def observe(self, k: int, rows: Rows) -> None:
        """State, and what the learner has to learn, up to row k; a request is one event, which its last row completes."""
        if self._next is None:
            self._events = events_of(rows, self._rows)
            self._next = next(self._events)
        if k < self._next[0]:
            return
        row, event = self._next
        if self._learns:
            self._attribute(row, event)
        self._state.apply(event)
        self._next = next(self._events, (len(rows), event))
        self._stale += 1

    def learn(self, k: int, rows: Rows) -> None:
        """Weights learn: from now on every event goes to the learner, whose examples say what was positive."""
        self._learns = True

    def _attribute(self, row: int, event: Event) -> None:
        items = FrozenItems(self._state.items, event.at)
        windows = Attribution(self._window, 0, self._marks, self._pending, items)
        windows.add(event, self._state.user(event.user_id), row)
        for example in windows.close():
            if self._learner.take(self._offset, example) is not None:
                self._model, self._space, self._stale = self._learner.weights.average, self._learner.space, REFRESHED
            self._offset += 1
        self._pending, self._marks = windows.waiting, windows.marks


def events_of(rows: Rows, start: int) -> Iterator[tuple[int, Event]]:
    """The events of the rows from `start` on, each with its last row; rows of one request are one impression.

    What counts as positive in the evaluation is a `like` if the model would take it for less, and the other way round a `view`,
    also if a later row makes its event positive.
    """
    decided = rows.decided()
    k = start
    while k < len(rows):
        last = k
        common: dict[str, Any] = {"event_id": str(k), "user_id": str(rows.user[k]), "occurred_at": utc(float(rows.at[k]))}
        if rows.shown[k]:
            while last + 1 < len(rows) and _one_request(rows, k, last + 1):
                last += 1
            shown = dict.fromkeys(rows.item[k : last + 1].tolist())
            yield last, Impression(**common, items=tuple(Shown(item_id=str(item), position=p) for p, item in enumerate(shown)))
        else:
            name = KINDS[rows.kind[k]]
            if rows.positive[k] and name not in POSITIVES:
                name = "like"
            elif name in POSITIVES and not 0 <= decided[rows.event[k]] <= k:
                name = "view"
            if name == "view" and np.isfinite(rows.dwell[k]):
                common["dwell_ms"] = round(1000 * float(rows.dwell[k]))
            yield k, ENGAGEMENTS[name](**common, item_id=str(rows.item[k]))
        k = last + 1


def _one_request(rows: Rows, first: int, k: int) -> bool:
    return bool(rows.shown[k] and rows.user[k] == rows.user[first] and rows.at[k] == rows.at[first])
