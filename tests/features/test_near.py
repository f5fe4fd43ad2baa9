"""What an item was taken beside: the equation by hand; neither order, growth, bounds nor reading it twice change it."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterable
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.catalogue import Item
from feed.events import ENGAGEMENTS, Impression, Shown, utc
from feed.features import BatchState, ItemTable, new_user, pair_counts, update_user
from feed.features.near import COLUMNS, LONG_AGO, SAID, columns, first_form, taken


def engaged(item: str, name: str = "click", user: str = "1", request: str | None = None):
    about = {"event_id": f"{name}{item}", "user_id": user, "item_id": item, "occurred_at": utc(1.7e9)}
    return ENGAGEMENTS[name](**about, request_id=request)


def history(*items: str):
    """The state of a user who took these, the oldest first."""
    state = new_user("1")
    for item in items:
        update_user(state, engaged(item), {})
    return state


def catalogue(n: int) -> ItemTable:
    table = ItemTable()
    for k in range(n):
        table.upsert(Item(item_id=str(k)))
    return table


def said(table: ItemTable, *items: str) -> dict[str, tuple[float, float]]:
    """What a history of these, the oldest first, says: by item, of what was taken together and of what came next."""
    found = table.nearby(history(*items), 1.7e9)
    assert (np.diff(found.rows) > 0).all()
    told = zip(found.rows, found.said.tolist(), strict=True)
    return {table.ids[row]: (together, came_next) for row, (together, came_next, *_) in told if together}


def test_what_is_said_is_what_the_equation_says():
    state = BatchState([Item(item_id=i) for i in "abcd"])
    for item in "abc":
        state.apply(engaged(item))
    each = 1 / np.sqrt(2) / np.sqrt(6)  # all of them were taken once
    expected = {  # D[b, a] = D[c, b] = 1, D[c, a] = 0.9
        "a": {"b": (each, each), "c": (0.9 * each, 0.9 * each)},
        "c": {"b": (each, 0), "a": (0.9 * each, 0)},
        # the history of b, then a: a is one step back, b two
        "ba": {"a": (0.9 * each, 0), "b": (each, each), "c": (1.8 * each, 1.8 * each)},
        "d": {},
        "": {},
    }
    for items, values in expected.items():
        found = said(state.items, *items)
        assert found.keys() == values.keys()
        for item, (together, came_next) in values.items():
            assert found[item] == pytest.approx((together, came_next), rel=1e-5)


def test_a_model_reads_it_in_three_forms_and_how_often_and_when_it_was_taken():
    said = np.array([[0.2, 0.05, 0.0, 0.0], [0.0, 0.0, 3.0, 23.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    read = columns(said)
    assert read.shape == (3, COLUMNS)
    assert read[0] == pytest.approx([np.log(5), np.log(2), np.log(201), np.log(51), 0.6, 0.15, 0, 0, 0], rel=1e-5)
    assert read[1] == pytest.approx([0, 0, 0, 0, 0, 0, 1, np.log(4), np.log(24)], rel=1e-5)
    assert not read[2].any()
    assert (first_form(said) == read[:, :2]).all()


def test_what_a_person_took_is_said_with_how_often_and_when_the_last_time():
    table, state = catalogue(3), new_user("1")
    for item, at in (("1", 0.0), ("1", 7200.0), ("0", 7200.0), ("unknown", 7200.0)):
        about = {"event_id": f"{item}{at}", "user_id": "1", "item_id": item, "occurred_at": utc(1.7e9 + at)}
        update_user(state, ENGAGEMENTS["click"](**about), {})
    found = table.nearby(state, 1.7e9 + 10_800.0)
    assert [table.ids[row] for row in found.rows] == ["0", "1"]
    assert found.said.tolist() == [[0, 0, 1, 1], [0, 0, 2, 1]]
    assert table.nearby(state, 1.7e9 + 1e12).said[:, 3].tolist() == [LONG_AGO] * 2


def test_a_positive_counts_the_first_time_after_the_last_50_that_were_taken():
    state = history(*(str(k) for k in range(60)))
    item, after = taken(state, engaged("new", "share"))
    assert item == "new"
    assert list(after) == [str(k) for k in range(59, 9, -1)]
    assert [after["59"], after["58"], after["10"]] == [1000, 900, 6]
    assert taken(history(), engaged("new")) == ("new", {})


def test_what_is_no_positive_or_was_taken_before_counts_nothing():
    state = history("a", "b")
    assert taken(state, engaged("a", "like")) is None
    assert taken(state, engaged("c", "hide")) is None
    assert taken(state, engaged("c", "view", request="r")) is None
    shown = Impression(event_id="e", user_id="1", occurred_at=utc(1.7e9), items=(Shown(item_id="c", position=0),))
    assert taken(state, shown) is None


def test_who_comes_to_an_item_without_a_feed_has_taken_it_whatever_the_kind():
    state = history("a")
    assert taken(state, engaged("b", "view")) == ("b", {"a": 1000})
    update_user(state, engaged("b", "view"), {})
    assert taken(state, engaged("c")) == ("c", {"b": 1000, "a": 900})
    assert state["recent"] == ["a"]


N = 6
takes = st.lists(
    st.permutations(range(N)).flatmap(lambda of: st.integers(1, N).map(lambda n: [str(k) for k in of[:n]])), max_size=30
)


def amounts(after: Iterable[str]) -> dict[str, int]:
    return {item: round(1000 * 0.9**k) for k, item in enumerate(after)}


@given(takes, st.integers(0, 10**6))
def test_the_order_of_writers_does_not_matter(many, seed):
    table, shuffled = catalogue(N), catalogue(N)
    for target, some in ((table, many), (shuffled, random.Random(seed).sample(many, len(many)))):
        for item, *after in some:
            target.take(item, amounts(after))
    for pair in itertools.permutations(table.ids, 2):
        assert said(table, *pair) == said(shuffled, *pair)


@given(takes, st.sets(st.integers(0, 29)), st.integers(0, N - 1))
def test_a_row_read_from_redis_is_what_was_counted_whatever_was_known_of_it(many, read_at, lost):
    """`counting` counts and reads, `reading` only reads; both are as a table that is read in one go, also when Redis loses."""
    counting, reading = catalogue(N), catalogue(N)
    counts: dict[str, Counter[str]] = {str(k): Counter() for k in range(N)}
    times: Counter[str] = Counter()
    for k, (item, *after) in enumerate(many):
        counts[item].update(amounts(after))
        times[item] += 1
        counting.take(item, amounts(after))
        if k in read_at:
            for table in (counting, reading):
                table.set_taken(item, counts[item], times[item])

    def agree(*tables):
        anew = catalogue(N)
        for item in counts:
            anew.set_taken(item, counts[item], times[item])
        for table in tables:
            for pair in itertools.permutations(counts, 2):
                assert said(table, *pair) == said(anew, *pair)
            assert [table.taken(item) for item in counts] == [times[item] for item in counts]

    agree(counting)
    less = dict(counts[str(lost)].most_common(1))
    for table in (counting, reading):
        for item in counts:
            table.set_taken(item, counts[item], times[item])
        table.set_taken(str(lost), less, len(less))
    counts[str(lost)], times[str(lost)] = Counter(less), len(less)
    agree(counting, reading)


@pytest.mark.parametrize("seed", range(5))
def test_a_bound_only_forgets_however_often_a_row_is_read(seed):
    n, draw = 40, random.Random(seed)
    exact, bounded = catalogue(n), catalogue(n)
    counts: dict[str, Counter[str]] = {}
    with mock.patch.object(pair_counts, "WIDEST", 8):
        for _ in range(100):  # many after the same few, and some after many
            item = str(draw.randrange(10, n))
            after = [*draw.sample(range(10), 2), *draw.sample(range(10, n), draw.choice([0, 0, 10]))]
            counts.setdefault(item, Counter()).update(amounts(map(str, after)))
            for again in (item, draw.choice(list(counts))):
                bounded.set_taken(again, counts[again], 1)
    for item in exact.ids:
        exact.set_taken(item, counts.get(item, {}), bounded.taken(item))
    for item in exact.ids:
        everything = said(exact, item)
        for near, values in said(bounded, item).items():
            assert all(a <= b + 1e-5 for a, b in zip(values, everything[near], strict=True))


def test_counts_stay_when_the_table_grows():
    table = catalogue(3)
    table.take("1", {"0": 1000})
    table.take("2", {"1": 1000, "0": 900})
    before = said(table, "0")
    assert before.keys() == {"1", "2"}
    for k in range(3, 200):
        table.upsert(Item(item_id=str(k)))
    assert said(table, "0") == before
    table.take("199", {"0": 1000})
    assert said(table, "0").keys() == {"1", "2", "199"}


def test_an_item_that_no_catalogue_describes_says_and_is_told_nothing_until_it_is_described():
    table = catalogue(2)
    table.take("1", {"ghost": 1000, "0": 900})
    table.take("ghost", {"0": 1000})
    assert said(table, "0").keys() == {"1"}
    assert said(table, "ghost") == {}
    assert said(table, "0", "ghost") == said(table, "0")
    table.upsert(Item(item_id="ghost"))
    assert said(table, "0").keys() == {"1", "ghost"}
    assert said(table, "ghost").keys() == {"1", "0"}


def test_the_values_of_any_rows_are_zero_where_nothing_is_said():
    table = catalogue(5)
    table.take("3", {"1": 1000})
    nearby = table.nearby(history("1"), 1.7e9)
    at = nearby.at(np.array([4, 3, 0]))
    assert at.shape == (3, len(SAID))
    assert at[1].tolist() == nearby.said[nearby.rows.tolist().index(3)].tolist() != [0, 0, 0, 0]
    assert not at[[0, 2]].any()
    assert not table.nearby(history(), 1.7e9).at(np.arange(5)).any()


def test_it_may_be_read_while_another_thread_counts_and_the_table_grows():
    table = catalogue(2)
    done = threading.Event()

    def write():
        try:
            for k in range(2, 3000):
                table.upsert(Item(item_id=str(k)))
                table.take(str(k), {"0": 1000, str(k - 1): 900})
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    found, reader = 0, history("0")
    while not done.is_set():
        nearby = table.nearby(reader, 1.7e9)
        assert np.isfinite(nearby.said).all()
        assert (nearby.said[nearby.said[:, 2] == 0, 0] > 0).all()  # of its own item nothing but that it was taken
        assert len(nearby.rows) >= found or found >= pair_counts.WIDEST
        found = len(nearby.rows)
    writer.join()
    assert len(table) == 3000
    assert len(table.nearby(reader, 1.7e9).rows) >= pair_counts.WIDEST
