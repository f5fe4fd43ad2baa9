"""Feeds in Redis: order, guard, atomic replacement, on a real server."""

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed.events import utc
from feed.io.feeds import FeedStore, order_scores
from feed.io.redis import connect
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.ranking.types import Feed, FeedItem
from tests.small import NOW, position, snapshot, world
from tests.strategies import IDS


@pytest.fixture
def client(redis_url):
    return connect(redis_url)


def made(items=(), user_id="42", generation=1, at=None, arm="learned"):
    return Feed(
        generation=generation, position=at, user_id=user_id, request_id="r", arm=arm, model_version="v1", made_at=utc(NOW),
        items=tuple(items),
    )  # fmt: skip


def items_of(*ids):
    return [FeedItem(i, 0.9 - k / 100, 1.0, "model") for k, i in enumerate(ids)]


SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5]))


@st.composite
def feeds(draw):
    n = draw(st.integers(0, 30))
    ids = draw(st.lists(IDS, min_size=n, max_size=n, unique=True))
    ranked = sorted(draw(st.lists(SCORES, min_size=n, max_size=n)), reverse=True)
    sources = draw(st.lists(st.sampled_from(["model", "model", "explore"]), min_size=n, max_size=n))
    drawn = draw(st.lists(st.none() | SCORES, min_size=n, max_size=n))
    if draw(st.booleans()):
        sources = ["random"] * n
    scores = [s if source == "model" else d for s, d, source in zip(ranked, drawn, sources, strict=True)]
    items = [FeedItem(i, s, 0.5, source) for i, s, source in zip(ids, scores, sources, strict=True)]
    return made(items, at=position(draw(st.integers(0, 9))))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feeds())
def test_the_sorted_sets_order_is_the_feeds_order(client, feed):
    client.flushall()
    assert FeedStore(client).write([feed]) == 1
    stored = client.zrevrange("feed:42", 0, -1, withscores=True)
    assert [member.decode() for member, _ in stored] == [item.item_id for item in feed.items]
    scores = [score for _, score in stored]
    assert scores == order_scores(feed)
    assert all(a > b for a, b in pairwise(scores))
    assert FeedStore(client).read("42") == feed


@given(feeds())
def test_a_place_of_the_models_has_the_models_score_unless_it_ties(feed):
    placed = [(i.score, s) for i, s in zip(feed.items, order_scores(feed), strict=True) if i.source == "model"]
    for score, stored in placed:
        assert stored == pytest.approx(score, abs=1e-13)
    above = [s for i, s in zip(feed.items, order_scores(feed), strict=True) if i.source != "model"]
    if not above and len({score for score, _ in placed}) == len(placed):
        assert all(score == stored for score, stored in placed)


def test_the_order_is_kept_where_it_is_not_that_of_the_models_scores(client):
    scores = (0.3, 0.9, 0.1, 0.8, 0.2)
    feed = made(tuple(FeedItem(str(k), score, 1.0, "model") for k, score in enumerate(scores)))
    FeedStore(client).write([feed])
    assert client.zrevrange("feed:42", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    assert [item.score for item in FeedStore(client).read("42").items] == list(scores)


@pytest.mark.parametrize(
    ("generation", "at", "written"),
    [
        (5, position(10), 1),  # the same again: items may be fresher
        (5, position(11), 1),
        (5, position(9), 0),
        (5, None, 0),
        (4, position(11), 0),
        (4, None, 0),
        (6, position(9), 1),
        (6, None, 1),
        (5, position(9, "another"), 1),
    ],
)
def test_a_feed_older_by_generation_then_position_is_refused(client, generation, at, written):
    store = FeedStore(client)
    first = made(items_of("a", "b"), generation=5, at=position(10))
    assert store.write([first]) == 1
    second = made(items_of("c"), generation=generation, at=at)
    assert store.write([second]) == written
    assert store.read("42") == (second if written else first)
    assert client.zrevrange("feed:42", 0, -1) == ([b"c"] if written else [b"a", b"b"])


def test_a_feed_without_a_position_gives_way_to_any_other(client):
    store = FeedStore(client)
    assert store.write([made(items_of("a"))]) == 1
    assert store.write([made(items_of("b"))]) == 1
    assert store.write([made(items_of("c"), at=position(0))]) == 1


def test_an_empty_feed_replaces_a_full_one(client):
    store = FeedStore(client)
    store.write([made(items_of("a"))])
    store.write([made()])
    assert client.exists("feed:42") == 0
    assert store.read("42").items == ()


def test_many_feeds_are_written_and_read_in_order_and_unknown_users_have_none(client):
    store = FeedStore(client)
    many = [made(items_of(*range(u, u + 50)), user_id=str(u), at=position(u)) for u in range(450)]
    assert store.write(many) == 450
    assert store.read_many(["7", "nobody", "449"]) == [many[7], None, many[449]]
    assert store.write([made(items_of("x"), user_id=str(u), at=position(5)) for u in range(450)]) == 6
    assert store.read_many([]) == []


def test_generations_are_those_of_the_feeds_and_0_where_there_is_none(client):
    store = FeedStore(client)
    store.write([made(items_of("a", "b"), "1", generation=3), made((), "2", generation=12, at=position(4))])
    assert store.generations(["2", "nobody", "1"]) == [12, 0, 3]
    assert store.generations([]) == []


def test_the_largest_feed_allowed_fits_into_the_script(client):
    full = made([FeedItem(str(k), 1 - k / 1000, 1.0, "model") for k in range(500)])
    assert FeedStore(client).write([full]) == 1
    assert client.zcard("feed:42") == 500


def test_a_user_id_cannot_reach_another_users_keys(client):
    store = FeedStore(client)
    store.write([made(items_of("a"))])
    assert store.write([made(items_of("b"), user_id="42:meta")]) == 0
    assert store.read("42").items[0].item_id == "a"


def test_redis_forgetting_the_script_is_no_trouble(client):
    store = FeedStore(client)
    store.write([made(items_of("a"))])
    client.script_flush()
    assert store.write([made(items_of("b"))]) == 1


def test_ranked_feeds_come_back_as_they_were_and_say_how_they_came_to_be(client):
    state = world(users=30)
    ranked = Ranker(snapshot(state), "v7", 3, state.items, Policy(20, 0.3, 0.3), NOW).rank(list(state.users.values()), NOW)
    store = FeedStore(client)
    assert store.write(ranked) == 30
    assert store.read_many([feed.user_id for feed in ranked]) == ranked
    meta = json.loads(client.get("feed:7:meta"))
    assert (meta["generation"], meta["model_version"], meta["arm"]) == (3, "v7", ranked[7].arm)
    assert meta["position"] == {"topic_id": "L", "partition": 0, "offset": 7}
    assert meta["items"][0].keys() == {"item_id", "score", "propensity", "source"}
