import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from deploy import embedded
from feed import dataset, wire
from feed.catalogue import Item, User
from feed.events import Click, Context, Event, Impression, Like, Shown, View, utc
from feed.io import kafka, publish
from feed.wire import Position
from offline import bootstrap
from offline.export import Reader, export
from tests import grammar

START = 1_700_000_000.0
TABLES = ("users", "items", "interactions")


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[str]:
    """An empty broker: an export reads whole topics."""
    with embedded.start_broker(embedded.free_port(), tmp_path) as server:
        kafka.ensure_topics(server.address, 3, wire.TOPICS)
        yield server.address


def _events() -> Iterator[Event]:
    for n in range(40):
        at, user = utc(START + n), str(n % 5)
        context = Context("phone", "NA", n % 24, {"weather": "rain"})
        shown = tuple(Shown(str(i), i, 0.5 - i / 10, 0.1, "ranked") for i in range(3))
        yield Impression(
            event_id=f"i{n}", user_id=user, occurred_at=at, request_id=f"r{n}", items=shown, arm="learned",
            model_version="v1", context=context,
        )  # fmt: skip
        yield View(event_id=f"v{n}", user_id=user, occurred_at=at, request_id=f"r{n}", item_id="0", position=0, dwell_ms=900)
        yield Click(event_id=f"c{n}", user_id=user, occurred_at=at, item_id="1", propensity=0.1, score=0.4)


def test_what_was_published_is_what_is_exported(own_broker: str) -> None:
    items = [Item(item_id=str(n), title=f"No. {n}", tags=("a", "b"), attributes={"length": 1.5}) for n in range(3)]
    users = [User(user_id=str(n), country="NA", attributes={"plan": "free"}) for n in range(5)]
    log = dataset.from_events(_events(), items, users)
    with kafka.Sender(own_broker) as sender:
        publish.publish_catalogue(sender, log)
        publish.publish_events(sender, dataset.events_of(log))
    reader = Reader(own_broker)
    found = export(reader)
    assert reader.unreadable == {}
    for name in TABLES:
        key = ["occurred_at", "user_id"] if name == "interactions" else [f"{name[:-1]}_id"]
        one, other = (getattr(tables, name).sort_values(key, kind="stable").reset_index(drop=True) for tables in (found, log))
        pd.testing.assert_frame_equal(one, other)


def test_only_the_newest_days_are_exported_when_asked(own_broker: str) -> None:
    with kafka.Sender(own_broker) as sender:
        for n in range(10):
            at = utc(START + n * 86_400)
            sender.send(wire.INTERACTIONS, "1", Like(event_id=str(n), user_id="1", item_id="1", occurred_at=at))
    found = export(Reader(own_broker), days=2)
    assert found.interactions["occurred_at"].tolist() == [utc(START + n * 86_400) for n in (7, 8, 9)]


def test_the_last_entry_of_an_item_counts_and_unreadable_records_are_counted(own_broker: str) -> None:
    with kafka.Sender(own_broker) as sender:
        sender.send(wire.ITEMS, "1", Item(item_id="1", title="old"))
        sender.flush()
        sender.send(wire.ITEMS, "1", Item(item_id="1", title="new"))
        sender.send_raw("interactions", 0, b"1", b"not json")
    reader = Reader(own_broker)
    found = export(reader)
    assert list(dataset.items_of(found)) == [Item(item_id="1", title="new")]
    assert reader.unreadable == {"interactions": 1}
    assert len(found.users) == len(found.interactions) == 0


ATTRIBUTES = [
    {"user_id": "somebody-else"},
    {"event": "x"},
    {"occurred_at": "never"},
    {"hour": "late"},
    {"User_ID": "somebody-else", " user_id ": "x", "categroy": 1, "event_id": "c-0", "context": "{}"},
    {"a\nb": 'x"y,z', "a\0b": 1.0, "😀": "NA", "": "x"},
    {"plan": "7"},
    {"plan": 7},
    {"plan": 7.0},
]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_whatever_a_context_is_called_its_event_stays_its_users(
    format: dataset.Format, own_broker: str, tmp_path: Path
) -> None:
    with kafka.Sender(own_broker) as sender:
        for n, attributes in enumerate(ATTRIBUTES):
            like = {"event": "like", "event_id": f"c-{n}", "user_id": "p1", "occurred_at": utc(START + n).isoformat()}
            like |= {"item_id": "t1", "context": {"attributes": attributes}}
            sender.send_raw("interactions", wire.partition_of("p1", 3), b"p1", json.dumps(like).encode())
    reader = Reader(own_broker)
    dataset.write(export(reader), tmp_path / "data", format)
    log = bootstrap.read(tmp_path / "data", (), 300.0)
    assert reader.unreadable == {"interactions": 1}  # an attribute has a name
    assert [event.user_id for event in log.events] == ["p1"] * 8
    assert [event.context.attributes for event in log.events] == [a for a in ATTRIBUTES if "" not in a]
    assert [type(event.context.attributes.get("plan")) for event in log.events[-3:]] == [str, int, float]


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_export_published_anew_is_the_same_export(
    format: dataset.Format, own_broker: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = settings(
        max_examples=90, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    messages: list[tuple[wire.Topic, Any]] = []

    @seed(7)
    @draw
    @given(st.sampled_from([wire.INTERACTIONS, wire.ITEMS, wire.USERS]), st.data())
    def collect(topic: wire.Topic, data: st.DataObject) -> None:
        messages.append((topic, data.draw(grammar.within(grammar.TYPES[topic.name]))))

    collect()
    with kafka.Sender(own_broker) as sender:
        for topic, message in messages:
            key = str(message["item_id" if topic is wire.ITEMS else "user_id"])
            partition = wire.partition_of(key, topic.partitions or 3)
            sender.send_raw(topic.name, partition, key.encode(), json.dumps(message).encode())
    reader = Reader(own_broker)
    first = export(reader)
    assert reader.unreadable == {}
    folder = tmp_path_factory.mktemp("log")
    dataset.write(first, folder, format)
    read = dataset.read(folder)
    with embedded.start_broker(embedded.free_port(), tmp_path_factory.mktemp("other")) as other:
        kafka.ensure_topics(other.address, 3, wire.TOPICS)
        with kafka.Sender(other.address) as sender:
            publish.publish_catalogue(sender, read)
            publish.publish_events(sender, dataset.events_of(read))
        again = export(Reader(other.address))
    assert list(dataset.events_of(again)) == list(dataset.events_of(first)) == list(dataset.events_of(read))
    for one, two in ((dataset.items_of, "item_id"), (dataset.users_of, "user_id")):
        found = [sorted(one(tables), key=lambda entry: getattr(entry, two)) for tables in (first, read, again)]
        assert found[0] == found[1] == found[2]
    assert min(len(first.interactions), len(first.items), len(first.users)) > 3


def test_what_the_stream_does_not_count_is_left_out_and_told_by_its_reason(own_broker: str) -> None:
    good = Like(event_id="1", user_id="1", item_id="1", occurred_at=utc(START))
    ahead = Like(event_id="2", user_id="1", item_id="1", occurred_at=datetime(9000, 1, 1, tzinfo=UTC))
    poison = Like(event_id="3", user_id="1", item_id="1", occurred_at=utc(START))
    place = wire.partition_of("1", 3)
    deep = b'{"x": ' * 100_000 + b"1" + b"}" * 100_000
    with kafka.Sender(own_broker) as sender:
        for value in (wire.encode(good), wire.encode(good), deep, b"\xff", b"", wire.encode(ahead), wire.encode(poison)):
            sender.send_raw("interactions", place, b"1", value)
        for offset, value in ((6, wire.encode(poison)), (0, b"of a topic that is gone")):
            letter = wire.DeadLetter("interactions", Position("t", place, offset), "the fold failed", b"1", value)
            sender.send(wire.DEAD_LETTERS, "1", letter)
        sender.send_raw("dead-letters", 0, b"1", b"no letter")
    reader = Reader(own_broker)
    assert list(dataset.events_of(export(reader, days=14))) == [good]
    assert reader.unreadable == {"interactions": 5}
    assert {"the fold failed": 1, "occurred_at lies in the future": 1}.items() <= reader.reasons["interactions"].items()


def test_reasons_are_told_in_few_lines() -> None:
    reader = Reader("nowhere")
    for n in range(1000):
        reader._leave_out("items", f"reason {n} " + "x" * 1000)
    assert len(reader.reasons["items"]) == 21
    assert reader.reasons["items"]["other reasons"] == 980
    assert max(map(len, reader.reasons["items"])) < 250


def test_the_example_of_the_documentation_sends_an_item_a_user_and_an_event(own_broker: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "connect.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    exec(example.replace("127.0.0.1:9092", own_broker), {})
    found = export(Reader(own_broker))
    assert [item.title for item in dataset.items_of(found)] == ["Rain on a tin roof"]
    assert list(dataset.users_of(found)) == [User(user_id="u7", country="DE")]
    (like,) = dataset.events_of(found)
    assert isinstance(like, Like)
    partitions = {record.partition for record in kafka.read_topic(own_broker, wire.INTERACTIONS)}
    assert partitions == {wire.partition_of("u7", 3)}


def test_removed_items_and_what_was_recorded_of_erased_people_until_then_are_left_out(own_broker: str) -> None:
    def event(name: str, user: str) -> Like:
        return Like(event_id=name, user_id=user, item_id="gone", occurred_at=utc(START))

    with kafka.Sender(own_broker) as sender:
        for item in ("gone", "again", "there"):
            sender.send(wire.ITEMS, item, Item(item_id=item))
        for user in ("erased", "again", "there"):
            sender.send(wire.USERS, user, User(user_id=user, country="DE"))
            sender.send(wire.INTERACTIONS, user, event("before", user))
        sender.flush()
        for topic, name in (("items", "gone"), ("items", "again"), ("users", "erased"), ("users", "again")):
            count = 2 if topic == "items" else 3
            sender.send_raw(topic, wire.partition_of(name, count), name.encode(), None)
            sender.flush()
        sender.send_raw("items", 0, b"\xff", None)
        time.sleep(0.002)  # a later millisecond
        sender.send(wire.ITEMS, "again", Item(item_id="again", title="new", available=False, expires_at=utc(START)))
        sender.send(wire.USERS, "again", User(user_id="again"))
        sender.send(wire.INTERACTIONS, "again", event("after", "again"))
    reader = Reader(own_broker)
    found = export(reader)
    assert {item.item_id: item for item in dataset.items_of(found)} == {
        "there": Item(item_id="there"),
        "again": Item(item_id="again", title="new", available=False, expires_at=utc(START)),
    }
    assert {user.user_id: user.country for user in dataset.users_of(found)} == {"there": "DE", "again": None}
    assert sorted(found.interactions["user_id"]) == ["again", "there"]
    assert reader.unreadable == {"items": 1}


@pytest.mark.parametrize("at", [-1, int(2e13)])
def test_who_is_erased_without_a_time_or_as_of_one_to_come_stays_as_in_the_stream(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    found = {
        "users": [kafka.Record("users", 0, 0, b"1", b'{"user_id": "1"}', 100), kafka.Record("users", 0, 1, b"1", None, at)],
        "interactions": [kafka.Record("interactions", 0, 0, b"1", wire.encode(Like(
            event_id="e", user_id="1", item_id="a", occurred_at=datetime(2025, 1, 1, tzinfo=UTC)
        )), 100)],
    }  # fmt: skip
    monkeypatch.setattr(kafka, "read_topic", lambda broker, topic: iter(found.get(topic.name, ())))
    reader = Reader("nowhere")
    tables = export(reader)
    assert tables.users["user_id"].tolist() == tables.interactions["user_id"].tolist() == ["1"]
    assert reader.unreadable == {"users": 1}
