"""What is known of users and items, and how it becomes numbers.

`user` holds the one list of user features, `items` and `counts` the catalogue's columns, `near` which items go together,
`batch` folds a whole log, `frozen` is what is known as of one moment, and `space` turns it into `Inputs` for the towers.
Stream, batch and server run these same objects.
"""

from feed.features.batch import BatchState
from feed.features.eligibility import kept_away
from feed.features.frozen import FrozenItems, ItemFeatures, UserFeatures, freeze_user
from feed.features.inputs import Inputs, InputSpec
from feed.features.items import ItemTable
from feed.features.space import FeatureSpace
from feed.features.user import (
    SEEN,
    OwnItems,
    UserState,
    consumed,
    hidden_before,
    is_repeat,
    new_user,
    own_items,
    update_profile,
    update_user,
)

__all__ = [
    "SEEN", "BatchState", "FeatureSpace", "FrozenItems", "InputSpec", "Inputs", "ItemFeatures", "ItemTable", "OwnItems",
    "UserFeatures", "UserState", "consumed", "freeze_user", "hidden_before", "is_repeat", "kept_away", "new_user", "own_items",
    "update_profile", "update_user",
]  # fmt: skip
