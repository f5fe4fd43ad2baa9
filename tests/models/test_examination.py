"""Places of which it is known how often they are looked at, and what the log alone says of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from feed.events import Click, Hide, Impression, Shown, View, utc
from feed.models import examination
from feed.models.examination import Examination, Showings
from producers import behaviour, history
from producers.world import World

START = 1_700_000_000.0
PLACES = 8
TRUTH = behaviour.examine(PLACES)


def shown(at, user, *items, request=None):
    rows = tuple(item if isinstance(item, Shown) else Shown(item, k) for k, item in enumerate(items))
    return Impression(event_id=f"i{at}-{user}", user_id=user, occurred_at=utc(START + at), request_id=request, items=rows)


def did(kind, at, user, item):
    return kind(event_id=f"{kind.__name__}{at}-{user}-{item}", user_id=user, occurred_at=utc(START + at), item_id=item)


def rows(place, relevance, stratum, draw, *, chance=False):
    """Rows at these places (n,), with the probability (n,) that who looks takes it; also whether somebody looked."""
    n = len(place)
    looked = draw.random(n) < TRUTH[place]
    taken = looked & (draw.random(n) < relevance)
    return Showings(np.arange(n), ["x"] * n, place, stratum, np.full(n, chance), taken), looked


def error(found):
    return np.abs(found.theta - TRUTH / TRUTH[0]).max()


def naive(of):
    rate = np.bincount(of.place, of.taken) / np.bincount(of.place)
    return Examination(rate / rate[0], 0.0)


def test_what_is_shown_by_chance_tells_how_often_places_are_looked_at():
    draw = np.random.default_rng(0)
    place = draw.integers(PLACES, size=100_000)
    of, _ = rows(place, draw.beta(1, 4, len(place)), np.zeros(len(place), np.int64), draw, chance=True)
    assert error(examination.fit(of)) < 0.03


def test_rows_that_were_not_taken_were_looked_at_as_often_as_is_said():
    draw = np.random.default_rng(0)
    place = draw.integers(PLACES, size=200_000)
    of, looked = rows(place, np.full(len(place), 0.4), np.zeros(len(place), np.int64), draw, chance=True)
    left = ~of.taken
    share = np.bincount(place[left], looked[left]) / np.bincount(place[left])
    found = Examination(TRUTH, 0.4).looked(np.arange(PLACES))
    assert np.abs(found - share).max() < 0.01


def test_what_was_taken_of_an_item_before_tells_it_in_a_list_by_popularity():
    """300 items, some good; every list stands by what has been taken of its items so far, with some inattention."""
    draw = np.random.default_rng(0)
    quality, taken, events = draw.beta(0.5, 3, 300), np.zeros(300), []
    for n in range(6_000):
        items = draw.choice(300, PLACES, replace=False)
        items = items[np.argsort(-np.log(taken[items] + 1) - 0.5 * draw.gumbel(size=PLACES))]
        events.append(shown(60 * n, f"u{n}", *(f"i{i}" for i in items)))
        takes = (draw.random(PLACES) < TRUTH) & (draw.random(PLACES) < quality[items])
        events += [did(Click, 60 * n + 1, f"u{n}", f"i{i}") for i in items[takes]]
        taken = taken * 0.5 ** (60 / 86_400) + np.bincount(items[takes], minlength=300)
    of = examination.showings(events)
    assert error(naive(of)) > 0.3
    assert error(examination.fit(of)) < 0.1


def test_the_logged_propensity_tells_it_where_each_person_has_a_ranking_of_their_own():
    """Each request draws its order, without replacement, in proportion to what its user makes of the items."""
    draw = np.random.default_rng(0)
    events = []
    for n in range(6_000):
        weight = draw.lognormal(0, 1.5, 100)
        arrivals = draw.standard_exponential(100) / weight
        order = np.argsort(arrivals)[:PLACES]
        p = weight[order] / weight.sum()
        p /= 1 - np.concatenate([[0.0], np.cumsum(p)[:-1]])
        at = 60.0 * n
        items = tuple(Shown(f"i{i}", k, propensity=min(float(q), 1.0)) for k, (i, q) in enumerate(zip(order, p, strict=True)))
        events.append(shown(at, f"u{n}", *items))
        takes = (draw.random(PLACES) < TRUTH) & (draw.random(PLACES) < 0.8 * weight[order] / (20 + weight[order]))
        events += [did(Click, at + 1 + k, f"u{n}", f"i{order[k]}") for k in np.flatnonzero(takes)]
    of = examination.showings(events)
    assert error(naive(of)) > 0.1
    assert error(examination.fit(of)) < 0.06


def test_enough_rows_shown_by_chance_leave_the_others_unasked():
    draw = np.random.default_rng(0)
    place = draw.integers(PLACES, size=60_000)
    by_chance, _ = rows(place, np.full(len(place), 0.2), np.zeros(len(place), np.int64), draw, chance=True)
    misled, _ = rows(place, np.where(place == 0, 0.9, 0.1), np.ones(len(place), np.int64), draw)
    both = Showings(
        *([*a, *b] if isinstance(a, list) else np.concatenate([a, b]) for a, b in zip(by_chance, misled, strict=True))
    )
    assert np.array_equal(examination.fit(both).theta, examination.fit(by_chance).theta)
    assert error(examination.fit(both._replace(chance=np.zeros_like(both.chance)))) > 0.3


def test_the_simulated_past_is_looked_at_as_its_world_says():
    log = history.make(World(users=300, items=1_000, seed=3), 20_000).events
    events = [event for event in log if not isinstance(event, View)]
    found = examination.fit(examination.showings(events))
    truth = behaviour.examine(10)
    assert np.abs(found.theta - truth / truth[0]).max() < 0.08


def test_strata_that_never_change_places_say_nothing_of_places():
    draw = np.random.default_rng(0)
    place = draw.integers(PLACES, size=20_000)
    of, _ = rows(place, np.full(len(place), 0.3), place, draw)
    assert examination.fit(of).theta == pytest.approx(1.0)


def test_the_falling_sequence_is_that_of_isotonic_regression():
    draw = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        values, weights = draw.normal(size=n), draw.uniform(0.1, 5, n)
        expected = IsotonicRegression(increasing=False).fit_transform(np.arange(n), values, sample_weight=weights)
        assert examination.falling(values, weights) == pytest.approx(expected)


def test_places_of_which_little_is_known_follow_the_one_above():
    events = []
    for n in range(400):
        top = n % 4 > 0  # three quarters took what stood on top
        a = Shown("a", n % 2)
        b = Shown("b", 1 - n % 2)
        events += [shown(10 * n, f"u{n}", a, b), did(Click, 10 * n + 1, f"u{n}", "ab"[(a.position == 0) != top])]
    events.append(shown(1e6, "u", Shown("never taken", 30), Shown("nor this", 10**9)))
    found = examination.fit(examination.showings(events))
    assert len(found.theta) == examination.PLACES
    assert found.theta[0] == 1
    assert found.theta[1] == pytest.approx(1 / 3, abs=0.01)
    assert (found.theta[2:] == found.theta[1]).all()
    assert 0 < found.looked(np.array([10**9]))[0] < found.theta[1]


def test_nothing_taken_is_no_reason_to_think_that_nobody_looked():
    found = examination.fit(examination.showings([shown(0, "u", "a", "b")]))
    assert found.looked(np.array([0, 1])).tolist() == [1.0, 1.0]


def test_an_engagement_belongs_to_the_newest_impression_that_can_have_brought_it():
    events = [
        did(Click, -5, "u", "a"),  # before anything was shown
        shown(0, "u", "a", "b", "c"),
        shown(100, "u", "b", "a"),
        did(Click, 100, "u", "b"),
        did(Hide, 150, "u", "a"),
        did(Click, 160, "v", "c"),  # it was shown to somebody else
        did(Click, examination.WINDOW_SECONDS + 1, "u", "c"),  # too late
    ]
    of = examination.showings(events)
    assert of.event.tolist() == [1, 1, 1, 2, 2]
    assert of.place.tolist() == [0, 1, 2, 0, 1]
    assert of.taken.tolist() == [False, False, False, True, True]


def test_a_log_with_as_many_views_as_positives_says_itself_what_was_looked_at():
    events = [shown(0, "u", "a", "b"), did(Click, 1, "u", "a")]
    assert examination.untold(events)
    assert not examination.untold([*events, did(View, 2, "u", "b")])
    assert not examination.untold(events[:1])
    assert not examination.untold(events[1:])


def test_a_few_views_do_not_say_what_was_looked_at():
    """One client of many sends them: what was taken was looked at, too, so they would be more than positives."""
    events = [shown(0, "u", "a", "b"), *(did(Click, k, "u", item) for k, item in enumerate("abc", 1)), did(View, 9, "u", "b")]
    assert examination.untold(events)
    assert examination.of(events) is not None


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_click_belongs_to_the_request_it_names_also_where_clocks_differ(seconds):
    clicked = Click(event_id="c", user_id="u", occurred_at=utc(START + 1000 + seconds), item_id="b", request_id="r")
    events = [shown(1000, "u", "a", "b", request="r"), shown(1001, "u", "a", "b"), clicked]
    events.sort(key=lambda event: event.at)
    assert examination.showings(events).taken.tolist() == [False, True, False, False]


def test_only_a_log_that_does_not_say_what_was_looked_at_has_a_model():
    events = [shown(0, "u", "a", "b"), did(Click, 1, "u", "a")]
    assert examination.of(events).theta.tolist() == [1, 0]
    assert examination.of([*events, did(View, 2, "u", "b")]) is None
    assert examination.of([]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=examination.PLACES), st.floats(0, 1))
def test_what_was_written_is_read_exactly(theta, taken):
    found = Examination.from_json(Examination(np.array(theta), taken).to_json())
    assert (found.theta.tolist(), found.taken) == (theta, taken)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"theta":[],"taken":0.1}', b'{"theta":[1.0,1.5],"taken":0.1}', b'{"theta":[1.0],"taken":-0.1}']
)
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ValueError, match=r"truncated|missing|no probabilities"):
        Examination.from_json(content)


def test_what_was_taken_was_looked_at_and_of_the_rest_as_much_as_the_model_says():
    items = [f"i{k}" for k in range(PLACES)]
    draw = np.random.default_rng(0)
    events = []
    for n in range(4_000):
        order = draw.permutation(items)
        rows = tuple(Shown(str(item), k, source="random") for k, item in enumerate(order))
        events.append(shown(60 * n, f"u{n}", *rows))
        takes = (draw.random(PLACES) < TRUTH) & (draw.random(PLACES) < 0.3)
        events += [did(Click, 60 * n + 1, f"u{n}", str(order[k])) for k in np.flatnonzero(takes)]
    one, two, other = (examination.looks(events, seed) for seed in (0, 0, 1))
    assert one == two != other
    of = examination.showings(events)
    drawn = np.array([item in one.get(int(i), ()) for i, item in zip(of.event, of.item_ids, strict=True)])
    assert drawn[of.taken].all()
    share = np.bincount(of.place, drawn) / np.bincount(of.place)
    assert np.abs(share - TRUTH / TRUTH[0]).max() < 0.05
