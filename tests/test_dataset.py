from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from msgspec.structs import replace as changed
from structlog.testing import capture_logs

from feed import dataset, kinds
from feed.catalogue import Item, User
from feed.dataset import Dataset, Format
from feed.errors import BadData
from feed.events import ENGAGEMENTS, Click, Impression, Shown, View, adopt

TABLES = {
    "users": "user_id,signed_up_at,country,plan,height\n1,2025-01-01,NA,007,1.5\n2,,,,\n",
    "items": "item_id,title,tags,creator_id,length\na,First,x|y,7,12\nb,,,,\n",
    "interactions": (
        "user_id,item_id,event,occurred_at,dwell_ms,request_id,position,rating\n"
        "1,a,impression,2025-01-02T10:00:00Z,,r,1,\n"
        "1,b,impression,2025-01-02T10:00:00Z,,r,0,\n"
        "1,b,view,2025-01-02T12:00:05+02:00,1500,r,0,5\n"
        "1,b,click,2025-01-02 10:00:04,,,,\n"
    ),
}


def folder(path: Path, **tables: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in (TABLES | tables).items():
        (path / f"{name}.csv").write_text(content, newline="")
    return path


def same(one: Dataset, other: Dataset) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_like=True)


def test_an_event_id_counts_once_and_a_request_id_may_come_again() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    shown = Impression(event_id="e", user_id="1", occurred_at=at, request_id="r", items=(Shown("a", 0),))
    sent = [shown, changed(shown, event_id="f"), changed(shown, arm="x"), changed(shown, user_id="2")]
    tables = dataset.from_events(sent, [], [])
    assert list(dataset.events_of(tables)) == [sent[0], sent[1], sent[3]]


def test_a_csv_is_read_as_meant(tmp_path: Path) -> None:
    log = dataset.read(folder(tmp_path))
    assert list(dataset.users_of(log)) == [
        User(
            user_id="1", signed_up_at=datetime(2025, 1, 1, tzinfo=UTC), country="NA", attributes={"plan": "007", "height": 1.5}
        ),
        User(user_id="2"),
    ]
    assert list(dataset.items_of(log)) == [
        Item(item_id="a", title="First", tags=("x", "y"), creator_id="7", attributes={"length": 12}),
        Item(item_id="b"),
    ]
    impression, click, view = dataset.events_of(log)
    assert isinstance(impression, Impression)
    assert impression.items == (Shown("b", 0), Shown("a", 1))
    assert isinstance(click, Click)
    assert click.occurred_at == datetime(2025, 1, 2, 10, 0, 4, tzinfo=UTC)
    assert isinstance(view, View)
    assert (view.occurred_at, view.dwell_ms, view.position) == (datetime(2025, 1, 2, 10, 0, 5, tzinfo=UTC), 1500, 0)


def test_impressions_without_request_or_position_find_their_place(tmp_path: Path) -> None:
    rows = "1,a,,\n1,b,,\n1,a,r,\n1,b,r,4\n1,a,r,\n"
    head = "user_id,item_id,request_id,position,event,occurred_at\n"
    log = folder(tmp_path, interactions=head + rows.replace("\n", ",impression,2025-01-01\n"))
    events = [event for event in dataset.events_of(dataset.read(log)) if isinstance(event, Impression)]
    assert [[(s.item_id, s.position) for s in event.items] for event in events] == [
        [("a", 0)], [("b", 0)], [("b", 4), ("a", 5), ("a", 6)],
    ]  # fmt: skip


def test_equal_logs_give_equal_events_with_distinct_ids_that_sort_by_time(tmp_path: Path) -> None:
    log = dataset.read(folder(tmp_path))
    events = list(dataset.events_of(log))
    assert events == list(dataset.events_of(dataset.read(tmp_path)))
    assert len({event.event_id for event in events}) == len(events)
    assert sorted(events, key=lambda event: event.event_id) == events


def test_further_columns_of_interactions_are_ignored_with_a_notice_unless_named(tmp_path: Path) -> None:
    with capture_logs() as logs:
        log = dataset.read(folder(tmp_path))
    assert [entry["columns"] for entry in logs if "ignored" in entry["event"]] == [["rating"]]
    assert all(not event.context.attributes for event in dataset.events_of(log))
    with capture_logs() as logs:
        log = dataset.read(tmp_path, context=["rating"])
    assert logs == []
    assert [event.context.attributes for event in dataset.events_of(log)] == [{}, {}, {"rating": 5}]
    same(log, replace(log))


def test_ids_that_no_table_describes_are_kept_with_a_notice(tmp_path: Path) -> None:
    interactions = "user_id,item_id,event,occurred_at\n1,a,like,2025-01-01\n9,a,like,2025-01-01\n9,zz,like,2025-01-01\n"
    with capture_logs() as logs:
        log = dataset.read(folder(tmp_path, interactions=interactions))
    assert len(list(dataset.events_of(log))) == 3
    assert [(entry["ids"], entry["rows"], entry["first"]) for entry in logs] == [(1, 2, "9"), (1, 1, "zz")]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_events_of_ones_own_kinds_come_back_from_the_files(format: Format, tmp_path: Path) -> None:
    adopt(kinds.parse("purchase=positive"))
    at = datetime(2025, 1, 1, tzinfo=UTC)
    event = ENGAGEMENTS["purchase"](event_id="e", user_id="1", item_id="a", occurred_at=at, position=3)
    dataset.write(dataset.from_events([event], [Item(item_id="a")], [User(user_id="1")]), tmp_path, format)
    assert list(dataset.events_of(dataset.read(tmp_path))) == [event]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_log_without_a_table_of_users_has_those_whom_its_interactions_name(format: Format, tmp_path: Path) -> None:
    log = dataset.read(folder(tmp_path / "described"))
    dataset.write(log, tmp_path / "log", format)
    (tmp_path / "log" / f"users.{format}").unlink()
    with capture_logs() as logs:
        found = dataset.read(tmp_path / "log")
    assert [(entry["log_level"], entry["users"]) for entry in logs] == [("info", 1)]
    assert list(dataset.users_of(found)) == []
    assert list(dataset.events_of(found)) == list(dataset.events_of(log))
    dataset.write(found, tmp_path / "again", format)
    same(dataset.read(tmp_path / "again"), found)


def test_whole_number_ids_stay_whole_beside_missing_ones(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": [1, 2], "creator_id": [7, None], "year": pd.array([1999, None], "Int64")})
    users, interactions = (
        pd.DataFrame({"user_id": [1]}),
        pd.DataFrame({"user_id": [], "item_id": [], "event": [], "occurred_at": []}),
    )
    for name, table in (("items", items), ("users", users), ("interactions", interactions)):
        table.to_parquet(tmp_path / f"{name}.parquet")
    found = list(dataset.items_of(dataset.read(tmp_path)))
    assert found == [Item(item_id="1", creator_id="7", attributes={"year": 1999}), Item(item_id="2")]


@pytest.mark.parametrize(
    "times", [["2025-01-01 12:00", "2025-01-01 13:00"], ["2025-01-01 14:00+02:00", "2025-01-01 15:00+02:00"]]
)
def test_parquet_timestamps_with_and_without_zone_are_utc(times: list[str], tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "interactions.csv").unlink()
    pd.DataFrame({"user_id": 1, "item_id": "a", "event": "like", "occurred_at": pd.to_datetime(times)}).to_parquet(
        tmp_path / "interactions.parquet"
    )
    assert [event.occurred_at.hour for event in dataset.events_of(dataset.read(tmp_path))] == [12, 13]


def test_tables_of_the_other_format_are_not_touched(tmp_path: Path) -> None:
    log = dataset.read(folder(tmp_path))
    with pytest.raises(BadData, match=r"holds users\.csv, items\.csv, interactions\.csv, and a folder has one format"):
        dataset.write(log, tmp_path, "parquet")
    same(dataset.read(tmp_path), log)


INTERACTIONS = "user_id,item_id,event,occurred_at{more}\n1,a,{event},{at}{value}\n"


def _interactions(more: str = "", event: str = "like", at: str = "2025-01-01", value: str = "") -> dict[str, str]:
    return {"interactions": INTERACTIONS.format(more=more and f",{more}", event=event, at=at, value=value and f",{value}")}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"users": "name\nx\n"}, r"users: the required column 'user_id' is missing; there are 'name'"),
        ({"items": "itemid\n1\n"}, r"items: .*'item_id' is missing; 'itemid' is not known: did you mean 'item_id'\?"),
        (
            {"interactions": "user_id,item_id,event,occured_at\n1,a,like,2025-01-01\n"},
            r"interactions: .*'occurred_at' is missing; 'occured_at' is not known: did you mean 'occurred_at'\?",
        ),
        ({"items": "item_id,categroy\na,x\n"}, r"items: unknown column 'categroy': did you mean 'category'\?"),
        ({"items": "item_id,Category\na,x\n"}, r"items: unknown column 'Category': did you mean 'category'\?"),
        ({"items": "item_id,item_id\na,x\n"}, r"items\.csv: column 'item_id' is there twice"),
        (_interactions(at="yesterday"), r"interactions row 1: occurred_at 'yesterday' is no time.*ISO 8601"),
        (_interactions(at="881250949"), r"interactions row 1: occurred_at '881250949' is a number.*ISO 8601"),
        (_interactions(at="1969-07-20"), r"interactions row 1: occurred_at '1969-07-20' is before 1970"),
        (_interactions(at=""), r"interactions row 1: occurred_at is missing"),
        (_interactions(event="Click"), r"interactions row 1: event 'Click' is none of impression, .*did you mean 'click'\?"),
        (_interactions(event="save"), r"event 'save' is none of .*: name it in FEED_KINDS"),
        (
            _interactions(event="purchase"),
            r"interactions row 1: event 'purchase' is none of impression, view, .*: name it in FEED_KINDS .* "
            r"like \(rated well, saved, followed, bought\)",
        ),
        (_interactions(event="view", more="dwell_ms", value="-5"), r"interactions row 1: dwell_ms '-5' is negative"),
        (_interactions(event="view", more="dwell_ms", value="1.5"), r"dwell_ms '1\.5' is not a whole number"),
        (_interactions(event="view", more="dwell_ms", value="long"), r"dwell_ms 'long' is no number: write it like 1200"),
        (_interactions(event="view", more="dwell_ms", value="86400001"), r"dwell_ms '86400001' is more than 86400000"),
        (_interactions(more="propensity", value="0"), r"propensity '0' is no propensity: probabilities in \(0, 1\]"),
        (_interactions(more="propensity", value="1.2"), r"propensity '1\.2' is no propensity"),
        (_interactions(more="score", value="1e999"), r"score '1e999' is not finite"),
        (_interactions(more="hour", value="24"), r"hour '24' is more than 23"),
        ({"users": "user_id\n1\n2\n1\n"}, r"users rows 1 and 3: user_id '1' twice"),
        ({"items": "item_id\na\na\n"}, r"items rows 1 and 2: item_id 'a' twice"),
        ({"users": 'user_id,x\n"",1\n'}, r"users row 1: user_id is missing: every row needs one"),
        ({"users": f"user_id\n{'x' * 129}\n"}, r"users row 1: user_id .* is longer than 128"),
        ({"items": f"item_id,tags\na,{'|'.join(map(str, range(65)))}\n"}, r"items row 1: tags .* has more than 64"),
        ({"users": "user_id,plan\n1,x,3\n"}, r"users\.csv: .* line 2: 3 fields, .* 2 columns: \['1', 'x', '3'\]"),
        ({"users": ""}, r"users\.csv: the first line is empty; it names the columns, user_id at least"),
        ({"items": "\nitem_id\na\n"}, r"items\.csv: the first line is empty; it names the columns, item_id at least"),
        ({"items": "item_id;title\na;A, or B\n"}, r"items\.csv: the columns are separated by ';': write it anew with commas"),
        ({"items": "item_id\ttitle\na\tA\n"}, r"items\.csv: the columns are separated by '\\t'"),
    ],
)  # fmt: skip
def test_a_bad_csv_is_refused_with_its_place_and_a_remedy(tables: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        dataset.read(folder(tmp_path, **tables))


def test_an_event_in_the_future_is_refused_as_the_stream_does_and_an_old_one_is_none(tmp_path: Path) -> None:
    def read_at(seconds_from_now: float, **more: float) -> Dataset:
        at = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
        return dataset.read(folder(tmp_path, **_interactions(at=at.isoformat())), **more)

    for ahead in (-28 * 365 * 86_400, 0, 240):
        assert len(read_at(ahead).interactions) == 1
    with pytest.raises(BadData, match=r"interactions row 1: occurred_at '.*' is in the future: .*FEED_FUTURE_SECONDS"):
        read_at(360)
    assert len(read_at(360, future_seconds=600).interactions) == 1
    with pytest.raises(BadData, match="'2200-01-01' is in the future"):
        dataset.read(folder(tmp_path, **_interactions(at="2200-01-01")))


def test_the_number_of_bad_rows_is_said(tmp_path: Path) -> None:
    rows = "1,a,like,2025-01-01\n1,a,like,x\n1,a,like,y\n"
    with pytest.raises(BadData, match=r"interactions row 2: occurred_at 'x' .*\(2 such rows\)"):
        dataset.read(folder(tmp_path, interactions="user_id,item_id,event,occurred_at\n" + rows))


def test_a_request_is_one_list_and_not_a_session(tmp_path: Path) -> None:
    rows = "1,a,impression,2025-01-01,r\n" * 501
    with pytest.raises(BadData, match="request_id 'r' of user '1' shows 501 items, at most 500"):
        dataset.read(folder(tmp_path, interactions="user_id,item_id,event,occurred_at,request_id\n" + rows))


def test_a_log_written_over_a_simulated_world_is_none(tmp_path: Path) -> None:
    log = dataset.read(folder(tmp_path / "log"))
    (tmp_path / dataset.WORLD_FILE).write_text("{}")
    dataset.write(log, tmp_path)
    assert not (tmp_path / dataset.WORLD_FILE).exists()


def test_context_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no column 'weather' to take as context; there are 'user_id'"):
        dataset.read(folder(tmp_path), context=["weather"])


def test_a_missing_or_ambiguous_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such folder"):
        dataset.read(tmp_path / "nowhere")
    folder(tmp_path)
    (tmp_path / "items.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(BadData, match=r"holds both items\.parquet and items\.csv"):
        dataset.read(tmp_path)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(BadData, match=r"items\.parquet: not a readable parquet file"):
        dataset.read(tmp_path)
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(BadData, match=r"holds neither items\.parquet nor items\.csv"):
        dataset.read(tmp_path)
    (tmp_path / "items.csv").write_bytes(b"item_id\n\xff\n")
    with pytest.raises(BadData, match=r"items\.csv: not a readable csv file: .*; UTF-8 is needed"):
        dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series([1.5]), r"items row 1: category 1\.5 is neither text nor a whole number"),
        (pd.Series(pd.to_datetime(["2025-01-01"])), "items: column category is of type datetime64"),
        (pd.Series([["x"]]), r"items row 1: category \['x'\] is neither text"),
    ],
)
def test_a_column_of_another_type_is_refused(column: "pd.Series[Any]", message: str) -> None:
    users, none = pd.DataFrame({"user_id": ["1"]}), pd.DataFrame({"user_id": [], "item_id": [], "event": [], "occurred_at": []})
    with pytest.raises(BadData, match=message):
        Dataset(users, pd.DataFrame({"item_id": ["a"], "category": column}), none)


def test_numbers_are_not_taken_for_times() -> None:
    users, items = pd.DataFrame({"user_id": ["1"]}), pd.DataFrame({"item_id": ["a"]})
    rows = pd.DataFrame({"user_id": ["1"], "item_id": ["a"], "event": ["like"], "occurred_at": [881250949]})
    with pytest.raises(BadData, match="occurred_at 881250949 is a number: write the time as ISO 8601"):
        Dataset(users, items, rows)
