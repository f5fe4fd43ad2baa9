"""What is watched of one request: figures of its outcome, how the popular arm fares meanwhile, what the scores promise.

A figure is one number a request; for a category, over that category's rows only. Outcomes are of the rows that the model put
there (source `model`): what was drawn by chance says nothing about the model's choice.
"""

import math
from collections.abc import Sequence

import numpy as np

from feed.examples import Example, Row
from feed.features.items import NUMERIC as ITEM_NUMERIC
from feed.features.user import NUMERIC as USER_NUMERIC
from feed.ranking.types import MODEL

TALK = ("like", "share", "comment")
MOOD = 0.1  # prior standard deviation of the audience's mood, relative: how much all click-through moves for reasons of its own
HALF_LIFE = 86_400.0  # of the popular arm's recent past, seconds of event time
LONG = 14 * HALF_LIFE
CALIBRATION = 500  # requests of a new version from which its scores are calibrated
CLUSTER = 2.0  # a few users leave most of the popular arm's requests: its variance is larger than that of independent ones


def outcomes(rows: Sequence[Row]) -> dict[str, float]:
    """`clicks`: share of the rows clicked; `engagement`: likes, shares and comments a row; `dwell`: seconds a row."""
    return {
        "clicks": sum(row.clicked for row in rows) / len(rows),
        "engagement": sum(row.labels.get(name, 0) for row in rows for name in TALK) / len(rows),
        "dwell": sum(row.dwell_ms for row in rows) / 1000 / len(rows),
    }


def features(example: Example) -> dict[str, float]:
    """Some of the example's inputs: rates of its user, and means over its rows.

    No amounts and no ages: they follow how much is going on, which is no change of the world.
    """
    user, rows = example.user.numeric, example.rows
    found = {f"user {name}": user[place] for name, place in _USER.items()}
    for name, place in _ITEM.items():
        found[f"item {name}"] = sum(row.item.numeric[place] for row in rows) / len(rows)
    return found


_USER = {name: USER_NUMERIC.index(name) for name in ("click_rate", "like_rate", "average_dwell_seconds")}
_ITEM = {"click_rate": ITEM_NUMERIC.index("click_rate")}
FEATURES = (*(f"user {name}" for name in _USER), *(f"item {name}" for name in _ITEM))


def looked_at(row: Row) -> bool:
    """Whether its user is known to have looked at it."""
    return bool(row.labels)


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Those that the model put there."""
    return [row for row in rows if row.source == MODEL]


class Mood:
    """How one figure of the popular arm stands now, relative to its own long run: 1 = as ever.

    With r the mean over the recent past of n requests (weights halve in a day), m and v the long-run mean and variance:

        level = 1 + w (r / m - 1),    w = MOOD^2 / (MOOD^2 + CLUSTER v / (n m^2))

    the posterior mean of a normal prior around 1: a small popular arm, whose rate is mostly noise, moves the level little.
    """

    def __init__(self) -> None:
        self._at = 0.0
        self._recent = np.zeros(2)  # sums of 1, x
        self._long = np.zeros(3)  # sums of 1, x, x^2

    def add(self, value: float, at: float) -> None:
        """One request of the popular arm at `at` (seconds since 1970)."""
        passed, self._at = max(at - self._at, 0.0), max(at, self._at)
        self._recent = self._recent * 2.0 ** (-passed / HALF_LIFE) + (1.0, value)
        self._long = self._long * 2.0 ** (-passed / LONG) + (1.0, value, value * value)

    @property
    def level(self) -> float:
        """See above; 1 as long as nothing is known."""
        n, total, squares = self._long.tolist()
        mean = total / n if n else 0.0
        if mean <= 0.0:
            return 1.0
        noise = CLUSTER * max(squares / n - mean * mean, 0.0) / (self._recent[0] * mean * mean)
        weight = MOOD**2 / (MOOD**2 + noise)
        return float(1.0 + weight * (self._recent[1] / self._recent[0] / mean - 1.0))


class Calibration:
    """What a version's scores promise: P(click | look) = sigmoid(a logit(score) + b), fitted once, on its first requests.

    Fitted by Newton's method with Platt's smoothed targets: Platt 1999, "Probabilistic outputs for support vector machines".
    Frozen afterwards: a calibration that followed would hide what it is to show.
    """

    def __init__(self) -> None:
        self._logits: list[float] = []
        self._clicked: list[bool] = []
        self._requests = 0
        self._fitted: tuple[float, float] | None = None

    def residual(self, rows: Sequence[Row], level: float) -> float | None:
        """Mean over `rows` (looked at, scored) of promised - clicked, the promise times `level`; None until it is fitted."""
        if self._fitted is None:
            return None
        a, b = self._fitted
        promised = sum(1 / (1 + math.exp(-(a * _logit(row) + b))) for row in rows) * level
        return (promised - sum(row.clicked for row in rows)) / len(rows)

    def learn(self, rows: Sequence[Row]) -> None:
        """One more request of this version, until it is fitted."""
        if self._fitted is None:
            self._logits += [_logit(row) for row in rows]
            self._clicked += [row.clicked for row in rows]
            self._requests += 1
            if self._requests >= CALIBRATION:
                self._fitted = _platt(np.array(self._logits), np.array(self._clicked))
                self._logits, self._clicked = [], []


def _logit(row: Row) -> float:
    score = min(max(row.score or 0.0, 1e-6), 1 - 1e-6)
    return math.log(score / (1 - score))


def _platt(x: np.ndarray, clicked: np.ndarray) -> tuple[float, float]:
    positive = clicked.sum()
    target = np.where(clicked, (positive + 1) / (positive + 2), 1 / (len(x) - positive + 2))
    design = np.stack([x - x.mean(), np.ones(len(x))], axis=1)
    w = np.array([0.0, np.log((positive + 1) / (len(x) - positive + 1))])
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ w))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-3 * np.eye(2)
        w = w - np.linalg.solve(hessian, design.T @ (p - target))
    return float(w[0]), float(w[1] - w[0] * x.mean())
