"""Baselines that are trained: each finds what it can find in a log whose answer is known."""

import numpy as np
import pytest

from feed.evaluation.baselines.factors import Als, Bpr
from feed.evaluation.baselines.naive import NaiveTwoTower
from feed.evaluation.baselines.sasrec import SasRec
from tests.evaluation.logs import START, log, two_camps

NOW = START.timestamp()
CAMPS = log([*two_camps(events=7), ("new", "i3", "click", 1e7), ("new", "i4", "click", 1e7 + 1)])


def preference_of(model, user):
    """Mean score of the items i0 to i9 less that of i10 to i19."""
    scores = np.asarray(model.scores(CAMPS.user_ids.tolist().index(user), NOW + 2e7))
    first = np.array([int(name[1:]) < 10 for name in CAMPS.item_ids])
    return scores[first].mean() - scores[~first].mean()


def fitted(model, fold_in=True):
    model.fit(CAMPS.rows.until(len(CAMPS.rows) - 2), CAMPS.catalogue)
    if fold_in:
        for k in (-2, -1):
            model.observe(len(CAMPS.rows) + k, CAMPS.rows)
    return model


@pytest.mark.parametrize("model", [Als(factors=8), Bpr(factors=8)])
def test_factors_find_the_camps_and_fold_a_new_user_in(model):
    pytest.importorskip("implicit")
    fitted(model)
    assert preference_of(model, "u0") > 0 > preference_of(model, "u1")
    assert preference_of(model, "new") > 0


def test_a_user_folded_in_is_the_one_that_implicit_solves_for():
    pytest.importorskip("implicit")
    model = fitted(Als(factors=8, confidence=7.0, decay=1.0), fold_in=False)
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    theirs = AlternatingLeastSquares(factors=8, regularization=1.0, alpha=7.0, random_state=0)
    theirs.item_factors = model._items.astype(np.float32)
    likes = np.zeros((1, CAMPS.catalogue.n_items), np.float32)
    likes[0, model._liked.of(5)] = 1.0
    assert model.user(5) == pytest.approx(theirs.recalculate_user(0, csr_matrix(likes)), abs=1e-3)


def test_the_transformer_learns_what_comes_next():
    """Everybody walks the same circle of items from another place."""
    rows = [(f"u{u}", f"i{(u + step) % 8}", "click", 100 * u + step) for u in range(64) for step in range(6)]
    found = log(rows)
    model = SasRec(epochs=40, dropout=0.0, width=32, layers=1, rate=5e-3)
    model.fit(found.rows, found.catalogue)
    hits = 0
    for u in range(8):
        scores = model.scores(found.user_ids.tolist().index(f"u{u}"), NOW)
        hits += found.item_ids[np.argmax(scores)] == f"i{(u + 6) % 8}"
    assert hits == 8


def test_the_naive_two_tower_learns_camps_from_ids_and_more_of_them_online():
    model = fitted(NaiveTwoTower(epochs=150, rate=5e-3, online_rate=5e-3))
    assert preference_of(model, "u0") > 0 > preference_of(model, "u1")
    before = preference_of(model, "new")
    for k in (-2, -1) * 20:
        model.learn(len(CAMPS.rows) + k, CAMPS.rows)
    assert preference_of(model, "new") > before
