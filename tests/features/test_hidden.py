"""What was hidden stays hidden, for ever, within a bound."""

import base64
import json
import random

import msgspec
import numpy as np
import pytest

from feed import wire
from feed.catalogue import Item
from feed.events import Hide, View, utc
from feed.features import SEEN, BatchState, bloom, consumed, hidden_before, new_user, update_user
from feed.features.user import HIDDEN, NUMERIC
from feed.io.redis import FeatureStore, connect
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.wire import Position
from stream_processors.folder import Folder
from tests.features.test_parity import bare, stream_into
from tests.small import NOW, item, snapshot

EVERYTHING = Policy(feed_size=10_000, popular_share=0.0, random_share=0.0)


def event(kind, item_id, user="1", at=NOW):
    return kind(event_id=f"{kind.__name__}-{item_id}", user_id=user, item_id=str(item_id), occurred_at=utc(at))


def feed_of(state, user="1", policy=EVERYTHING):
    ranker = Ranker(snapshot(state), "v1", 1, state.items, policy, NOW)
    (feed,) = ranker.rank([state.user(user)], NOW)
    return {place.item_id for place in feed.items}


def catalogue(n):
    return BatchState([item(k) for k in range(n)])


@pytest.mark.parametrize("policy", [EVERYTHING, Policy(10_000, 1.0, 0.0), Policy(10_000, 0.0, 1.0)])
def test_a_hidden_item_does_not_come_back_after_a_thousand_others_were_looked_at(policy):
    state = catalogue(60)
    state.apply(event(Hide, 7))
    for k in range(SEEN):
        state.apply(event(View, f"elsewhere-{k}"))
    assert "7" not in state.user("1")["seen"]
    assert feed_of(state, policy=policy) == {str(k) for k in range(60)} - {"7"}


def test_what_was_hidden_first_stays_hidden_however_much_is_hidden_after_it():
    state = catalogue(3000)
    for k in range(2000):
        state.apply(event(Hide, k))
    shown = feed_of(state)
    assert not shown & {str(k) for k in range(2000)}
    assert len(shown) == 1000  # at so few the filter takes hardly anything else for one


def test_hiding_an_item_again_and_hiding_one_that_nobody_describes_yet_last_as_well():
    state = catalogue(10)
    for item_id in ("3", "not yet there", "3"):
        state.apply(event(Hide, item_id))
    for k in range(HIDDEN + 5):
        state.apply(event(Hide, f"elsewhere-{k}"))
    state.apply(event(Hide, "4"))
    state.items.upsert(Item(item_id="not yet there"))
    assert feed_of(state) == {str(k) for k in range(10)} - {"3", "4"}


def test_liking_what_was_hidden_does_not_bring_it_back():
    state = catalogue(10)
    state.apply(event(Hide, 3))
    state.apply(event(View, 3, at=NOW + 5))
    assert "3" not in feed_of(state)


def test_any_text_may_be_hidden():
    names = ["é", "日本", "a b", "'", '"', "\\", "\n", "x" * 128, "0", "-1", "{}", "=;"]
    state = BatchState([Item(item_id=name) for name in [*names, "other"]])
    for name in [*names, *(f"elsewhere-{k}" for k in range(HIDDEN))]:  # all of them older than the exact list
        state.apply(event(Hide, name))
    assert not set(names) & set(state.user("1")["hidden"]["ids"])
    assert feed_of(state) == {"other"}


def test_the_filter_misses_nothing_and_takes_as_few_others_for_hidden_as_the_arithmetic_says():
    held = ""
    ids = [f"item-{k}" for k in range(10_000)]
    packed = np.zeros(bloom.BITS, bool)
    packed[bloom.bits_of(ids)] = True
    for item_id in random.Random(0).sample(ids, 50):
        held = bloom.added(held, item_id)
    assert bloom.contains(held, bloom.bits_of(ids)).sum() == 50
    full = base64.b64encode(np.packbits(packed)).decode()
    assert bloom.contains(full, bloom.bits_of(ids)).all()
    others = bloom.contains(full, bloom.bits_of([f"other-{k}" for k in range(100_000)])).mean()
    assert others == pytest.approx((1 - np.exp(-7 * 10_000 / 131_072)) ** 7, rel=0.15)


def test_the_bits_of_an_id_are_the_same_in_every_process_and_version():
    assert bloom.bits_of(["a1", "日本"]).tolist() == [
        [85078, 115473, 14796, 45191, 75586, 105981, 5304],
        [118513, 67718, 16923, 97200, 46405, 126682, 75887],
    ]


def test_the_state_of_a_user_is_bounded_and_the_filter_is_there_only_when_the_list_overflows():
    state = new_user("1")
    for k in range(HIDDEN):
        update_user(state, event(Hide, k), {})
    assert hidden_before(state) is None
    for k in range(HIDDEN, HIDDEN + 300):
        update_user(state, event(Hide, k), {})
    assert state["hidden"]["ids"] == [str(k) for k in range(300, HIDDEN + 300)]
    assert len(msgspec.json.encode(state["hidden"])) < 22_000 + HIDDEN * 8


def test_numbers_of_a_user_are_what_they_were():
    assert NUMERIC == (
        "total_interactions", "requests", "view_rate", "click_rate", "like_rate", "share_rate", "comment_rate", "hide_rate",
        "average_dwell_seconds", "hours_since_last_event", "unique_items",
    )  # fmt: skip


@pytest.mark.parametrize("batch", [20, 1000])
def test_stream_and_batch_agree_on_what_is_hidden(redis_url, batch):
    draw = random.Random(batch)
    users = ["0", "1"]
    events = [event(draw.choice([Hide, Hide, View]), draw.randrange(2000), draw.choice(users), NOW + n) for n in range(900)]
    state = catalogue(300)
    for one in events:
        state.apply(one)
    store = FeatureStore(connect(redis_url))
    stream_into(store, events, batch, items=[item(k) for k in range(300)])
    streamed = dict(zip(users, store.users(users), strict=True))
    for user in users:
        assert hidden_before(streamed[user]) is not None
        assert bare(streamed[user])["hidden"] == bare(state.users[user])["hidden"]
    ranker = Ranker(snapshot(state), "v1", 1, store.load_items(), EVERYTHING, NOW)
    for user, feed in zip(users, ranker.rank([streamed[user] for user in users], NOW), strict=True):
        assert {place.item_id for place in feed.items} == feed_of(state, user)


def test_a_state_of_before_the_feature_is_read_and_goes_on(redis_url):
    client = connect(redis_url)
    store, folder = FeatureStore(client), Folder(1, 300.0, 1800.0)
    old = {name: part for name, part in new_user("1").items() if name != "hidden"} | {"seen": ["7"]}
    client.set("user:1", json.dumps(old))
    record = type("Record", (), {"offset": 0, "key": b"1", "value": wire.encode(event(Hide, 9)), "timestamp": 0})
    change = folder.fold(wire.INTERACTIONS, [record], Position("I", 0, 1), store, store.load_items())
    assert store.apply(change, 0, "U", 0).done
    (state,) = store.users(["1"])
    assert state["hidden"] == {"ids": ["9"]}
    assert set(consumed(state)) == {"7", "9"}
