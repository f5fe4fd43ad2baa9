"""The catalogue as of one refresh: columns and vectors that do not change while a batch of users is ranked."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import structlog
import torch
from torch import Tensor

from feed.errors import BadModel
from feed.features import ItemTable, bloom
from feed.models.snapshot import Snapshot

log = structlog.get_logger()


@dataclass(frozen=True)
class Index:
    """n items, in the rows of the table they were taken from; items that the table gains later are not in it.

    `ids` and, n each: `vectors` float32 (n, WIDTH); `known` bool, described by the catalogue; `created` and `until` float64,
    seconds since 1970, between which an item may be shown; `category` int64, the table's codes; `popularity` float64, decayed
    positives.
    """

    table: ItemTable
    ids: list[str]
    vectors: Tensor
    known: np.ndarray
    created: np.ndarray
    until: np.ndarray
    category: np.ndarray
    popularity: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hidden_bits(self) -> np.ndarray:
        """int64 (n, 7): the bits of each item in a Bloom filter of hidden items; worked out when somebody has one."""
        return bloom.bits_of(self.ids)

    @classmethod
    def of(cls, snapshot: Snapshot, table: ItemTable, now: float) -> Self:
        """The table's items at `now` (seconds since 1970), those without a finite vector as if unknown.

        Raises `BadModel` if the weights give no finite vector at all.
        """
        with torch.inference_mode():
            vectors = snapshot.model.item_vectors(snapshot.space.item_inputs(table, None, now))
        known, finite = table.known.copy(), torch.isfinite(vectors).all(dim=1).numpy()
        if not finite.all():
            if not (finite & known).any():
                raise BadModel("the model's item vectors are not finite: train anew with `python offline/bootstrap.py`")
            without = [table.ids[row] for row in np.flatnonzero(~finite)]
            log.error("items whose vectors are not finite are not ranked", items=len(without), first=without[:5])
            known &= finite
            vectors = torch.where(torch.from_numpy(finite)[:, None], vectors, 0.0)
        return cls(
            table,
            list(table.ids),
            vectors,
            known,
            table.created.copy(),
            table.until.copy(),
            table.category.copy(),
            table.popularity(now),
        )
