"""What the wire accepts survives the tables as it was, and what the tables accept the wire takes as it is."""

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feed import dataset, wire
from feed.catalogue import Item, User
from feed.dataset import Dataset, Format
from feed.dataset.schema import INTERACTIONS as INTERACTION_COLUMNS
from feed.dataset.schema import ITEMS as ITEM_COLUMNS
from feed.dataset.schema import USERS as USER_COLUMNS
from feed.errors import BadData
from feed.events import (
    ENGAGEMENTS,
    ID_LENGTH,
    LARGEST_NUMBER,
    LARGEST_WHOLE,
    LAST_POSITION,
    LEAST_PROPENSITY,
    LONGEST_DWELL_MS,
    TEXT_LENGTH,
    Context,
    Event,
    Impression,
    Shown,
)

FORMATS: list[Format] = ["parquet", "csv"]
FAR = 1e12  # seconds: an event of the year 9999 is not in the future
ODD = [
    "user_id", "User_ID", " user_id ", "item_id", "categroy", "category", "Category", "event", "occurred_at", "hour",
    "context", "attributes", "attribute", "event_id", "position", "tags", "title", "created_at", "platform", "device",
    "context.x", "attributes.x", "__index_level_0__", "a,b", 'a"b', "a\nb", "a\rb", "a\r\nb", "a\0b", " ", "\ufeff",
    "\u2028", "😀", "ß", "SS", "ſ", "İ", "i̇", "Ⅷ", "plan", "Plan", "PLAN", "x|y", "007", "1", "1.0", "-0", "1e3", "1,5",
    "1.200,5", "1 200", "nan", "NaN", "NA", "null", "None", "inf", "true", "True", "2025-01-01", "2025-01-31T12:00:00Z",
    " x ", "\t", "=1+1", "'", "[]", '["a","b"]', "[x]", "a|b", "|", "\\|", "{}", '{"a": 1}', ";", "#", "x" * 100, "country",
]  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
LONG = st.sampled_from(["\x01", "😀", "x"]).map(lambda one: one * TEXT_LENGTH)
IDS = TEXT | st.integers(-(2**63), 2**63 - 1).map(str) | st.sampled_from(["\x01", "é"]).map(lambda one: one * ID_LENGTH)
WHOLE = st.integers(-LARGEST_WHOLE, LARGEST_WHOLE) | st.integers(-2, 12)
NUMBERS = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, 1e15, -1e15, 0.1])
VALUES = TEXT | WHOLE | NUMBERS | st.just("") | LONG
NAMES = st.sampled_from(["plan", "height", "n"]) | TEXT | LONG
# one type under most names, as it is in most logs, and now and then another
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=4) | st.fixed_dictionaries(
    {}, optional={"plan": TEXT, "height": NUMBERS, "n": WHOLE}
)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=11, minutes=45))])
ANY_TIME = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30, 23, 59, 59, 999_999), timezones=ZONES)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=ZONES) | st.sampled_from(
    [datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]
)
PROPENSITIES = st.none() | st.floats(LEAST_PROPENSITY, 1)
SCORES = st.none() | NUMBERS
POSITIONS = st.integers(0, 3) | st.integers(0, LAST_POSITION)
MAYBE = st.none() | TEXT | st.just("")
CONTEXTS = st.builds(Context, MAYBE, MAYBE, st.none() | st.integers(0, 23), ATTRIBUTES)
SHOWN = st.builds(Shown, st.sampled_from(["1", "2"]) | IDS, POSITIONS, SCORES, PROPENSITIES, MAYBE)
COMMON = {
    "event_id": IDS, "user_id": st.sampled_from(["u", "U"]) | IDS, "occurred_at": TIMES,
    "request_id": st.sampled_from([None, "r"]) | IDS, "arm": MAYBE, "model_version": MAYBE, "context": CONTEXTS,
}  # fmt: skip
IMPRESSIONS = st.builds(Impression, **COMMON, items=st.lists(SHOWN, min_size=1, max_size=4).map(tuple))
ENGAGED = [
    st.builds(
        made, **COMMON, item_id=IDS, position=st.none() | POSITIONS, propensity=PROPENSITIES, score=SCORES,
        **({"dwell_ms": st.none() | st.integers(0, LONGEST_DWELL_MS)} if name == "view" else {}),
    )
    for name, made in ENGAGEMENTS.items()
]  # fmt: skip
EVENTS = st.lists(st.one_of(IMPRESSIONS, *ENGAGED), max_size=5, unique_by=lambda event: (event.user_id, event.event_id))
ITEMS = st.lists(
    st.builds(
        Item, item_id=IDS, title=MAYBE, created_at=st.none() | ANY_TIME, category=MAYBE,
        tags=st.lists(TEXT | st.just(""), max_size=4).map(tuple), creator_id=st.none() | IDS, attributes=ATTRIBUTES,
        available=st.none() | st.booleans(), expires_at=st.none() | ANY_TIME,
    ),
    max_size=4, unique_by=lambda item: item.item_id,
)  # fmt: skip
USERS = st.lists(
    st.builds(
        User, user_id=IDS, signed_up_at=st.none() | ANY_TIME, platform=MAYBE, country=MAYBE, age_group=MAYBE, gender=MAYBE,
        attributes=ATTRIBUTES,
    ),
    max_size=4, unique_by=lambda user: user.user_id,
)  # fmt: skip


def sent(messages, decode: Callable[[bytes], object]):
    """As readers of the topic have them."""
    return [decode(wire.encode(message)) for message in messages]


def through_files(tables: Dataset, format: Format) -> Dataset:
    with tempfile.TemporaryDirectory() as path:
        dataset.write(tables, Path(path), format)
        return dataset.read(Path(path), future_seconds=FAR)


def messages(tables: Dataset) -> tuple[list[Event], list[Item], list[User]]:
    return list(dataset.events_of(tables)), list(dataset.items_of(tables)), list(dataset.users_of(tables))


def same_types(one: Sequence[Item] | Sequence[User] | Sequence[Event], other: Sequence[object]) -> bool:
    """Equal, and 1 is not 1.0."""
    return [wire.encode(a) for a in one] == [wire.encode(b) for b in other]


@pytest.mark.parametrize("format", FORMATS)
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(events=EVENTS, items=ITEMS, users=USERS)
def test_what_the_wire_accepts_comes_back_from_the_files(
    format: Format, events: list[Event], items: list[Item], users: list[User]
) -> None:
    events = sorted(sent(events, wire.decode_event), key=lambda event: event.occurred_at)
    items, users = sent(items, wire.decode_item), sent(users, wire.decode_user)
    found = messages(through_files(dataset.from_events(events, items, users), format))
    assert found == (events, items, users)
    for one, other in zip(found, (events, items, users), strict=True):
        assert same_types([_sorted(a) for a in one], [_sorted(b) for b in other])
    again = messages(through_files(dataset.from_events(*found), format))
    assert again == found


def _sorted(message: Event | Item | User) -> Event | Item | User:
    """Attributes are a mapping: they have no order."""
    if isinstance(message, Item | User):
        return replace(message, attributes=dict(sorted(message.attributes.items())))
    return replace(message, context=replace(message.context, attributes=dict(sorted(message.context.attributes.items()))))


KINDS_OF_CELLS = [
    TEXT, LONG, st.booleans(), st.integers(-(2**70), 2**70), st.integers(-2, 2000), st.floats(), st.floats(0, 1), st.dates(),
    st.decimals(allow_nan=False), st.times(), st.datetimes(), ANY_TIME, st.binary(max_size=3), st.lists(TEXT, max_size=2),
    st.sampled_from(["like", "view", "impression", "2025-01-01", "x" * (TEXT_LENGTH + 1), "1e999", "1e-13"]),
    st.sampled_from([{"a": 1}, ["a", 1], Decimal("NaN"), Decimal(10) ** 37]),
    ATTRIBUTES.map(lambda values: json.dumps(values)),
]  # fmt: skip
DTYPES = ["Int64", "UInt64", "float64", "float32", "boolean", "str", "category", "datetime64[s]", "datetime64[ns, UTC]", object]


@st.composite
def frames(draw: st.DrawFn, required: dict[str, object], optional: Sequence[str]) -> pd.DataFrame:
    """A table in which the required columns are as given, and others are anything."""
    rows = draw(st.integers(0, 4))
    names = draw(st.lists(st.sampled_from([*optional, "plan", "a" * 257, "Ort"]), unique=True, max_size=3))
    columns = {name: pd.Series([value] * rows, dtype="str") for name, value in required.items()}
    for name in names:
        cell = st.none() | draw(st.sampled_from([*KINDS_OF_CELLS, st.one_of(KINDS_OF_CELLS)]))
        values = draw(st.lists(cell, min_size=rows, max_size=rows))
        try:
            columns[name] = pd.Series(values, dtype=draw(st.sampled_from(DTYPES)))
        except Exception:  # pandas has many ways to say that a type does not fit
            columns[name] = pd.Series(values, dtype=object)
    if rows and (key := next(iter(required))) != "event":
        columns[key] = pd.Series([f"{n}" for n in range(rows)])
    return pd.DataFrame(columns)


FRAMES = {
    "users": frames({"user_id": "1"}, list(USER_COLUMNS)),
    "items": frames({"item_id": "1"}, list(ITEM_COLUMNS)),
    "interactions": frames(
        {"event": "impression", "user_id": "1", "item_id": "1", "occurred_at": "2025-01-01"}, list(INTERACTION_COLUMNS)
    ),
}


@settings(deadline=None, max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(**FRAMES)
def test_what_the_tables_accept_the_wire_takes_as_it_is(
    users: pd.DataFrame, items: pd.DataFrame, interactions: pd.DataFrame
) -> None:
    try:
        found = messages(Dataset(users, items, interactions, ("plan",) if "plan" in interactions else ()))
    except BadData:
        return
    for made, decode in zip(found, (wire.decode_event, wire.decode_item, wire.decode_user), strict=True):
        assert sent(made, decode) == made
