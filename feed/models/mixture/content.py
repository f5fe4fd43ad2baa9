"""What an item has in common with what the user liked: a column for each attribute, which an item has from its first moment.

    x_i = sum_k 0.9^k [a(j_k) = a(i)] / sum_k 0.9^k

for the category, the creator and each further code a, 0 = none, over the user's latest positives j_0, j_1, ...; for tags, the
share of i's tags in place of the bracket, weighted by theirs in j_k.
"""

from collections.abc import Sequence

import numpy as np

from feed.models.mixture.tower import Attributes

DECAY = 0.9


class Content:
    """The columns of the n items that `attributes` tells of: g codes and the tags."""

    def __init__(self, attributes: Attributes) -> None:
        self._codes, self._tags = attributes.content, attributes.tags
        self.names = (*(f"attribute_{i}" for i in range(self._codes.shape[1])), "tags")

    def columns(self, liked: Sequence[int]) -> np.ndarray:
        """float32 (g + 1, n), from 0 to 1, for positives with the latest first."""
        columns = np.zeros((len(self.names), len(self._tags)), np.float32)
        if not len(liked):
            return columns
        items = np.array(liked, np.int64)
        strengths = (DECAY ** np.arange(len(items))).astype(np.float32)
        strengths /= strengths.sum()
        for i, codes in enumerate(self._codes.T):
            shares = np.bincount(codes[items], strengths, minlength=int(codes.max()) + 1)
            shares[0] = 0.0
            columns[i] = shares[codes]
        columns[-1] = self._tags @ (strengths @ self._tags[items])
        return columns
