import pytest

from feed.trial import level


def test_the_levels_without_a_promotion_are_the_documented_ones_and_spend_half_of_alpha_at_most():
    assert [round(level(n, []), 4) for n in range(1, 6)] == [0.0109, 0.0036, 0.0019, 0.0012, 0.0008]
    assert sum(level(n, []) for n in range(1, 5000)) < 0.025


def test_a_promotion_earns_level_for_the_trials_after_it_only():
    assert level(2, [1]) == pytest.approx(0.0145, abs=1e-4)
    assert level(3, [1, 2]) == pytest.approx(0.0274, abs=1e-4)
    assert level(3, [3, 4]) == level(3, [])


def test_all_that_promotions_earn_is_alpha_each():
    promotions = [3, 10, 30]
    assert sum(level(n, promotions) for n in range(1, 200_000)) == pytest.approx(0.025 + 0.025 + 2 * 0.05, abs=5e-4)
