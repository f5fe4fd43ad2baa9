"""What a user's state knows of their positives: how often, and when last."""

import random

import msgspec
import numpy as np
import pytest

from feed.events import ENGAGEMENTS, POSITIVES, utc
from feed.features import BatchState, new_user, own_items, update_user
from feed.features.user import POSITIVE_ITEMS, SAME_OCCASION
from feed.io.redis import FeatureStore, connect
from tests.features.test_parity import bare, stream_into
from tests.small import NOW, item

HOUR = 3600


def event(name, item_id, at, user="1"):
    return ENGAGEMENTS[name](event_id=f"{user}-{name}-{item_id}-{at}", user_id=user, item_id=str(item_id), occurred_at=utc(at))


def state_after(*events):
    state = new_user("1")
    for one in events:
        update_user(state, one, {})
    return state


def test_positives_are_counted_with_the_time_of_the_last_and_nothing_else_is():
    state = state_after(*(event(name, name, NOW + k) for k, name in enumerate(ENGAGEMENTS)))
    assert state["positives"].keys() == POSITIVES
    state = state_after(event("click", "7", NOW), event("share", "7", NOW + 5 * HOUR), event("view", "7", NOW + 9 * HOUR))
    assert state["positives"] == {"7": [2, NOW + 5 * HOUR]}


def test_a_click_and_the_like_that_follows_it_count_once():
    first = event("click", "7", NOW), event("like", "7", NOW + SAME_OCCASION), event("share", "7", NOW + 2 * SAME_OCCASION)
    assert state_after(*first)["positives"] == {"7": [1, NOW + 2 * SAME_OCCASION]}
    later = event("click", "7", NOW + 3 * SAME_OCCASION + 1)
    assert state_after(*first, later)["positives"] == {"7": [2, later.at]}


def test_an_event_that_comes_late_counts_and_does_not_turn_the_time_back():
    assert state_after(event("click", "7", NOW), event("click", "7", NOW - HOUR))["positives"] == {"7": [2, NOW]}


def test_of_more_items_than_are_remembered_those_whose_last_positive_is_oldest_go_whatever_the_order_of_events():
    events = [event("click", k, NOW + 10 * k) for k in range(POSITIVE_ITEMS + 40)]
    random.Random(0).shuffle(events)
    kept = state_after(*events, event("click", 41, NOW + 1e6))["positives"]
    assert sorted(kept, key=int) == [str(k) for k in range(40, POSITIVE_ITEMS + 40)]
    assert len(msgspec.json.encode(kept)) < POSITIVE_ITEMS * 36


def test_own_items_say_how_often_and_how_long_ago():
    own = own_items(state_after(event("click", "7", NOW), event("like", "9", NOW + HOUR), event("click", "7", NOW + HOUR)), NOW)
    assert dict(zip(own.ids, own.times.tolist(), strict=True)) == {"7": 2, "9": 1}
    assert own.since.tolist() == [0.0, 0.0], "what is later than now was just now"
    assert own_items(state_after(event("click", "7", NOW)), NOW + HOUR).since.tolist() == [HOUR]
    nothing = own_items(new_user("1"), NOW)
    assert (nothing.ids, nothing.times.dtype, nothing.since.dtype) == ((), np.dtype(np.int64), np.dtype(np.float64))


@pytest.mark.parametrize("batch", [30, 1000])
def test_stream_and_batch_agree_on_positives(redis_url, batch):
    draw, items = random.Random(batch), [item(k) for k in range(400)]
    names = list(ENGAGEMENTS)
    events = [
        event(draw.choice(names), draw.randrange(400), NOW - draw.randrange(10 * HOUR), draw.choice("01")) for _ in range(1500)
    ]
    offline = BatchState(items)
    for one in events:
        offline.apply(one)
    assert len(offline.users["0"]["positives"]) == POSITIVE_ITEMS
    store = FeatureStore(connect(redis_url))
    stream_into(store, events, batch, items=items)
    for user, state in zip("01", store.users(["0", "1"]), strict=True):
        assert bare(state)["positives"] == bare(offline.users[user])["positives"]
