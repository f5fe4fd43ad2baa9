"""What may be shown: each filter gives bool columns, True where the candidate stays, (n,) for everybody or (users, n)."""

from collections.abc import Sequence

import numpy as np

from feed.features import UserState, bloom, hidden_before, kept_away
from feed.ranking.index import Index
from feed.repeats import Repeats


def showable(index: Index, rows: np.ndarray, now: float) -> np.ndarray:
    """Drops what may not be shown to anybody at `now` (event time, seconds since 1970). (n,).

    That is what no catalogue describes (any more), does not exist yet, has expired or is not available.
    """
    return np.asarray(index.known[rows] & (index.created[rows] <= now) & (now < index.until[rows]))


def not_kept_away(index: Index, rows: np.ndarray, states: Sequence[UserState], now: float, repeats: Repeats) -> np.ndarray:
    """Drops what the user has engaged with, as far back as is remembered, unless `repeats` lets it come again at `now`, and all
    that they have ever hidden. (users, n)."""
    n, row_of = len(index), index.table.row
    keep = np.ones((len(states), n), np.bool_)
    for user, state in enumerate(states):
        away = kept_away(state, now, repeats, index.table.by_id)
        keep[user, [row for item_id in away if (row := row_of(item_id)) is not None and row < n]] = False
        if (older := hidden_before(state)) is not None:
            keep[user] &= ~bloom.contains(older, index.hidden_bits)
    return keep[:, rows]
