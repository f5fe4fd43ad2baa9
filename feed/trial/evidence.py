"""What of an example says which model is better: only rows that chance chose to show.

What the champion chose to show does not: clicks on it are evidence of its own choice, and two equal models judged by them come
out far apart. Within its request, a row shown by chance weighs one over its propensity, clipped.

The clip is high, so that weights within a request are nearly equal: unclipped they would turn what was drawn where people click
(`feed.ranking.standard.proposals`) back into a uniform draw, in which one row in thirty is clicked, and leave a few rows to
decide. Neither model has a say in what is drawn, so any fixed clip compares both on the same items: the smaller it is, the more
they are compared on what nobody would be shown. With one drawn place among the ten that are seen it makes no difference.
"""

from dataclasses import dataclass

import numpy as np

from feed.events import BY_CHANCE
from feed.examples import Example, Row

CLIP = 0.02  # no row weighs more than 50; of rows drawn in the simulated world 1 in 1,000 weighs less than 5


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
