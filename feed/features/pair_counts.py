"""Counts of pairs of items, whole numbers: a square while the catalogue is small, rows of bounded length when it is not."""

from typing import Protocol

import numpy as np

SQUARE = 2048  # items up to which a table is a square: 16 MB
WIDEST = 512  # entries of a row
ENTRIES = 2**24  # of all rows together: 134 MB


class Pairs(Protocol):
    """Counts [j, i] of n items."""

    def raise_column(self, rows: np.ndarray, item: int, amounts: np.ndarray) -> None:
        """Add the amounts (m,) to the counts of the rows (m,), all different, with the item."""

    def raise_row(self, row: int, items: np.ndarray, amounts: np.ndarray) -> None:
        """Add the amounts (m,) to the counts of the row with the items (m,), all different."""

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """float (n,): the sum of the rows (m,), each times its weight (m,)."""


class Square:
    """`counts`, int32 (n, n)."""

    def __init__(self, n: int) -> None:
        self.counts = np.zeros((n, n), np.int32)

    def raise_column(self, rows: np.ndarray, item: int, amounts: np.ndarray) -> None:
        """See `Pairs`."""
        self.counts[rows, item] += amounts

    def raise_row(self, row: int, items: np.ndarray, amounts: np.ndarray) -> None:
        """See `Pairs`."""
        self.counts[row, items] += amounts

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        sums: np.ndarray = weights.astype(np.float32) @ self.counts[rows].astype(np.float32)  # a product of integers is slow
        return sums


class BoundedRows:
    """Row j holds the items `ids[j]`, int32 (n, width), and their `counts[j]`, int32 (n, width), 0 = free.

    A full row gives up its smallest counts for newcomers, but none that was raised with them: the last newcomers that find no
    place are dropped. Rows get wider as they need, up to `WIDEST` and `ENTRIES / n`, but at least 8 entries.
    """

    def __init__(self, n: int) -> None:
        self.ids = np.zeros((n, 8), np.int32)
        self.counts = np.zeros((n, 8), np.int32)

    def raise_column(self, rows: np.ndarray, item: int, amounts: np.ndarray) -> None:
        """See `Pairs`."""
        slots = (self.ids[rows] == item).argmax(axis=1)
        known = (self.ids[rows, slots] == item) & (self.counts[rows, slots] > 0)
        if not known.all():
            while self.counts[rows[~known], -1].any() and self._widen():
                pass
            slots[~known] = self.counts[rows[~known]].argmin(axis=1)
            self.ids[rows, slots] = item
        self.counts[rows, slots] = np.where(known, self.counts[rows, slots], 0) + amounts

    def raise_row(self, row: int, items: np.ndarray, amounts: np.ndarray) -> None:
        """See `Pairs`."""
        slots = (self.ids[row] == items[:, None]).argmax(axis=1)
        known = (self.ids[row, slots] == items) & (self.counts[row, slots] > 0)
        self.counts[row, slots[known]] += amounts[known]
        new, of_new = items[~known], amounts[~known]
        while len(new) > (self.counts[row] == 0).sum() and self._widen():
            pass
        others = self.counts[row].copy()
        others[slots[known]] = np.iinfo(np.int32).max
        slots = np.argsort(others, kind="stable")[: min(len(new), len(others) - int(known.sum()))]
        self.ids[row, slots], self.counts[row, slots] = new[: len(slots)], of_new[: len(slots)]

    def weighted(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See `Pairs`."""
        amounts = self.counts[rows] * weights[:, None]
        sums: np.ndarray = np.bincount(self.ids[rows].ravel(), weights=amounts.ravel(), minlength=len(self.ids))
        return sums

    def halve(self, row: int, most: int) -> np.ndarray:
        """int32: the items that the row gives up; those beyond its `most` / 2 largest counts, if it has more than `most`."""
        held = int(np.count_nonzero(self.counts[row]))
        if held <= most:
            return np.zeros(0, np.int32)
        slots = np.argsort(-self.counts[row], kind="stable")[most // 2 : held]
        self.counts[row, slots] = 0
        return np.asarray(self.ids[row, slots])

    def of_column(self, rows: np.ndarray, item: int) -> np.ndarray:
        """int32 (m,): the counts of the rows (m,) with the item."""
        counts: np.ndarray = np.where(self.ids[rows] == item, self.counts[rows], 0).sum(axis=1, dtype=np.int32)
        return counts

    def grow(self, n: int) -> None:
        """Room for `n` items. Rows that are too wide for so many give up their smallest counts."""
        width = max(8, min(self.ids.shape[1], ENTRIES // max(n, 1)))
        if width < self.ids.shape[1]:  # sorting takes seconds, during which nobody ranks
            kept = np.argsort(-self.counts, axis=1, kind="stable")[:, :width]
            self.ids, self.counts = (np.take_along_axis(of, kept, axis=1) for of in (self.ids, self.counts))
        more = ((0, n - len(self.ids)), (0, 0))
        self.ids, self.counts = np.pad(self.ids, more), np.pad(self.counts, more)

    def _widen(self) -> bool:
        """Twice as many slots a row, or False where the bound is reached."""
        n, width = self.ids.shape
        if width >= min(WIDEST, ENTRIES // max(n, 1)):
            return False
        more = ((0, 0), (0, width))
        self.ids, self.counts = np.pad(self.ids, more), np.pad(self.counts, more)
        return True


def empty(n: int) -> Pairs:
    """No pairs of n items yet."""
    return Square(n) if n <= SQUARE else BoundedRows(n)
