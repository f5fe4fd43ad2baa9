"""What is known of users and items, and how it becomes numbers.

`user` holds the one list of user features, `items` and `counts` the catalogue's columns, `batch` folds a whole log, and
`space` turns states into `Inputs` for the towers. Stream, batch and server run these same objects.
"""

from feed.features.batch import BatchState
from feed.features.inputs import Inputs, InputSpec
from feed.features.items import ItemTable
from feed.features.space import FeatureSpace
from feed.features.user import SEEN, UserState, consumed, new_user, update_profile, update_user

__all__ = [
    "SEEN", "BatchState", "FeatureSpace", "InputSpec", "Inputs", "ItemTable", "UserState", "consumed", "new_user",
    "update_profile", "update_user",
]  # fmt: skip
