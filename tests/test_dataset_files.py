"""Files as people have them: read as meant, or refused with the place and a remedy."""

import csv
import datetime as dt
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from structlog.testing import capture_logs

from feed import dataset
from feed.catalogue import Item
from feed.errors import BadData

INTERACTIONS = "user_id,item_id,event,occurred_at\n1,a,like,2025-01-01\n"


def items(path: Path, content: str | bytes | pa.Table) -> list[Item]:
    """What is read of this table of items."""
    (path / "users.csv").write_text("user_id\n1\n")
    (path / "interactions.csv").write_text(INTERACTIONS)
    if isinstance(content, pa.Table):
        parquet.write_table(content, path / "items.parquet")
    else:
        (path / "items.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(dataset.items_of(dataset.read(path)))


def column(name: str, values: Any) -> pa.Table:
    return pa.table({"item_id": ["a", "b"], name: values})


def saved(frame: pd.DataFrame) -> pa.Table:
    """As pandas saves it, with its index."""
    file = io.BytesIO()
    frame.to_parquet(file)
    return parquet.read_table(file)


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        (pa.array([[1, 2], None]), ("1", "2")),
        (pa.array([[1.0, None], []]), ("1",)),
        (pa.array([1980, None]), ("1980",)),
        (pa.array([1980.0, None]), ("1980",)),
        (pa.array(["x|y", None]), ("x", "y")),
        (pa.array([["x|y", "", "x|y", None], None]), ("x|y",)),
        (pa.array([["x"], None], pa.large_list(pa.large_string())), ("x",)),
        (pa.array(["x", None]).dictionary_encode(), ("x",)),
    ],
)
def test_tags_may_be_numbers_and_lists_of_any_kind(values: Any, tags: tuple[str, ...], tmp_path: Path) -> None:
    assert [item.tags for item in items(tmp_path, column("tags", values))] == [tags, ()]


@pytest.mark.parametrize(
    ("field", "tags"),
    [("1980", ("1980",)), ("a|b||a", ("a", "b")), ('"[""a|b"", 7]"', ("a|b", "7")), ("[]", ())],
)
def test_tags_in_csv_are_joined_or_a_json_list(field: str, tags: tuple[str, ...], tmp_path: Path) -> None:
    assert [item.tags for item in items(tmp_path, f"item_id,tags\na,{field}\nb,\n")] == [tags, ()]


@pytest.mark.parametrize(
    ("values", "attribute"),
    [
        (pa.array([True, None]), "true"),
        (pa.array([Decimal("1.50"), None]), 1.5),
        (pa.array([Decimal("2"), None]), 2),
        (pa.array(["q", None], pa.large_string()), "q"),
        (pa.array(["q", None], pa.string_view()), "q"),
        (pa.array(["q", None]).dictionary_encode(), "q"),
        (pa.array([5, None]).dictionary_encode(), 5),
        (pa.array([5, None], pa.uint32()), 5),
        (pa.array([1.5, None], pa.float16()), 1.5),
    ],
)
def test_further_columns_of_many_types_are_features(values: Any, attribute: object, tmp_path: Path) -> None:
    found = items(tmp_path, column("x", values))
    assert [item.attributes for item in found] == [{"x": attribute}, {}]
    assert type(found[0].attributes["x"]) is type(attribute)


@pytest.mark.parametrize(
    ("values", "at"),
    [
        (pa.array([dt.date(2025, 1, 1), None]), "2025-01-01T00:00:00"),
        (pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "Asia/Tokyo")), "2023-11-14T22:13:20.123456"),
        (pa.array([1_700_000_000, None], pa.timestamp("s")), "2023-11-14T22:13:20"),
        (pa.array(["2025-01-01T02:00:00+02:00", None]), "2025-01-01T00:00:00"),
    ],
)
def test_times_of_any_unit_and_zone_are_utc(values: Any, at: str, tmp_path: Path) -> None:
    created = [item.created_at for item in items(tmp_path, column("created_at", values))]
    assert created == [dt.datetime.fromisoformat(at).replace(tzinfo=dt.UTC), None]


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("tags", pa.array([[1.5], None]), r"row 1: tags .* is no list of text or whole numbers: write a\|b, or a JSON"),
        ("tags", pa.array([[["a"]], None]), "row 1: tags .* is no list of text"),
        ("tags", pa.array([{"a": 1}, None]), "row 1: tags {'a': .*} is no list of text"),
        ("x", pa.array([dt.date(2025, 1, 1), None]), "row 1: x datetime.date.* is neither text nor a whole number: convert"),
        ("x", pa.array([dt.time(1), None]), "row 1: x datetime.time.* is neither text"),
        ("x", pa.array([{"a": 1}, None]), "row 1: x {'a'.*} is neither text"),
        ("x", pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), "row 1: x .* is neither text"),
        ("x", pa.array([b"q", None]), "row 1: x b'q' is neither text"),
        ("x", pa.array([dt.timedelta(1), None]), "column x is of type timedelta.*: convert it, or leave it out"),
        ("x", pa.array([10**15, None], pa.timestamp("us")), "column x is of type datetime.*: convert it, or leave it out"),
        ("created_at", pa.array([10**15, None], pa.timestamp("s")), "row 1: created_at .* is not in the years 1 to 9999"),
        ("created_at", pa.array([dt.time(1), None]), "row 1: created_at .* is no time: write it as ISO 8601"),
        ("created_at", pa.array([1.7e9, None]), "row 1: created_at 1700000000.0 is a number: write the time"),
    ],
)
def test_other_types_are_refused_by_name(name: str, values: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=f"items:? {why}"):
        items(tmp_path, column(name, values))


def test_an_index_that_pandas_has_saved_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]})
    expected = [Item(item_id="a", title="A"), Item(item_id="c", title="C")]
    assert items(tmp_path, saved(frame.iloc[[0, 2]])) == expected
    assert items(tmp_path, saved(frame.iloc[[0, 2]].set_index("item_id"))) == expected


@pytest.mark.parametrize(
    ("names", "why"),
    [(["item_id", "item_id"], "column 'item_id' is there twice"), (["item_id", ""], "column 2 has no name")],
)
def test_columns_of_parquet_have_names_of_their_own(names: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=why):
        items(tmp_path, pa.table([pa.array(["a"]), pa.array(["b"])], names=names))


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffitem_id,title\na,A\nb,B\n",
        "item_id,title\r\na,A\r\nb,B\r\n",
        "item_id,title\ra,A\rb,B\r",
        'item_id,title\n\na,A\n\n"b",B',
        '"item_id","title"\n"a","A"\n"b","B"\n',
    ],
)
def test_csv_as_other_programs_write_it(content: str, tmp_path: Path) -> None:
    assert items(tmp_path, content) == [Item(item_id="a", title="A"), Item(item_id="b", title="B")]


def test_quotes_inside_a_field_and_zero_bytes_are_text(tmp_path: Path) -> None:
    found = items(tmp_path, 'item_id,title\na,5" disk\n"b\0","x\r\n""y"""\n')
    assert found == [Item(item_id="a", title='5" disk'), Item(item_id="b\0", title='x\r\n"y"')]


@pytest.mark.parametrize("content", ["item_id,title", "item_id\n"])
def test_a_header_alone_is_a_table_without_rows(content: str, tmp_path: Path) -> None:
    assert items(tmp_path, content) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        # an open quote swallows the rest
        ('item_id,title\na,A\nb,"B\nc,C\n', "line 3: a quote opens a field and none closes it.*UTF-8 is needed"),
        ('item_id,title\na,A\nb,"\n', "line 3: a quote opens a field and none closes it"),
        ('item_id,title,n\na,"A,1\nb,"B",2\nc,C,3\n', "line 2: ',' expected after '\"'"),
        ('item_id,title\na,"he said \\"hi\\""\n', "line 2: ',' expected after '\"'"),
        ('item_id,title\na,"' + "x" * 2_000_000, "line 2: a field has more than 1,048,576 characters, maybe because a quote"),
        ("item_id,title\na,A\nb\n", r"line 3: 1 fields, where the first line names 2 columns: \['b'\]"),
        ("item_id,title\na,A\nb,B,1\n", r"line 3: 3 fields, where the first line names 2 columns: \['b', 'B', '1'\]"),
        ("item_id,price\na,1,5\n", "line 2: 3 fields, where"),
        ("item_id,title\na,A\n" + "\0" * 200, "line 3: 1 fields, where .*…"),
        ("item_id,title\na,Ä\n".encode("latin-1"), "line 2: 'utf-8' codec can't decode byte 0xc4.*UTF-8 is needed"),
        ("item_id,title\na,A\n".encode("utf-16"), "it is in UTF-16: save it as csv in UTF-8"),
        ("item_id,title\na,A\n".encode("utf-16-le"), "the names of the columns hold zero bytes, as UTF-16 does"),
        ("", "the first line is empty"),
        ("\ufeff", "the first line is empty"),
        (" \n", "the first line is empty"),
        ("item_id,title,title\na,A,B\n", "column 'title' is there twice"),
        (",item_id\n0,a\n", "column 1 has no name.*index=False"),
        ("item_id,title,\na,A,\n", "column 3 has no name"),
        ("item_id,title\n,\n", "row 1: item_id is missing"),
        (
            'item_id,price\na,"1,5"\nb,2\n',
            "row 1: price '1,5' can be read as more than one number: write numbers like 1200 or 0.25",
        ),
        ('item_id,price\na,"1,200"\nb,"13,000"\n', "row 1: price '1,200' can be read as more than one number.*2 such rows"),
        ('item_id,price\na,7\nb,"1.200,5"\n', "row 2: price '1.200,5' can be read as more than one number"),
        ("item_id,price\na,1 200\nb,7\n", "row 1: price '1 200' can be read as more than one number"),
        ("item_id,tags\na,\"['x', 'y']\"\n", "row 1: tags .* is no list of text"),
        ("item_id,title\na," + "x" * 200_000 + "\n", r"row 1: title 'x+… \(200,002 characters\) is longer than 1024"),
    ],
)
def test_csv_that_cannot_be_read_as_meant_is_refused_with_its_place(content: str | bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=why):
        items(tmp_path, content)


def test_a_field_that_looks_like_swallowed_rows_is_told(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert items(tmp_path, 'item_id,title,n\na,A,1\nb,"B,2\nc,C",3\n')[1].title == "B,2\nc,C"
    assert [(entry["row"], entry["begins"]) for entry in logs if "is a quote missing" in entry["event"]] == [(2, "B,2\nc,C")]


@pytest.mark.parametrize("value", ["1.000", "1,000", "1 000"])
def test_a_whole_number_is_not_written_in_groups(value: str, tmp_path: Path) -> None:
    items(tmp_path, "item_id\na\n")
    rows = [["user_id", "item_id", "event", "occurred_at", "dwell_ms"], ["1", "a", "view", "2025-01-01", value]]
    with (tmp_path / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(BadData, match=rf"interactions row 1: dwell_ms '{value}' is n"):
        dataset.read(tmp_path)


def test_text_that_reads_as_numbers_stays_text_in_our_own_csv(tmp_path: Path) -> None:
    made = [Item(item_id=str(n), attributes={"code": code}) for n, code in enumerate(("1,5", "2", "007"))]
    dataset.write(dataset.from_events([], made, []), tmp_path / "log", "csv")
    assert list(dataset.items_of(dataset.read(tmp_path / "log"))) == made
