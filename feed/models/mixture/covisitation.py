"""Which items go with which: counts of pairs in users' histories, kept as whole numbers in rows of bounded length.

When a user who came by j_0, j_1, ... (the latest first) takes the item i,

    C[j_k, i] += round(1000 decay^k)   for k < window,   and C[i, j_k] too where both directions count.

What a user's history then says of an item is the cosine-normalised sum

    x_i = sum_k decay^k C[j_k, i] / 1000 / sqrt(n_{j_k} + 1) / sqrt(n_i + 5)

with n the items' numbers of events. Whole numbers, because any number of writers may add to them in any order and agree.
References: Linden, Smith and York 2003, "Amazon.com Recommendations: Item-to-Item Collaborative Filtering"; Deshpande and
Karypis 2004, "Item-Based Top-N Recommendation Algorithms" (the normalisation).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

UNIT = 1000  # one pair, side by side
WIDEST = 512  # entries of a row
ENTRIES = 2**24  # of a table: 200 MB


@dataclass(frozen=True)
class Relation:
    """Pairs within `window` steps, those k steps further apart worth decay^k; in `both` directions, or only what came next."""

    decay: float
    window: int
    both: bool = False

    @cached_property
    def amounts(self) -> np.ndarray:
        """int64 (window,): what a pair k steps apart adds."""
        return np.round(UNIT * self.decay ** np.arange(self.window)).astype(np.int64)

    @cached_property
    def strengths(self) -> np.ndarray:
        """float64 (window,): what an item k steps back says."""
        return self.decay ** np.arange(self.window)


class CoVisitation:
    """The pairs of n items: row j holds the items `ids[j]`, int32 (n, width), and `counts[j]`, int64 (n, width), 0 = free.

    A full row gives up its smallest count for a newcomer. Rows get wider as they need, up to `WIDEST` and `ENTRIES / n`.
    """

    def __init__(self, relation: Relation, n: int) -> None:
        self.relation = relation
        self.ids = np.zeros((n, 8), np.int32)
        self.counts = np.zeros((n, 8), np.int64)

    def add(self, history: Sequence[int], item: int) -> None:
        """A user with that history, the latest first and without repetition, takes the item."""
        before = np.asarray(history[: self.relation.window], np.int64)
        amounts = self.relation.amounts[: len(before)]
        if not len(before):
            return
        self._raise(before, item, amounts)
        if self.relation.both:
            self._raise_row(item, before, amounts)

    def column(self, history: Sequence[int], totals: np.ndarray) -> np.ndarray:
        """float32 (n,): x of every item for that history, the latest first; `totals` (n,) are the items' numbers of events."""
        before = np.asarray(history[: self.relation.window], np.int64)
        says = self.relation.strengths[: len(before)] / np.sqrt(totals[before] + 1.0) / UNIT
        sums = np.bincount(
            self.ids[before].ravel(), weights=(self.counts[before] * says[:, None]).ravel(), minlength=len(self.ids)
        )
        x: np.ndarray = (sums / np.sqrt(totals + 5.0)).astype(np.float32)
        return x

    def grow(self, n: int) -> None:
        """Room for items up to `n`, the new ones with empty rows."""
        more = ((0, n - len(self.ids)), (0, 0))
        self.ids, self.counts = np.pad(self.ids, more), np.pad(self.counts, more)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The counts, for a snapshot."""
        return {"ids": self.ids, "counts": self.counts}

    @classmethod
    def from_arrays(cls, relation: Relation, arrays: Mapping[str, np.ndarray]) -> "CoVisitation":
        """What `to_arrays` gave."""
        table = cls(relation, 0)
        table.ids, table.counts = arrays["ids"].copy(), arrays["counts"].copy()
        return table

    def _raise(self, rows: np.ndarray, item: int, amounts: np.ndarray) -> None:
        """Add the amounts to the pairs of the rows, all different, with the item."""
        slots = (self.ids[rows] == item).argmax(axis=1)
        known = (self.ids[rows, slots] == item) & (self.counts[rows, slots] > 0)
        if not known.all():
            while self.counts[rows[~known], -1].any() and self._widen():
                pass
            slots[~known] = self.counts[rows[~known]].argmin(axis=1)
            self.ids[rows, slots] = item
        self.counts[rows, slots] = np.where(known, self.counts[rows, slots], 0) + amounts

    def _raise_row(self, row: int, items: np.ndarray, amounts: np.ndarray) -> None:
        """Add the amounts to the pairs of the row with the items, all different."""
        there = self.ids[row] == items[:, None]
        slots = there.argmax(axis=1)
        known = (self.ids[row, slots] == items) & (self.counts[row, slots] > 0)
        self.counts[row, slots[known]] += amounts[known]
        new, of_new = items[~known], amounts[~known]
        while len(new) > (self.counts[row] == 0).sum() and self._widen():
            pass
        slots = np.argsort(self.counts[row], kind="stable")[: len(new)]
        self.ids[row, slots], self.counts[row, slots] = new[: len(slots)], of_new[: len(slots)]

    def _widen(self) -> bool:
        """Twice as many slots a row, or False where the bound is reached."""
        n, width = self.ids.shape
        if width >= min(WIDEST, ENTRIES // max(n, 1)):
            return False
        more = ((0, 0), (0, width))
        self.ids, self.counts = np.pad(self.ids, more), np.pad(self.counts, more)
        return True
