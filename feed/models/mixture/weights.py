"""How much each column counts: a set of weights for each segment of users, learned online, one step a positive.

    score(i) = (w + w_s) . z_i,   loss = -log softmax(score)_i over the items that could have been taken
    g = sum_j softmax(score)_j z_j - z_i,   for w and for w_s:   G += g²,   w -= 0.2 g / sqrt(G)

with z_i the item's columns, each centred over the catalogue, s the user's segment (0, 1-9 or 10 positives and more) and G
starting at 1. What all segments share is learned from all, so that one which is rare begins where the others are.
Reference: Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning" (Adagrad).
"""

from collections.abc import Mapping, Sequence

import numpy as np

SEGMENTS = (1, 10)  # positives from which on a user is in the next segment
SHARED = 0  # the row of what all segments share
RATE = 0.2
SAMPLED = 4096  # of a larger catalogue as many items are drawn for a step, and each stands for n / SAMPLED of them


class Weights:
    """`values` float32 (4, c), what is shared and a row a segment, and `squares`, of the gradients; c columns by `names`."""

    def __init__(self, names: Sequence[str], start: Mapping[str, float]) -> None:
        self.names = tuple(names)
        self.values = np.zeros((len(SEGMENTS) + 2, len(names)), np.float32)
        self.values[SHARED] = [start.get(name, 0.0) for name in names]
        self.squares = np.ones_like(self.values)

    def of(self, positives: int) -> np.ndarray:
        """float32 (c,): the weights for a user with so many positives."""
        weights: np.ndarray = self.values[SHARED] + self.values[segment(positives)]
        return weights

    def step(
        self, positives: int, z: np.ndarray, item: int, possible: np.ndarray, rng: np.random.Generator,
        skipped: Sequence[int] = (), times: float = 0.0,
    ) -> None:  # fmt: skip
        """Learn that a user with so many positives took `item`, of those in `possible`, bool (n,), by the columns z, (c, n).

        `skipped`: items that were seen and left; together they weigh `times` what all n items do.
        """
        logits = self.of(positives) @ z
        own = float(logits[item])
        left, left_z = logits[list(skipped)], z[:, list(skipped)]
        logits[~possible] = -np.inf
        logits[item] = -np.inf
        own_column = z[:, item]
        n = len(logits)
        if n > SAMPLED:
            drawn = rng.choice(n, SAMPLED, replace=False)
            logits, z = logits[drawn] + np.float32(np.log(n / SAMPLED)), z[:, drawn]
        if len(left):
            logits = np.append(logits, left + np.float32(np.log(times * n / len(left))))
            z = np.concatenate([z, left_z], axis=1)
        top = max(float(logits.max()), own)
        odds = np.exp(logits - top)
        share = odds / (odds.sum() + np.exp(own - top))
        gradient = z @ share - share.sum() * own_column
        for row in (SHARED, segment(positives)):
            self.squares[row] += gradient**2
            self.values[row] -= RATE * gradient / np.sqrt(self.squares[row])


def segment(positives: int) -> int:
    """1, 2 or 3: the row of the segment of a user with so many positives."""
    return 1 + int(np.searchsorted(SEGMENTS, positives, side="right"))
