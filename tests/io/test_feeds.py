"""Feeds in Redis: order, guard, atomic replacement, on a real server."""

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed.catalogue import Item
from feed.events import utc
from feed.io.feeds import FeedStore, order_scores
from feed.io.redis import Change, FeatureStore, connect
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


def agree(client, user="42"):
    """The sorted set and the meta say the same, and the order is strict."""
    stored = client.zrevrange(f"feed:{user}", 0, -1, withscores=True)
    feed = FeedStore(client).read(user)
    assert [member.decode() for member, _ in stored] == [item.item_id for item in feed.items]
    assert all(above > below for (_, above), (_, below) in pairwise(stored))
    return [item.item_id for item in feed.items]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feeds(), st.data())
def test_items_are_taken_out_of_a_feed_and_all_else_stays_as_it_was(client, feed, data):
    client.flushall()
    store = FeedStore(client)
    store.write([feed])
    ids = [item.item_id for item in feed.items]
    gone = data.draw(st.sets(st.sampled_from(ids) | IDS, max_size=30)) if ids else {"1"}
    assert store.take_out(gone) == ({"42"} if gone & set(ids) else set())
    assert agree(client) == [item_id for item_id in ids if item_id not in gone]
    left = store.read("42")
    assert left.items == tuple(item for item in feed.items if item.item_id not in gone)
    assert (left.generation, left.position, left.request_id) == (feed.generation, feed.position, feed.request_id)


NASTY = ('"},{"item_id":"b","score":1', "}", '{"item_id":"b",', "\\", '\\"', "/", "\x7f", "\n", "b}", "%d", "a,b", "[", "日本")


@pytest.mark.parametrize("name", NASTY)
def test_an_item_with_any_name_is_taken_out_and_no_other(client, name):
    store = FeedStore(client)
    store.write([made(items_of("a", name, "b", "c"))])
    assert store.take_out(["c"]) == {"42"}
    assert agree(client) == ["a", name, "b"]
    assert store.take_out([name]) == {"42"}
    assert agree(client) == ["a", "b"]
    assert store.take_out(["a", "b"]) == {"42"}
    assert agree(client) == []


@pytest.mark.parametrize("many", [1, 500])
def test_items_are_taken_out_of_the_feeds_of_all_who_have_them(client, many):
    store = FeedStore(client)
    everybody = [f"{u}" for u in range(2500)] + ["a b", "日本", ":", "meta"]
    store.write([made(items_of(*(("gone",) if n % 3 else ()), "x", "y"), user) for n, user in enumerate(everybody)])
    had = {user for n, user in enumerate(everybody) if n % 3}
    assert store.take_out(["gone", *(f"other-{k}" for k in range(many - 1))]) == had
    assert store.items() == {"x", "y"}
    assert {agree(client, user)[0] for user in everybody[:10] + everybody[-4:]} == {"x"}


def test_taking_out_neither_replaces_a_newer_feed_nor_lets_an_older_one_return(client):
    store = FeedStore(client)
    older, newer = (made(items_of("gone", str(at)), generation=5, at=position(at)) for at in (10, 11))
    store.write([newer])
    store.take_out(["gone"])
    assert store.write([older]) == 0
    assert agree(client) == ["11"]
    assert store.read("42").position == position(11)


def catalogue(client, offset, **items):
    assert FeatureStore(client).apply(Change(position(offset + 1, "C"), items=items), offset, "C", offset).done


def test_a_feed_ranked_before_an_item_was_withdrawn_is_stored_without_it_whenever_it_comes(client):
    store, feed = FeedStore(client), made(items_of("gone", "away", "there"), at=position(10))
    catalogue(client, 0, gone=Item(item_id="gone"), away=Item(item_id="away"), there=Item(item_id="there"))
    catalogue(client, 1, gone=None, away=Item(item_id="away", available=False))
    assert store.write([feed]) == 1
    assert agree(client) == ["there"]
    catalogue(client, 2, gone=Item(item_id="gone"), away=Item(item_id="away"))  # again there
    assert store.write([feed]) == 1
    assert agree(client) == ["gone", "away", "there"]


def test_a_feed_with_nothing_but_withdrawn_items_is_stored_as_an_empty_one(client):
    catalogue(client, 0, gone=None)
    FeedStore(client).write([made(items_of("gone"))])
    assert agree(client) == []


def test_who_is_erased_gets_no_feed_that_was_ranked_before_and_one_when_they_come_again(client):
    features, store = FeatureStore(client), FeedStore(client)
    feed = made(items_of("a"), at=position(10))
    store.write([feed])
    assert features.apply(Change(position(1, "U"), erased={"42": 1000}), 0, "I", 0).done
    assert not client.exists("feed:42", "feed:42:meta")
    assert store.write([feed]) == 0
    assert not client.exists("feed:42", "feed:42:meta")
    client.set("user:42", "{}")
    assert store.write([feed]) == 1


def test_erasing_whose_id_ends_in_meta_leaves_the_feed_of_another(client):
    store = FeedStore(client)
    store.write([made(items_of("a"))])
    assert FeatureStore(client).apply(Change(position(1, "U"), erased={"42:meta": 1000}), 0, "I", 0).done
    assert agree(client) == ["a"]
