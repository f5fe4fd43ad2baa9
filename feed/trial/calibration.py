"""Platt calibration: what a logit is worth as the chance of a click, learned on earlier evidence.

    P(click | s) = sigmoid(a z + b),  z = (s - mean) / spread,  a >= 0

by weighted maximum likelihood with a slight ridge on a. Because s is standardised first, a model and the same model with its
logits shifted or scaled get the same predictions. A negative a is not allowed: it would turn a model that ranks upside down
into a good one.

Reference: Platt 1999, "Probabilistic Outputs for Support Vector Machines".
"""

from dataclasses import dataclass

import numpy as np

RIDGE = 1.0  # as one click's worth of doubt about a
STEPS = 25


@dataclass(frozen=True)
class Platt:
    """The fitted numbers; `loss` applies them."""

    a: float
    b: float
    mean: float
    spread: float

    def logits(self, scores: np.ndarray) -> np.ndarray:
        """float64 (n,): calibrated logits of `scores` (n,)."""
        return np.asarray(self.a * (scores - self.mean) / self.spread + self.b)

    def loss(self, scores: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """float64 (n,): log-loss, nats; `scores` (n,), `clicked` bool (n,)."""
        return np.asarray(np.logaddexp(0.0, np.where(clicked, -1.0, 1.0) * self.logits(scores)))


def fit(scores: np.ndarray, clicked: np.ndarray, weights: np.ndarray) -> Platt:
    """Fit on rows: `scores` finite (n,), `clicked` bool (n,), `weights` > 0 (n,)."""
    weights = weights / weights.mean()
    y = clicked.astype(float)
    mean = float(np.average(scores, weights=weights))
    spread = float(np.sqrt(np.average((scores - mean) ** 2, weights=weights)))
    spread = spread if spread > 1e-9 * (1 + abs(mean)) else np.inf  # a constant score says nothing
    z = (scores - mean) / spread
    rate = (float(weights @ y) + 0.5) / (len(y) + 1)
    a, b = _newton(z, y, weights, float(np.log(rate / (1 - rate))))
    return Platt(a, b, mean, spread)


def _newton(z: np.ndarray, y: np.ndarray, weights: np.ndarray, start: float) -> tuple[float, float]:
    at = np.array([0.0, start])
    design = np.stack([z, np.ones_like(z)], axis=1)
    ridge = np.diag([RIDGE, 1e-6])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ at, -30, 30)))
        slope = design.T @ (weights * (p - y)) + ridge @ (at - [0.0, start])
        curve = (design * (weights * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ design + ridge
        step = np.linalg.solve(curve, slope)
        at = at - np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    return (float(at[0]), float(at[1])) if at[0] >= 0 else (0.0, start)
