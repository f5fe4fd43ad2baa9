import numpy as np
import pytest

from feed.evaluation import report
from feed.evaluation.ranking import NAMES, Ranking
from feed.evaluation.slices import Slice
from tests.evaluation.logs import log


def ranking(ndcg, users, items=None):
    n = len(ndcg)
    lists = np.full((n, 50), -1) if items is None else np.array([row + [-1] * (50 - len(row)) for row in items])
    values = {name: np.asarray(ndcg, float) for name in NAMES}
    return Ranking(np.arange(n), np.asarray(users), np.zeros(n, int), lists, lists.astype(float), values)


def test_a_paired_difference_that_is_the_same_everywhere_has_no_width():
    a, b = ranking([0.5, 0.9, 0.3, 0.2], [0, 0, 1, 2]), ranking([0.4, 0.8, 0.2, 0.1], [0, 0, 1, 2])
    figure = report.compare(a, b, 0)["ndcg_at_10"]
    assert (figure["mean"], figure["low"], figure["high"]) == pytest.approx((0.1, 0.1, 0.1))


def test_intervals_draw_whole_users():
    """1,000 rankings of each of two users say little, however many they are."""
    values = np.repeat([0.0, 1.0], 1000)
    figure = report.summary(ranking(values, np.repeat([0, 1], 1000)), 0)["ndcg_at_10"]
    assert figure["low"] == 0.0
    assert figure["high"] == 1.0


def test_no_rankings_have_no_figures():
    assert report.summary(ranking([], []), 0) == {"rankings": 0, "users": 0}


def test_coverage_is_the_share_of_items_in_any_top_ten():
    found = log([("u", f"i{k}", "click", k) for k in range(40)])
    lists = [list(range(12)), list(range(5, 17))]
    assert report.coverage(ranking([0, 0], [0, 0], lists), found, Slice("test", 32, 40)) == 15 / 40


def test_novelty_is_how_many_bits_an_item_is_unexpected_by():
    found = log([("u", "a", "click", 0), ("v", "a", "click", 1), ("w", "a", "click", 2), ("w", "b", "click", 3)])
    a, b = (found.item_ids.tolist().index(name) for name in "ab")
    part = Slice("test", 3, 4)
    assert report.novelty(ranking([0], [0], [[a]]), found, part) == pytest.approx(-np.log2(4 / 5))
    assert report.novelty(ranking([0], [0], [[b]]), found, part) == pytest.approx(-np.log2(1 / 5))


def test_auc_among_the_shown_is_within_each_user():
    """Over all users together the scores would look worthless."""
    users, scores = np.array([0, 0, 1, 1, 2]), np.array([5.0, 4.0, 1.0, 0.0, 9.0])
    labels = np.array([True, False, True, False, False])
    assert report.auc_shown(users, scores, labels, 0)["mean"] == 1.0
    assert report.auc_shown(users[4:], scores[4:], labels[4:], 0) is None
