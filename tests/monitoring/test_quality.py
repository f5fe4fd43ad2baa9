import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.evaluation.metrics import gini
from feed.monitoring import quality
from feed.monitoring.quality import diversity, measure


def test_figures_known_by_hand():
    rows = np.array([[0, 1, 2], [0, 3, -1], [-1, -1, -1]])
    scores = np.array([[0.9, 0.8, 0.1], [0.5, 0.4, np.nan], [np.nan] * 3])
    category = np.array([1, 1, 2, 3, 3, 0])
    known = np.array([True, True, True, True, True, False])  # the last was only mentioned in events
    found = measure(rows, scores, category, known)
    assert (found.users, found.items, found.rankings, found.users_with_feeds) == (3, 5, 5, 2)
    assert found.user_coverage == pytest.approx(2 / 3)
    assert found.item_coverage == pytest.approx(4 / 5)
    assert found.items_per_feed == 2.5
    assert found.diversity == pytest.approx((2 / 3 + 1) / 2)  # of three pairs two differ; of one pair one
    assert found.gini == pytest.approx(gini(np.array([2, 1, 1, 1, 0])))
    assert found.scores[0] == 0.1
    assert found.scores[3] == 0.5
    assert found.scores[-1] == 0.9


def test_items_without_a_category_are_like_no_other():
    assert diversity(np.array([[0, 0, 0]])) == 1.0
    assert diversity(np.array([[4, 4, 4]])) == 0.0


def test_a_ranking_of_nobody_has_figures():
    found = measure(np.empty((0, 0), np.int64), np.empty((0, 0)), np.empty(0, np.int64), np.empty(0, np.bool_))
    assert (found.users, found.rankings, found.user_coverage, found.item_coverage, found.diversity, found.gini) == (0,) * 6
    assert np.isnan(found.scores).all()


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5))
def test_diversity_is_the_share_of_unlike_pairs(codes):
    categories = np.array(codes)
    expected = [
        np.mean([a != b or a == 0 for i, a in enumerate(feed) for j, b in enumerate(feed) if i != j]) for feed in categories
    ]
    assert diversity(categories) == pytest.approx(np.mean(expected))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(quality).failed == 0
