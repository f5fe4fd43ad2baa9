"""What is watched of one request: figures of its outcome, what the scores promise, how the popular arm fares meanwhile.

A figure is one number a request; for a category, over that category's rows only. Outcomes are of the rows that the model put
there (source `model`): what was drawn by chance says nothing about the model's choice.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feed.examples import Example, Row
from feed.features.items import NUMERIC as ITEM_NUMERIC
from feed.features.user import NUMERIC as USER_NUMERIC
from feed.ranking.types import MODEL

TALK = ("like", "share", "comment")
OUTCOMES, LOOKS = ("clicks", "engagement", "dwell"), "looks"
MOOD = 0.15  # how much all click-through moves for reasons of its own (hour, holiday): relative standard deviation, a prior
KEPT, FEWEST = 4000, 10  # requests of the popular arm
CALIBRATION = 500  # requests of a new version from which its scores are calibrated
CLUSTER = 2.0  # a few users make up the popular arm: the variance of a mean is larger than of independent requests


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


class Popular:
    """The popular arm's own values of each figure, newest `KEPT` requests: what moves all of them shows there."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=KEPT)
        self._values: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in (*OUTCOMES, LOOKS)}

    def add(self, example: Example) -> None:
        """One request of the popular arm."""
        looked = [row for row in example.rows if looked_at(row)]
        self._times.append(example.at)
        self._values[LOOKS].append(sum(row.clicked for row in looked) / max(len(looked), 1))
        for name, value in outcomes(example.rows).items():
            self._values[name].append(value)

    def meanwhile(self, figure: str, began: float, since: float) -> "Meanwhile | None":
        """Its means from `began` to `since` and after; None if either is not known."""
        times, values = np.array(self._times), np.array(self._values[figure])
        before, after = values[(times >= began) & (times < since)], values[times >= since]
        if len(before) < FEWEST or len(after) < FEWEST or before.mean() <= 0.0:
            return None
        noise = CLUSTER * values.var() / before.mean() ** 2 * (1 / len(before) + 1 / len(after))
        return Meanwhile(float(before.mean()), float(after.mean()), MOOD**2 / (MOOD**2 + float(noise)))


@dataclass(frozen=True)
class Meanwhile:
    """The popular arm's means before and after a change elsewhere, and how much weight its own change has.

    With r = after / before, of relative variance s^2, and a normal prior of deviation MOOD around "no change":

        level = 1 + w (r - 1),    w = MOOD^2 / (MOOD^2 + s^2)

    A small popular arm, whose change is mostly noise, excuses little.
    """

    before: float
    after: float
    weight: float

    @property
    def level(self) -> float:
        """What the change of everybody's mood is, as a factor."""
        return 1.0 + self.weight * (self.after / self.before - 1.0)


class Calibration:
    """What a version's scores promise: P(click | look) = sigmoid(a logit(score) + b), fitted once, on its first requests.

    Fitted by Newton's method with Platt's smoothed targets: Platt 1999, "Probabilistic outputs for support vector machines".
    Frozen afterwards: a calibration that followed would hide what it is to show.
    """

    def __init__(self) -> None:
        self._logits: list[float] = []
        self._clicked: list[bool] = []
        self._requests = 0
        self.mean = 0.0  # clicks a look, of the requests it was fitted on
        self._fitted: tuple[float, float] | None = None

    def residual(self, rows: Sequence[Row]) -> float | None:
        """Mean over `rows` (looked at, scored) of promised - clicked; None until it is fitted."""
        if self._fitted is None:
            return None
        a, b = self._fitted
        promised = sum(1 / (1 + math.exp(-(a * _logit(row) + b))) for row in rows)
        return (promised - sum(row.clicked for row in rows)) / len(rows)

    def learn(self, rows: Sequence[Row]) -> None:
        """One more request of this version, until it is fitted."""
        if self._fitted is None:
            self._logits += [_logit(row) for row in rows]
            self._clicked += [row.clicked for row in rows]
            self._requests += 1
            if self._requests >= CALIBRATION:
                self.mean = sum(self._clicked) / max(len(self._clicked), 1)
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
