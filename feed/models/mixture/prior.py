"""How popular each item is just now, at several speeds, how much goes on around it, and how old it is.

    c_h(i, t) = sum over positives of i at times s <= t of 2^(-(t - s) / h),   column_h(i) = log(c_h(i, t) + 0.02)

for half-lives h from a quarter of an hour to a month, and the same over all events of i, impressions too: what is being shown
is there, in a log that does not say when its items come and go. Which of them matters differs between news and films; the
mixture's weights find out.
"""

import numpy as np

DAYS = np.array([0.01, 0.05, 0.25, 1.0, 7.0, 30.0])
HALF_LIVES = 86400.0 * DAYS  # seconds
NAMES = (*(f"{what}_{days:g}d" for what in ("count", "events") for days in DAYS), "age")
FLOOR = 0.02  # a count of nothing: log 0.02 = -3.9
HOUR = 3600.0


class Decayed:
    """Decayed counts of n items, float32 (6, n), as of each item's newest addition (float64 (n,), seconds since 1970)."""

    def __init__(self, n: int) -> None:
        self.sums = np.zeros((len(HALF_LIVES), n), np.float32)
        self.since = np.zeros(n)

    def add(self, item: int, at: float) -> None:
        """One more. One that comes late (before the item's newest) counts as much as if it had come in time."""
        since, newest = self.since[item], max(self.since[item], at)
        self.sums[:, item] *= np.exp2((since - newest) / HALF_LIVES)
        self.sums[:, item] += np.exp2((at - newest) / HALF_LIVES)
        self.since[item] = newest

    def columns(self, now: float) -> np.ndarray:
        """float32 (6, n): log(c_h + 0.02) at `now` (seconds)."""
        age = np.maximum(now - self.since, 0.0).astype(np.float32)
        counts: np.ndarray = np.exp2(age * (-1.0 / HALF_LIVES[:, None]).astype(np.float32))
        counts *= self.sums
        counts += np.float32(FLOOR)
        np.log(counts, out=counts)
        return counts


class Prior:
    """What is known of items created at `created` (n,), seconds since 1970, whoever asks; -inf: since their first event."""

    def __init__(self, created: np.ndarray) -> None:
        self.positives, self.events = Decayed(len(created)), Decayed(len(created))
        self.since = created.copy()

    def see(self, item: int, at: float) -> None:
        """An event of any kind."""
        self.events.add(item, at)
        if self.since[item] == -np.inf:
            self.since[item] = at

    def like(self, item: int, at: float) -> None:
        """A positive."""
        self.positives.add(item, at)

    def columns(self, now: float) -> np.ndarray:
        """float32 (13, n): see `NAMES`."""
        return np.concatenate([self.positives.columns(now), self.events.columns(now), age(self.since, now)[None]])


def age(created: np.ndarray, now: float) -> np.ndarray:
    """float32 (n,): log(1 + age in hours) of items created at `created` (seconds since 1970); 0 where that is unknown."""
    known = np.isfinite(created)
    hours = np.where(known, np.maximum(now - np.where(known, created, now), 0.0), 0.0) / HOUR
    ages: np.ndarray = np.log1p(hours, dtype=np.float32)
    return ages
