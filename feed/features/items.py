"""The catalogue as columns in memory: one row an item, with its content, codes and decayed counts."""

from collections.abc import Mapping

import numpy as np

from feed.catalogue import Item
from feed.events import KINDS, POSITIVES, Event
from feed.features import counts
from feed.features.near import Near, Nearby
from feed.features.user import CHOSEN, UserState, own_items

PRIOR = (
    "age_hours", "engagement_15m", "engagement_1h", "engagement_6h", "engagement_1d", "engagement_7d", "engagement_30d",
)  # fmt: skip
NUMERIC = (*PRIOR, "shown_1d", "click_rate", "like_rate", "hide_rate", "creator_engagement_7d")
# what the item tower reads: counts at further half-lives are the score's own columns
TOWER = tuple(name for name in NUMERIC if name not in ("engagement_15m", "engagement_6h", "engagement_30d"))
TOWER_COLUMNS = [NUMERIC.index(name) for name in TOWER]
RATE_PRIOR = 20.0  # pseudo-observations behind the smoothed rates
FLOOR = 0.02  # a count of nothing


class ItemTable:
    """Item columns; rows keep their place for the table's life, new items are appended.

    `created` and `until` float64 (n,) seconds since 1970: when an item may be shown (see `feed.catalogue.Item`), -inf and inf
    where nothing limits it; `category` and `creator` int64 (n,) codes, 0 = none; `known` bool (n,): False for a row that is
    only counted, because the catalogue does not describe its item, or does no more; `near`: pairs of rows.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.by_id: dict[str, Item] = {}
        self.categories: list[str | None] = [None]
        self.content_version = 0  # grows with every upsert
        self._row: dict[str, int] = {}
        self._creators: dict[str, int] = {}
        self._category_codes: dict[str, int] = {}
        self.near = Near()
        self._size(16)

    def __len__(self) -> int:
        return len(self.ids)

    def _size(self, capacity: int) -> None:
        n = len(self.ids)
        for name, fill, shape, dtype in (
            ("_created", -np.inf, (), np.float64),
            ("_until", np.inf, (), np.float64),
            ("_category", 0, (), np.int64),
            ("_creator", 0, (), np.int64),
            ("_known", False, (), np.bool_),
            ("_sums", 0.0, (len(KINDS), len(counts.HALF_LIVES)), np.float64),
            ("_since", 0.0, (), np.float64),
            ("_first", np.inf, (), np.float64),
        ):
            column = np.full((capacity, *shape), fill, dtype)
            if n:
                column[:n] = getattr(self, name)[:n]
            setattr(self, name, column)
        self.near.grow(capacity)

    _created: np.ndarray
    _until: np.ndarray
    _category: np.ndarray
    _creator: np.ndarray
    _known: np.ndarray
    _sums: np.ndarray
    _since: np.ndarray
    _first: np.ndarray

    @property
    def created(self) -> np.ndarray:
        """float64 (n,), seconds since 1970; -inf where unknown."""
        return self._created[: len(self)]

    @property
    def until(self) -> np.ndarray:
        """float64 (n,), seconds since 1970: not to be shown from then on; inf where nothing is said."""
        return self._until[: len(self)]

    @property
    def category(self) -> np.ndarray:
        """int64 (n,): index into `categories`; 0 = none."""
        return self._category[: len(self)]

    @property
    def creator(self) -> np.ndarray:
        """int64 (n,): a number a creator; 0 = none."""
        return self._creator[: len(self)]

    @property
    def known(self) -> np.ndarray:
        """bool (n,): described by the catalogue."""
        return self._known[: len(self)]

    def showable(self, now: float) -> np.ndarray:
        """bool (n,): described by the catalogue, and to be shown at `now` (event time, seconds since 1970)."""
        return np.asarray(self.known & (self.created <= now) & (now < self.until))

    def row(self, item_id: str) -> int | None:
        """The item's row, or None."""
        return self._row.get(item_id)

    def item(self, row: int) -> Item:
        """The item in this row; one that was only counted has nothing but its id."""
        item_id = self.ids[row]
        return self.by_id.get(item_id) or Item(item_id=item_id)

    def _row_for(self, item_id: str) -> int:
        row = self._row.get(item_id)
        if row is None:
            row = self._row[item_id] = len(self.ids)
            if row == len(self._created):
                self._size(2 * row)
            self.ids.append(item_id)
        return row

    def upsert(self, item: Item) -> int:
        """Add the item or replace its content; its counts stay. Returns its row."""
        row = self._row_for(item.item_id)
        self.by_id[item.item_id] = item
        self._created[row] = -np.inf if item.created is None else item.created
        self._until[row] = item.until
        self._category[row] = 0
        if item.category is not None:
            code = self._category_codes.setdefault(item.category, len(self._category_codes) + 1)
            if code == len(self.categories):
                self.categories.append(item.category)
            self._category[row] = code
        self._creator[row] = 0
        if item.creator_id is not None:
            self._creator[row] = self._creators.setdefault(item.creator_id, len(self._creators) + 1)
        self._known[row] = True
        self.content_version += 1
        return row

    def remove(self, item_id: str) -> int | None:
        """Forget the item's content, as if it had never been described; its counts stay. Returns its row, if it has one."""
        row = self._row.get(item_id)
        if row is not None and self.by_id.pop(item_id, None) is not None:
            self._created[row], self._until[row], self._known[row] = -np.inf, np.inf, False
            self._category[row] = self._creator[row] = 0
            self.content_version += 1
        return row

    def set_counts(self, item_id: str, fields: Mapping[str, int], now: float) -> int:
        """Replace the item's counts by those of its hash in Redis, decayed to `now`. Returns its row."""
        row = self._row_for(item_id)
        self._sums[row] = counts.decayed(fields, now)
        self._since[row] = now
        self._first[row] = fields.get(counts.FIRST, np.inf)
        return row

    def add(self, event: Event) -> None:
        """Count one event in each of its items, known or not."""
        for item_id in counts.shown_or_engaged(event):
            row = self._row_for(item_id)
            self._since[row] = counts.add(self._sums[row], float(self._since[row]), event)
            self._first[row] = min(self._first[row], event.at // 1)

    def take(self, item_id: str, after: Mapping[str, int]) -> None:
        """Count that the item was taken, as `near.taken` tells it."""
        self.near.add(self._row_for(item_id), [self._row_for(i) for i in after], list(after.values()))

    def taken(self, item_id: str) -> int:
        """How often the item was taken."""
        row = self._row.get(item_id)
        return 0 if row is None else self.near.taken(row)

    def set_taken(self, item_id: str, after: Mapping[str, int], times: int) -> None:
        """Replace what the item was taken after, and how often it was taken, by what Redis has."""
        self.near.replace(self._row_for(item_id), {self._row_for(i): n for i, n in after.items()}, times)

    def nearby(self, state: UserState, now: float) -> Nearby:
        """What the user's history says of the items at `now`, by rows; of one that no catalogue describes it says nothing."""
        rows = [self._row[item_id] for item_id in reversed(state[CHOSEN.name]) if item_id in self.by_id]
        own = own_items(state, now)
        places = np.array([self._row.get(item_id, -1) for item_id in own.ids], np.int64)
        there = places >= 0
        said = self.near.of(rows).taken(places[there], own.times[there], own.since[there] / 3600)
        return said.among(self.known)

    def sums(self, now: float, rows: np.ndarray | None = None) -> np.ndarray:
        """float64 (rows, kinds, half-lives): decayed counts at `now`; an item that has changed since has them as of then."""
        index = np.arange(len(self)) if rows is None else rows
        passed = np.maximum(now - self._since[index], 0.0)
        return np.asarray(self._sums[index] * np.exp2(-passed[:, None, None] / counts.HALF_LIVES))

    def popularity(self, now: float) -> np.ndarray:
        """float64 (n,): positives (clicks, likes, ...), decayed with a half-life of one day."""
        return np.asarray(self.sums(now)[:, _positive_kinds(), counts.OF_DAY].sum(axis=1))

    def age(self, now: float, index: np.ndarray) -> np.ndarray:
        """float64 (rows,): hours since the item was created or, if unknown, since its first event; -1: neither."""
        begun = np.where(np.isfinite(self._created[index]), self._created[index], self._first[index])
        return np.where(np.isfinite(begun), np.maximum(now - begun, 0) / 3600, -1.0)

    def prior(self, now: float, rows: np.ndarray | None = None) -> np.ndarray:
        """float32 (rows, 8): `prior` at `now`."""
        index = np.arange(len(self)) if rows is None else rows
        positives = self.sums(now, index)[:, _positive_kinds()].sum(axis=1)
        return prior(np.concatenate([self.age(now, index)[:, None], positives], axis=1))

    def numeric(self, now: float, rows: np.ndarray | None = None) -> np.ndarray:
        """float64 (rows, len(NUMERIC)): raw values at `now`.

        Rates are (n + RATE_PRIOR * mean rate) / (observations + RATE_PRIOR), over a half-life of 7 days, where the mean is that
        of the whole catalogue; the age is that of `age`.
        """
        index = np.arange(len(self)) if rows is None else rows
        n = len(self)
        passed = np.maximum(now - self._since[:n], 0.0)
        week = self._sums[:n, :, counts.OF_WEEK] * np.exp2(-passed / counts.HALF_LIVES[counts.OF_WEEK])[:, None]
        positives = week[:, _positive_kinds()].sum(axis=1)
        shown, viewed = week[:, KINDS.index("impression")], week[:, KINDS.index("view")]
        sums = self.sums(now, index)
        engagement = sums[:, _positive_kinds()].sum(axis=1)
        of_creator = np.bincount(self.creator, positives, minlength=1) / np.maximum(np.bincount(self.creator, minlength=1), 1)
        of_creator[0] = 0.0
        columns = [
            self.age(now, index), *engagement.T, sums[:, KINDS.index("impression"), counts.OF_DAY],
            _rate(week[:, KINDS.index("click")], shown, index),
            _rate(week[:, KINDS.index("like")], viewed, index),
            _rate(week[:, KINDS.index("hide")], viewed, index),
            of_creator[self.creator[index]],
        ]  # fmt: skip
        return np.stack(columns, axis=1)


def _positive_kinds() -> list[int]:
    return [place for place, name in enumerate(KINDS) if name in POSITIVES]


def _rate(n: np.ndarray, observations: np.ndarray, index: np.ndarray) -> np.ndarray:
    mean = n.sum() / max(observations.sum(), 1.0)
    return np.asarray((n[index] + RATE_PRIOR * mean) / (observations[index] + RATE_PRIOR))


def prior(raw: np.ndarray) -> np.ndarray:
    """float32 (k, 8), the item prior: log(1 + c_h / 0.02) for each half-life h, log(1 + age in hours), 1.

    `raw` float64 (k, 7 or more) begins with the columns of `PRIOR`.
    """
    counted = np.log1p(np.maximum(raw[:, 1 : len(PRIOR)], 0.0) / FLOOR)
    age = np.log1p(np.maximum(raw[:, :1], 0.0))
    return np.concatenate([counted, age, np.ones((len(raw), 1))], axis=1).astype(np.float32)


def aged(raw: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """float64 (k, 7): the columns of `PRIOR` in `raw` (k, 7) after so many `seconds` (k,) without events; age -1 stays."""
    passed = np.maximum(seconds, 0.0)[:, None]
    age = np.where(raw[:, :1] < 0, raw[:, :1], raw[:, :1] + passed / 3600)
    return np.concatenate([age, raw[:, 1:] * np.exp2(-passed / counts.HALF_LIVES)], axis=1)
