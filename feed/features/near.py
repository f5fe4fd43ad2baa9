"""What a person's own history says of an item: what its people took beside it, and how often and when they took it themselves.

The first is co-visitation of the rows of an item table, kept as items come and go.

A user takes an item by a positive, or by anything but hiding that no feed asked for: who comes to an item without being led
there has chosen it, liked or not. When a user who took j_0, j_1, ... (the latest first, each once) takes an item i that is none
of the latest 50,

    taken[i] += 1,   D[i, j_k] += round(1000 * 0.9^k)   for k < 50

Whole numbers, so that any number of writers may add to them in any order; row i is what one take changes, and it travels
as one hash; one of more than `LONGEST` items keeps the larger half. In memory D is held by its rows and by its columns, since a
history asks for both. What it says of each item is how much was taken together, and how much came next:

    x_i = sum_k 0.9^k (D[i, j_k] + D[j_k, i]) / 1000 / sqrt(taken[j_k] + 1) / sqrt(taken[i] + 5)
    y_i = sum_k 0.9^k D[i, j_k] / 1000 / sqrt(taken[j_k] + 1) / sqrt(taken[i] + 5)

A model reads them in three forms: log(1 + x / 0.05), log(1 + x / 0.001), which tells a pair or two from none, and 3 x, which
tells much from very much. All are 0 of what nobody of these people took. Of an item that the person has taken n times, for the
last time t hours ago, it reads 1, log(1 + n) and log(1 + t) besides, 0 of all others: what comes again, comes by habit and the
sooner the likelier (Anderson et al. 2014, "The Dynamics of Repeat Consumption"). `feed.features.covisitation` has further
references.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from feed.events import Event
from feed.features.covisitation import CoVisitation, Relation
from feed.features.pair_counts import BoundedRows
from feed.features.user import CHOSEN, UserState, takes

NEXT = Relation(0.9, 50)
SAID = ("together", "next", "times", "hours")
TAKEN_BESIDE = 2  # the first of them, of co-visitation
FORMS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: np.log1p(x / np.float32(0.05)), lambda x: np.log1p(x / np.float32(0.001)), lambda x: np.float32(3.0) * x,
)  # fmt: skip
OWN = 3  # columns of what the person took
LONG_AGO = 50_000.0  # hours: six years, and a number that 16 bits hold
COLUMNS = TAKEN_BESIDE * len(FORMS) + OWN
LONGEST = 256  # items of a row; above this the smaller half of the amounts is given up
LARGEST = 2**30  # an amount: a million takes side by side, and far from where 32 bits end


def columns(said: np.ndarray) -> np.ndarray:
    """What a model reads of `said` float (..., 4): float32 (..., `COLUMNS`), form by form, then of what the person took."""
    said = said.astype(np.float32)
    times, hours = said[..., 2:3], said[..., 3:4]
    taken = (times > 0).astype(np.float32)
    own = (taken, np.log1p(times), taken * np.log1p(hours))
    return np.concatenate([*(form(said[..., :TAKEN_BESIDE]) for form in FORMS), *own], axis=-1)


def first_form(said: np.ndarray) -> np.ndarray:
    """The first 2 of `columns`, float32 (..., 2)."""
    return np.asarray(FORMS[0](said[..., :TAKEN_BESIDE].astype(np.float32)))


class Nearby(NamedTuple):
    """What a history says: `rows` int64 (k,), ascending, of the items it speaks of, and `said` float32 (k, 4): x, y, n, t."""

    rows: np.ndarray
    said: np.ndarray

    def at(self, rows: np.ndarray) -> np.ndarray:
        """float32 (m, 4): what is said of the items in `rows` int64 (m,), 0 where nothing is."""
        found = np.zeros((len(rows), len(SAID)), np.float32)
        if len(self.rows):
            place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            there = self.rows[place] == rows
            found[there] = self.said[place[there]]
        return found

    def taken(self, rows: np.ndarray, times: np.ndarray, hours: np.ndarray) -> "Nearby":
        """With how often (m,) and how many hours ago (m,) the person took the items in `rows` int64 (m,), all different."""
        if not len(rows):
            return self
        union = np.union1d(self.rows, rows)
        said = self.at(union)
        said[np.searchsorted(union, rows), TAKEN_BESIDE:] = np.minimum(np.stack([times, hours], axis=1), LONG_AGO)
        return Nearby(union, said)

    def among(self, chosen: np.ndarray) -> "Nearby":
        """What is said of the rows for which `chosen`, bool (n,), is True."""
        kept = chosen[self.rows]
        return self if kept.all() else Nearby(self.rows[kept], self.said[kept])


NOTHING = Nearby(np.zeros(0, np.int64), np.zeros((0, len(SAID)), np.float32))


class Taken(NamedTuple):
    """An item was taken: what that adds to its row, by the items taken before."""

    item_id: str
    after: dict[str, int]


def taken(state: UserState, event: Event) -> Taken | None:
    """What the event says that comes to a user in this state; None if it takes nothing, or one of the latest 50 items."""
    before: list[str] = state[CHOSEN.name]
    if not takes(event) or event.item_id in before:
        return None
    return Taken(event.item_id, dict(zip(reversed(before), NEXT.amounts.tolist(), strict=False)))


class Near:
    """The counts, by rows of an item table. May be read while another thread writes."""

    def __init__(self) -> None:
        self._by_row, self._by_column = BoundedRows(0), BoundedRows(0)  # row i holds D[i, :], row j holds D[:, j]
        self._taken = np.zeros(0, np.int64)
        self._one_at_a_time = threading.Lock()

    def grow(self, n: int) -> None:
        """Room for rows up to `n`."""
        with self._one_at_a_time:
            self._taken = np.pad(self._taken, (0, n - len(self._taken)))
            self._by_row.grow(n)
            self._by_column.grow(n)

    def taken(self, row: int) -> int:
        """How often the item in `row` was taken."""
        return int(self._taken[row])

    def add(self, row: int, before: Sequence[int], amounts: Sequence[int]) -> None:
        """The item in `row` was taken once more, after those in the rows `before`, all different."""
        others, more = np.array(before, np.int64), np.array(amounts, np.int32)
        with self._one_at_a_time:
            self._taken[row] += 1
            if len(others):
                self._by_row.raise_row(row, others, more)
                self._by_column.raise_column(others, row, more)
                if len(given_up := self._by_row.halve(row, LONGEST)):
                    self._set_column(given_up, row, np.zeros(len(given_up), np.int32))

    def replace(self, row: int, counts: Mapping[int, int], taken: int) -> None:
        """What `row` has as a whole: amounts by rows, at most `LARGEST` each, and how often it was taken."""
        counts = {other: min(amount, LARGEST) for other, amount in counts.items()}
        with self._one_at_a_time:
            self._taken[row] = taken
            places = self._by_row.counts[row] > 0
            held = dict(zip(self._by_row.ids[row, places].tolist(), self._by_row.counts[row, places].tolist(), strict=True))
            more = {j: n for j in {**held, **counts} if (n := counts.get(j, 0) - held.get(j, 0))}
            # what becomes less, first: its place may be needed
            for others in ([j for j, n in more.items() if n < 0], [j for j, n in more.items() if n > 0]):
                if others:
                    self._by_row.raise_row(row, np.array(others, np.int64), np.array([more[j] for j in others], np.int32))
                    self._set_column(np.array(others, np.int64), row, np.array([counts.get(j, 0) for j in others], np.int32))

    def of(self, history: Sequence[int]) -> Nearby:
        """What the items in the rows `history`, the latest first, say of all others."""
        if not len(history):
            return NOTHING
        with self._one_at_a_time:
            came_before, came_next = (
                CoVisitation(NEXT, pairs).column(history, self._taken) for pairs in (self._by_row, self._by_column)
            )
        together = came_before + came_next
        rows = np.flatnonzero(together)
        return Nearby(rows, np.stack([together[rows], came_next[rows], *np.zeros((2, len(rows)), np.float32)], axis=1))

    def _set_column(self, others: np.ndarray, row: int, amounts: np.ndarray) -> None:
        more = amounts - self._by_column.of_column(others, row)  # which at its bound has given up others than the rows have
        if more.any():
            self._by_column.raise_column(others[more != 0], row, more[more != 0])
