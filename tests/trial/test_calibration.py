import numpy as np
import pytest

from feed.trial.calibration import fit

RNG = np.random.default_rng(0)
SCORES = RNG.normal(1.0, 2.0, 20_000)
CLICKED = RNG.random(20_000) < 1 / (1 + np.exp(-(0.8 * SCORES - 3)))
ONES = np.ones(20_000)


def test_it_finds_slope_and_intercept():
    platt = fit(SCORES, CLICKED, ONES)
    assert platt.a / platt.spread == pytest.approx(0.8, abs=0.05)
    assert platt.logits(np.zeros(1))[0] == pytest.approx(-3, abs=0.15)


def test_an_intercept_or_a_scale_changes_no_prediction():
    plain, moved = fit(SCORES[:300], CLICKED[:300], ONES[:300]), fit(5 * SCORES[:300] + 7, CLICKED[:300], ONES[:300])
    assert moved.logits(5 * SCORES + 7) == pytest.approx(plain.logits(SCORES), abs=1e-9)


def test_a_model_that_ranks_upside_down_is_not_turned_round():
    platt = fit(-SCORES, CLICKED, ONES)
    assert platt.a == 0
    assert platt.loss(-SCORES, CLICKED).mean() > fit(SCORES, CLICKED, ONES).loss(SCORES, CLICKED).mean() + 0.05


def test_a_constant_score_gives_the_share_of_clicks():
    platt = fit(np.full(1000, 3.0), CLICKED[:1000], ONES[:1000])
    assert 1 / (1 + np.exp(-platt.logits(np.array([3.0]))[0])) == pytest.approx(CLICKED[:1000].mean(), abs=2e-3)


def test_a_row_of_weight_two_counts_as_two_rows():
    twice = fit(np.concatenate([SCORES[:400], SCORES[:200]]), np.concatenate([CLICKED[:400], CLICKED[:200]]), ONES[:600])
    weighted = fit(SCORES[:400], CLICKED[:400], np.where(np.arange(400) < 200, 2.0, 1.0))
    assert weighted.logits(SCORES[:10]) == pytest.approx(twice.logits(SCORES[:10]), abs=0.05)
