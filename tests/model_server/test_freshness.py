"""Whether it is noticed that stored feeds lag behind the features, on a real Redis."""

import dataclasses
from datetime import UTC, datetime

import pytest
import structlog

from feed.features import new_user
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.ranking.types import Feed
from feed.wire import Position
from model_server.freshness import WATCHED, Freshness, lacks
from tests.small import NOW

LOG, OTHER = "L", "U"


@dataclasses.dataclass
class Setting:
    """Users' states and feeds, and a clock in the hands of the test."""

    features: FeatureStore
    feeds: FeedStore
    now: float = 0.0
    offset: int = 0

    def __post_init__(self):
        self.freshness = Freshness(self.features, self.feeds, lambda: self.now)

    def act(self, *users):
        """These users do something, and the features know it."""
        self.offset += 1
        position = {"topic_id": LOG, "partition": 0, "offset": self.offset}
        states = {user: new_user(user) | {"position": position} for user in users}
        change = Change(Position(LOG, 0, self.offset), users=states, newest=NOW)
        assert self.features.apply(change, self.offset - 1, OTHER, 0).done

    def make(self, *users):
        """Their feeds are made of what the features know."""
        at = Position(LOG, 0, self.offset)
        common = {"generation": 1, "position": at, "request_id": "r", "arm": "learned", "model_version": "v1", "items": ()}
        assert self.feeds.write([Feed(user_id=user, made_at=datetime.now(UTC), **common) for user in users]) == len(users)

    def look_at(self, *users, after=0.0):
        self.now += after
        for user in users:
            self.freshness.served(user)
        self.freshness.look()
        return self.freshness.seconds


@pytest.fixture
def setting(redis_url):
    client = connect(redis_url)
    return Setting(FeatureStore(client), FeedStore(client))


def test_an_idle_users_old_feed_is_not_behind(setting):
    setting.act("1")
    setting.make("1")
    assert setting.look_at("1") == 0
    assert setting.look_at("1", after=3600) == 0


def test_a_feed_lags_as_long_as_it_does_not_know_what_the_features_know(setting):
    setting.act("1")
    setting.make("1")
    setting.look_at("1", after=3600)
    setting.act("1")
    assert setting.look_at("1") == 0  # it may have happened a moment ago
    assert setting.look_at(after=4) == 4  # also if nobody asks for it again
    setting.act("1")
    assert setting.look_at(after=2) == 6
    setting.make("1")
    assert setting.look_at(after=1) == 0


def test_a_feed_that_is_made_anew_between_two_looks_keeps_up_with_a_busy_user(setting):
    for _ in range(10):
        setting.act("1")
        setting.make("1")
        setting.act("1")
        assert setting.look_at("1", after=3) == 0


def test_lag_is_said_with_its_figure_and_a_remedy_at_most_once_in_ten_seconds(setting):
    setting.act("1", "2", "3")
    setting.make("1", "2", "3")
    setting.act("1", "2")
    setting.look_at("1", "2", "3")
    with structlog.testing.capture_logs() as logs:
        setting.look_at("3", after=5)
        assert logs == []
        for _ in range(19):
            setting.look_at("3", after=1)
    assert len(logs) == 2
    assert logs[0]["event"] == "stored feeds lag behind the features"
    assert (logs[0]["users"], logs[0]["seconds"], logs[1]["seconds"]) == ("2 of 3 looked at", 6, 16)
    assert "feeds agent" in logs[0]["remedy"]


def test_so_many_users_are_watched_and_no_more(setting):
    users = [str(user) for user in range(3 * WATCHED)]
    setting.act(*users)
    setting.make(*users)
    setting.act(*users)
    setting.look_at(*users)
    assert len(setting.freshness._behind) == WATCHED
    setting.make(*users)
    assert setting.look_at(*users, after=9) == 0


def test_users_who_are_gone_or_never_were_are_not_behind(setting):
    setting.act("1")
    assert setting.look_at("1", "nobody") == 0
    assert setting.look_at("1", "nobody", after=60) == 0


@pytest.mark.parametrize(
    ("feed", "state", "behind"),
    [
        (None, None, False),
        ((LOG, 1, 5), None, False),
        (None, (LOG, 1, 5), True),
        ((LOG, 1, 5), (LOG, 1, 5), False),
        ((LOG, 1, 5), (LOG, 1, 6), True),
        ((LOG, 1, 6), (LOG, 1, 5), False),  # Redis has lost the state's newest part
        ((OTHER, 1, 6), (LOG, 1, 5), True),
    ],
)
def test_what_a_feed_lacks_is_told_by_the_positions(feed, state, behind):
    at = None if state is None else dict(zip(("topic_id", "partition", "offset"), state, strict=True))
    assert lacks(None if feed is None else Position(*feed), at) is behind
