"""How popular each item is just now, at several speeds, and how old it is.

    c_h(i, t) = sum over positives of i at times s <= t of 2^(-(t - s) / h),   column_h(i) = log(c_h(i, t) + 0.02)

for half-lives h from a quarter of an hour to a month, and log(1 + age in hours), which begins with the item's first event where
nobody says when it was made. Which of them matters differs between news and films; the mixture's weights find out.
"""

import numpy as np

DAYS = np.array([0.01, 0.05, 0.25, 1.0, 7.0, 30.0])
HALF_LIVES = 86400.0 * DAYS  # seconds
RATES = (-np.log(2.0) / HALF_LIVES[:, None]).astype(np.float32)
NAMES = (*(f"count_{days:g}d" for days in DAYS), "age")
FLOOR = 0.02  # a count of nothing: log 0.02 = -3.9
HOUR = 3600.0


class Prior:
    """Of n items decayed counts, float32 (6, n), as of each item's newest positive (`since`), and their beginnings (`begun`).

    Times are float64 (n,), seconds since 1970; `begun` is when an item was created, or -inf, unknown, until its first event.
    """

    def __init__(self, created: np.ndarray) -> None:
        n = len(created)
        self.sums = np.zeros((len(HALF_LIVES), n), np.float32)
        self.since = np.zeros(n)
        self.begun = created.copy()

    def see(self, item: int, at: float) -> None:
        """An event of any kind."""
        if self.begun[item] == -np.inf:
            self.begun[item] = at

    def add(self, item: int, at: float) -> None:
        """One positive. One that comes late (before the item's newest) counts as much as if it had come in time."""
        since, newest = self.since[item], max(self.since[item], at)
        self.sums[:, item] *= np.exp2((since - newest) / HALF_LIVES)
        self.sums[:, item] += np.exp2((at - newest) / HALF_LIVES)
        self.since[item] = newest

    def columns(self, now: float) -> np.ndarray:
        """float32 (7, n), as in `NAMES`: log(c_h + 0.02) at `now` (seconds), and the age."""
        passed = np.maximum(now - self.since, 0.0).astype(np.float32)
        counts: np.ndarray = np.exp(passed * RATES)  # numpy's exp2 takes ten times as long for what has long faded
        counts *= self.sums
        counts += np.float32(FLOOR)
        np.log(counts, out=counts)
        return np.concatenate([counts, age(self.begun, now)[None]])


def age(created: np.ndarray, now: float) -> np.ndarray:
    """float32 (n,): log(1 + age in hours) of items created at `created` (seconds since 1970); 0 where that is unknown."""
    known = np.isfinite(created)
    hours = np.where(known, np.maximum(now - np.where(known, created, now), 0.0), 0.0) / HOUR
    ages: np.ndarray = np.log1p(hours, dtype=np.float32)
    return ages
