import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from feed import dataset, wire
from feed.catalogue import Item, User
from feed.dataset import Dataset, Format
from feed.errors import BadData, BadSetting, NotArrived, OtherCatalogue
from feed.events import Event, Like, View, utc
from feed.io import arrived, kafka, publish
from feed.io.redis import FeatureStore, claim_topics, connect, read_catalogue
from feed.settings import Settings
from feed.wire import Position
from offline import export
from producers import generate, movielens, replay
from producers.live import find_world
from stream_processors.folder import Folder

PARTITIONS = 3
DESCRIPTION = {"kind": "log", "name": "log"}
FORMATS: list[Format] = ["csv", "parquet"]
START = 1_700_000_000.0


def small_log(events: int = 60) -> Dataset:
    happened: list[Event] = [
        (View if n % 2 else Like)(event_id=str(n), user_id=str(n % 7), item_id=str(n % 11), occurred_at=utc(START + n))
        for n in range(events)
    ]
    return dataset.from_events(happened, [Item(item_id=str(n)) for n in range(11)], [User(user_id=str(n)) for n in range(7)])


@pytest.fixture
def system(own_broker: str, redis_url: str) -> Settings:
    return Settings(kafka=own_broker, redis=redis_url, partitions=PARTITIONS)


Lose = Callable[[kafka.Record], bool]


@contextmanager
def features(system: Settings, lose: Lose = lambda record: False) -> Iterator[None]:
    """The features agent's fold, as a thread; records to `lose` become dead letters."""
    topic_ids = kafka.ensure_topics(system.kafka, PARTITIONS, wire.TOPICS)
    others = {wire.USERS.name: wire.INTERACTIONS.name, wire.INTERACTIONS.name: wire.USERS.name}
    store, stop = FeatureStore(connect(system.redis)), threading.Event()
    folder = Folder(PARTITIONS, system.future_seconds, system.attribution_seconds)

    def fold(sender: kafka.Sender, place: TopicPartition, start: int, records: Sequence[kafka.Record]) -> None:
        topic = next(topic for topic in wire.TOPICS if topic.name == place.topic)
        other, end = topic_ids[others.get(place.topic, place.topic)], records[-1].offset + 1
        position = Position(topic_ids[place.topic], place.partition, end)
        change = folder.fold(topic, [record for record in records if not lose(record)], position, store, store.load_items())
        for record in filter(lose, records):
            change.messages += folder.set_aside(topic, record, position, ValueError("lost")).messages
        assert store.apply(change, start, other, store.position(other, place.partition)).done
        for entry, message in store.outbox(position.topic_id, place.partition):
            sender.send_raw(message.topic, message.partition, message.key, message.value)
            sender.flush()
            store.sent(position.topic_id, place.partition, [entry])

    def work() -> None:
        topics = {wire.USERS: PARTITIONS, wire.ITEMS: wire.ITEMS.partitions, wire.INTERACTIONS: PARTITIONS}
        places = [TopicPartition(topic.name, n) for topic, count in topics.items() for n in range(count)]
        with kafka.Sender(system.kafka) as sender, closing(KafkaConsumer(bootstrap_servers=system.kafka)) as consumer:
            consumer.assign(places)
            while not stop.is_set():
                for place in places:
                    consumer.seek(place, store.position(topic_ids[place.topic], place.partition))
                for place, found in consumer.poll(100).items():
                    start = store.position(topic_ids[place.topic], place.partition)
                    records = [kafka.Record(r.topic, r.partition, r.offset, r.key, r.value) for r in found if r.offset >= start]
                    if records and records[0].offset == start:
                        fold(sender, place, start, records)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def published(system: Settings) -> list[Event]:
    return [wire.decode_event(record.value) for record in kafka.read_topic(system.kafka, wire.INTERACTIONS)]


def silent(done: int, total: int) -> None:
    """No progress shown."""


def test_a_log_is_published_whole_in_each_users_order_with_its_own_times(system: Settings, tmp_path: Path) -> None:
    log = small_log()
    dataset.write(log, tmp_path / "log")
    reports: list[tuple[int, int]] = []
    with features(system):
        said = replay.replay(system, tmp_path / "log", 0.0, (), lambda *report: reports.append(report))
    assert said == "acknowledged: 7 users, 11 items, 60 events"
    assert reports[-1] == (60, 60)
    events = published(system)
    assert sorted(events, key=lambda event: event.occurred_at) == list(dataset.events_of(log))
    for user in range(7):
        own = [event.occurred_at for event in events if event.user_id == str(user)]
        assert own == sorted(own)


def test_a_log_without_a_table_of_users_tells_nothing_of_anybody(system: Settings, tmp_path: Path) -> None:
    dataset.write(small_log(), tmp_path / "log")
    (tmp_path / "log" / "users.parquet").unlink()
    with features(system):
        said = replay.replay(system, tmp_path / "log", 0.0, (), silent)
    assert said == "acknowledged: 0 users, 11 items, 60 events"
    assert list(kafka.read_topic(system.kafka, wire.USERS)) == []
    assert sorted(FeatureStore(connect(system.redis)).all_user_ids()) == [str(user) for user in range(7)]
    assert not len(export.export(export.Reader(system.broker)).users)


def test_a_log_replayed_again_adds_nothing_and_a_part_of_it_is_completed(system: Settings, tmp_path: Path) -> None:
    log = small_log()
    dataset.write(log, tmp_path / "log")
    topic_ids = kafka.ensure_topics(system.kafka, PARTITIONS, wire.TOPICS)
    with kafka.Sender(system.kafka) as sender:
        publish.publish_events(sender, list(dataset.events_of(log))[:25])
    with features(system):
        said = replay.replay(system, tmp_path / "log", 0.0, (), silent)
        assert said == "acknowledged: 7 users, 11 items, 35 events (25 were there before)"
        client = connect(system.redis)
        claimed = read_catalogue(client)
        assert claimed is not None
        again = publish.publish_log(system.kafka, client, topic_ids, log, claimed)
    assert (again.events, again.events_before) == (0, 60)
    assert len(published(system)) == 60
    assert sum(n for (topic, _), n in again.positions.items() if topic == "interactions") == 60


def test_a_stopped_replay_says_how_far_it_came_and_loses_nothing(system: Settings) -> None:
    log = small_log()
    topic_ids = kafka.ensure_topics(system.kafka, PARTITIONS, wire.TOPICS)
    client = connect(system.redis)
    reports: list[tuple[int, int]] = []

    def stop_at_once(done: int, total: int) -> None:
        reports.append((done, total))
        if len(reports) == 1:
            raise KeyboardInterrupt

    with features(system), pytest.raises(KeyboardInterrupt):
        publish.publish_log(system.kafka, client, topic_ids, log, DESCRIPTION, 10.0, stop_at_once)
    done, total = reports[-1]
    assert total == 60
    assert len(published(system)) == done > 0


def test_another_catalogue_is_refused_before_anything_is_sent(system: Settings, tmp_path: Path) -> None:
    dataset.write(small_log(), tmp_path / "log")
    dataset.write(small_log(61), tmp_path / "other")
    client = connect(system.redis)
    claim_topics(client, kafka.ensure_topics(system.kafka, PARTITIONS, wire.TOPICS))
    with features(system):
        replay.replay(system, tmp_path / "log", 0.0, (), silent)
        with pytest.raises(OtherCatalogue, match=r'"name": "log".*not.*"name": "other".*empty'):
            replay.replay(system, tmp_path / "other", 0.0, (), silent)
    assert len(published(system)) == 60
    held = read_catalogue(client)
    assert held is not None
    assert held["kind"] == "log"


def test_a_log_is_known_by_its_name_and_content_whatever_its_format(tmp_path: Path) -> None:
    log = small_log()
    for format in FORMATS:
        dataset.write(log, tmp_path / format / "log", format)
    told = [publish.describe(path, dataset.read(path)) for format in FORMATS if (path := tmp_path / format / "log")]
    assert told[0] == told[1]
    assert (told[0]["kind"], told[0]["name"]) == ("log", "log")
    assert publish.describe(tmp_path / "log", small_log(61))["content"] != told[0]["content"]


def test_a_simulated_world_is_claimed_as_such_so_that_it_can_be_found_again(tmp_path: Path) -> None:
    generate.generate(tmp_path, users=20, items=40, interactions=100, seed=3)
    described = publish.describe(tmp_path, dataset.read(tmp_path))
    assert find_world(described, 20, 40, 3).description.items() <= described.items()
    (tmp_path / "world.json").write_text("[1]")
    with pytest.raises(BadData, match=r"world\.json"):
        publish.describe(tmp_path, small_log())


def test_what_does_not_count_is_said_by_name_and_sent_again_when_it_can_be_used(system: Settings, tmp_path: Path) -> None:
    dataset.write(small_log(), tmp_path / "log")
    bad = b'"item_id":"3"'
    with (
        features(system, lambda record: record.topic == "interactions" and bad in (record.value or b"")),
        pytest.raises(
            NotArrived, match=r"6 of 60 interactions are in dead-letters .*such as '3', '14', '25' and 3 more: the fold"
        ),
    ):
        replay.replay(system, tmp_path / "log", 0.0, (), silent)
    with features(system):
        said = replay.replay(system, tmp_path / "log", 0.0, (), silent)
    assert said == "acknowledged: 7 users, 11 items, 6 events (54 were there before)"


@pytest.mark.parametrize("table", ["items", "users"])
def test_a_catalogue_of_which_a_part_does_not_arrive_is_refused_before_any_event(
    table: str, system: Settings, tmp_path: Path
) -> None:
    dataset.write(small_log(), tmp_path / "log")
    with (
        features(system, lambda record: record.topic == table and record.key == b"5"),
        pytest.raises(NotArrived, match=rf"{table} were published, and Redis knows \d+ of them; missing are '5' \(1 in dead-"),
    ):
        replay.replay(system, tmp_path / "log", 0.0, (), silent)
    assert published(system) == []


def test_what_redis_loses_meanwhile_is_waited_for(system: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it is being filled anew: positions and keys come back together."""
    dataset.write(small_log(), tmp_path / "log")
    client, unknown, losses = connect(system.redis), arrived.unknown_items, iter([True, True])

    def lose_everything(store: FeatureStore, ids: Sequence[str]) -> list[str]:
        if next(losses, False):
            topics = client.get("topics")
            client.flushall()
            client.set("topics", topics)
        return unknown(store, ids)

    monkeypatch.setattr(arrived, "unknown_items", lose_everything)
    with features(system):
        assert replay.replay(system, tmp_path / "log", 0.0, (), silent) == "acknowledged: 7 users, 11 items, 60 events"


def test_speed_is_log_seconds_per_second(own_broker: str) -> None:
    kafka.ensure_topics(own_broker, PARTITIONS, wire.TOPICS)
    events = list(dataset.events_of(small_log(31)))
    with kafka.Sender(own_broker) as sender:
        began = time.monotonic()
        publish.publish_events(sender, events, speed=30.0)
        assert time.monotonic() - began >= 1.0  # 30 s of log at 30 to 1
        assert events[-1].occurred_at - events[0].occurred_at == timedelta(seconds=30)


@pytest.mark.parametrize("speed", ["-1", "fast", "nan", "inf"])
def test_an_impossible_speed_is_refused(speed: str) -> None:
    with pytest.raises(BadSetting, match=f"--speed '{speed}'"):
        replay._speed(speed)


def test_movielens_is_views_and_likes_of_known_films_that_were_out() -> None:
    log = movielens.load()
    assert (len(log.users), len(log.items)) == (943, 1682)
    assert log.interactions["event"].value_counts().to_dict() == {"view": 100_000, "like": 55_375}
    first = log.interactions.merge(log.items, on="item_id")
    assert not (first["occurred_at"] < first["created_at"]).any()
    star_wars = next(item for item in dataset.items_of(log) if item.item_id == "50")
    assert (star_wars.title, star_wars.category) == ("Star Wars (1977)", "Action")
    assert star_wars.tags == ("Action", "Adventure", "Romance", "Sci-Fi", "War")
    user = next(iter(dataset.users_of(log)))
    assert (user.age_group, user.gender, user.attributes) == ("18-24", "M", {"occupation": "technician"})


def test_without_its_package_movielens_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "PACKAGE", "no_such_package_here")
    with pytest.raises(BadData, match="make install"):
        movielens.load()
