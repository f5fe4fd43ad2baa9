"""The three tables and their columns; a `Dataset` that exists is valid: the wire takes every event, item and user of it.

Columns come out in one form each: ids and text as `str`, times as `datetime64[us, UTC]`, whole numbers as `Int64`, floats as
`float64`, true and false as `boolean`, tags as tuples. Missing is missing (never an empty text), and an optional column without
any value is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
import pandas as pd

from feed.dataset import attributes, columns
from feed.dataset.columns import Parse, Where
from feed.errors import BadData
from feed.events import LAST_POSITION, LONGEST_DWELL_MS, LONGEST_LIST, MOST_ATTRIBUTES, TEXT_LENGTH

USERS: Mapping[str, Parse] = {
    "user_id": columns.ids,
    "signed_up_at": columns.times,
    "platform": columns.text,
    "country": columns.text,
    "age_group": columns.text,
    "gender": columns.text,
    "attributes": columns.objects,
}
ITEMS: Mapping[str, Parse] = {
    "item_id": columns.ids,
    "title": columns.title,
    "created_at": columns.times,
    "category": columns.text,
    "tags": columns.tags,
    "creator_id": columns.ids,
    "available": columns.flags,
    "expires_at": columns.times,
    "attributes": columns.objects,
}
INTERACTIONS: Mapping[str, Parse] = {
    "user_id": columns.ids,
    "item_id": columns.ids,
    "event": columns.kinds,
    "occurred_at": columns.times_since_1970,
    "event_id": columns.ids,
    "dwell_ms": columns.whole(0, LONGEST_DWELL_MS),
    "request_id": columns.ids,
    "position": columns.whole(0, LAST_POSITION),
    "device": columns.text,
    "country": columns.text,
    "hour": columns.whole(0, 23),
    "context": columns.objects,
    "propensity": columns.probabilities,
    "score": columns.numbers,
    "source": columns.text,
    "arm": columns.text,
    "model_version": columns.text,
}
REQUIRED = {"users": ("user_id",), "items": ("item_id",), "interactions": ("user_id", "item_id", "event", "occurred_at")}
# what the rows of one impression share
OF_EVENT = ("event", "occurred_at", "request_id", "device", "country", "hour", "context", "arm", "model_version")
NO_INDEX = "pandas writes its index so, unless index=False"
OBJECTS = {"users": "attributes", "items": "attributes", "interactions": "context"}  # the column of further attributes


@dataclass(frozen=True)
class Dataset:
    """Users (n, columns), items (m, columns) and interactions (k, columns), checked and brought into one form when made.

    Further columns of users and items are attributes; those of interactions are dropped, unless `context` names them: then
    they go into the column `context`, and are named no more. Raises `BadData` naming table, column, row (counted from 1,
    header not counted) and value.
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
        interactions = as_objects(interactions, [str(name) for name in interactions if name not in INTERACTIONS], "context")
        _unique("users", users["user_id"])
        _unique("items", items["item_id"])
        _events_fit(interactions)
        _requests_fit(interactions)
        for name, table in (("users", users), ("items", items), ("interactions", interactions)):
            object.__setattr__(self, name, table)
        object.__setattr__(self, "context", ())


def as_objects(table: pd.DataFrame, names: Sequence[str], column: str) -> pd.DataFrame:
    """The table with what these columns hold in the JSON objects of `column` instead."""
    if not names:
        return table
    before = table[column].tolist() if column in table else [None] * len(table)
    rows = zip(*(python_values(table[name]) for name in names), strict=True)
    values = [
        attributes.write(
            ({} if pd.isna(text) else attributes.read(text)) | {n: v for n, v in zip(names, row, strict=True) if v is not None}
        )
        for text, row in zip(before, rows, strict=True)
    ]
    table = table.drop(columns=list(names))
    return table.assign(**{column: pd.Series(values, dtype="str")}) if any(values) else table


def python_values(values: pd.Series) -> list[Any]:
    """A column of a dataset as Python values, missing as None."""
    objects = values.astype(object)
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        objects = pd.Series(values.dt.to_pydatetime(), dtype=object)
    return objects.where(values.notna().to_numpy(), None).tolist()


def _table(name: str, frame: pd.DataFrame, known: Mapping[str, Parse], context: Sequence[str] = ()) -> pd.DataFrame:
    frame = _well_named(name, frame)
    _spelt_right(name, frame, known, context)
    further = [c for c in map(str, frame) if c not in known and (name != "interactions" or c in context)]
    parsed = {}
    for column in [*(c for c in known if c in frame), *further]:
        where = Where(name, column)
        given = frame[column]
        try:
            values = known.get(column, columns.attribute)(where, given)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise BadData(f"{name}: column {column} cannot be read: {error}; write it as text, numbers or times") from error
        if column in REQUIRED[name]:
            where.refuse(given, values.isna(), "is missing: every row needs one")
        elif values.isna().all():
            continue
        parsed[column] = values
    table = pd.DataFrame(parsed)
    _attributes_fit(name, table, [column for column in further if column in table])
    return table


def _well_named(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """With names that are text, one a column, and rows that count from 0."""
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1).reset_index(drop=True)
    for place, name in enumerate(frame.columns, 1):
        if not name.strip() or attributes.OF_PANDAS.fullmatch(name):
            raise BadData(f"{table}: column {place} has no name, but {name!r}: give it one, or leave it out ({NO_INDEX})")
        if len(name) > TEXT_LENGTH:
            raise BadData(f"{table}: the name of column {place}, {name[:40]!r}…, has more than {TEXT_LENGTH} characters")
    if repeated := frame.columns[frame.columns.duplicated()].tolist():
        raise BadData(f"{table}: column {repeated[0]!r} is there twice: keep one, or give them different names")
    return frame


def _spelt_right(table: str, frame: pd.DataFrame, known: Mapping[str, Parse], context: Sequence[str]) -> None:
    further = [name for name in frame.columns if name not in known and name not in context]
    for required in REQUIRED[table]:
        if required not in frame:
            near = get_close_matches(required, further, 1, 0.7)
            hint = f"; {near[0]!r} is not known: did you mean {required!r}?" if near else f"; there are {_list(frame)}"
            raise BadData(f"{table}: the required column {required!r} is missing{hint}")
    absent = [name for name in known if name not in frame]
    for name in further:
        if (meant := attributes.near(name, absent)) is not None:
            raise BadData(f"{table}: unknown column {name!r}: did you mean {meant!r}? If not, give it a less similar name")


def _attributes_fit(name: str, table: pd.DataFrame, further: Sequence[str]) -> None:
    """Each attribute of a row once, and not more of them than a message takes."""
    objects = OBJECTS[name]
    present = table[further].notna().to_numpy() if further else np.zeros((len(table), 0), bool)
    count = present.sum(axis=1)
    for row, text in enumerate(table.get(objects, ())):
        if not pd.isna(text):
            held = attributes.read(text)
            if twice := [column for column, there in zip(further, present[row], strict=True) if there and column in held]:
                raise BadData(
                    f"{name} row {row + 1}: {twice[0]!r} is given twice, in the column of that name and in {objects}: keep one"
                )
            count[row] += len(held)
    if len(count) and count.max() > MOST_ATTRIBUTES:
        row = int((count > MOST_ATTRIBUTES).argmax())
        raise BadData(
            f"{name} row {row + 1}: {count[row]} further columns have a value, at most {MOST_ATTRIBUTES} are possible: leave "
            "out those that say least"
        )


def _unique(table: str, ids: pd.Series) -> None:
    repeated = ids.duplicated()
    if repeated.any():
        second = int(repeated.to_numpy().argmax())
        first = int((ids == ids.iloc[second]).to_numpy().argmax())
        raise BadData(f"{table} rows {first + 1} and {second + 1}: {ids.name} {ids.iloc[second]!r} twice; keep one row an id")


def _events_fit(interactions: pd.DataFrame) -> None:
    """An event id of a user names one event; only the rows of an impression share it."""
    if "event_id" not in interactions:
        return
    key = ["user_id", "event_id"]
    shared = interactions[interactions["event_id"].notna() & interactions.duplicated(key, keep=False)]
    distinct = shared.drop_duplicates([*key, *(name for name in OF_EVENT if name in shared)])
    engaged = shared[shared["event"] != "impression"]
    for rows, why in ((distinct, "in rows of different events"), (engaged, "twice")):
        if (again := rows.duplicated(key)).any():
            second = int(rows.index[int(again.to_numpy().argmax())])
            user, event = rows.loc[second, key]
            same = (rows["user_id"] == user) & (rows["event_id"] == event)
            first = int(rows.index[int(same.to_numpy().argmax())])
            raise BadData(
                f"interactions rows {first + 1} and {second + 1}: event_id {event!r} of user {user!r} {why}; keep one row an "
                "event (an impression: one an item), or leave the column out"
            )


def _requests_fit(interactions: pd.DataFrame) -> None:
    shown = interactions[interactions["event"] == "impression"]
    for name in ("event_id", "request_id"):
        if name == "request_id" and "event_id" in shown:
            shown = shown[shown["event_id"].isna()]
        if name not in shown or shown.empty:
            continue
        sizes = shown.groupby(["user_id", name]).size()
        if len(sizes) and sizes.max() > LONGEST_LIST:
            user, request = cast("tuple[str, str]", sizes.idxmax())
            raise BadData(
                f"interactions: {name} {request!r} of user {user!r} shows {sizes.max()} items, at most {LONGEST_LIST} are "
                "possible: a request is one list shown at once, not a session"
            )


def _list(frame: pd.DataFrame) -> str:
    return ", ".join(map(repr, frame.columns))
