"""What a tower reads: columns of numbers, rows of vocabularies, and weighted bags of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class InputSpec:
    """Names of the columns: numeric ones; (feature, vocabulary) of categorical ones and of bags."""

    numeric: tuple[str, ...]
    categorical: tuple[tuple[str, str], ...]
    bags: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Inputs:
    """n users or items.

    `numeric` float32 (n, F); `categorical` int64 (n, C), 0 = unknown; per bag `bag_ids` int64 (n, L) and `bag_weights`
    float32 (n, L), padded with id 0 and weight 0; `segment` int64 (n,): of a user, see
    `feed.features.space.SEGMENTS`; 0 of an item; `prior` float32 (n, 8): of an item, see `feed.features.items.prior`; (n, 0) of
    a user.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    bag_ids: dict[str, np.ndarray]
    bag_weights: dict[str, np.ndarray]
    segment: np.ndarray
    prior: np.ndarray

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: np.ndarray) -> Self:
        """These rows, in this order."""
        return type(self)(
            self.numeric[rows],
            self.categorical[rows],
            {name: ids[rows] for name, ids in self.bag_ids.items()},
            {name: weights[rows] for name, weights in self.bag_weights.items()},
            self.segment[rows],
            self.prior[rows],
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All rows of `parts` (at least one, of the same columns), in order."""
        first = parts[0]
        return cls(
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.categorical for part in parts]),
            {name: np.concatenate([part.bag_ids[name] for part in parts]) for name in first.bag_ids},
            {name: np.concatenate([part.bag_weights[name] for part in parts]) for name in first.bag_weights},
            np.concatenate([part.segment for part in parts]),
            np.concatenate([part.prior for part in parts]),
        )
