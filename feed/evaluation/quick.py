"""Baselines that are trained in seconds, asked of held-out visits in the order of time."""

from collections.abc import Mapping

import numpy as np

from feed.evaluation.baselines.ease import ItemKnn
from feed.evaluation.baselines.own import OwnFavourites
from feed.evaluation.holdout import Visits, counted
from feed.evaluation.protocol import Recommender
from feed.evaluation.rows import Catalogue, Rows
from feed.events import Impression, kind
from feed.models.pairs import Log

LARGEST = 6000  # liked items of the item-item matrix: four copies of 144 MB
PRODUCTS = 1e11  # users times items squared: some five seconds on one core


class Quick:
    """`item-knn`, where its matrix is small enough, and `own-favourites`, where items may be shown again.

    Both are fitted to the log before the event `until`; histories and counts follow every event. Called with visits, in the
    order of time, it gives the scores float (q, m) of each by name.
    """

    def __init__(self, log: Log, until: int) -> None:
        self._users: dict[str, int] = {}
        self._rows, self._events, self._items = self._rows_of(log)
        self._done = int(np.searchsorted(self._events, until))
        fitted = self._rows.until(self._done)
        liked = len(np.unique(fitted.item))
        self.models: dict[str, Recommender] = {}
        if 0 < liked <= LARGEST and len(np.unique(fitted.user)) * liked**2 <= PRODUCTS:
            self.models["item-knn"] = ItemKnn()
        if log.repeats.ever:
            self.models["own-favourites"] = OwnFavourites()
        m, none = self._items, np.zeros(0, np.int32)
        catalogue = Catalogue(np.zeros(m), none, none, (), np.zeros((len(self._users), 0), np.int32), (), ())
        for model in self.models.values():
            model.fit(fitted, catalogue)

    def __call__(self, visits: Visits) -> Mapping[str, np.ndarray]:
        """By name, float32 (q, m)."""
        scores = {name: np.zeros(visits.eligible.shape, np.float32) for name in self.models}
        for row, (user_id, begins) in enumerate(zip(visits.user_ids, visits.begins, strict=True)):
            while self._done < len(self._events) and self._events[self._done] < begins:
                for model in self.models.values():
                    model.observe(self._done, self._rows)
                self._done += 1
            user = self._users.get(user_id, len(self._users))
            for name, model in self.models.items():
                scores[name][row, : self._items] = model.scores(user, 0.0)
        return scores

    def _rows_of(self, log: Log) -> tuple[Rows, np.ndarray, int]:
        """The positives of the catalogue's items, their events int64 (n,), and how many items there are; codes of items are
        rows of the item table."""
        items: dict[str, int] = {}
        for item in log.items:
            items.setdefault(item.item_id, len(items))
        kinds = counted(log)
        found = [
            (number, self._users.setdefault(event.user_id, len(self._users)), items[event.item_id], event.at)
            for number, event in enumerate(log.events)
            if not isinstance(event, Impression) and event.item_id in items and kind(event) in kinds
        ]
        numbers, user, code, at = np.array(found, np.float64).reshape(-1, 4).T
        n, always = len(found), np.ones(len(found), bool)
        rows = Rows(
            user.astype(np.int32), code.astype(np.int32), at, np.zeros(n, np.int8), np.full(n, np.nan, np.float32),
            np.arange(n, dtype=np.int32), always, always, always, always,
        )  # fmt: skip
        return rows, numbers.astype(np.int64), len(items)
