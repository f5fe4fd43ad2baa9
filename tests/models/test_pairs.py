from dataclasses import replace

import numpy as np
import pytest

from feed.catalogue import Item, User
from feed.events import Click, Hide, Impression, Like, Shown, View, utc
from feed.features import BatchState, FeatureSpace
from feed.models.heads import TASKS, followed
from feed.models.pairs import CHUNK, SAMPLED, ChunkCollector, Evidence, Log, Pair, pairs_of, replay, visits_of
from feed.repeats import ALWAYS, Repeats

START = 1_700_000_000.0


def event(kind, at, user, item):
    about = {"event_id": f"e{at}-{user}-{item}-{kind.__name__}", "user_id": user, "occurred_at": utc(START + at)}
    if kind is Impression:
        return Impression(**about, items=(Shown(item, 0),))
    return kind(**about, item_id=item)


def log(*events, items=("a", "b", "c")):
    return Log([Item(item_id=i, category="x") for i in items], [User(user_id="u")], [event(*e) for e in events])


def test_a_pair_is_positive_by_what_followed_and_frozen_at_its_first_engagement():
    found = pairs_of(
        log((Impression, 0, "u", "a"), (View, 1, "u", "a"), (View, 2, "u", "b"), (Like, 3, "u", "a"), (Click, 4, "v", "b"))
    )
    assert [(p.event, p.at - START, p.user_id, p.item_id, p.positive) for p in found] == [
        (1, 1, "u", "a", True),
        (2, 2, "u", "b", False),
        (4, 4, "v", "b", True),
    ]


def test_what_was_hidden_is_not_positive_though_it_was_clicked():
    assert [p.positive for p in pairs_of(log((Click, 0, "u", "a"), (Hide, 1, "u", "a"), (Click, 2, "u", "b")))] == [False, True]


def test_in_a_log_of_views_alone_a_view_is_positive():
    assert [p.positive for p in pairs_of(log((View, 0, "u", "a"), (Hide, 1, "u", "b")))] == [True, False]


def test_items_outside_the_catalogue_make_no_pairs():
    assert pairs_of(log((Click, 0, "u", "unknown"))) == []


HOUR = 3600
AGAIN = (
    (View, 0, "u", "a"), (Click, 2 * HOUR, "u", "a"),  # viewed, and taken later: one pair, whose label came late
    (Like, 2 * HOUR + 60, "u", "a"),  # of the same occasion
    (View, 5 * HOUR, "u", "a"), (View, 5 * HOUR + 9, "u", "b"),  # skipped this time
    (Click, 9 * HOUR, "u", "a"), (View, 9 * HOUR, "u", "b"),
)  # fmt: skip


def told(found):
    return [(p.at - START, p.item_id, p.positive) for p in found]


def test_where_items_come_again_each_time_after_one_was_taken_is_a_pair_of_its_own():
    assert told(pairs_of(log(*AGAIN))) == [(0, "a", True), (5 * HOUR + 9, "b", False)]
    expected = [(0, "a", True), (5 * HOUR, "a", False), (5 * HOUR + 9, "b", False), (9 * HOUR, "a", True)]
    assert told(pairs_of(replace(log(*AGAIN), repeats=ALWAYS))) == expected


@pytest.mark.parametrize(("rule", "at"), [("6h", [0, 9]), ("7h", [0]), ("always, x=never", [0]), ("x=3h", [0, 9])])
def test_what_the_rule_would_not_have_shown_again_is_no_pair_of_its_own(rule, at):
    found = pairs_of(replace(log(*AGAIN), repeats=Repeats.parse(rule)))
    assert [round((p.at - START) / HOUR) for p in found if p.item_id == "a"] == at


def test_a_hidden_item_is_not_positive_from_the_time_it_was_last_taken_on():
    events = log((Click, 0, "u", "a"), (Click, 5 * HOUR, "u", "a"), (Hide, 5 * HOUR + 5, "u", "a"))
    assert [p.positive for p in pairs_of(replace(events, repeats=ALWAYS))] == [True, False]


def test_what_followed_a_pair_is_not_what_followed_another_of_the_same_item():
    events = replace(log(*AGAIN), repeats=ALWAYS)
    clicked = followed(events, pairs_of(events))[:, TASKS.index("click")]
    assert clicked.tolist() == [False, False, False, True], "the first click came hours after the first look"


def test_without_views_what_is_shown_again_is_looked_at_again():
    events = log((Click, 0, "u", "a"), (Impression, 5 * HOUR, "u", "a"), (Click, 5 * HOUR + 1, "u", "a"))
    found = pairs_of(replace(events, repeats=ALWAYS))
    assert [(p.event, p.positive) for p in found] == [(0, True), (1, True)]


def test_own_items_are_negatives_where_they_could_be_shown_and_are_not_engaged_with_in_the_visit(space, world):
    """Everybody takes each third of 60 items, and from then on nothing but the first of theirs, every day."""
    again = [event(Click, 10**5 * day + user, f"u{user}", f"i{-user % 3}") for day in range(1, 5) for user in range(18)]
    events = [*world.events, *sorted(again, key=lambda e: e.at)]
    for repeats, own in ((ALWAYS, True), (Repeats.parse("30d"), False)):
        log = Log(world.items, [], events, repeats)
        found = pairs_of(log)
        collector = ChunkCollector(space, found[:360], found[360:], np.random.default_rng(0), repeats)
        assert bool(found[360:]) == own
        for stop, state in replay(log, collector.stops):
            collector.look(stop, state)
        if own:
            chunks = collector.chunks()
            assert chunks.positive.all()
            left_out = (~chunks.negative).mean(axis=2)
            assert 0 < left_out.max() < 0.1, "one item of sixty, and not the twenty that were taken once"


def shown(at, user, *items):
    rows = tuple(Shown(item, k, source="random") for k, item in enumerate(items))
    return Impression(event_id=f"i{at}-{user}", user_id=user, occurred_at=utc(START + at), items=rows)


@pytest.fixture(scope="module")
def unviewed():
    """Requests of 12 users for 8 of 60 items in random order; looked at is the upper half, and every fifth look takes."""
    items = [Item(item_id=f"i{i}", category=f"c{i % 4}") for i in range(60)]
    draw = np.random.default_rng(0)
    events = []
    for n in range(600):
        user, places = f"u{n % 12}", draw.permutation(60)[:8]
        events.append(shown(100 * n, user, *(f"i{i}" for i in places), "not in the catalogue"))
        events += [event(Click, 100 * n + 10 + k, user, f"i{places[k]}") for k in range(4) if draw.random() < 0.2]
    return Log(items, [], events)


def test_without_views_a_pair_is_also_what_was_probably_looked_at(unviewed):
    found = pairs_of(unviewed)
    clicks = {(e.user_id, e.item_id) for e in unviewed.events if isinstance(e, Click)}
    assert {(p.user_id, p.item_id) for p in found if p.positive} == clicks
    assert [p.event for p in found] == sorted(p.event for p in found)
    assert all(p.at == unviewed.events[p.event].at for p in found)
    assert not any(p.item_id == "not in the catalogue" for p in found)
    first = [p for p in found if p.event == 0]  # who has not met anything yet
    assert {p.item_id for p in first} == {row.item_id for row in unviewed.events[0].items[:4]}


def test_without_views_what_was_taken_is_frozen_when_it_was_shown():
    found = pairs_of(log((Impression, 0, "u", "a"), (Click, 1, "u", "a"), (Click, 2, "u", "b")))
    assert [(p.event, p.at - START, p.item_id, p.positive) for p in found] == [(0, 0, "a", True), (2, 2, "b", True)]


def test_where_views_are_as_many_as_positives_what_was_only_shown_is_no_pair(unviewed):
    clicks = [e for e in unviewed.events if isinstance(e, Click)]
    views = [event(View, 10**6 + k, e.user_id, e.item_id) for k, e in enumerate(clicks)]
    assert pairs_of(Log(unviewed.items, [], [*unviewed.events, *views[1:]])) == pairs_of(unviewed)
    viewed = Log(unviewed.items, [], [*unviewed.events, *views])
    unshown = [(n, e) for n, e in enumerate(viewed.events) if not isinstance(e, Impression)]
    place = [n for n, _ in unshown]
    expected = pairs_of(Log(viewed.items, [], [e for _, e in unshown]))
    assert pairs_of(viewed) == [p._replace(event=place[p.event]) for p in expected]


def test_without_impressions_only_what_was_engaged_with_is_a_pair():
    assert [p.item_id for p in pairs_of(log((Click, 0, "u", "a"), (Hide, 1, "u", "b")))] == ["a", "b"]


def test_all_pairs_of_an_impression_are_frozen_as_just_before_it(unviewed, space):
    pairs, chunks = pairs_of(unviewed), freeze(space, unviewed)
    assert len({p.event for p in pairs}) < len(pairs) / 2
    assert len(chunks) == len(pairs) // CHUNK
    assert chunks.positive.ravel().tolist() == [p.positive for p in pairs[: len(chunks) * CHUNK]]
    for k in (40, 41, 42, 300):  # some of one impression, and across chunks
        for _, state in replay(unviewed, [pairs[k].event]):
            expected = space.user_inputs([state.user(pairs[k].user_id)], pairs[k].at)
        assert equal(chunks.users.take(np.array([k])), expected)


def test_replay_shows_the_state_just_before_each_stop():
    whole = log((View, 0, "u", "a"), (Click, 1, "u", "a"), (View, 2, "u", "b"))
    seen = [(stop, list(state.users["u"]["seen"]), state.now) for stop, state in replay(whole, [0, 2, 3])]
    assert seen == [(0, [], 0.0), (2, ["a"], START + 1), (3, ["a", "b"], START + 2)]


@pytest.fixture(scope="module")
def world():
    """60 items, a new one every 100 s; 18 users, each likes every third item soon after it is there: six likes an item."""
    items = [Item(item_id=f"i{i}", created_at=utc(START + 100 * i), category=f"c{i % 4}") for i in range(60)]
    events = [
        event(kind, 100 * step + user + after, f"u{user}", f"i{step}")
        for step in range(60)
        for user in range(18)
        if (step + user) % 3 == 0
        for kind, after in ((View, 10), (Like, 10.5))
    ]
    return Log(items, [], sorted(events, key=lambda e: e.at))


@pytest.fixture(scope="module")
def space(world):
    for _, state in replay(world, [len(world.events)]):
        evidence = {item.item_id: 6 for item in world.items}
        return FeatureSpace.fit(list(state.users.values()), state.items, state.now, evidence)


def freeze(space, world, seed=0):
    collector = ChunkCollector(space, [], pairs_of(world), np.random.default_rng(seed))
    for stop, state in replay(world, collector.stops):
        collector.look(stop, state)
    return collector.chunks()


def item_rows(space, inputs):
    return inputs.categorical[:, [name for name, _ in space.item_spec.categorical].index("item")]


def equal(one, other):
    return (
        np.array_equal(one.numeric, other.numeric)
        and np.array_equal(one.categorical, other.categorical)
        and all(np.array_equal(one.bag_ids[name], other.bag_ids[name]) for name in one.bag_ids)
        and all(np.array_equal(one.bag_weights[name], other.bag_weights[name]) for name in one.bag_weights)
    )


def test_a_pairs_user_is_frozen_as_just_before_the_first_engagement(space, world):
    pairs, chunks = pairs_of(world), freeze(space, world)
    assert len(chunks) == len(pairs) // CHUNK == 11
    assert (len(chunks.users), len(chunks.items)) == (11 * CHUNK, 11 * (CHUNK + SAMPLED))
    for stop, state in replay(world, [pairs[200].event]):
        expected = space.user_inputs([state.user(pairs[200].user_id)], pairs[200].at)
        assert stop == pairs[200].event
    assert equal(chunks.users.take(np.array([200])), expected)


def test_what_a_history_says_is_frozen_as_just_before_the_first_engagement(space, world):
    pairs, chunks = pairs_of(world), freeze(space, world)
    k = int(np.flatnonzero(chunks.near[:, :, 0].any(axis=2).ravel())[-1])
    for _, state in replay(world, [pairs[k].event]):
        said = state.items.nearby(state.user(pairs[k].user_id), pairs[k].at)
        own = said.at(np.array([state.items.row(pairs[k].item_id)]))[0]
    np.testing.assert_allclose(chunks.near[k // CHUNK, k % CHUNK, 0], own, rtol=1e-3)
    sampled = item_rows(space, chunks.items).reshape(len(chunks), CHUNK + SAMPLED)[k // CHUNK, CHUNK:]
    ids = sorted(item.item_id for item in world.items)
    of_known = [(j, state.items.row(ids[row - 1])) for j, row in enumerate(sampled) if row]
    assert of_known
    for j, row in of_known:
        np.testing.assert_allclose(chunks.near[k // CHUNK, k % CHUNK, 1 + j], said.at(np.array([row]))[0], rtol=1e-3)


def test_what_comes_later_changes_nothing_that_was_frozen(space, world):
    n = 4
    cut = Log(world.items, world.users, world.events[: pairs_of(world)[n * CHUNK].event])
    whole, part = freeze(space, world), freeze(space, cut)
    assert equal(whole.users.take(np.arange(n * CHUNK)), part.users.take(np.arange(n * CHUNK)))
    rows = np.arange(n * (CHUNK + SAMPLED))
    assert np.array_equal(whole.items.take(rows).numeric, part.items.take(rows).numeric)
    assert np.array_equal(whole.near[:n], part.near)


def test_sampled_items_exist_and_are_no_negatives_of_a_user_who_engages_with_them(space, world):
    pairs, chunks = pairs_of(world), freeze(space, world)
    ids = sorted(item.item_id for item in world.items)
    engaged = {(pair.user_id, pair.item_id) for pair in pairs}
    sampled = item_rows(space, chunks.items).reshape(len(chunks), CHUNK + SAMPLED)[:, CHUNK:]
    assert (sampled > 0).any()
    for c, j in np.argwhere(sampled > 0):
        item_id = ids[sampled[c, j] - 1]
        assert 100 * int(item_id[1:]) + START <= pairs[c * CHUNK].at
        expected = [(pair.user_id, item_id) not in engaged for pair in pairs[c * CHUNK : (c + 1) * CHUNK]]
        assert chunks.negative[c, :, j].tolist() == expected


def test_an_items_own_row_is_read_from_its_fifth_positive_on(space, world):
    table = BatchState(world.items).items
    evidence = Evidence(space, [pair for pair in pairs_of(world) if pair.item_id == "i7"][:4])
    four = evidence.mask(space.item_inputs(table, None, START), table.ids)
    evidence.add(Pair(0, START, "u", "i7", True))
    five = evidence.mask(space.item_inputs(table, None, START), table.ids)
    assert (item_rows(space, four) == 0).all()
    assert [table.ids[row] for row in np.flatnonzero(item_rows(space, five))] == ["i7"]


def test_the_same_seed_freezes_the_same_chunks(space, world):
    one, two, other = freeze(space, world), freeze(space, world), freeze(space, world, seed=1)
    assert np.array_equal(one.negative, two.negative)
    assert equal(one.items, two.items)
    assert not np.array_equal(one.negative, other.negative)


def test_a_pause_of_half_an_hour_ends_a_visit():
    pairs = [Pair(i, at, user, f"i{i}", True) for i, (at, user) in enumerate([(0, "u"), (1, "v"), (1800, "u"), (3601, "u")])]
    assert [[pair.event for pair in visit] for visit in visits_of(pairs)] == [[0, 2], [1], [3]]
