"""Which items go with which, by users' histories.

When a user who came by j_0, j_1, ... (the latest first) takes the item i,

    C[j_k, i] += round(1000 decay^k)   for k < window,   and C[i, j_k] too where both directions count.

What a user's history then says of an item is the cosine-normalised sum

    x_i = sum_k decay^k C[j_k, i] / 1000 / sqrt(n_{j_k} + 1) / sqrt(n_i + 5)

with n the items' numbers of events. Whole numbers, because any number of writers may add to them in any order and agree.
References: Linden, Smith and York 2003, "Amazon.com Recommendations: Item-to-Item Collaborative Filtering"; Deshpande and
Karypis 2004, "Item-Based Top-N Recommendation Algorithms" (the normalisation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from feed.features.pair_counts import Pairs

UNIT = 1000  # one pair, side by side


@dataclass(frozen=True)
class Relation:
    """Pairs within `window` steps, those k steps further apart worth decay^k; in `both` directions, or only what came next."""

    decay: float
    window: int
    both: bool = False

    @cached_property
    def amounts(self) -> np.ndarray:
        """int32 (window,): what a pair k steps apart adds."""
        return np.round(UNIT * self.decay ** np.arange(self.window)).astype(np.int32)

    @cached_property
    def strengths(self) -> np.ndarray:
        """float64 (window,): what an item k steps back says."""
        return self.decay ** np.arange(self.window)


class CoVisitation:
    """The pairs of n items in one relation."""

    def __init__(self, relation: Relation, pairs: Pairs) -> None:
        self.relation = relation
        self.pairs = pairs

    def add(self, history: Sequence[int], item: int) -> None:
        """A user with that history, the latest first and without repetition, takes the item."""
        before = np.array(history[: self.relation.window], np.int64)
        amounts = self.relation.amounts[: len(before)]
        if len(before):
            self.pairs.raise_column(before, item, amounts)
            if self.relation.both:
                self.pairs.raise_row(item, before, amounts)

    def column(self, history: Sequence[int], totals: np.ndarray) -> np.ndarray:
        """float32 (n,): x of every item for that history, the latest first; `totals` (n,) are the items' numbers of events."""
        before = np.array(history[: self.relation.window], np.int64)
        says = self.relation.strengths[: len(before)] / np.sqrt(totals[before] + 1.0) / UNIT
        x: np.ndarray = self.pairs.weighted(before, says).astype(np.float32) / np.sqrt(totals + 5, dtype=np.float32)
        return x
