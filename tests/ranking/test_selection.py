import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from feed.ranking import selection


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 30), st.integers(0, 40), st.floats(0, 1))
def test_best_is_what_sorting_gives(seed, users, n, size, share):
    draw = np.random.default_rng(seed)
    scores = draw.permutation(users * n).reshape(users, n).astype(np.float32)
    eligible = draw.random((users, n)) < share
    found = selection.best(scores, eligible, size)
    for user in range(users):
        expected = [c for c in np.argsort(-scores[user]) if eligible[user, c]][:size]
        assert [c for c in found[user] if c >= 0] == expected
        assert (found[user][len(expected) :] == -1).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 30), st.integers(0, 15))
def test_a_learned_feed_has_each_item_once_and_keeps_the_models_order(seed, n, size, every):
    draw = np.random.default_rng(seed)
    eligible = draw.random(n) < 0.7
    ranked = draw.permutation(np.flatnonzero(eligible))[:size]
    places = selection.learned(ranked, eligible, [draw.random(n) * (draw.random(n) < 0.3)], every, draw)
    assert len(places.columns) == len(ranked) == len(set(places.columns.tolist()))
    assert eligible[places.columns].all()
    explored = [k for k, source in enumerate(places.source) if source == "explore"]
    found = set(places.columns[explored].tolist())
    chosen = [c for c, source in zip(places.columns, places.source, strict=True) if source == "model"]
    assert chosen == [c for c in ranked if c not in found][: len(chosen)]
    if every == 0:
        assert explored == []
    else:
        blocks = [k // every for k in explored]
        assert len(set(blocks)) == len(blocks)
        assert set(range(len(ranked) // every)) <= set(blocks)
    assert all((0 < p <= 1) if k in explored else p == 1 for k, p in enumerate(places.propensity))


@pytest.mark.parametrize("proposals", [[], [np.zeros(30)], [np.arange(30.0)], [np.arange(30.0), np.eye(30)[3]]])
def test_a_drawn_item_stands_at_a_drawn_place_with_its_propensity_whatever_the_model_thinks(proposals):
    eligible = np.ones(30, np.bool_)
    eligible[7] = False
    ranked = np.array([0, 1, 2, 3, 4, 5, 8, 9, 10, 11])
    runs = 20_000
    places, items, propensity = np.zeros(10), np.zeros(30), np.zeros(30)
    draw = np.random.default_rng(1)
    for _ in range(runs):
        found = selection.learned(ranked, eligible, proposals, 5, draw)
        first = found.source.index("explore")  # the place drawn in the first block of five
        places[first] += 1
        items[found.columns[first]] += 1
        propensity[found.columns[first]] = found.propensity[first]
    assert items[7] == 0
    assert propensity.sum() == pytest.approx(1.0)  # every item that can be drawn was, each with the same propensity every time
    assert chisquare(items[eligible], runs * propensity[eligible]).pvalue > 0.001
    assert chisquare(places[:5]).pvalue > 0.001


def test_the_propensity_of_a_later_draw_is_its_share_of_what_is_left():
    found = selection.learned(np.arange(4), np.ones(4, np.bool_), [np.array([4.0, 2.0, 1.0, 1.0])], 2, np.random.default_rng(0))
    q = (np.full(4, 0.25) + np.array([0.5, 0.25, 0.125, 0.125])) / 2
    first, second = [k for k, source in enumerate(found.source) if source == "explore"]
    a, b = found.columns[[first, second]]
    assert found.propensity[[first, second]] == pytest.approx([q[a], q[b] / (1 - q[a])])


def test_a_random_feed_puts_each_item_at_each_place_with_its_propensity():
    eligible = np.array([True, False, True, True, True, False])
    counts = np.zeros((6, 3))
    draw = np.random.default_rng(2)
    for _ in range(20_000):
        found = selection.drawn(eligible, 3, draw)
        counts[found.columns, range(3)] += 1
        assert (found.propensity == 0.25).all()
    for place in range(3):
        assert chisquare(counts[eligible, place]).pvalue > 0.001
    assert counts[~eligible].sum() == 0


def test_a_popular_feed_is_ordered_by_popularity_and_certain():
    found = selection.popular(np.array([1.0, 5.0, 3.0, 9.0]), np.array([True, True, True, False]), 2)
    assert found.columns.tolist() == [1, 2]
    assert found.propensity.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("eligible", [np.zeros(3, np.bool_), np.zeros(0, np.bool_)])
def test_nothing_eligible_gives_an_empty_feed(eligible):
    draw = np.random.default_rng(0)
    n = len(eligible)
    assert len(selection.drawn(eligible, 5, draw).columns) == 0
    assert len(selection.popular(np.zeros(n), eligible, 5).columns) == 0
    ranked = selection.best(np.zeros((1, n)), eligible[None], 5)[0]
    assert len(selection.learned(ranked[ranked >= 0], eligible, [], 2, draw).columns) == 0
