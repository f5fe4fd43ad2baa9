"""The feeds agent: one batch on a real Redis, and the process on a real broker."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from deploy import embedded
from feed import wire
from feed.features import new_user
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.registry import Registry
from feed.settings import LATE_SECONDS
from feed.wire import FeatureUpdate, partition_of
from stream_processors import feeds as module
from stream_processors.feeds import Everybody, FeedsAgent, changed_users
from tests.small import NOW, fill, item, position, promote, snapshot, world

ROOT = Path(__file__).parents[2]


def records(*updates):
    return [SimpleNamespace(offset=k, value=wire.encode(FeatureUpdate(users, position(k)))) for k, users in enumerate(updates)]


def test_the_users_of_a_batch_are_distinct_and_unreadable_updates_are_left_out():
    batch = records(("1", "2"), ("2", "3"), ("1",))
    batch.insert(1, SimpleNamespace(offset=9, value=b"{"))
    batch.insert(1, SimpleNamespace(offset=9, value=None))
    assert changed_users(batch) == ["1", "2", "3"]


class OneBatch(SimpleNamespace):
    """What an agent sees of a batch."""

    def __init__(self, updates):
        super().__init__(tp="feature-updates/0", records=updates, stale=False, acked=0, touched=0)

    def ack(self):
        self.acked += 1

    def touch(self):
        self.touched += 1


@pytest.fixture
def agent(redis_url, tmp_path):
    features = FeatureStore(connect(redis_url))
    live = Live(Registry(tmp_path), Policy(feed_size=20), features.refresh_items, features.now)
    return FeedsAgent(live, features, FeedStore(connect(redis_url)))


def test_a_batch_is_acknowledged_when_the_feeds_of_its_users_are_written(agent, redis_url, tmp_path):
    fill(redis_url, world(users=10, items=60))
    promote(tmp_path, snapshot(world(users=10, items=60)))
    asyncio.run(agent.refresh())
    batch = OneBatch(records(("1", "2"), ("2", "nobody")))
    asyncio.run(agent.apply(batch))
    feeds = FeedStore(connect(redis_url)).read_many(["1", "2", "3", "nobody"])
    assert [feed and len(feed.items) for feed in feeds] == [20, 20, None, None]
    assert batch.acked == 1


def test_a_batch_that_has_become_stale_is_dropped(agent):
    batch = OneBatch(records(("1",)))
    batch.stale = True
    asyncio.run(agent.apply(batch))
    assert batch.acked == 0


def test_without_a_champion_a_batch_waits_and_is_not_lost(agent, redis_url, tmp_path):
    fill(redis_url, world(users=10, items=60))
    batch = OneBatch(records(("1",)))

    async def scenario():
        waiting = asyncio.create_task(agent.apply(batch))
        while batch.touched < 2:
            await asyncio.sleep(0.01)
        assert batch.acked == 0
        promote(tmp_path, snapshot(world(users=10, items=60)))
        while not waiting.done():
            await agent.refresh()
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert batch.acked == 1
    assert FeedStore(connect(redis_url)).read("1").model_version == "v000001"


def test_a_registry_that_cannot_be_read_is_said_once_until_it_can_be_and_the_ranker_at_hand_goes_on(agent, redis_url, tmp_path):
    fill(redis_url, world(users=10, items=60))
    promote(tmp_path, snapshot(world(users=10, items=60)))
    role = tmp_path / "roles/champion.json"
    asyncio.run(agent.refresh())

    def look() -> list[str]:
        with capture_logs() as said:
            for _ in range(3):
                asyncio.run(agent.follow())
        return [line["event"] for line in said if line["log_level"] == "warning"]

    for _ in range(2):
        role.rename(tmp_path / "aside")
        role.mkdir()  # as good as no permission to read it, which root has always
        assert look() == ["the champion is not followed"]
        agent.rank(["1"])  # raises NoChampion without one
        role.rmdir()
        (tmp_path / "aside").rename(role)
        assert look() == []


@pytest.fixture
def everybody(agent, redis_url):
    """A world whose user u was active u minutes before user 0; partitions 0 to 3; whom the agent ranks, in order."""
    state = world(users=40, items=60)
    for user in state.users.values():
        user["last"] = NOW - 60 * int(user["user_id"])
    state.users["7"]["last"] = None
    fill(redis_url, state)
    ranked = []
    rank = agent.rank
    agent.rank = lambda users: ranked.extend(users) or rank(users)
    return Everybody(agent, agent._live, agent._features, agent._feeds, 4), ranked


OWNED = {0, 1, 2}


def owned_users():
    return [str(u) for u in range(40) if partition_of(str(u), 4) in OWNED]


def test_a_new_champion_ranks_everybody_of_the_own_partitions_once_the_one_active_last_first(everybody, agent, tmp_path):
    catcher, ranked = everybody
    for generation in (1, 2):
        promote(tmp_path, snapshot(world(users=10, items=60), seed=generation))
        agent._live.refresh()
        agent._live.follow()
        ranked.clear()
        written = asyncio.run(catcher.catch_up(lambda: OWNED))
        expected = [u for u in owned_users() if u != "7"] + (["7"] if partition_of("7", 4) in OWNED else [])
        assert ranked == expected
        assert written == len(expected)
        generations = agent._feeds.generations([str(u) for u in range(40)])
        assert {str(u) for u, its in enumerate(generations) if its == generation} == set(expected)
        assert asyncio.run(catcher.catch_up(lambda: OWNED)) == 0
        assert ranked == expected


def test_a_worker_that_takes_over_ranks_only_who_is_left(everybody, agent, tmp_path):
    catcher, ranked = everybody
    promote(tmp_path, snapshot(world(users=10, items=60)))
    agent._live.refresh()
    users = owned_users()
    agent.rank(users[:10])
    ranked.clear()
    asyncio.run(catcher.catch_up(lambda: OWNED))
    assert set(ranked) == set(users[10:])
    ranked.clear()
    asyncio.run(catcher.catch_up(lambda: {3}))  # the others were taken away, ranked and
    asyncio.run(catcher.catch_up(lambda: OWNED | {3}))  # given back
    assert set(ranked) == {str(u) for u in range(40)} - set(users)


def test_a_newer_champion_makes_the_older_re_ranking_void(everybody, agent, tmp_path, monkeypatch):
    catcher, ranked = everybody
    monkeypatch.setattr(module, "USERS_BETWEEN", 5)
    promote(tmp_path, snapshot(world(users=10, items=60)))
    agent._live.refresh()
    rank_between = agent.rank_between

    async def promoted_meanwhile(users):
        if len(ranked) == 5:
            promote(tmp_path, snapshot(world(users=10, items=60), seed=1))
            agent._live.follow()
        return await rank_between(users)

    agent.rank_between = promoted_meanwhile
    asyncio.run(catcher.catch_up(lambda: OWNED))
    assert len(ranked) == 10  # the chunk at hand is ranked, by the newer one; the rest waits for the next call
    asyncio.run(catcher.catch_up(lambda: OWNED))
    assert set(agent._feeds.generations(owned_users())) == {2}


def test_batches_have_their_turn_between_chunks(everybody, agent, tmp_path, monkeypatch):
    catcher, ranked = everybody
    monkeypatch.setattr(module, "USERS_BETWEEN", 1)
    promote(tmp_path, snapshot(world(users=10, items=60)))
    agent._live.refresh()
    batch = OneBatch(records(("0",)))

    async def scenario():
        task = asyncio.create_task(catcher.catch_up(lambda: OWNED))
        while not ranked:
            await asyncio.sleep(0)
        await agent.apply(batch)
        at = len(ranked)
        await task
        return at

    assert asyncio.run(scenario()) <= 4 < len(ranked)


@contextmanager
def running_agent(servers, url, registry, folder):
    environment = {
        **os.environ, "FEED_KAFKA": servers, "FEED_REDIS": url, "FEED_REGISTRY": str(registry), "TMPDIR": str(folder),
        "FEED_FEED_SIZE": "100", "FEED_PARTITIONS": "2",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "stream_processors/feeds.py"], cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_process_follows_updates_champions_and_new_items(redis_url, tmp_path):
    """From the first update, before there is a champion, to a second champion and an item published meanwhile."""
    state = world(users=10, items=60)
    fill(redis_url, state)
    features, feeds = FeatureStore(connect(redis_url)), FeedStore(connect(redis_url))
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as broker:
        kafka.ensure_topics(broker.address, 2, wire.TOPICS)
        with kafka.Sender(broker.address) as sender, running_agent(broker.address, redis_url, tmp_path / "registry", tmp_path):

            def act(user, offset):
                """What the features agent does after an event of this user."""
                changed = new_user(user)
                changed["position"] = {"topic_id": "L", "partition": 0, "offset": offset}
                assert features.apply(Change(position(offset), users={user: changed}, newest=NOW), offset - 1, "U", 0).done
                sender.send(wire.FEATURE_UPDATES, "0", FeatureUpdate((user,), position(offset)), partition=0)
                sender.flush()

            def reaches(user, offset):
                feed = feeds.read(user)
                return feed is not None and feed.position.offset == offset

            act("5", 2)
            until(lambda: (tmp_path / "feedloop-feeds.alive").exists())
            assert feeds.read("5") is None
            promote(tmp_path / "registry", snapshot(state))
            until(lambda: reaches("5", 2))
            until(lambda: feeds.generations(list(state.users)) == [1] * 10)  # who had no update, too

            promote(tmp_path / "registry", snapshot(state, seed=1))
            assert features.apply(Change(position(3), items={"777": item(777)}, newest=NOW), 2, "U", 0).done
            time.sleep(1.0)  # the promise: rankable within a second
            act("1", 4)
            until(lambda: reaches("1", 4))
            feed = feeds.read("1")
            assert (feed.model_version, feed.generation) == ("v000002", 2)
            assert "777" in {place.item_id for place in feed.items}

            Registry(tmp_path / "registry").roll_back()
            until(lambda: feeds.generations(list(state.users)) == [3] * 10)
            assert {feed.model_version for feed in feeds.read_many(list(state.users))} == {"v000001"}


def test_a_feeds_agent_that_stood_still_says_that_feeds_lagged(redis_url, tmp_path, capfd):
    state = world(users=10, items=60)
    fill(redis_url, state)
    promote(tmp_path / "registry", snapshot(state))
    feeds = FeedStore(connect(redis_url))
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as broker:
        kafka.ensure_topics(broker.address, 2, wire.TOPICS)
        with (
            kafka.Sender(broker.address) as sender,
            running_agent(broker.address, redis_url, tmp_path / "registry", tmp_path) as agent,
        ):

            def update(user):
                feeds._client.delete(f"feed:{user}:meta")
                sender.send(wire.FEATURE_UPDATES, "0", FeatureUpdate((user,), position(1)), partition=0)
                sender.flush()

            update("1")
            until(lambda: feeds.read("1"))
            agent.send_signal(signal.SIGSTOP)
            update("2")
            time.sleep(LATE_SECONDS + 0.1)
            agent.send_signal(signal.SIGCONT)
            until(lambda: feeds.read("2"))
            said = []
            until(lambda: said.append(capfd.readouterr().err) or "feeds lag behind the features" in "".join(said))
    assert '"share_of_batches": "' in "".join(said)
