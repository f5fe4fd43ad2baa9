"""Features as of one moment, as they travel in an example: raw, so that any feature space can read them later.

Ranking reads states through the same `freeze_user`, so what a model learns from is what it will be served.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from msgspec import Struct

from feed.features import items as item_features
from feed.features import user as user_features
from feed.features.items import ItemTable
from feed.features.user import UserState

# bags and how many of their tokens are read, strongest first
BAGS = {"categories": 16, "creators": 16, "tags": 24, "recent": 50, "lately_categories": 8, "lately_tags": 12}
_BAG_FEATURES = {feature.name: feature for feature in user_features.USER_FEATURES if feature.name in BAGS}


class UserFeatures(Struct, frozen=True):
    """A user at one moment: `numeric` in the order of `feed.features.user.NUMERIC`; `bags`: weighted tokens, strongest first.

    `recent` among the bags is the history: the newest positive first.
    """

    user_id: str
    profile: dict[str, Any]
    context: dict[str, Any]
    numeric: tuple[float, ...]
    bags: dict[str, tuple[tuple[str, float], ...]]


class ItemFeatures(Struct, frozen=True, omit_defaults=True):
    """An item at one moment: its content, and `numeric` in the order of `feed.features.items.NUMERIC`."""

    item_id: str
    numeric: tuple[float, ...]
    category: str | None = None
    creator_id: str | None = None
    tags: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}


def freeze_user(state: UserState, now: float) -> UserFeatures:
    """The user as of `now` (seconds since 1970); shares nothing with `state` that an update would change."""
    return UserFeatures(
        user_id=state["user_id"],
        profile=dict(state["profile"]),
        context=dict(state["context"]),
        numeric=tuple(round(value, 5) for value in user_features.numeric_values(state, now)),
        bags={
            name: tuple((token, round(weight, 5)) for token, weight in _BAG_FEATURES[name].weights(state[name], now)[:length])
            for name, length in BAGS.items()
        },
    )


class FrozenItems:
    """Items of `table` as of `now` (seconds since 1970), on demand; the table must not change meanwhile."""

    def __init__(self, table: ItemTable, now: float) -> None:
        self._table, self._now = table, now
        self._numeric: np.ndarray | None = None
        self._frozen: dict[str, ItemFeatures] = {}

    def __getitem__(self, item_id: str) -> ItemFeatures:
        """The item; one that the table does not have is known by its id only."""
        frozen = self._frozen.get(item_id)
        if frozen is None:
            frozen = self._frozen[item_id] = self._freeze(item_id)
        return frozen

    def draw(self, n: int, seed: int, without: Collection[str]) -> list[ItemFeatures]:
        """At most `n` different items that the catalogue describes and that exist by now, drawn uniformly."""
        table = self._table
        there = np.flatnonzero(table.known & (table.created <= self._now))
        drawn = np.random.default_rng(seed).permutation(there)[: n + len(without)].tolist()
        return [self[table.ids[row]] for row in drawn if table.ids[row] not in without][:n]

    def _freeze(self, item_id: str) -> ItemFeatures:
        row = self._table.row(item_id)
        if row is None:
            return ItemFeatures(item_id, _UNSEEN)
        if self._numeric is None:
            self._numeric = np.round(self._table.numeric(self._now), 5)
        item = self._table.item(row)
        numeric = tuple(self._numeric[row].tolist())
        return ItemFeatures(item_id, numeric, item.category, item.creator_id, item.tags, dict(item.attributes))


_UNSEEN = (-1.0,) + (0.0,) * (len(item_features.NUMERIC) - 1)  # the age is unknown
