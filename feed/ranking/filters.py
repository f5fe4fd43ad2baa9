"""What may be shown: each filter gives bool columns, True where the candidate stays, (n,) for everybody or (users, n)."""

from collections.abc import Sequence

import numpy as np

from feed.features import UserState, bloom, consumed, hidden_before
from feed.ranking.index import Index


def showable(index: Index, rows: np.ndarray, now: float) -> np.ndarray:
    """Drops what may not be shown to anybody at `now` (event time, seconds since 1970). (n,).

    That is what no catalogue describes (any more), does not exist yet, has expired or is not available.
    """
    return np.asarray(index.known[rows] & (index.created[rows] <= now) & (now < index.until[rows]))


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
