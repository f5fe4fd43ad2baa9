"""A folder is refused for whatever the wire would refuse, before anything is sent, with table, row, column and value."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feed import dataset, wire
from feed.catalogue import Item, User
from feed.dataset import Dataset
from feed.dataset.schema import INTERACTIONS, ITEMS, USERS
from feed.errors import BadData
from feed.events import Context, Impression, Shown, View
from feed.settings import Settings
from offline import seed

WORDS = "words about it"
DESCRIPTIONS = "item_id,title,category,description\n" + "".join(
    f"t{n},Title {n},c,{' '.join([WORDS] * (21 if n % 2 else 3))}\n" for n in range(4)
)
NONE = pd.DataFrame({"user_id": [], "item_id": [], "event": [], "occurred_at": []})
ONE = {"user_id": ["1"], "item_id": ["a"], "event": ["view"], "occurred_at": ["2025-01-01"]}
USER, ITEM = pd.DataFrame({"user_id": ["1"]}), pd.DataFrame({"item_id": ["a"]})


def test_a_folder_with_long_descriptions_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n1\n")
    (tmp_path / "items.csv").write_text(DESCRIPTIONS)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,event,occurred_at\n1,t0,like,2025-01-01\n")
    nowhere = Settings(kafka="127.0.0.1:1", redis="redis://127.0.0.1:1/0", registry=tmp_path / "registry")
    with pytest.raises(
        BadData, match=r"items row 2: description 'words about.*… \(\d+ characters\) is longer than 256 .*\(2 such"
    ):
        seed.seed(nowhere, tmp_path)


def test_the_tables_have_a_column_for_every_field_of_the_wire() -> None:
    assert set(ITEMS) == set(Item.__struct_fields__)
    assert set(USERS) == set(User.__struct_fields__)
    of_events = {name for kind in (Impression, View, Shown, Context) for name in kind.__struct_fields__}
    assert set(INTERACTIONS) == of_events - {"v", "items", "attributes"} | {"event"}


@pytest.mark.parametrize("name", ["platform", "country", "age_group", "gender", "plan"])
def test_texts_of_users_are_bounded(name: str) -> None:
    of = pd.DataFrame({"user_id": ["1", "2"], name: ["x" * 256, "é" * 257]})
    with pytest.raises(
        BadData, match=rf"users row 2: {name} 'é+… \(259 characters\) is longer than 256 characters: shorten it"
    ):
        Dataset(of, ITEM, NONE)
    (user,) = dataset.users_of(Dataset(of[:1], ITEM, NONE))
    assert wire.decode_user(wire.encode(user)) == user


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("title", "x" * 1025, "title .* is longer than 1024"),
        ("category", "x" * 257, "category .* is longer than 256"),
        ("creator_id", "x" * 129, "creator_id .* is longer than 128"),
        ("item_id", "🙂" * 129, "item_id .* is longer than 128"),
        ("tags", ["x" * 257], "tags .* has a tag of more than 256"),
        ("tags", [str(n) for n in range(65)], "tags .* has more than 64"),
        ("created_at", "9999-12-31T23:59:59-14:00", "created_at .* is not in the years 1 to 9999"),
        ("created_at", "10000-01-01", "created_at .* is no time"),
        ("words", "x" * 257, "words .* is longer than 256 characters: shorten it, or leave the column out"),
        ("sold", 2**53 + 1, r"sold 9007199254740993 is beyond 2\^53: write it as text"),
        ("weight", 1.1e15, r"weight 1100000000000000.0 is beyond 1e\+15"),
        ("weight", float("-inf"), "weight -inf is not finite"),
        ("attributes", '{"x": 1e16}', "attributes .* is no JSON object of attributes"),
        ("attributes", '{"": 1}', "attributes .* is no JSON object of attributes"),
    ],
)
def test_values_of_items_are_bounded(column: str, value: Any, why: str) -> None:
    with pytest.raises(BadData, match=f"items row 1: {why}"):
        Dataset(USER, pd.DataFrame({"item_id": ["a"], **{column: [value]}}), NONE)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        *(
            (name, "x" * 257, "is longer than 256")
            for name in ("device", "country", "source", "arm", "model_version", "weather")
        ),
        *((name, "x" * 129, "is longer than 128") for name in ("request_id", "event_id")),
        ("position", 2**31, "is more than 2147483647"),
        ("position", -1, "is negative"),
        ("propensity", 9e-13, "is less than 1e-12"),
        ("score", -2e15, r"is beyond 1e\+15"),
        ("dwell_ms", 86_400_001, "is more than 86400000"),
        ("hour", 24, "is more than 23"),
        ("weather", 2**60, r"is beyond 2\^53"),
    ],
)
def test_values_of_interactions_are_bounded(column: str, value: Any, why: str) -> None:
    with pytest.raises(BadData, match=f"interactions row 1: {column} .*{why}"):
        Dataset(USER, ITEM, pd.DataFrame({**ONE, column: [value]}), ("weather",) if column == "weather" else ())


def test_a_row_has_at_most_64_further_columns_and_a_table_any_number() -> None:
    wide = pd.DataFrame(
        {"item_id": [str(n) for n in range(100)], **{f"c{n}": pd.array([None] * 100, "Int64") for n in range(100)}}
    )
    for n in range(100):
        wide.loc[n, f"c{n}"] = n
    items = list(dataset.items_of(Dataset(USER, wide, NONE)))
    assert [item.attributes for item in items] == [{f"c{n}": n} for n in range(100)]
    wide.loc[7, [f"c{n}" for n in range(65)]] = 1
    with pytest.raises(BadData, match="items row 8: 65 further columns have a value, at most 64"):
        Dataset(USER, wide, NONE)
    many = pd.DataFrame({**ONE, **{f"c{n}": [n] for n in range(65)}})
    with pytest.raises(BadData, match="interactions row 1: 65 further columns have a value"):
        Dataset(USER, ITEM, many, tuple(f"c{n}" for n in range(65)))


def test_a_column_needs_a_name_that_an_attribute_can_have() -> None:
    for name, why in (("x" * 257, "has more than 256 characters"), (" ", "has no name"), ("Unnamed: 0", "has no name")):
        with pytest.raises(BadData, match=f"users: .*column 2.*{why}"):
            Dataset(pd.DataFrame({"user_id": ["1"], name: ["x"]}), ITEM, NONE)


def test_an_impression_is_no_larger_than_a_record() -> None:
    shown = pd.DataFrame({name: values * 500 for name, values in (ONE | {"event": ["impression"], "event_id": ["e"]}).items()})
    shown["item_id"], shown["source"] = "\x01" * 128, "\x01" * 256
    with pytest.raises(
        BadData, match=r"interactions row 1: the impression .* has 1,\d+,\d+ bytes as a message, at most 1,048,576"
    ):
        list(dataset.events_of(Dataset(USER, ITEM, shown)))
    assert len(list(dataset.events_of(Dataset(USER, ITEM, shown[:300])))) == 1


def test_an_event_id_names_one_event() -> None:
    def rows(**columns: list[str]) -> Dataset:
        return Dataset(
            USER, ITEM, pd.DataFrame({name: values * 2 for name, values in ONE.items()} | {"event_id": "e"} | columns)
        )

    with pytest.raises(BadData, match="rows 1 and 2: event_id 'e' of user '1' twice"):
        rows()
    with pytest.raises(BadData, match="rows 1 and 2: event_id 'e' of user '1' in rows of different events"):
        rows(event=["impression"] * 2, occurred_at=["2025-01-01", "2025-01-02"])
    with pytest.raises(BadData, match="rows 1 and 2: event_id 'e' of user '1' in rows of different events"):
        rows(event=["impression", "view"])
    (event,) = dataset.events_of(rows(event=["impression"] * 2, item_id=["b", "a"]))
    assert isinstance(event, Impression)
    assert (event.event_id, [(one.item_id, one.position) for one in event.items]) == ("e", [("b", 0), ("a", 1)])
    assert len(list(dataset.events_of(rows(user_id=["1", "2"])))) == 2
