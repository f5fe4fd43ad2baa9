"""Counts in buckets: at each half-life what the events themselves would sum to, and what becomes of that with time."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feed.catalogue import Item
from feed.events import KINDS, Click, Hide, Impression, Like, Shown, utc
from feed.features import ItemTable, counts
from feed.features.items import prior

NOW = 1.75e9
HOUR, DAY = 3600.0, 86400.0
# half-life and the width of the buckets that it is read from, in seconds
READ_FROM = ((900.0, 300), (HOUR, 300), (6 * HOUR, 3600), (DAY, 3600), (7 * DAY, 86400), (30 * DAY, 86400))
AGES = st.lists(st.floats(0, 40 * DAY), min_size=1, max_size=12)  # of events, seconds


def click(at: float, item_id: object = "7", made: type = Click):
    return made(event_id=f"{item_id}-{at}", user_id="1", item_id=str(item_id), occurred_at=utc(at))


def hashed(events) -> dict[str, int]:
    """What the item's hash holds after these events of it."""
    fields = Counter(name for event in events for name in counts.fields(event))
    return {**fields, counts.FIRST: min(int(event.at) for event in events)}


@settings(max_examples=50, deadline=None)
@given(AGES, st.randoms(use_true_random=False))
def test_a_sum_is_that_of_the_events_each_at_the_middle_of_its_bucket_at_every_half_life(ages, draw):
    events = [click(NOW - age) for age in ages]
    expected = [sum(2 ** (-(NOW - (e.at // wide + 0.5) * wide) / half_life) for e in events) for half_life, wide in READ_FROM]
    table = ItemTable()
    for event in draw.sample(events, len(events)):
        table.add(event)
    of_click = KINDS.index("click")
    np.testing.assert_allclose(table.sums(NOW)[0, of_click], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(counts.decayed(hashed(events), NOW)[of_click], expected, rtol=1e-9, atol=1e-12)


def test_columns_with_a_name_are_those_of_their_half_life():
    assert counts.HALF_LIVES.tolist() == [half_life for half_life, _ in READ_FROM]
    assert [counts.HALF_LIVES[k] for k in (counts.OF_DAY, counts.OF_WEEK)] == [DAY, 7 * DAY]


@settings(max_examples=50, deadline=None)
@given(AGES, st.booleans(), st.floats(0, 30 * DAY))
def test_a_hash_tells_of_an_item_what_its_events_do(ages, dated, later):
    events = [click(NOW - age, made=(Click, Like, Hide)[k % 3]) for k, age in enumerate(ages)]
    item = Item(item_id="7", created_at=utc(NOW - 50 * DAY) if dated else None)
    added, loaded = ItemTable(), ItemTable()
    for table in (added, loaded):
        table.upsert(item)
    for event in events:
        added.add(event)
    loaded.set_counts("7", hashed(events), NOW)
    for at in (NOW, NOW + later):
        np.testing.assert_allclose(loaded.prior(at), added.prior(at), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(loaded.numeric(at), added.numeric(at), rtol=1e-9, atol=1e-9)


def test_numbers_that_no_count_can_have_give_a_prior_all_the_same():
    assert np.isfinite(prior(np.array([[-1e15] * 7, [1e15] * 7, [-1.0] * 7]))).all()


def ages(table: ItemTable, now: float = NOW) -> list[float]:
    return table.age(now, np.arange(len(table))).tolist()


def test_the_age_is_that_since_creation_else_since_the_earliest_event_whenever_that_came_to_be_known():
    table = ItemTable()
    for item in (Item(item_id="dated", created_at=utc(NOW - 5 * HOUR)), Item(item_id="undated"), Item(item_id="untouched")):
        table.upsert(item)
    for at in (NOW - 2 * HOUR, NOW - 8 * HOUR + 0.75, NOW - 3 * HOUR):
        for item_id in ("dated", "undated", "only counted"):
            table.add(click(at, item_id))
    assert ages(table) == [5.0, 8.0, -1.0, 8.0]  # of the first event the whole second
    table.upsert(Item(item_id="undated", created_at=utc(NOW - HOUR)))
    table.remove("dated")
    assert ages(table) == [8.0, 1.0, -1.0, 8.0]


def test_items_that_were_shown_and_no_more_have_an_age():
    table, shown = ItemTable(), (Shown(item_id="a", position=0), Shown(item_id="b", position=1))
    table.add(Impression(event_id="i", user_id="1", occurred_at=utc(NOW - 4 * HOUR), items=shown))
    assert ages(table) == [4.0, 4.0]


def test_what_everybody_is_told_of_an_item_is_logarithms_of_counts_and_age():
    (found,) = prior(np.array([[9.0, 0.0, 0.02, 0.06, 1.98, 19.98, 199.98]]))
    np.testing.assert_allclose(found, np.log([1, 2, 4, 100, 1000, 10_000, 10, np.e]), rtol=1e-6)
    assert prior(np.array([[-1.0, *[0.0] * 6]])).tolist() == [[0.0] * 7 + [1.0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(AGES, min_size=1, max_size=4))
def test_what_a_table_tells_is_what_its_raw_numbers_tell(of_items):
    table = ItemTable()
    for k, of_item in enumerate(of_items):
        table.upsert(Item(item_id=str(k), created_at=utc(NOW - 41 * DAY) if k % 2 else None))
        for age in of_item:
            table.add(click(NOW - age, k))
    np.testing.assert_allclose(prior(table.numeric(NOW)), table.prior(NOW), rtol=1e-6)
