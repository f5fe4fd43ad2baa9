"""Features as of one moment, as they travel in an example: raw, so that any feature space can read them later.

Ranking reads states through the same `freeze_user`, so what a model learns from is what it will be served.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from feed.features import items as item_features
from feed.features import user as user_features
from feed.features.items import ItemTable
from feed.features.user import UserState

# bags and how many of their tokens are read, strongest first
BAGS = {"categories": 16, "creators": 16, "tags": 24, "recent": 50}
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


def freeze_items(table: ItemTable, item_ids: Sequence[str], now: float) -> dict[str, ItemFeatures]:
    """The items as of `now` (seconds since 1970), by id; those that `table` does not have are left out."""
    rows = {item_id: row for item_id in item_ids if (row := table.row(item_id)) is not None}
    numeric = np.round(table.numeric(now, np.fromiter(rows.values(), np.int64, len(rows))), 5).tolist()
    return {item_id: _frozen(table, rows[item_id], values) for item_id, values in zip(rows, numeric, strict=True)}


def unseen(item_id: str) -> ItemFeatures:
    """An item of which nothing is known but its id."""
    return ItemFeatures(item_id, _UNSEEN)


_UNSEEN = (-1.0,) + (0.0,) * (len(item_features.NUMERIC) - 1)  # the age is unknown


def _frozen(table: ItemTable, row: int, numeric: Sequence[float]) -> ItemFeatures:
    item = table.item(row)
    return ItemFeatures(item.item_id, tuple(numeric), item.category, item.creator_id, item.tags, dict(item.attributes))
