"""What may be shown again, by the rule, and what never may."""

import dataclasses

import pytest

from feed.events import ENGAGEMENTS, utc
from feed.features import SEEN, BatchState
from feed.features.user import POSITIVE_ITEMS
from feed.io.redis import FeatureStore, connect
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.repeats import Repeats
from tests.features.test_parity import stream_into
from tests.small import DAY, NOW, item, snapshot

LEARNED = Policy(feed_size=500, popular_share=0.0, random_share=0.0)
ARMS = (LEARNED, Policy(500, 1.0, 0.0), Policy(500, 0.0, 1.0))
N = 30  # items; their categories are c0 to c4, by the number modulo 5


def event(name, k, ago=60.0):
    return ENGAGEMENTS[name](event_id=f"{name}-{k}-{ago}", user_id="1", item_id=str(k), occurred_at=utc(NOW - ago))


def missing(rule, events, policy=LEARNED, now=NOW):
    """The items that user 1 is not shown."""
    state = BatchState([item(k, NOW - 20 * DAY) for k in range(N)])
    for one in events:
        state.apply(one)
    policy = dataclasses.replace(policy, repeats=None if rule is None else Repeats.parse(rule))
    (feed,) = Ranker(snapshot(state), "v1", 1, state.items, policy, now).rank([state.user("1")], now)
    return {str(k) for k in range(N)} - {place.item_id for place in feed.items}


EVENTS = [event("click", 0, 2 * DAY), event("click", 1, DAY), event("like", 2), event("view", 3, 9 * DAY), event("hide", 4)]


@pytest.mark.parametrize("policy", ARMS)
@pytest.mark.parametrize(
    ("rule", "away"),
    [
        (None, "01234"),  # an untrained version says nothing, which is never
        ("never", "01234"),
        ("always", "34"),
        ("24h", "234"),
        ("25h", "1234"),
        ("3d", "01234"),
        ("c1=1h", "0234"),
        ("always, c0=3d", "034"),
        ("1d, c1=never, c2=0", "134"),
    ],
)
def test_what_was_taken_comes_again_by_the_rule_and_what_was_viewed_or_hidden_does_not(rule, away, policy):
    assert missing(rule, EVENTS, policy) == set(away)


def test_taking_it_again_or_looking_at_it_again_counts_from_the_last_time_it_was_taken():
    assert missing("24h", [event("click", 7, 2 * DAY), event("share", 7, 3600.0)]) == {"7"}
    assert missing("24h", [event("click", 7, 2 * DAY), event("view", 7, 3600.0)]) == set()
    assert missing("24h", [event("view", 7, 3 * DAY), event("click", 7, 2 * DAY)]) == set()


@pytest.mark.parametrize("order", [1, -1])
def test_what_was_hidden_does_not_come_back_however_it_was_taken(order):
    assert missing("always", [event("click", 7, DAY), event("hide", 7, 60.0)][::order]) == {"7"}


def test_the_time_until_it_comes_again_is_that_of_the_events():
    taken = [event("click", 7, 0.0)]
    assert missing("24h", taken, now=NOW + DAY - 1) == {"7"}
    assert missing("24h", taken, now=NOW + DAY) == set()
    assert missing("always", taken, now=NOW - 60) == set(), "an event that is ahead of the clock was just now"


def test_what_was_taken_lately_stays_away_until_its_time_however_much_was_met_since():
    events = [event("click", 7, 2 * DAY), *(event("view", f"elsewhere-{k}", DAY) for k in range(SEEN))]
    assert missing("never", events) == set(), "as it was"
    assert missing("3d", events) == {"7"}


def test_what_was_taken_longer_ago_than_is_remembered_counts_as_viewed():
    events = [event("click", 7, 2 * DAY), *(event("click", f"elsewhere-{k}", DAY) for k in range(POSITIVE_ITEMS))]
    assert missing("always", events) == {"7"}


def test_stream_and_batch_agree_on_what_may_be_shown_again(redis_url):
    items = [item(k, NOW - 20 * DAY) for k in range(N)]
    state = BatchState(items)
    for one in EVENTS:
        state.apply(one)
    store = FeatureStore(connect(redis_url))
    stream_into(store, EVENTS, 2, items=items)
    (streamed,) = store.users(["1"])
    for rule in ("never", "always", "24h", "c1=1h"):
        policy = dataclasses.replace(LEARNED, repeats=Repeats.parse(rule))
        (here,), (there,) = (
            Ranker(snapshot(state), "v1", 1, table, policy, NOW).rank([of_user], NOW)
            for table, of_user in ((state.items, state.user("1")), (store.load_items(), streamed))
        )
        assert {place.item_id for place in here.items} == {place.item_id for place in there.items}
