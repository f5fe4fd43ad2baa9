"""Items leave everybody's stored feed when they may be shown no more, and erased people leave Redis."""

import asyncio
import random
import time

import numpy as np
import pytest

from feed.catalogue import Item
from feed.events import utc
from feed.features import update_user
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.ranking.types import Feed, FeedItem
from feed.registry import Registry
from stream_processors.feeds import FeedsAgent, Withdrawals
from tests.small import NOW, click, fill, item, position, promote, snapshot, world

USERS, ITEMS = 40, 60


class System:
    """A feeds agent that has ranked everybody, without a broker."""

    def __init__(self, url, path, restarted=False):
        self.client = connect(url)
        self.features, self.feeds = FeatureStore(self.client), FeedStore(self.client)
        self.state = world(users=USERS, items=ITEMS)
        self.users = list(self.state.users)
        self.offset = 1
        if not restarted:
            fill(url, self.state)
            promote(path, snapshot(self.state))
        reader = FeatureStore(connect(url))
        self.live = Live(Registry(path), Policy(feed_size=20), reader.refresh_items, reader.now)
        self.agent = FeedsAgent(self.live, reader, self.feeds)
        self.withdrawals = Withdrawals(self.agent, self.live, self.features, self.feeds)
        self.live.refresh()
        if not restarted:
            self.agent.rank(self.users)
            asyncio.run(self.withdrawals.take_out())

    def send(self, newest=0.0, **items):
        change = Change(position(self.offset + 1), items=items, newest=newest)
        assert self.features.apply(change, self.offset, "U", 0).done
        self.offset += 1

    def refresh(self):
        self.live._due = -1.0
        self.live.refresh()

    def take_out(self):
        asyncio.run(self.withdrawals.take_out())

    def refill(self):
        asyncio.run(self.withdrawals.refill())

    def have(self, *item_ids):
        """Users who have one of the items, by sorted set and by JSON, which must agree."""
        metas = {feed.user_id for feed in self.feeds.read_many(self.users) if {i.item_id for i in feed.items} & set(item_ids)}
        sets = {user for user in self.users if any(self.client.zscore(f"feed:{user}", i) is not None for i in item_ids)}
        assert metas == sets
        return metas

    def sizes(self):
        return {len(feed.items) for feed in self.feeds.read_many(self.users)}

    def popular(self):
        """The item that most feeds have."""
        counted = [i.item_id for feed in self.feeds.read_many(self.users) for i in feed.items]
        return max(sorted(set(counted)), key=counted.count)


@pytest.fixture
def system(redis_url, tmp_path):
    return System(redis_url, tmp_path)


WAYS = {
    "removed": lambda item_id: None,
    "not available": lambda item_id: Item(item_id=item_id, available=False),
    "expired": lambda item_id: Item(item_id=item_id, expires_at=utc(NOW - 1)),
    "of the future": lambda item_id: item(int(item_id), created=NOW + 3600),
    "of the year 9999": lambda item_id: Item(item_id=item_id, created_at=utc(2.5e11)),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_item_leaves_the_feeds_of_all_users_none_of_whom_does_anything_and_they_are_filled_again(system, way):
    gone = system.popular()
    before = system.have(gone)
    others = {user: system.client.get(f"feed:{user}:meta") for user in system.users if user not in before}
    assert len(before) > 10
    system.send(**{gone: WAYS[way](gone)})
    system.refresh()
    system.take_out()
    assert system.have(gone) == set()
    assert system.sizes() <= {19, 20}
    assert {user: system.client.get(f"feed:{user}:meta") for user in others} == others  # theirs were not touched
    system.refill()
    assert system.have(gone) == set()
    assert system.sizes() == {20}
    system.send(**{gone: item(int(gone))})
    system.refresh()
    system.agent.rank(system.users)
    assert system.have(gone)


def test_an_item_expires_by_the_clock_of_the_log_without_a_record(system):
    gone = system.popular()
    system.send(**{gone: Item(item_id=gone, expires_at=utc(NOW + 10))})
    system.refresh()
    system.take_out()
    assert system.have(gone)
    system.send(newest=NOW + 10)
    system.take_out()
    assert system.have(gone) == set()


def test_a_record_takes_effect_before_the_ranker_has_heard_of_it_and_the_ranker_cannot_bring_the_item_back(system):
    gone = system.popular()
    system.send(**{gone: None})
    system.take_out()  # without a refresh: a large catalogue may take seconds to be read
    assert system.have(gone) == set()
    system.agent.rank(system.users)
    assert system.have(gone) == set()


def test_a_worker_that_starts_takes_out_what_the_one_before_it_has_left(redis_url, tmp_path):
    system = System(redis_url, tmp_path)
    removed, away, future = sorted(system.feeds.items())[:3]
    system.send(**{removed: None, away: Item(item_id=away, available=False), future: item(int(future), created=NOW + 9)})
    assert system.have(removed, away, future)
    successor = System(redis_url, tmp_path, restarted=True)
    successor.take_out()
    assert successor.have(removed, away, future) == set()


def test_items_leave_when_more_are_withdrawn_at_once_than_are_remembered(system, monkeypatch):
    monkeypatch.setattr("feed.io.redis.WITHDRAWN", 5)
    ids = sorted(system.feeds.items())[:30]
    for start in range(0, 30, 10):
        system.send(**dict.fromkeys(ids[start : start + 10]))
    system.take_out()
    assert system.have(*ids) == set()


def test_what_a_batch_ranks_while_an_item_expires_does_not_keep_it(system):
    gone = system.popular()
    system.send(**{gone: Item(item_id=gone, expires_at=utc(NOW + 10))})
    system.refresh()
    feeds = system.live.rank([state for state in system.features.users(system.users) if state])
    assert any(gone in {i.item_id for i in feed.items} for feed in feeds)

    async def scenario():
        async with system.agent._turn:  # a batch has just been ranked
            system.send(newest=NOW + 10)
            taking = asyncio.create_task(system.withdrawals.take_out())
            await asyncio.sleep(0.2)
            system.feeds.write(feeds)
        await taking

    asyncio.run(scenario())
    assert system.have(gone) == set()


def test_while_redis_has_lost_its_clock_or_its_catalogue_nothing_is_taken_out(system):
    before = {user: system.client.get(f"feed:{user}:meta") for user in system.users}
    for lose in (lambda: system.client.hdel("positions", "clock"), lambda: system.client.delete("items:changed", "positions")):
        lose()
        system.refresh()
        system.take_out()
        assert {user: system.client.get(f"feed:{user}:meta") for user in system.users} == before


def test_items_come_and_go_while_users_are_ranked_and_in_the_end_no_feed_has_what_is_gone(system):
    """A property: whatever the order of records, rankings and looks, one more look leaves nothing that may not be shown."""
    draw, gone = random.Random(0), set()
    for step in range(120):
        match draw.choice(["withdraw", "withdraw", "return", "rank", "look", "refresh", "refill"]):
            case "withdraw":
                item_id = str(draw.randrange(ITEMS))
                system.send(**{item_id: draw.choice(list(WAYS.values()))(item_id)})
                gone.add(item_id)
            case "return" if gone:
                item_id = draw.choice(sorted(gone))
                system.send(**{item_id: item(int(item_id))})
                gone.remove(item_id)
            case "rank":
                user = draw.choice(system.users)
                update_user(system.state.users[user], click(user, draw.randrange(ITEMS), NOW + step), {})
                system.agent.rank([user])
            case "look":
                system.take_out()
            case "refresh":
                system.refresh()
            case "refill":
                system.refill()
    system.refresh()
    system.take_out()
    assert system.have(*gone) == set()
    system.refill()
    assert system.have(*gone) == set()
    assert gone


def test_thousands_of_feeds_are_gone_through_in_a_moment(redis_url):
    store = FeedStore(connect(redis_url))
    rng = np.random.default_rng(0)
    for start in range(0, 5000, 1000):
        store.write(
            [
                Feed(
                    generation=1, position=None, user_id=str(user), request_id="r", arm="learned", model_version="v1",
                    made_at=utc(NOW),
                    items=tuple(FeedItem(str(i), 0.5, 1.0, "model") for i in ["gone", *rng.permutation(500)[:49].tolist()]),
                )
                for user in range(start, start + 1000)
            ]
        )  # fmt: skip
    began = time.monotonic()
    assert len(store.take_out(["gone"])) == 5000
    assert time.monotonic() - began < 2.0  # 0.1 s on an idle core
