"""Popularity: how many positives each item has had, ever or lately; the same for everybody."""

import numpy as np

from feed.evaluation.rows import Catalogue, Rows

DAY = 86400.0


class Popular:
    """score(i) = sum over positives of i at s <= t of 2^(-(t - s) / half_life); `half_life_days` None: their number."""

    def __init__(self, half_life_days: float | None = None) -> None:
        self._half_life = None if half_life_days is None else half_life_days * DAY

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Count the rows."""
        self.sums = np.zeros(catalogue.n_items)
        self.since = np.zeros(catalogue.n_items)
        for k in np.flatnonzero(rows.positive).tolist():
            self.observe(k, rows)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float64 (m,)."""
        if self._half_life is None:
            return self.sums
        return np.asarray(self.sums * np.exp2(-np.maximum(at - self.since, 0.0) / self._half_life))

    def observe(self, k: int, rows: Rows) -> None:
        """Count row k if it is positive."""
        if not rows.positive[k]:
            return
        item, at = rows.item[k], rows.at[k]
        if self._half_life is not None:
            self.sums[item] *= np.exp2(-(at - self.since[item]) / self._half_life)
            self.since[item] = at
        self.sums[item] += 1.0

    def learn(self, k: int, rows: Rows) -> None:
        """There are no weights."""
