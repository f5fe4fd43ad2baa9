import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score, roc_auc_score

from feed.errors import BadModel
from feed.evaluation.ranking import Ranker

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, ties):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(12, 90))
    scores = rng.integers(0, 6, m).astype(float) if ties else rng.permutation(m).astype(float)
    candidates = rng.random(m) < 0.8
    relevant = rng.choice(np.flatnonzero(candidates), int(rng.integers(1, 4)), replace=False)
    return scores, candidates, relevant


def ranked(scores, candidates, relevant, seed=0):
    ranker = Ranker(seed)
    ranker.add(7, 3, 0, scores, candidates, relevant)
    return ranker.ranking()


@given(seeds)
def test_figures_equal_scikit_learn(seed):
    scores, candidates, relevant = drawn(seed, ties=False)
    own = {name: value[0] for name, value in ranked(scores, candidates, relevant).values.items()}
    labels = np.isin(np.arange(len(scores)), relevant)[candidates]
    given_ = scores[candidates]
    top = {k: np.isin(np.arange(len(given_)), np.argsort(-given_)[:k]) for k in (10, 50)}
    assert own["ndcg_at_10"] == pytest.approx(ndcg_score([labels], [given_], k=10))
    assert own["recall_at_10"] == pytest.approx(recall_score(labels, top[10]))
    assert own["recall_at_50"] == pytest.approx(recall_score(labels, top[50]))
    assert own["hit_rate_at_10"] == float(recall_score(labels, top[10]) > 0)
    best = np.isin(np.arange(len(given_)), [np.flatnonzero(labels)[np.argmax(given_[labels])]])
    assert own["mrr"] == pytest.approx(label_ranking_average_precision_score([best], [given_]))
    assert own["auc"] == pytest.approx(roc_auc_score(labels, given_))


@given(seeds)
def test_the_list_and_the_figures_agree_also_with_ties(seed):
    scores, candidates, relevant = drawn(seed, ties=True)
    found = ranked(scores, candidates, relevant, seed)
    items, own = found.items[0][found.items[0] >= 0], found.values
    assert candidates[items].all()
    assert len(set(items.tolist())) == len(items) == min(50, candidates.sum())
    assert (np.diff(found.scores[0][: len(items)]) <= 0).all()
    assert own["recall_at_10"][0] == pytest.approx(np.isin(items[:10], relevant).sum() / len(relevant))
    assert own["recall_at_50"][0] == pytest.approx(np.isin(items, relevant).sum() / len(relevant))
    labels = np.isin(np.arange(len(scores)), relevant)[candidates]
    assert own["auc"][0] == pytest.approx(roc_auc_score(labels, scores[candidates]))


def test_ties_are_broken_by_chance_so_that_equal_scores_are_worth_what_chance_is():
    ranker = Ranker(0)
    for _ in range(4000):
        ranker.add(0, 0, 0, np.zeros(20), np.ones(20, bool), np.array([19]))
    expected = (1 / np.log2(2 + np.arange(10))).sum() / 20
    assert ranker.ranking().values["ndcg_at_10"].mean() == pytest.approx(expected, rel=0.05)


def test_equal_seeds_break_ties_equally():
    first, second, other = (ranked(np.zeros(40), np.ones(40, bool), np.array([1]), seed).items[0] for seed in (5, 5, 6))
    assert first.tolist() == second.tolist() != other.tolist()


def test_a_relevant_item_that_cannot_be_recommended_is_missed():
    found = ranked(np.array([1.0, 2.0]), np.array([True, False]), np.array([1]))
    assert found.values["ndcg_at_10"][0] == found.values["mrr"][0] == 0.0
    assert np.isnan(found.values["auc"][0])


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(BadModel, match="1 of 2 items no number"):
        ranked(np.array([1.0, np.nan]), np.ones(2, bool), np.array([0]))
