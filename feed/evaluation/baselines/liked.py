"""What each user liked, in order, and the training log as a matrix of users and items."""

from collections.abc import Iterator

import numpy as np

from feed.evaluation.rows import Rows

LARGEST = 8000  # items of a dense item-item matrix: 256 MB
BLOCK = 512  # users


class Liked:
    """The items of each user's positives, each once, the latest last."""

    def __init__(self) -> None:
        self._items: dict[int, dict[int, None]] = {}

    def add(self, user: int, item: int) -> None:
        """A positive."""
        mine = self._items.setdefault(user, {})
        mine.pop(item, None)
        mine[item] = None

    def observe(self, k: int, rows: Rows) -> None:
        """Row k, if it is a positive, joins its user's items."""
        if rows.positive[k]:
            self.add(int(rows.user[k]), int(rows.item[k]))

    def of(self, user: int) -> np.ndarray:
        """int64, the latest last."""
        return np.fromiter(self._items.get(user, ()), np.int64)

    def recent(self, user: int, decay: float) -> tuple[np.ndarray, np.ndarray]:
        """(items, weights decay^k for the k-th last)."""
        items = self.of(user)
        return items, decay ** np.arange(len(items) - 1, -1, -1)

    def users(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every user's items."""
        for user in self._items:
            yield user, self.of(user)


def liked_of(rows: Rows) -> Liked:
    """Of all positives among the rows."""
    liked = Liked()
    for k in np.flatnonzero(rows.positive).tolist():
        liked.observe(k, rows)
    return liked


def most_liked(rows: Rows, m: int, bound: int = LARGEST) -> np.ndarray:
    """int64: the codes of the (at most `bound`) items with most positives, and at least one."""
    n = np.bincount(rows.item[rows.positive], minlength=m)
    best = np.argsort(-n, kind="stable")[:bound]
    return np.asarray(best[n[best] > 0])


def together(liked: Liked, kept: np.ndarray, m: int) -> np.ndarray:
    """float32 (k, k): how many users liked both of two of the `kept` items, int (k,) codes of m."""
    place = np.full(m, -1)
    place[kept] = np.arange(len(kept))
    counts = np.zeros((len(kept), len(kept)), np.float32)
    block: list[np.ndarray] = []
    for _, items in liked.users():
        block.append(place[items][place[items] >= 0])
        if len(block) == BLOCK:
            counts += _gram(block, len(kept))
            block = []
    counts += _gram(block, len(kept))
    return counts


def _gram(block: list[np.ndarray], k: int) -> np.ndarray:
    x = np.zeros((len(block), k), np.float32)
    for row, items in enumerate(block):
        x[row, items] = 1.0
    return np.asarray(x.T @ x)
