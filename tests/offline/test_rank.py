"""The full ranking, from Redis and from files, on a real Redis."""

import csv
import re
from threading import Timer

import msgspec
import pytest
from structlog.testing import capture_logs

from feed import dataset, wire
from feed.catalogue import Item, User
from feed.errors import BadModel, FeedError, NoChampion, NotArrived
from feed.features import BatchState, consumed
from feed.io import arrived, kafka
from feed.io.arrived import Described, read_described
from feed.io.feeds import FeedStore
from feed.io.redis import connect
from feed.ranking.arms import Policy, arm_of
from feed.settings import Settings
from feed.wire import DeadLetter, Position
from offline import rank
from offline.rank import natural
from tests.small import click, fill, item, promote, snapshot, world

USERS, ITEMS = 30, 120


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Settings(registry=tmp_path / "registry", feed_size=20, popular_share=0.2, random_share=0.2)
    promote(made.registry, snapshot(world(USERS, ITEMS)))
    return made


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def check_rankings(lines, state):
    by_user = {}
    for line in lines:
        by_user.setdefault(line["user_id"], []).append(line)
    assert list(by_user) == sorted(state.users, key=natural)
    for user_id, its in by_user.items():
        assert [int(line["rank"]) for line in its] == list(range(1, 21))
        scores = [float(line["score"]) for line in its]
        assert scores == sorted(scores, reverse=True)
        assert not {line["item_id"] for line in its} & set(consumed(state.users[user_id]))


def test_everybody_is_ranked_into_redis_and_csv(redis_url, configuration, tmp_path, capsys):
    fill(redis_url, world(USERS, ITEMS))
    configuration = configuration.model_copy(update={"redis": redis_url})
    quality = rank.run(configuration, output=tmp_path / "out" / "rankings.csv")
    lines = read(tmp_path / "out" / "rankings.csv")
    assert list(lines[0]) == ["user_id", "item_id", "score", "rank"]
    check_rankings(lines, world(USERS, ITEMS))
    assert quality.rankings == len(lines) == USERS * 20
    assert quality.item_coverage == len({line["item_id"] for line in lines}) / ITEMS

    by_user = {}
    for line in lines:
        by_user.setdefault(line["user_id"], []).append(line["item_id"])
    arms = set()
    for feed in FeedStore(connect(redis_url)).read_many(list(by_user)):
        arms.add(feed.arm)
        assert feed.arm == arm_of(feed.user_id, Policy.of(configuration))
        assert (feed.generation, feed.model_version, len(feed.items)) == (1, "v000001", 20)
        if feed.arm == "learned":  # the model's ranking with two places drawn
            chosen = [i.item_id for i in feed.items if i.source == "model"]
            assert chosen == passed_over(feed, by_user[feed.user_id])
    assert arms == {"learned", "popular", "random"}

    printed = capsys.readouterr().out
    assert re.search(r"Execution Time: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\n", printed)
    assert f"  Users processed: {USERS}\n  Items processed: {ITEMS}\n\nRanking Generation:\n  Total rankings: 600\n" in printed
    assert printed.endswith("Feed ranking pipeline completed successfully!\n" + "=" * 80 + "\n")


def test_a_newer_feed_stays(redis_url, configuration, tmp_path):
    fill(redis_url, world(USERS, ITEMS))
    configuration = configuration.model_copy(update={"redis": redis_url})
    rank.run(configuration, tmp_path / "rankings.csv")
    store = FeedStore(connect(redis_url))
    newer = msgspec.structs.replace(store.read("7"), generation=9)
    store.write([newer])
    rank.run(configuration, tmp_path / "rankings.csv")
    assert store.read("7") == newer


def test_a_champion_that_changes_meanwhile_ranks_everybody_and_no_mixture_is_left(
    redis_url, configuration, tmp_path, monkeypatch
):
    fill(redis_url, world(USERS, ITEMS))
    configuration = configuration.model_copy(update={"redis": redis_url})
    monkeypatch.setattr(rank, "USERS_AT_ONCE", 10)
    write, written = FeedStore.write, []

    def promoting(store, feeds):
        written.extend((feed.user_id, feed.generation) for feed in feeds)
        if len(written) == 20:
            promote(configuration.registry, snapshot(world(USERS, ITEMS), seed=1))
        return write(store, feeds)

    monkeypatch.setattr(FeedStore, "write", promoting)
    rank.run(configuration, tmp_path / "rankings.csv")
    users = [str(u) for u in range(USERS)]
    assert written == [(u, 1) for u in users[:20]] + [(u, 2) for u in users]
    feeds = FeedStore(connect(redis_url)).read_many(users)
    assert {(feed.generation, feed.model_version) for feed in feeds} == {(2, "v000002")}
    ranked = {}
    for line in read(tmp_path / "rankings.csv"):
        ranked.setdefault(line["user_id"], []).append(line["item_id"])
    assert list(ranked) == users
    for feed in feeds:
        if feed.arm == "learned":
            assert [i.item_id for i in feed.items if i.source == "model"] == passed_over(feed, ranked[feed.user_id])


def test_items_that_are_missing_in_redis_are_named_and_coverage_is_of_the_whole_catalogue(
    redis_url, configuration, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(arrived, "PATIENCE_SECONDS", 0.2)
    fill(redis_url, world(USERS, ITEMS))
    configuration = configuration.model_copy(update={"redis": redis_url})
    here = [str(k) for k in range(ITEMS)]
    rank.run(configuration, tmp_path / "rankings.csv", described=Described(frozenset(here), {}))
    assert "completed successfully!" in capsys.readouterr().out
    refused = {f"t{k}": "not a valid item" for k in range(ITEMS)}
    with capture_logs() as logs:
        quality = rank.run(configuration, tmp_path / "rankings.csv", described=Described(frozenset([*here, *refused]), refused))
    (said,) = [entry for entry in logs if "dead-letters" in entry["event"]]
    assert (said["items"], said["reason"]) == (ITEMS, "not a valid item")
    ranked = {line["item_id"] for line in read(tmp_path / "rankings.csv")}
    assert (quality.items, quality.missing, quality.item_coverage) == (ITEMS, ITEMS, len(ranked) / ITEMS / 2)
    out = capsys.readouterr().out
    assert f"completed WITHOUT {ITEMS} of {2 * ITEMS} items of the catalogue" in out
    assert "successfully" not in out
    (tmp_path / "rankings.csv").unlink()
    with pytest.raises(NotArrived, match="Redis does not know 2 items that the topic items describes, such as 'gone'"):
        rank.run(configuration, tmp_path / "rankings.csv", described=Described(frozenset([*here, "gone", "lost"]), {}))
    assert read(tmp_path / "rankings.csv")


def test_items_that_come_back_are_waited_for(redis_url, configuration, tmp_path):
    fill(redis_url, world(USERS, ITEMS))
    client = connect(redis_url)
    content = client.hget("item:7", "content")
    client.hdel("item:7", "content")
    Timer(0.3, lambda: client.hset("item:7", "content", content)).start()
    configuration = configuration.model_copy(update={"redis": redis_url})
    quality = rank.run(configuration, tmp_path / "rankings.csv", described=Described(frozenset(["7"]), {}))
    assert (quality.items, quality.missing) == (ITEMS, 0)


def test_the_catalogue_is_what_the_topic_describes_last(own_broker):
    topics = kafka.ensure_topics(own_broker, 3, wire.TOPICS)
    with kafka.Sender(own_broker) as sender:
        for key, value in [
            ("good", b'{"item_id": "good"}'),
            ("good", b"{"),
            ("bad", b'{"item_id": "bad", "title": 1}'),
            ("gone", b'{"item_id": "gone"}'),
            ("gone", None),
            ("aside", b'{"item_id": "aside"}'),
        ]:
            sender.send_raw("items", 0, key.encode(), value)
        letter = DeadLetter("items", Position(topics["items"], 0, 5), "the fold failed", b"aside", b'{"item_id": "aside"}')
        sender.send(wire.DEAD_LETTERS, "aside", letter)
    found = read_described(own_broker)
    assert found.items == {"good", "bad", "aside"}
    assert found.refused.keys() == {"bad", "aside"}
    assert "title" in found.refused["bad"]


def test_without_a_broker_the_ranking_is_of_what_redis_knows():
    with capture_logs() as logs:
        assert rank.read_catalogue("127.0.0.1:1") == Described(frozenset(), {})
    assert "whether the catalogue is whole is not known" in logs[0]["event"]


def test_a_log_in_files_is_ranked_without_redis(configuration, tmp_path):
    state = world(USERS, ITEMS)
    events = [click(u, (u + k) % ITEMS) for u in range(USERS) for k in range(3)]
    users = [User(user_id=u, platform="web") for u in range(USERS)]
    dataset.write(dataset.from_events(events, [item(k) for k in range(ITEMS)], users), tmp_path / "data")
    configuration = configuration.model_copy(update={"redis": "redis://127.0.0.1:1/0"})
    for _ in ("with a table of users", "without"):
        quality = rank.run(configuration, tmp_path / "rankings.csv", data=tmp_path / "data")
        check_rankings(read(tmp_path / "rankings.csv"), state)
        assert (quality.users, quality.items, quality.user_coverage) == (USERS, ITEMS, 1.0)
        (tmp_path / "data" / "users.parquet").unlink(missing_ok=True)


def test_without_a_champion_the_error_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoChampion, match=r"no champion in .*registry.*bootstrap\.py"):
        rank.run(Settings(registry=tmp_path / "registry"), tmp_path / "rankings.csv")


def test_nobody_to_rank_is_an_error_and_leaves_the_file_as_it_was(redis_url, configuration, tmp_path):
    (tmp_path / "rankings.csv").write_text("of yesterday")
    configuration = configuration.model_copy(update={"redis": redis_url})
    with pytest.raises(FeedError, match="nobody was ranked: 0 users are known and 0 items"):
        rank.run(configuration, tmp_path / "rankings.csv")
    everything = [click(0, k) for k in range(3)]
    dataset.write(dataset.from_events(everything, [item(k) for k in range(3)], []), tmp_path / "data")
    with pytest.raises(FeedError, match="nobody was ranked: 1 users are known and 3 items"):
        rank.run(configuration, tmp_path / "rankings.csv", data=tmp_path / "data")
    assert {file.name for file in tmp_path.iterdir()} == {"registry", "data", "rankings.csv"}
    assert (tmp_path / "rankings.csv").read_text() == "of yesterday"


def test_a_model_that_knows_nothing_of_the_catalogue_ranks_nobody(redis_url, configuration, tmp_path):
    (tmp_path / "rankings.csv").write_text("of yesterday")
    fill(redis_url, world(USERS, ITEMS))
    configuration = configuration.model_copy(update={"redis": redis_url})
    rank.run(configuration, tmp_path / "before.csv")
    feeds = FeedStore(connect(redis_url)).read_many(["1", "2"])
    other = BatchState([Item(item_id=k, category="x", creator_id="y", tags=("z",)) for k in range(ITEMS)])
    other.apply(click(0, 0))
    promote(configuration.registry, snapshot(other, positives={"0": 5}))  # an item of the same number is another one
    with pytest.raises(BadModel, match=r"v000002 knows no category and no creator and no tag of this.*--registry NEW"):
        rank.run(configuration, tmp_path / "rankings.csv")
    assert FeedStore(connect(redis_url)).read_many(["1", "2"]) == feeds
    assert (tmp_path / "rankings.csv").read_text() == "of yesterday"


def test_a_model_that_knows_a_part_of_the_catalogue_is_said(configuration, tmp_path):
    def said(*items):
        dataset.write(dataset.from_events([click(0, "i0")], items, []), tmp_path / "data")
        with capture_logs() as logs:
            rank.run(configuration, tmp_path / "rankings.csv", data=tmp_path / "data")
        return [entry["none_known_of"] for entry in logs if "another catalogue" in entry["event"]]

    assert said(Item(item_id="i0"), Item(item_id="i1", category="c1", creator_id="k1", tags=("t1",))) == []
    assert said(Item(item_id="i0"), Item(item_id="i1", category="x", creator_id="k1", tags=("y",))) == [["category", "tag"]]
    assert said(Item(item_id="i0"), Item(item_id="i1")) == []  # nothing to compare


def passed_over(feed, ranked):
    """The model's 18 best but for what was drawn for the other two places."""
    drawn = {i.item_id for i in feed.items if i.source == "explore"}
    return [item_id for item_id in ranked if item_id not in drawn][:18]


def test_items_that_are_all_new_are_no_other_catalogue():
    """Where nothing is said of items, only ids could be compared, and those of a shop turn over."""
    rank.check_catalogue("v1", {"item": False})
    with pytest.raises(BadModel, match="no category and no item"):
        rank.check_catalogue("v1", {"category": False, "item": False})
