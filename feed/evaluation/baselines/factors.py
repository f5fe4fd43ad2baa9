"""Matrix factors of users and items, trained by the package implicit; users are folded in as they like more.

The package is only needed for these two: the extra `baselines` brings it.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np

from feed.errors import BadModel, BadSetting
from feed.evaluation.baselines.liked import Liked, liked_of
from feed.evaluation.rows import Catalogue, Rows

NEWEST = 200  # likes of a user that are folded in


class Als:
    """Least squares on confidence c for what was liked, 1 for the rest; a user's vector is solved anew from the fresh likes.

    x_u = (Y'Y + Y'(C - I)Y + ridge I)^-1 Y'C p,   score(i) = x_u . y_i;   C: c * decay^k for the k-th last like.
    Reference: Hu, Koren and Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets", ICDM.
    """

    def __init__(
        self,
        factors: int = 64,
        ridge: float = 1.0,
        confidence: float = 5.0,
        decay: float = 0.98,
        epochs: int = 15,
        seed: int = 0,
    ) -> None:
        self._factors, self._ridge, self._confidence = factors, ridge, confidence
        self._decay, self._epochs, self._seed = decay, epochs, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Item factors and histories from the rows."""
        model = _package("implicit.cpu.als").AlternatingLeastSquares(
            factors=self._factors, regularization=self._ridge, alpha=self._confidence, iterations=self._epochs, num_threads=1,
            random_state=self._seed,
        )  # fmt: skip
        self._liked = liked_of(rows)
        _train(model, _matrix(self._liked, catalogue))
        self._items = np.asarray(model.item_factors, np.float64)
        self._gram = self._items.T @ self._items + self._ridge * np.eye(self._factors)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float64 (m,)."""
        return np.asarray(self._items @ self.user(user))

    def user(self, user: int) -> np.ndarray:
        """float64 (factors,): folded in from the user's likes."""
        liked, weights = self._liked.recent(user, self._decay)
        y, c = self._items[liked[-NEWEST:]], self._confidence * weights[-NEWEST:]
        return np.asarray(np.linalg.solve(self._gram + (y.T * (c - 1.0)) @ y, c @ y))

    def observe(self, k: int, rows: Rows) -> None:
        """A positive joins its user's history."""
        self._liked.observe(k, rows)

    def learn(self, k: int, rows: Rows) -> None:
        """The item factors stay as they were fitted."""


class Bpr:
    """Factors that rank what was liked above what was not: maximises log sigmoid(x_u . (y_i - y_j)) - |x|² ridge / 2.

    A user's fresh likes are folded in by steps of gradient on the user's vector alone, against items drawn at random.
    Reference: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI.
    """

    STEPS, DRAWN, WINDOW = 5, 10, 50

    def __init__(
        self,
        factors: int = 64,
        ridge: float = 0.01,
        rate: float = 0.05,
        epochs: int = 100,
        fold_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        self._factors, self._ridge, self._rate = factors, ridge, rate
        self._epochs, self._fold_rate, self._seed = epochs, fold_rate, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Factors and histories from the rows."""
        model = _package("implicit.cpu.bpr").BayesianPersonalizedRanking(
            factors=self._factors, regularization=self._ridge, learning_rate=self._rate, iterations=self._epochs, num_threads=1,
            random_state=self._seed,
        )  # fmt: skip
        self._liked = liked_of(rows)
        _train(model, _matrix(self._liked, catalogue))
        # the last column is the items' bias, 1 in every user's vector
        self._items = np.asarray(model.item_factors, np.float64)
        self._users = np.zeros((catalogue.n_users, self._items.shape[1]))
        self._users[:, -1] = 1.0
        known = [user for user, _ in self._liked.users()]
        self._users[known] = np.asarray(model.user_factors)[known]
        self._rng = np.random.default_rng(self._seed)

    def scores(self, user: int, at: float) -> np.ndarray:
        """float64 (m,)."""
        return np.asarray(self._items @ self._users[user])

    def observe(self, k: int, rows: Rows) -> None:
        """A positive is folded into its user's vector."""
        if not rows.positive[k]:
            return
        user = int(rows.user[k])
        self._liked.add(user, int(rows.item[k]))
        liked = self._liked.of(user)[-self.WINDOW :]
        for _ in range(self.STEPS):
            drawn = self._rng.integers(len(self._items), size=(len(liked), self.DRAWN))
            differences = (self._items[liked][:, None] - self._items[drawn]).reshape(-1, self._items.shape[1])
            wrong = 1.0 / (1.0 + np.exp(differences @ self._users[user]))
            gradient = wrong @ differences / len(wrong) - self._ridge * self._users[user]
            self._users[user, :-1] += self._fold_rate * gradient[:-1]

    def learn(self, k: int, rows: Rows) -> None:
        """The item factors stay as they were fitted."""


def _package(name: str) -> Any:
    if importlib.util.find_spec("implicit") is None:
        raise BadSetting(
            "als and bpr need the package implicit, which is not installed here: pip install 'feedloop[baselines]'"
        )
    return importlib.import_module(name)


def _train(model: Any, likes: Any) -> None:
    with importlib.import_module("threadpoolctl").threadpool_limits(1, "blas"):  # else its threads and those of BLAS wait
        try:
            model.fit(likes, show_progress=False)
        except _package("implicit.recommender_base").ModelFitError as error:
            raise BadModel(f"{error}: the model diverged; give it other parameters with --set (--grid shows some)") from error


def _matrix(liked: Liked, catalogue: Catalogue) -> Any:
    """scipy csr (u, m) of ones."""
    pairs = [(user, item) for user, items in liked.users() for item in items.tolist()]
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    sparse = importlib.import_module("scipy.sparse")
    shape = (catalogue.n_users, catalogue.n_items)
    return sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=shape)
