"""What of an example says which model is better: only rows that chance chose to show.

What the champion chose to show does not: clicks on it are evidence of its own choice, and two equal models judged by them come
out far apart. Within its request, a row shown by chance weighs one over its propensity, clipped.
"""

from dataclasses import dataclass

import numpy as np

from feed.examples import Example, Row

BY_CHANCE = ("random", "explore")
CLIP = 1e-4  # the smallest propensity: no row weighs more than 10,000


@dataclass(frozen=True)
class Evidence:
    """Rows of one request, (n,) each: the rows, their weights and whether they were clicked."""

    rows: tuple[Row, ...]
    weights: np.ndarray
    clicked: np.ndarray


def evidence_of(example: Example) -> Evidence:
    """The example's rows shown by chance; none in an organic one."""
    rows = () if example.organic else tuple(row for row in example.rows if row.source in BY_CHANCE and row.propensity)
    weights = np.array([1.0 / max(row.propensity or 1.0, CLIP) for row in rows])
    return Evidence(rows, weights, np.array([row.clicked for row in rows], bool))
