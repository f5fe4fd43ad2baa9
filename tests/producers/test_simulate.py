import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from deploy import embedded
from feed import wire
from feed.errors import FeedError, OtherCatalogue
from feed.events import Engagement, Event, Impression, utc
from feed.features import new_user
from feed.features.user import update_profile
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, claim_catalogue, claim_topics, connect
from feed.ranking.types import Feed, FeedItem
from feed.settings import Settings
from feed.wire import Position
from producers.audience import TOP
from producers.figures import Figures
from producers.history import END
from producers.live import Clock, Live, find_world, join
from producers.simulate import simulate
from producers.world import World

USERS, ITEMS, SEED = 60, 300, 4
HELD = World(USERS, ITEMS, SEED).description | {"interactions": 100}
ARMS = ("learned", "popular", "random")


class Ticks:
    """A clock in the hands of the test."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def world() -> World:
    return World(USERS, ITEMS, SEED)


@pytest.fixture
def system(tmp_path: Path, redis_url: str, world: World) -> Iterator[Settings]:
    """A seeded system at rest: catalogue, states and feeds in Redis, topics at an empty broker, and no agents."""
    with embedded.start_broker(embedded.free_port(), tmp_path) as server:
        kafka.ensure_topics(server.address, 2, wire.TOPICS)
        client = connect(redis_url)
        claim_topics(client, {"interactions": "L"})
        claim_catalogue(client, HELD)
        change = Change(Position("L", 0, 1), items={item.item_id: item for item in world.items}, newest=END)
        for user in world.users:
            change.users[user.user_id] = new_user(user.user_id)
            update_profile(change.users[user.user_id], user)
        assert FeatureStore(client).apply(change, 0, "U", 0).done
        FeedStore(client).write([feed(world, row) for row in range(USERS)])
        yield Settings(kafka=server.address, redis=redis_url, partitions=2)


def feed(world: World, user: int) -> Feed:
    rows = np.random.default_rng(user).permutation(ITEMS)[:20]
    items = tuple(FeedItem(world.items[row].item_id, 0.9 - 0.01 * k, 0.25, "model") for k, row in enumerate(rows))
    return Feed(
        generation=1, position=Position("L", 0, 1), user_id=str(user), request_id="r", arm=ARMS[user % 3], model_version="v1",
        made_at=utc(END), items=items,
    )  # fmt: skip


def live(system: Settings, world: World, sender: kafka.Sender, time_scale: float = 600.0) -> Live:
    client = connect(system.redis)
    return Live(world, FeatureStore(client), FeedStore(client), sender, time_scale, "L")


def go_on(figures: Figures, seconds: float) -> bool:
    return True


def sent(system: Settings) -> list[Event]:
    return [wire.decode_event(record.value) for record in kafka.read_topic(system.kafka, wire.INTERACTIONS)]


def command(system: Settings, *options: str) -> list[str]:
    return [sys.executable, "producers/simulate.py", *options]


def environment(system: Settings) -> dict[str, str]:
    return {**os.environ, "FEED_KAFKA": system.kafka, "FEED_REDIS": system.redis}


def test_its_clock_goes_on_from_the_log_and_never_passes_the_wall_clock() -> None:
    wall, monotonic = Ticks(1_000_000.0), Ticks()
    clock = Clock(990_000.0, 600.0, wall, monotonic)
    assert clock.now() == 990_000.0
    monotonic.at = 10.0
    assert clock.now() == 996_000.0
    monotonic.at, wall.at = 60.0, 1_000_060.0
    assert clock.now() == 1_000_060.0


def test_the_world_is_found_again_from_what_the_system_holds(world: World) -> None:
    found = find_world(HELD, None, None, None)
    assert found.items == world.items
    assert find_world(HELD, USERS, ITEMS, SEED).description == world.description


@pytest.mark.parametrize(
    ("held", "options", "message"),
    [
        (HELD, (None, None, 9), r"--seed 9: the system holds a world with --seed 4\. Leave it out"),
        (HELD, (61, None, None), r"--users 61: the system holds a world with --users 60"),
        ({"kind": "log", "name": "ml-100k"}, (None, None, None), "holds log 'ml-100k', not a simulated world"),
        (HELD | {"epoch": "1999"}, (None, None, None), "another version"),
    ],
)
def test_another_catalogue_is_refused_with_the_remedy(held: dict, options: tuple, message: str) -> None:
    with pytest.raises(OtherCatalogue, match=message) as refusal:
        find_world(held, *options)
    assert "docker compose down -v" in str(refusal.value)


def test_an_empty_system_is_named_as_such() -> None:
    with pytest.raises(FeedError, match="holds no world yet"):
        find_world(None, None, None, None)


def test_joining_takes_over_what_is_consumed_and_who_came_later(system: Settings, world: World) -> None:
    draw = np.random.default_rng(0)
    earlier = World(USERS, ITEMS, SEED)
    user, item = earlier.new_user(END, draw), earlier.new_item(END, draw)
    state = new_user(user.user_id)
    update_profile(state, user)
    state["seen"] = ["5", item.item_id]
    change = Change(
        Position("L", 0, 2), users={user.user_id: state, "a-guest": new_user("a-guest")}, items={item.item_id: item}
    )
    store = FeatureStore(connect(system.redis))
    assert store.apply(change, 1, "U", 0).done
    audience = join(world, store, [1], 45.0)
    assert audience.seen[USERS] == {world.item_row["5"], ITEMS}
    assert (world.tastes[USERS].category == earlier.tastes[USERS].category).all()
    assert "a-guest" not in world.user_row


def test_events_go_out_acknowledged_with_all_that_is_known_of_what_was_served(system: Settings, world: World) -> None:
    with kafka.Sender(system.kafka) as sender:
        figures = simulate(live(system, world, sender), 200, 2.0, (0, 0), None, go_on)
        sender.flush()
        acked = sender.acked
    events = sent(system)
    assert len(events) == acked
    shown = {event.request_id: event for event in events if isinstance(event, Impression)}
    assert len(shown) == sum(arm.requests for arm in figures.arms.values())
    for impression in shown.values():
        served = feed(world, int(impression.user_id)).items[:TOP]
        assert [item.item_id for item in impression.items] == [item.item_id for item in served]
        assert (impression.arm, impression.model_version) == (ARMS[int(impression.user_id) % 3], "v1")
    for event in events:
        assert END <= event.at <= time.time()
        if isinstance(event, Engagement):
            item = shown[event.request_id].items[event.position or 0]
            assert (event.item_id, event.score, event.propensity) == (item.item_id, item.score, 0.25)
    for name in ARMS:
        clicks = sum(event.arm == name and type(event).__name__ == "Click" for event in events)
        assert clicks == figures.arms[name].clicks


def test_the_rate_is_kept_and_every_users_events_are_in_order(system: Settings, world: World) -> None:
    with kafka.Sender(system.kafka) as sender:
        simulate(live(system, world, sender), 100, 4.0, (0, 0), None, go_on)
        sender.flush()
        assert sender.acked == pytest.approx(400, rel=0.15)
    last: dict[str, float] = {}
    for event in sent(system):
        assert event.at >= last.get(event.user_id, 0.0)
        last[event.user_id] = event.at


def test_a_user_without_a_feed_is_skipped_until_there_is_one(system: Settings, world: World) -> None:
    client = connect(system.redis)
    client.delete("feed:7", "feed:7:meta")
    with kafka.Sender(system.kafka) as sender:
        people = live(system, world, sender)
        world.activity[:] = 0.0
        world.activity[7] = 1.0
        assert people.act(10) == []
        FeedStore(client).write([feed(world, 7)])
        assert [visit.user_id for visit in people.act(10)] == ["7"]


def test_new_users_and_items_are_published_as_they_come(system: Settings, world: World) -> None:
    looked: list[float] = []

    def for_a_second(figures: Figures, seconds: float) -> bool:
        looked.append(seconds)
        return seconds < 1.0

    with kafka.Sender(system.kafka) as sender:
        people = live(system, world, sender)
        simulate(people, 20, 0.0, (300, 600), None, for_a_second)
    users = [wire.decode_user(record.value) for record in kafka.read_topic(system.kafka, wire.USERS)]
    items = [wire.decode_item(record.value) for record in kafka.read_topic(system.kafka, wire.ITEMS)]
    assert sorted(int(user.user_id) for user in users) == list(range(USERS, USERS + len(users)))
    assert sorted(int(item.item_id) for item in items) == list(range(ITEMS, ITEMS + len(items)))
    assert len(users) == int(300 * looked[-1] / 60) >= 5
    assert len(items) == int(600 * looked[-1] / 60) >= 10
    assert len(people.audience.seen) == USERS + len(users)


def test_tastes_drift_once_at_the_given_second(system: Settings, world: World) -> None:
    before = [taste.category for taste in world.tastes]
    changes: list[int] = []

    def watch(figures: Figures, seconds: float) -> bool:
        changes.append(sum(old is not new.category for old, new in zip(before, world.tastes, strict=True)))
        return True

    with kafka.Sender(system.kafka) as sender:
        simulate(live(system, world, sender), 20, 1.0, (0, 0), (0.5, 0.5), watch)
    assert changes[0] == 0
    assert USERS * 0.3 < changes[-1] < USERS * 0.7
    assert len(set(changes)) == 2


def test_an_item_that_others_published_is_looked_at_like_any_other(system: Settings, world: World) -> None:
    own = World(USERS, ITEMS, SEED).new_item(END, np.random.default_rng(1))
    with kafka.Sender(system.kafka) as sender:
        people = live(system, world, sender)
        store, feeds = FeatureStore(connect(system.redis)), FeedStore(connect(system.redis))
        assert store.apply(Change(Position("L", 0, 2), items={own.item_id: own}), 1, "U", 0).done
        feeds.write(
            [
                Feed(
                    generation=2, position=None, user_id=str(user), request_id="r", arm="learned", model_version="v1",
                    made_at=datetime.now(UTC), items=(FeedItem(own.item_id, 0.5, 1.0, "model"),),
                )
                for user in range(USERS)
            ]
        )  # fmt: skip
        assert people.act(10)
    assert world.items[-1] == own


def test_it_waits_for_a_redis_that_is_away_and_goes_on(system: Settings, world: World, tmp_path: Path) -> None:
    port = embedded.free_port()
    away = system.model_copy(update={"redis": f"redis://127.0.0.1:{port}/0"})
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with kafka.Sender(system.kafka) as sender:
        with embedded.start_redis(port, tmp_path / "one"):
            people = live(away, world, sender)
            FeedStore(connect(away.redis)).write([feed(world, row) for row in range(USERS)])
            assert people.act(10)
        assert people.act(10) == []
        with embedded.start_redis(port, tmp_path / "two"):
            FeedStore(connect(away.redis)).write([feed(world, row) for row in range(USERS)])
            assert people.act(10)


def test_with_no_options_the_command_joins_and_its_report_adds_up(system: Settings, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        command(system, "--duration=2", "--rate=200", f"--report={report}"),
        env=environment(system), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    events = sent(system)
    assert found["events_acknowledged"] == len(events)
    shown = Counter(e.user_id for e in events if isinstance(e, Impression))
    clicks = Counter(e.user_id for e in events if type(e).__name__ == "Click")
    per_user = {user: counts for arm in found["arms"].values() for user, counts in arm.items()}
    assert per_user == {user: [TOP * n, clicks[user]] for user, n in shown.items()}
    assert set(found["arms"]) == set(ARMS)
    for arm in found["summary"].values():
        assert 0 < arm["share_of_best"] < 1
    assert "share of best" in done.stdout
    assert "feeds lag" not in done.stdout


@pytest.mark.parametrize("as_started", [signal.SIG_DFL, signal.SIG_IGN])  # ignored: by a script, in its background
def test_ctrl_c_ends_it_in_order_with_everything_acknowledged(system: Settings, tmp_path: Path, as_started: int) -> None:
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        command(system, f"--report={report}"),
        env=environment(system),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, as_started),
    )
    assert process.stdout is not None
    assert "in the world" in process.stdout.readline()  # the first line of figures: it runs
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "events acknowledged in" in out
    assert json.loads(report.read_text())["events_acknowledged"] == len(sent(system))


def test_feeds_that_know_what_their_users_did_have_no_age(system: Settings, world: World) -> None:
    store = FeedStore(connect(system.redis))
    with kafka.Sender(system.kafka) as sender:
        people = live(system, world, sender)
        for _ in range(3):
            assert {visit.age for visit in people.act(100)} == {0.0}
            sender.flush()
            end = max(sender.positions().values())
            made = [msgspec.structs.replace(feed(world, row), position=Position("L", 0, end)) for row in range(USERS)]
            store.write(made)
            people.audience.free[:] = 0.0


def test_feeds_that_lag_are_said_while_it_runs_at_its_end_and_in_the_report(system: Settings, tmp_path: Path) -> None:
    """There is no feeds agent: feeds stay as they are, whatever their users do."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        command(system, "--duration=10.6", "--rate=100", f"--report={report}"),
        env=environment(system), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    while_running, end = done.stdout.split("events acknowledged in")
    assert while_running.count("feeds lag: ") == 1
    for text in (while_running, end):
        assert "requests saw a feed that did not know what its user had done more than 5 s before" in text
        assert "lower --rate" in text
        assert "feeds agent" in text
    found = json.loads(report.read_text())
    age = found["feed_age"]
    assert age["requests"] == sum(arm["requests"] for arm in found["summary"].values())
    assert 0.1 < age["older_than_5_s"] < 0.6
    assert age["p50"] < 5 < age["p95"] < 11
    assert [span["feed_age"]["requests"] > 0 for span in found["timeline"]] == [True, True]


def test_another_seed_ends_the_command_with_status_2_and_one_line(system: Settings) -> None:
    done = subprocess.run(
        command(system, "--seed=9"), env=environment(system), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --seed 9: the system holds a world with --seed 4")


def test_describe_needs_neither_broker_nor_redis() -> None:
    nowhere = {**os.environ, "FEED_KAFKA": "127.0.0.1:1", "FEED_REDIS": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "producers/simulate.py", "--describe", "--users=40", "--items=200"],
        env=nowhere, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "popular / random" in done.stdout
    assert "MovieLens-100K" in done.stdout
