"""A log as columns, in order of time, with the events that a ranking is asked for.

Rows of one user and item within `window` seconds of the first of them are one *event*: shown, viewed and liked is one
thing that happened. An event is ranked at its first row. It is a *target* if any of its rows is positive and the user had
never met the item before, in no row of whatever kind: an item that was shown is seen. With repeats every positive event is one.

Users and items are codes drawn at random, because ids often follow time or popularity and would leak both.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
from msgspec.structs import replace as replace_fields

from feed.catalogue import Item, User
from feed.dataset import Dataset, items_of, users_of
from feed.errors import BadData
from feed.events import KINDS, utc

NONE = 0  # the code of an attribute that is missing


@dataclass(frozen=True)
class Rows:
    """n rows in order of time, those of one instant as in the table; a row's index is its number.

    `user`, `item` int32 codes; `at` float64 seconds since 1970; `kind` int8 index into `feed.events.KINDS`; `dwell` float32
    seconds, nan unknown; `event` int32: the row that the row's event begins with; `opens` bool: it is that row itself;
    `new` bool: the event is the user's first with the item; `positive` bool: the row that makes its event positive (one an
    event); `first` bool: a target begins here. `repeats`: what the user has met before is ranked and can be a target, too.
    """

    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    dwell: np.ndarray
    event: np.ndarray
    opens: np.ndarray
    new: np.ndarray
    positive: np.ndarray
    first: np.ndarray
    repeats: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def shown(self) -> np.ndarray:
        """bool (n,): an impression, which is not yet an engagement."""
        return np.asarray(self.kind == KINDS.index("impression"))

    def until(self, end: int) -> "Rows":
        """The first `end` rows, targets only as far as these rows know."""
        columns = {name: getattr(self, name)[:end] for name in self.__dataclass_fields__ if name != "repeats"}
        rows = replace(self, **columns)
        first = np.zeros(end, bool)
        first[rows.event[rows.positive]] = True
        return replace(rows, first=first & self.first[:end])

    def decided(self) -> np.ndarray:
        """int32 (n,): for a row where an event begins, the row that made it positive; -1 if none did."""
        at = np.full(len(self), -1, np.int32)
        rows = np.flatnonzero(self.positive)
        at[self.event[rows]] = rows
        return at


@dataclass(frozen=True)
class Catalogue:
    """m items by code.

    `created` float64 (m,) seconds since 1970: the time in the table, or the item's first row if that is earlier; -inf where
    unknown, inf for an item that no table describes (it is never ranked); `category`, `creator` int32 (m,) codes, 0 = none;
    `tags`: codes from 1 on, one tuple an item. `user_features` int32 (u, f): codes of the users' categorical columns, 0 = none.
    `items`, `users`: what the tables describe, with all attributes, by code, which is their id; an item is there from `created`
    on. Whether it is available, and until when, is left out: the first is known of today only, and candidates ask for neither.
    """

    created: np.ndarray
    category: np.ndarray
    creator: np.ndarray
    tags: tuple[tuple[int, ...], ...]
    user_features: np.ndarray
    items: tuple[Item, ...]
    users: tuple[User, ...]

    @property
    def n_items(self) -> int:
        """m."""
        return len(self.created)

    @property
    def n_users(self) -> int:
        """u."""
        return len(self.user_features)


@dataclass(frozen=True)
class Log:
    """Rows and catalogue, and the ids behind the codes."""

    rows: Rows
    catalogue: Catalogue
    user_ids: np.ndarray
    item_ids: np.ndarray


def load(data: Dataset, positive: Collection[str], window: float, seed: int, repeats: bool = False) -> Log:
    """The dataset as columns. Raises `BadData` for a log without interactions, or a `positive` that is no kind of event."""
    if wrong := [name for name in positive if name not in KINDS]:
        raise BadData(f"--positive {wrong[0]!r} is none of {', '.join(KINDS)}")
    table = data.interactions.sort_values("occurred_at", kind="stable", ignore_index=True)
    if table.empty:
        raise BadData("interactions: there are no rows, so there is nothing to evaluate; take a longer log")
    rng = np.random.default_rng(seed)
    users = _permuted(table["user_id"], data.users["user_id"], rng)
    items = _permuted(table["item_id"], data.items["item_id"], rng)
    user, item = (index.get_indexer(pd.Index(table[name])) for index, name in ((users, "user_id"), (items, "item_id")))
    at = pd.DatetimeIndex(table["occurred_at"]).tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    kind = pd.Index(KINDS).get_indexer(pd.Index(table["event"])).astype(np.int8)
    first_seen = np.full(len(items), np.inf)
    np.minimum.at(first_seen, item, at)
    catalogue = _catalogue(data, users, items, first_seen)
    dwell = table["dwell_ms"].to_numpy("float32", na_value=np.nan) / 1000 if "dwell_ms" in table else np.full(len(at), np.nan)
    event, new = events(user, item, at, window)
    wanted = np.isin(kind, [KINDS.index(name) for name in positive])
    rows = _rows(user.astype(np.int32), item.astype(np.int32), at, kind, dwell.astype(np.float32), event, new, wanted, repeats)
    first = rows.first & np.isfinite(rows.at) & (catalogue.created[rows.item] != np.inf)
    return Log(replace(rows, first=first, repeats=repeats), catalogue, users.to_numpy(), items.to_numpy())


def events(user: np.ndarray, item: np.ndarray, at: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray]:
    """(event, new) of rows in order of time: the row each row's event begins with, int32 (n,), and whether it is the pair's
    first event, bool (n,)."""
    pair = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    event, new = np.arange(len(pair), dtype=np.int32), np.ones(len(pair), bool)
    begun: dict[int, tuple[int, bool]] = {}
    for k, (p, t) in enumerate(zip(pair.tolist(), at.tolist(), strict=True)):
        before = begun.get(p)
        if before is not None and t - at[before[0]] <= window:
            event[k], new[k] = before
        else:
            begun[p] = (k, before is None)
            new[k] = before is None
    return event, new


def _rows(
    user: np.ndarray, item: np.ndarray, at: np.ndarray, kind: np.ndarray, dwell: np.ndarray,
    event: np.ndarray, new: np.ndarray, wanted: np.ndarray, repeats: bool,
) -> Rows:  # fmt: skip
    positive = np.zeros(len(user), bool)
    rows = np.flatnonzero(wanted)
    positive[rows[np.unique(event[rows], return_index=True)[1]]] = True
    first = np.zeros(len(user), bool)
    first[event[positive]] = True
    return Rows(user, item, at, kind, dwell, event, event == np.arange(len(user)), new, positive, first & (new | repeats))


def _permuted(used: pd.Series, described: pd.Series, rng: np.random.Generator) -> pd.Index:
    return pd.Index(rng.permutation(pd.unique(pd.concat([described, used]).astype(object)).astype(object)))


def _catalogue(data: Dataset, users: pd.Index, items: pd.Index, first_seen: np.ndarray) -> Catalogue:
    table = data.items.set_index("item_id").reindex(items)
    created = np.full(len(items), -np.inf)
    if "created_at" in table:
        known = table["created_at"].notna().to_numpy()
        times = pd.DatetimeIndex(table["created_at"][known]).tz_convert(None)
        created[known] = times.to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    created = np.minimum(created, first_seen)
    created[~items.isin(data.items["item_id"])] = np.inf
    tags: tuple[tuple[int, ...], ...] = ((),) * len(items)
    if "tags" in table:
        lists = [value if isinstance(value, tuple) else () for value in table["tags"]]
        code = {tag: i + 1 for i, tag in enumerate(sorted({tag for value in lists for tag in value}))}
        tags = tuple(tuple(code[tag] for tag in value) for value in lists)
    profiles = data.users.set_index("user_id").drop(columns="attributes", errors="ignore").reindex(users)
    columns = [_codes(profiles, str(name)) for name in profiles if not pd.api.types.is_float_dtype(profiles[name])
               and not isinstance(profiles[name].dtype, pd.DatetimeTZDtype)]  # fmt: skip
    features = np.stack(columns, axis=1) if columns else np.zeros((len(users), 0), np.int32)
    category, creator = _codes(table, "category"), _codes(table, "creator_id")
    return Catalogue(created, category, creator, tags, features, *_described(data, users, items, created))


def _described(
    data: Dataset, users: pd.Index, items: pd.Index, created: np.ndarray
) -> tuple[tuple[Item, ...], tuple[User, ...]]:
    """The items and users of the tables under their codes, in the order of these."""
    item_code, user_code = (
        items.get_indexer(pd.Index(data.items["item_id"])),
        users.get_indexer(pd.Index(data.users["user_id"])),
    )
    found: dict[int, Item] = {}
    for code, item in zip(item_code.tolist(), items_of(data), strict=True):
        at = utc(float(created[code])) if np.isfinite(created[code]) else None
        found[code] = replace_fields(item, item_id=str(code), created_at=at, available=None, expires_at=None)
    profiles = {
        code: replace_fields(user, user_id=str(code)) for code, user in zip(user_code.tolist(), users_of(data), strict=True)
    }
    return tuple(found[code] for code in sorted(found)), tuple(profiles[code] for code in sorted(profiles))


def _codes(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        return np.zeros(len(table), np.int32)
    return (cast("np.ndarray", pd.factorize(table[name])[0]) + 1).astype(np.int32)
