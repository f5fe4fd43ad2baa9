import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, precision_score, recall_score, roc_auc_score

from feed.evaluation import metrics

seeds = st.integers(0, 2**32 - 1)


def ranking(seed, k):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 8), rng.integers(2, 30)
    scores = rng.permuted(np.tile(np.arange(m, dtype=float), (n, 1)), axis=1)
    relevant = rng.random((n, m)) < 0.3
    hits = metrics.hits_of(metrics.top(scores, k, rng), relevant)
    return scores, relevant, hits


@given(seeds)
def test_auc_equals_scikit_learn_also_with_ties(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    scores, labels = rng.integers(0, 10, n).astype(float), rng.random(n) < 0.5
    labels[:2] = True, False
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


@given(seeds)
def test_auc_by_user_is_scikit_learn_within_each_user_of_both_classes(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    users = np.array([f"u{i}" for i in rng.integers(0, 6, n)])
    scores, labels = rng.integers(0, 10, n).astype(float), rng.random(n) < 0.5
    own = [(labels[users == u], scores[users == u]) for u in sorted(set(users))]
    expected = [roc_auc_score(y, s) for y, s in own if 0 < y.sum() < len(y)]
    assert metrics.auc_by_user(scores, labels, users) == pytest.approx(expected)


def test_auc_without_both_classes_is_nan():
    assert np.isnan(metrics.auc(np.arange(3.0), np.ones(3, bool)))


def test_auc_of_rows_looks_at_eligible_items_only():
    scores = np.array([[3.0, 9.0, 1.0, 2.0]])
    relevant = np.array([[True, False, False, False]])
    eligible = np.array([[True, False, True, True]])
    assert metrics.auc_of_rows(scores, relevant, eligible).tolist() == [1.0]


@given(seeds, st.integers(1, 35))
def test_ndcg_equals_scikit_learn(seed, k):
    scores, relevant, hits = ranking(seed, k)
    expected = [ndcg_score([r], [s], k=k) for r, s in zip(relevant.astype(float), scores, strict=True)]
    assert metrics.ndcg(hits, relevant.sum(axis=1)) == pytest.approx(expected)


@given(seeds, st.integers(1, 35))
def test_precision_recall_and_hit_rate_equal_scikit_learn_on_the_top_k(seed, k):
    scores, relevant, hits = ranking(seed, k)
    m = scores.shape[1]
    shown = scores >= m - min(k, m)
    pairs = list(zip(relevant, shown, strict=True))
    assert metrics.precision(hits) == pytest.approx([precision_score(r, s, zero_division=0) for r, s in pairs])
    assert metrics.recall(hits, relevant.sum(axis=1)) == pytest.approx([recall_score(r, s, zero_division=0) for r, s in pairs])
    assert metrics.hit_rate(hits).tolist() == [float((r & s).any()) for r, s in pairs]


@given(seeds, st.integers(1, 35))
def test_top_is_the_sorted_head(seed, k):
    scores, _, _ = ranking(seed, k)
    ranked = metrics.top(scores, k, np.random.default_rng(seed))
    assert ranked.tolist() == np.argsort(-scores, axis=1)[:, :k].tolist()


def test_ties_fall_at_random_not_by_column():
    rng = np.random.default_rng(0)
    first = {int(metrics.top(np.zeros((1, 50)), 5, rng)[0, 0]) for _ in range(100)}
    assert len(first) > 20


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        shown = rng.integers(5, 40, size=80)
        clicks = rng.binomial(shown, rng.beta(2, 8, size=80))
        _, low, high = metrics.ratio_interval(clicks, shown, seed=trial, draws=200)
        covered += low <= 0.2 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_draws_whole_users_and_is_seeded():
    values, users = np.array([0.0, 0.0, 0.0, 1.0, np.nan]), np.array(["a", "a", "a", "b", "c"])
    mean, low, high = metrics.mean_interval(values, users, seed=3)
    assert (mean, low, high) == (0.25, 0.0, 1.0)
    assert metrics.mean_interval(values, users, seed=3) == (mean, low, high)


def test_an_empty_denominator_has_no_ratio():
    assert all(np.isnan(metrics.ratio_interval(np.zeros(3), np.zeros(3), seed=0)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_mean_difference_over_the_mean(counts):
    x = np.array(counts)
    expected = 0.0 if x.sum() == 0 else np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())
    assert metrics.gini(x) == pytest.approx(expected, abs=1e-12)
