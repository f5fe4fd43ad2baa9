"""A list of one's own favourites: what somebody took most comes first, then what is popular."""

import numpy as np

from feed.evaluation.baselines.popular import DAY, Popular
from feed.evaluation.rows import Catalogue, Rows


class OwnFavourites:
    """The user's own items by sum over their positives at s <= t of 2^(-(t - s) / half_life); ties by the last one, then by
    popularity, by which all other items follow. `half_life_days` None: by the number of positives, as popularity always is.
    """

    def __init__(self, half_life_days: float | None = None) -> None:
        self._half_life = None if half_life_days is None else half_life_days * DAY
        self._popular = Popular()

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Count the rows."""
        self._popular.fit(rows.until(0), catalogue)
        self._own: dict[int, dict[int, tuple[float, float]]] = {}  # user -> item -> (times as of the last one, its time)
        for k in np.flatnonzero(rows.positive).tolist():
            self.observe(k, rows)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float64 (m,): below 1 by popularity; of the user's k own items k down to 1, and as much."""
        popularity = self._popular.scores(user, at)
        found = np.asarray(popularity / (popularity.max(initial=0.0) + 1.0))
        if own := self._own.get(user):
            items = np.fromiter(own, np.int64)
            times, last = np.array(list(own.values())).T
            _, place = np.unique(self._decayed(times, at - last), return_inverse=True)
            order = np.lexsort((found[items], last, place))
            found[items[order]] += np.arange(1, len(order) + 1)
        return found

    def observe(self, k: int, rows: Rows) -> None:
        """Count row k if it is positive."""
        self._popular.observe(k, rows)
        if rows.positive[k]:
            own, item, at = self._own.setdefault(int(rows.user[k]), {}), int(rows.item[k]), float(rows.at[k])
            times, last = own.get(item, (0.0, at))
            own[item] = float(self._decayed(np.array(times), np.array(at - last))) + 1.0, at

    def learn(self, k: int, rows: Rows) -> None:
        """There are no weights."""

    def _decayed(self, times: np.ndarray, age: np.ndarray) -> np.ndarray:
        return times if self._half_life is None else np.asarray(times * np.exp2(-np.maximum(age, 0.0) / self._half_life))
