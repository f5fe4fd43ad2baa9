"""What may be shown: each filter gives bool columns, True where the candidate stays, (n,) for everybody or (users, n)."""

from collections.abc import Sequence

import numpy as np

from feed.features import UserState, bloom, consumed, hidden_before
from feed.ranking.index import Index


def described(index: Index, rows: np.ndarray) -> np.ndarray:
    """Drops items that were only ever mentioned in events: nothing is known that could be shown. (n,)."""
    return np.asarray(index.known[rows])


def created(index: Index, rows: np.ndarray, now: float) -> np.ndarray:
    """Drops items that do not exist yet at `now` (event time, seconds since 1970). (n,)."""
    return np.asarray(index.created[rows] <= now)


def not_consumed(index: Index, rows: np.ndarray, states: Sequence[UserState]) -> np.ndarray:
    """Drops what the user has engaged with, as far back as is remembered, and all that they have ever hidden. (users, n)."""
    n, row_of = len(index), index.table.row
    keep = np.ones((len(states), n), np.bool_)
    for user, state in enumerate(states):
        seen = [row for item_id in consumed(state) if (row := row_of(item_id)) is not None and row < n]
        keep[user, seen] = False
        if (older := hidden_before(state)) is not None:
            keep[user] &= ~bloom.contains(older, index.hidden_bits)
    return keep[:, rows]
