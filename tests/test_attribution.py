"""Impressions and what followed them become examples, exactly one each, wherever a batch ends."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feed.attribution import WINDOWS, Attribution, Marks
from feed.catalogue import Item
from feed.events import ENGAGEMENTS, Click, Context, Impression, Like, Shown, View, utc
from feed.examples import is_new
from feed.features import BatchState, FrozenItems, freeze_user, frozen

START, MINUTE, SECONDS = 1.7e9, 60.0, 1800.0
ITEMS = [Item(item_id=i, category=f"c{i % 3}", created_at=utc(START - 1e6)) for i in range(30)]


class Partition:
    """What the features agent does, without servers."""

    def __init__(self) -> None:
        self.state, self.pending, self.marks = BatchState(ITEMS), {}, Marks()
        self.offset, self.examples = 0, []

    def batch(self, *events, everything=False, seconds=SECONDS, erased=()):
        now = events[0].at if events else 0.0
        windows = Attribution(seconds, 3, self.marks, self.pending, FrozenItems(self.state.items, now))
        for event in events:
            if event.user_id not in erased:
                windows.add(event, self.state.user(event.user_id), self.offset)
                self.state.apply(event)
            self.offset += 1
        closed = windows.close(everything)
        self.pending = windows.waiting
        self.marks = windows.marks
        self.examples += closed
        return closed

    def wait(self, minutes: float = 31.0):
        """Somebody else acts that much later: the clock goes on."""
        return self.batch(Click(event_id=f"t{self.marks.clock}", user_id="else", item_id="29",
                                occurred_at=utc(self.marks.clock + minutes * MINUTE)))  # fmt: skip


def impression(at=0.0, request="r", items=(1, 2, 3), user="1", event_id=None):
    shown = tuple(Shown(item_id=i, position=p, score=0.5, propensity=0.25, source="explore") for p, i in enumerate(items))
    return Impression(
        event_id=event_id or f"i{request}{at}", user_id=user, occurred_at=utc(START + at), request_id=request, items=shown,
        arm="learned", model_version="v1", context=Context(device="tv"),
    )  # fmt: skip


def act(kind, item, at=1.0, request="r", user="1", event_id=None, **more):
    return kind(event_id=event_id or f"{kind.__name__}{item}{at}", user_id=user, item_id=item, request_id=request,
                occurred_at=utc(START + at), **more)  # fmt: skip


def labels(example):
    return {row.item.item_id: row.labels for row in example.rows if row.labels}


def kept(examples, last=None):
    """Those that a reader keeps who has `last`, by id."""
    last = {} if last is None else last
    return [example.example_id for example in examples if is_new(example, last)]


def mine(examples):
    return [example for example in examples if example.user.user_id != "else"]


def test_an_impression_becomes_one_example_with_what_followed():
    partition = Partition()
    partition.batch(impression(), act(View, 2, 5.0, dwell_ms=4000), act(Click, 2, 6.0), act(View, 2, 9.0, dwell_ms=500))
    assert mine(partition.wait(10)) == []
    (example,) = mine(partition.wait(31))
    assert (example.source, example.sequence, example.example_id, example.at) == (3, 0, "r", START)
    assert (example.arm, example.model_version, example.context.device, example.organic) == ("learned", "v1", "tv", False)
    assert labels(example) == {"2": {"view": 2, "click": 1}}
    assert [(row.item.item_id, row.dwell_ms, row.positive) for row in example.rows] == [
        ("1", 0, False), ("2", 4500, True), ("3", 0, False),
    ]  # fmt: skip
    assert [(row.position, row.score, row.propensity, row.source) for row in example.rows] == [
        (p, 0.5, 0.25, "explore") for p in range(3)
    ]


def test_features_are_those_before_the_impression_whatever_followed():
    partition = Partition()
    partition.batch(act(Like, 7, -9000, request=None))
    before = replace(freeze_user(partition.state.user("1"), START), near=())
    partition.batch(impression(), act(Click, 1))
    partition.batch(act(Like, 2, 8.0))
    (example,) = [e for e in mine(partition.wait()) if not e.organic]
    assert example.user == before
    assert example.rows[0].item.numeric[2] == 0.0  # no engagement yet


def gone_together() -> Partition:
    """Others took 7 before 4, 5 and 6, 5 twice as often, and 4 and 6 equally."""
    partition = Partition()
    for user, then in enumerate((4, 5, 5, 6)):
        for at, item in enumerate((7, then)):
            partition.batch(act(Like, item, -9000.0 + at, request=None, user=f"other{user}"))
    return partition


@pytest.mark.parametrize("most", [1, 2, 64])
def test_what_the_history_says_is_frozen_as_of_the_impression_of_each_row_and_of_the_most_by_id(most, monkeypatch):
    monkeypatch.setattr(frozen, "NEAREST", most)
    partition = gone_together()
    partition.batch(act(Like, 7, -60.0, request=None))
    said = partition.state.items.nearby(partition.state.user("1"), partition.state.now)
    partition.batch(impression(items=(6, 1, 5)), act(Click, 5, 3.0))
    partition.batch(act(Like, 5, 4.0, request=None), act(Like, 8, 5.0, request=None))
    (example,) = [e for e in mine(partition.wait()) if not e.organic and e.user.user_id == "1"]
    expected = said.at(np.array([partition.state.items.row(str(k)) for k in (6, 1, 5, 4)]))
    assert expected[2, :2].min() > expected[0, :2].min() > 0
    np.testing.assert_allclose([row.near for row in example.rows], expected[:3], atol=1e-4)
    assert [item_id for item_id, *_ in example.user.near] == ["5", "4", "6"][:most]
    np.testing.assert_allclose([values for _, *values in example.user.near], expected[[2, 3, 0], :2][:most], atol=1e-4)


def test_the_rows_of_an_organic_example_have_what_the_history_says_too_also_the_drawn_ones():
    partition = gone_together()
    partition.batch(act(Like, 7, -60.0, request=None))
    said = {}
    for item in range(8, 20):
        view = act(View, item, float(item), request=None)
        said[str(item)] = partition.state.items.nearby(partition.state.user("1"), view.at)
        partition.batch(view)
    for example in mine(partition.wait()):
        if example.user.user_id == "1" and (then := said.get(example.rows[0].item.item_id)):
            expected = then.at(np.array([partition.state.items.row(row.item.item_id) for row in example.rows]))
            assert (expected[1:, 0] > 0).any()
            assert (expected[1:, 2] > 0).any()  # the like
            np.testing.assert_allclose([row.near for row in example.rows], expected, atol=1e-4)


def test_a_duplicate_impression_makes_no_second_example_before_or_after_its_window_has_closed():
    partition = Partition()
    partition.batch(impression(), impression(event_id="again"), act(Click, 1))
    partition.batch(impression(at=20, event_id="once more"))
    partition.wait(31)
    partition.batch(impression(at=40, event_id="late again"))
    partition.wait(100)
    assert [labels(e) for e in mine(partition.examples)] == [{"1": {"click": 1}}]


def test_a_duplicate_engagement_counts_once():
    partition = Partition()
    click = act(Click, 1, event_id="c")
    partition.batch(impression(), click, click)
    partition.batch(click)
    assert labels(mine(partition.wait())[0]) == {"1": {"click": 1}}


def test_an_engagement_after_its_window_is_too_late_and_makes_nothing():
    partition = Partition()
    partition.batch(impression())
    partition.wait(31)
    partition.batch(act(Click, 1, 32 * MINUTE))
    partition.wait(100)
    assert [labels(e) for e in mine(partition.examples)] == [{}]
    assert partition.marks.late == 1


def test_an_engagement_that_says_it_happened_after_the_window_is_too_late_though_the_window_is_open():
    partition = Partition()
    partition.marks = Marks(clock=START + 5 * SECONDS)
    partition.batch(impression(), act(Click, 1, 31 * MINUTE))
    assert [labels(e) for e in mine(partition.wait())] == [{}]
    assert partition.marks.late == 1


def test_an_engagement_before_its_impression_is_joined_to_it():
    partition = Partition()
    partition.batch(act(View, 2, 3.0, dwell_ms=10), act(Click, 2, 4.0))
    partition.batch(impression())
    (example,) = mine(partition.wait())
    assert not example.organic
    assert labels(example) == {"2": {"view": 1, "click": 1}}


def test_an_impression_that_comes_late_has_its_whole_window():
    partition = Partition()
    partition.marks = Marks(clock=START + 5 * SECONDS)
    partition.batch(impression())
    partition.batch(act(Click, 1))
    assert mine(partition.wait(20)) == []
    assert labels(mine(partition.wait(11))[0]) == {"1": {"click": 1}}


def test_without_a_request_id_the_newest_window_that_shows_the_item_gets_the_label():
    partition = Partition()
    partition.batch(impression(request="a"), impression(10, request="b", items=(3, 4)), act(Click, 3, 20, request=None))
    found = {e.example_id: labels(e) for e in mine(partition.wait())}
    assert found == {"a": {}, "b": {"3": {"click": 1}}}


def test_an_engagement_that_nothing_explains_is_an_organic_example_beside_drawn_items_once():
    partition = Partition()
    partition.batch(act(View, 5, request=None), act(Click, 5, 2.0, request=None))
    partition.wait()
    partition.batch(act(Like, 5, 3600, request=None))
    partition.wait()
    example, later = mine(partition.examples)
    assert (example.organic, example.again, later.again) == (True, False, True)
    assert labels(example) == {"5": {"view": 1, "click": 1}}
    others = [row.item.item_id for row in example.rows[1:]]
    assert len(set(others)) == len(others) >= 8
    assert sum(row.stands_for for row in example.rows) == len(partition.state.items) - 1
    assert "5" not in others
    assert example.user.numeric[0] == 0.0  # frozen before the engagement


def test_coming_back_to_what_was_taken_makes_an_organic_example_each_time_which_says_so():
    partition = Partition()
    for at in (0, 600, 2 * 3600, 2 * 3600 + 60, 5 * 3600):  # the second and the fourth are of the same occasion
        partition.batch(act(Click, 5, at, request=None, event_id=f"c{at}"))
        partition.batch(act(View, 7, at + 1, request=None, event_id=f"v{at}"))
    partition.wait()
    found = [e for e in mine(partition.examples) if e.rows[0].item.item_id == "5"]
    assert [(e.at - START, e.organic, e.again, labels(e)) for e in found] == [
        (0, True, False, {"5": {"click": 2}}),
        (2 * 3600, True, True, {"5": {"click": 2}}),
        (5 * 3600, True, True, {"5": {"click": 1}}),
    ]
    assert "5" not in {row.item.item_id for e in found for row in e.rows[1:]}
    assert len([e for e in mine(partition.examples) if e.rows[0].item.item_id == "7"]) == 1, "viewed, and never taken"


def test_what_is_shown_again_is_labelled_as_the_first_time():
    partition = Partition()
    partition.batch(act(Click, 2, 0, request=None))
    partition.batch(impression(7200), act(Click, 2, 7260))
    partition.batch(act(Click, 2, 7300, request=None))
    (shown,) = [e for e in mine(partition.wait()) if not e.organic]
    assert (labels(shown), shown.again) == ({"2": {"click": 2}}, False)


def test_an_engagement_with_a_request_whose_impression_never_comes_is_too_late_and_no_organic_example():
    partition = Partition()
    partition.batch(act(Click, 5, request="unknown"), act(Like, 5, 2.0, request="unknown"))
    partition.wait()
    assert mine(partition.examples) == []
    assert partition.marks.late == 2


def test_however_long_ago_its_window_has_closed_an_engagement_that_names_it_makes_no_example():
    partition = Partition()
    partition.batch(impression(items=(1, 2, 3)))
    for _ in range(4):  # by then nothing is known of the request any more
        partition.wait()
    assert "1" not in partition.pending
    partition.batch(act(Click, 1, 125 * MINUTE))
    partition.wait()
    assert [(e.organic, labels(e)) for e in mine(partition.examples)] == [(False, {})]
    assert partition.marks.late == 1


def test_an_impression_takes_over_what_came_before_it_also_for_an_item_that_the_user_knows_already():
    partition = Partition()
    partition.batch(act(Click, 2, -9000, request=None))
    partition.wait()
    partition.batch(act(Like, 2, 1.0))
    partition.batch(impression())
    partition.wait()
    assert [labels(e) for e in mine(partition.examples) if not e.organic] == [{"2": {"like": 1}}]


@pytest.mark.parametrize("size", [2, 7, 200])
def test_numbers_of_examples_do_not_depend_on_where_batches_end_when_somebody_has_too_many_windows(size):
    """A log that is folded again is cut elsewhere; readers take an example of a number they have for a copy."""
    busy = [impression(40.0 * k, f"r{k}", user="1") for k in range(200)]
    others = [impression(40.0 * k + 1, f"o{k}", user=str(2 + k % 9)) for k in range(200)]
    events = sorted((*busy, *others), key=lambda event: event.at)
    single, grouped = Partition(), Partition()
    for event in events:
        single.batch(event)
    for k in range(0, len(events), size):
        grouped.batch(*events[k : k + size])
    told = [[(e.sequence, e.cut_at, e.example_id) for e in partition.examples] for partition in (single, grouped)]
    assert told[0] == told[1]
    assert any(cut_at for _, cut_at, _ in told[0])
    assert kept(single.examples) == [e.example_id for e in single.examples]
    assert [e.example_id for e in single.examples] == [events[e.sequence].request_id for e in single.examples]


def test_windows_that_wait_for_an_impression_give_way_to_those_that_have_one():
    partition = Partition()
    partition.batch(impression(), *(act(Click, k, 1.0 + k, f"unknown{k}") for k in range(WINDOWS + 3)))
    assert partition.marks.late == 4
    partition.batch(act(Like, 1, 60.0))
    assert [labels(e) for e in mine(partition.wait())] == [{"1": {"like": 1}}]


def test_an_idle_partition_is_closed_from_outside_and_what_comes_then_is_late():
    partition = Partition()
    partition.batch(impression(), act(Click, 1))
    assert [labels(e) for e in partition.batch(everything=True)] == [{"1": {"click": 1}}]
    partition.batch(act(Click, 2, 3.0), impression(event_id="again"))
    assert partition.marks.late == 1
    assert mine(partition.wait(100)) == []


def test_no_user_has_more_windows_open_than_the_bound():
    partition = Partition()
    closed = partition.batch(*(impression(float(k), f"r{k}") for k in range(WINDOWS + 3)))
    assert [e.example_id for e in closed] == ["r0", "r1", "r2"]


def story(seed: int, n: int):
    """Impressions and engagements of a few users: late, early, twice, without a request."""
    draw = random.Random(seed)
    at, events = 0.0, []
    for k in range(n):
        at += draw.expovariate(1 / 300)
        user, when = str(draw.randrange(3)), at - draw.choice([0, 0, 0, 600, 4000])
        if draw.random() < 0.3:
            events.append(impression(when, f"r{draw.randrange(k + 1)}", draw.sample(range(12), 4), user, f"e{k}"))
        elif draw.random() < 0.1 and events:
            events.append(draw.choice(events))
        else:
            request = draw.choice([None, f"r{draw.randrange(k + 1)}"])
            kind = draw.choice(list(ENGAGEMENTS.values()))
            events.append(act(kind, draw.randrange(12), when, request, user, f"e{k}"))
    return events


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 9))
def test_examples_do_not_depend_on_where_batches_end(seed, n, size):
    events = story(seed, n)
    single, grouped = Partition(), Partition()
    for event in events:
        single.batch(event)
    for k in range(0, n, size):
        grouped.batch(*events[k : k + size])
    for partition in (single, grouped):
        partition.batch(everything=True)

    def told(examples):
        return [(e.sequence, e.cut_at, e.example_id, e.at, e.organic, e.user, labels(e)) for e in examples]

    assert told(single.examples) == told(grouped.examples)
    assert single.marks == grouped.marks
    assert kept(single.examples) == [e.example_id for e in single.examples]
    assert {(events[e.sequence].user_id, e.at) for e in single.examples} == {(e.user.user_id, e.at) for e in single.examples}
    shown = {(e.user_id, e.request_id) for e in events if isinstance(e, Impression)}
    first = {(e.user.user_id, e.example_id) for e in single.examples if not e.organic}
    assert first <= shown
    unnamed = {e.event_id for e in events if e.request_id is None}
    assert {e.example_id for e in single.examples if e.organic} <= unnamed


def distinct(seed: int, n: int):
    """Impressions and engagements of five users, none explained by another; one of them often has too many windows."""
    draw = random.Random(seed)
    at = 0.0
    for k in range(n):
        at += draw.expovariate(1 / 20)
        user = draw.choice("00001234")
        if draw.random() < 0.8:
            yield impression(at, f"r{k}", draw.sample(range(12), 4), user)
        else:
            yield act(Like, f"new{k}", at, None, user, f"r{k}")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 299), st.integers(1, 99), st.sampled_from(["", "0", "1", "234"]), st.booleans())
def test_of_a_log_that_is_folded_again_a_reader_takes_what_it_lacks_and_nothing_twice(seed, known, size, erased, idle):
    """Whoever was erased meanwhile, whatever an idle time had closed. The first fold ends at `known`, the second goes on."""
    events = list(distinct(seed, 300))
    first, again, last = Partition(), Partition(), {}
    first.batch(*events[:known])
    if idle:
        first.batch(everything=True)
    sent = kept(first.examples, last)
    assert sent == [e.example_id for e in first.examples]
    assert kept(first.examples, last) == []

    again.batch(*events[:known], erased=erased)
    again.examples.clear()
    for k in range(known, 300, size):
        again.batch(*events[k : k + size])
    again.batch(everything=True)
    lacking = [e.example_id for e in again.examples if e.example_id not in sent]
    assert kept(again.examples, last) == lacking
    assert {e.request_id or e.event_id for e in events[known:]} <= set(lacking)


def test_windows_close_in_the_order_of_the_log_also_where_they_have_become_shorter():
    partition = Partition()
    partition.batch(impression(request="a"))
    partition.batch(impression(60, "b", user="2"), seconds=MINUTE)
    partition.batch(impression(400, "c", user="3"), seconds=MINUTE)
    partition.wait()
    assert kept(partition.examples)[:3] == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(5))
def test_each_impression_becomes_exactly_one_example(seed):
    draw = random.Random(seed)
    events = [impression(60.0 * k, f"r{k}", draw.sample(range(12), 4), str(k % 5)) for k in range(200)]
    partition = Partition()
    for k in range(0, 200, 17):
        partition.batch(*events[k : k + 17], *events[k : k + 3])  # some of them again
    partition.batch(everything=True)
    assert sorted(e.example_id for e in partition.examples) == sorted(e.request_id for e in events)
