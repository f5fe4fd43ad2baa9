"""Item-item matrices learned from who liked what together: neighbours by cosine, and EASE."""

from abc import ABC, abstractmethod

import numpy as np

from feed.evaluation.baselines.liked import liked_of, most_liked, together
from feed.evaluation.baselines.popular import Popular
from feed.evaluation.rows import Catalogue, Rows

FLOOR = 0.02  # of the decayed count


class _ItemItem(ABC):
    """score(i) = sum over the user's likes j, k steps back, of decay^k B[j, i]; B is frozen, the likes are fresh."""

    def __init__(self, decay: float) -> None:
        self._decay = decay

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Weights and history from the rows."""
        self._m = catalogue.n_items
        self._liked = liked_of(rows)
        self._kept = most_liked(rows, self._m)
        self._place = np.full(self._m, -1)
        self._place[self._kept] = np.arange(len(self._kept))
        self._weights = self._solve(together(self._liked, self._kept, self._m))

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (m,); 0 for items beyond those that had a positive in training."""
        items, weights = self._liked.recent(user, self._decay)
        places = self._place[items]
        scores = np.zeros(self._m, np.float32)
        if (places >= 0).any():
            known = places >= 0
            scores[self._kept] = weights[known].astype(np.float32) @ self._weights[places[known]]
        return scores

    def observe(self, k: int, rows: Rows) -> None:
        """A positive joins its user's history."""
        self._liked.observe(k, rows)

    def learn(self, k: int, rows: Rows) -> None:  # noqa: B027
        """The matrix stays as it was fitted."""

    @abstractmethod
    def _solve(self, together: np.ndarray) -> np.ndarray:
        """float32 (k, k): B from how many users liked both of two items."""


class ItemKnn(_ItemItem):
    """B[j, i] = n_ij / (n_j^(1 - balance) n_i^balance + shrink) for the `neighbours` most similar i of each j.

    With `balance` 1/2 it is the cosine; below, popular items gain. References: Sarwar et al. 2001, "Item-Based Collaborative
    Filtering Recommendation Algorithms", WWW; Aiolli 2013, "Efficient Top-N Recommendation for Very Large Scale Binary Rated
    Datasets", RecSys.
    """

    def __init__(self, neighbours: int = 200, shrink: float = 10.0, balance: float = 0.5, decay: float = 0.95) -> None:
        super().__init__(decay)
        self._neighbours, self._shrink, self._balance = neighbours, shrink, balance

    def _solve(self, together: np.ndarray) -> np.ndarray:
        n = np.diag(together)
        similar = together / (np.outer(n ** (1 - self._balance), n**self._balance) + self._shrink)
        np.fill_diagonal(similar, 0.0)
        if self._neighbours < len(similar):
            least = np.partition(similar, -self._neighbours, axis=1)[:, -self._neighbours, None]
            similar[similar < least] = 0.0
        return np.asarray(similar, np.float32)


class Ease(_ItemItem):
    """B = I - P diag(1 / diag P), P = (X'X + ridge I)^-1, X the users' likes.

    With `prior` > 0, + prior * log(c + 0.02), c the item's positives decayed with `half_life_days`, always fresh.
    Reference: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW.
    """

    def __init__(self, ridge: float = 100.0, decay: float = 0.95, prior: float = 0.0, half_life_days: float = 7.0) -> None:
        super().__init__(decay)
        self._ridge, self._prior, self._popular = ridge, prior, Popular(half_life_days)

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Weights, history and counts from the rows."""
        super().fit(rows, catalogue)
        self._popular.fit(rows, catalogue)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (m,)."""
        scores = super().scores(user, at)
        if self._prior:
            scores += self._prior * np.log(self._popular.scores(user, at) + FLOOR).astype(np.float32)
        return scores

    def observe(self, k: int, rows: Rows) -> None:
        """A positive joins its user's history and is counted."""
        super().observe(k, rows)
        self._popular.observe(k, rows)

    def _solve(self, together: np.ndarray) -> np.ndarray:
        gram: np.ndarray = together.astype(np.float64)
        np.fill_diagonal(gram, np.diag(gram) + self._ridge)
        inverse: np.ndarray = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0.0)
        return np.asarray(weights, np.float32)
