"""The three tables and their columns; a `Dataset` that exists is valid.

Columns come out in one form each: ids and text as `str`, times as `datetime64[us, UTC]`, whole numbers as `Int64`, floats as
`float64`, true and false as `boolean`, tags as tuples. Missing is missing (never an empty text), and an optional column without
any value is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

import pandas as pd

from feed.dataset import columns
from feed.errors import BadData
from feed.events import KINDS

Parse = Callable[[columns.Where, pd.Series], pd.Series]
DAY_MS = 86_400_000
SHOWN_BOUND = 500  # items of one impression

USERS: Mapping[str, Parse] = {
    "user_id": columns.ids,
    "signed_up_at": columns.times,
    "platform": columns.text,
    "country": columns.text,
    "age_group": columns.text,
    "gender": columns.text,
}
ITEMS: Mapping[str, Parse] = {
    "item_id": columns.ids,
    "title": columns.text,
    "created_at": columns.times,
    "category": columns.text,
    "tags": columns.tags,
    "creator_id": columns.ids,
    "available": columns.flags,
    "expires_at": columns.times,
}
INTERACTIONS: Mapping[str, Parse] = {
    "user_id": columns.ids,
    "item_id": columns.ids,
    "event": columns.one_of(KINDS),
    "occurred_at": columns.times_since_1970,
    "dwell_ms": columns.whole(0, DAY_MS),
    "request_id": columns.ids,
    "position": columns.whole(0, 2**53),
    "device": columns.text,
    "country": columns.text,
    "hour": columns.whole(0, 23),
    "propensity": columns.probabilities,
    "score": columns.finite,
    "source": columns.text,
    "arm": columns.text,
    "model_version": columns.text,
}
REQUIRED = {"users": ("user_id",), "items": ("item_id",), "interactions": ("user_id", "item_id", "event", "occurred_at")}


@dataclass(frozen=True)
class Dataset:
    """Users (n, columns), items (m, columns) and interactions (k, columns), checked and brought into one form when made.

    Further columns of users and items are attributes; those of interactions are dropped, unless `context`
    names them. Raises `BadData` naming table, column, row (counted from 1, header not counted) and value.
    """

    users: pd.DataFrame
    items: pd.DataFrame
    interactions: pd.DataFrame
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if absent := [name for name in self.context if name not in self.interactions.columns]:
            raise BadData(f"interactions: no column {absent[0]!r} to take as context; there are {_list(self.interactions)}")
        users = _table("users", self.users, USERS)
        items = _table("items", self.items, ITEMS)
        interactions = _table("interactions", self.interactions, INTERACTIONS, self.context)
        _unique("users", users["user_id"])
        _unique("items", items["item_id"])
        _requests_fit(interactions)
        for name, table in (("users", users), ("items", items), ("interactions", interactions)):
            object.__setattr__(self, name, table)
        object.__setattr__(self, "context", tuple(name for name in self.context if name in interactions))


def _table(name: str, frame: pd.DataFrame, known: Mapping[str, Parse], context: Sequence[str] = ()) -> pd.DataFrame:
    _spelt_right(name, frame, known, context)
    parsed = {}
    for column in [*(c for c in known if c in frame), *(str(c) for c in frame if c not in known)]:
        if column in known:
            parse = known[column]
        elif name != "interactions" or column in context:
            parse = columns.attribute
        else:
            continue
        where = columns.Where(name, column)
        values = parse(where, frame[column].reset_index(drop=True))
        if column in REQUIRED[name]:
            where.refuse(frame[column], values.isna(), "is missing: every row needs one")
        elif values.isna().all():
            continue
        parsed[column] = values
    return pd.DataFrame(parsed)


def _spelt_right(table: str, frame: pd.DataFrame, known: Mapping[str, Parse], context: Sequence[str]) -> None:
    further = [name for name in frame.columns if name not in known and name not in context]
    for required in REQUIRED[table]:
        if required not in frame:
            near = get_close_matches(required, further, 1, 0.7)
            hint = f"; {near[0]!r} is not known: did you mean {required!r}?" if near else f"; there are {_list(frame)}"
            raise BadData(f"{table}: the required column {required!r} is missing{hint}")
    for name in further:
        near = get_close_matches(str(name).lower(), [k for k in known if k not in frame], 1, 0.85)
        if near:
            raise BadData(f"{table}: unknown column {name!r}: did you mean {near[0]!r}? If not, give it a less similar name")


def _unique(table: str, ids: pd.Series) -> None:
    repeated = ids.duplicated()
    if repeated.any():
        second = int(repeated.to_numpy().argmax())
        first = int((ids == ids.iloc[second]).to_numpy().argmax())
        raise BadData(f"{table} rows {first + 1} and {second + 1}: {ids.name} {ids.iloc[second]!r} twice; keep one row an id")


def _requests_fit(interactions: pd.DataFrame) -> None:
    shown = interactions[interactions["event"] == "impression"]
    if "request_id" in shown and len(shown):
        sizes = shown.groupby(["user_id", "request_id"]).size()
        if len(sizes) and sizes.max() > SHOWN_BOUND:
            user, request = cast("tuple[str, str]", sizes.idxmax())
            raise BadData(
                f"interactions: request_id {request!r} of user {user!r} shows {sizes.max()} items, at most {SHOWN_BOUND} are "
                "possible: a request is one list shown at once, not a session"
            )


def _list(frame: pd.DataFrame) -> str:
    return ", ".join(map(repr, frame.columns))
