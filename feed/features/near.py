"""What the people of a person's items took beside them: co-visitation of the rows of an item table, kept as items come and go.

When a user whose positives are j_0, j_1, ... (the latest first, each once) takes the item i for the first time,

    taken[i] += 1,   D[i, j_k] += round(1000 * 0.9^k)   for k < 50

Whole numbers, so that any number of writers may add to them in any order; row i is what one positive changes, and it travels
as one hash. What a history then says of each item are two columns, by what was taken together and by what came next:

    x_i = sum_k 0.9^k (D[i, j_k] + D[j_k, i]) / 1000 / sqrt(taken[j_k] + 1) / sqrt(taken[i] + 5),   y_i the same of D[i, j_k] alone
    column = log(1 + x / 0.05)

which is 0 of all that nobody of these people took. `feed.features.covisitation` has the references.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from feed.events import POSITIVES, Engagement, Event, kind
from feed.features.covisitation import CoVisitation, Relation
from feed.features.pair_counts import BoundedRows
from feed.features.user import UserState

TOGETHER, NEXT = Relation(0.9, 50, both=True), Relation(0.9, 50)
COLUMNS = ("together", "next")
FLOOR = 0.05  # of x: what a pair or two says is little more than nothing; with 0.001 the columns lost a little on films


class Nearby(NamedTuple):
    """What a history says: `rows` int64 (k,) of the items it says anything of, ascending, and `values` float32 (k, 2)."""

    rows: np.ndarray
    values: np.ndarray

    def at(self, rows: np.ndarray) -> np.ndarray:
        """float32 (m, 2): the values of the items in `rows` int64 (m,), 0 where nothing is said."""
        found = np.zeros((len(rows), len(COLUMNS)), np.float32)
        if len(self.rows):
            place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            there = self.rows[place] == rows
            found[there] = self.values[place[there]]
        return found


NOTHING = Nearby(np.zeros(0, np.int64), np.zeros((0, len(COLUMNS)), np.float32))


class Taken(NamedTuple):
    """An item was taken: what that adds to its row, by the items taken before."""

    item_id: str
    after: dict[str, int]


def taken(state: UserState, event: Event) -> Taken | None:
    """What the event says that comes to a user in this state; None if it is no positive, or not the first with its item."""
    before: list[str] = state["recent"]
    if not isinstance(event, Engagement) or kind(event) not in POSITIVES or event.item_id in before:
        return None
    return Taken(event.item_id, dict(zip(reversed(before), NEXT.amounts.tolist(), strict=False)))


class Near:
    """The counts, by rows of an item table. May be read while another thread writes."""

    def __init__(self) -> None:
        self._together, self._next = (CoVisitation(relation, BoundedRows(0)) for relation in (TOGETHER, NEXT))
        self._taken = np.zeros(0, np.int64)
        self._one_at_a_time = threading.Lock()

    def grow(self, n: int) -> None:
        """Room for rows up to `n`."""
        with self._one_at_a_time:
            self._taken = np.pad(self._taken, (0, n - len(self._taken)))
            self._together.pairs.grow(n)
            self._next.pairs.grow(n)

    def add(self, row: int, before: Sequence[int], amounts: Sequence[int]) -> None:
        """The item in `row` was taken once more, after those in the rows `before`, all different."""
        self._raise(row, np.array(before, np.int64), np.array(amounts, np.int32), 1)

    def bring_up(self, row: int, counts: Mapping[int, int], taken: int) -> None:
        """What `row` has as a whole: amounts by rows, and how often it was taken. Counts only ever grow."""
        before = np.fromiter(counts, np.int64, len(counts))
        with self._one_at_a_time:
            have = self._next.pairs.of_column(before, row)
        more = np.fromiter(counts.values(), np.int32, len(counts)) - have
        self._raise(row, before[more > 0], more[more > 0], max(taken - int(self._taken[row]), 0))

    def of(self, history: Sequence[int]) -> Nearby:
        """What the items in the rows `history`, the latest first, say of all others."""
        if not len(history):
            return NOTHING
        with self._one_at_a_time:
            x, y = (table.column(history, self._taken) for table in (self._together, self._next))
        rows = np.flatnonzero(x)
        return Nearby(rows, np.log1p(np.stack([x[rows], y[rows]], axis=1) / np.float32(FLOOR)))

    def _raise(self, row: int, before: np.ndarray, amounts: np.ndarray, taken: int) -> None:
        with self._one_at_a_time:
            self._taken[row] += taken
            self._together.count(before, row, amounts)
            self._next.count(before, row, amounts)
