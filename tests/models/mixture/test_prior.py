import numpy as np

from feed.models.mixture.prior import FLOOR, HALF_LIVES, NAMES, Prior, age

DAY = 86400.0


def _prior(n):
    return Prior(np.full(n, -np.inf))


def test_a_count_halves_with_each_half_life():
    prior = _prior(2)
    prior.add(1, 0.0)
    for h, half_life in enumerate(HALF_LIVES):
        counts = np.exp(prior.columns(3 * half_life)[h]) - FLOOR
        np.testing.assert_allclose(counts, [0, 1 / 8], atol=1e-5)


def test_the_order_in_which_positives_arrive_does_not_matter():
    early, late = _prior(1), _prior(1)
    for at in (0.0, DAY, 2 * DAY):
        early.add(0, at)
    for at in (2 * DAY, 0.0, DAY):
        late.add(0, at)
    np.testing.assert_allclose(early.columns(3 * DAY), late.columns(3 * DAY), rtol=1e-6)


def test_an_item_whose_creation_nobody_knows_ages_from_its_first_event():
    created = np.array([-np.inf, -np.inf, 1800.0])
    prior = Prior(created)
    prior.see(0, 3600.0)
    prior.see(0, 7000.0)
    prior.see(2, 7000.0)
    np.testing.assert_allclose(prior.columns(7200.0)[NAMES.index("age")], np.log1p([1.0, 0.0, 1.5]), atol=1e-6)
    assert list(created) == [-np.inf, -np.inf, 1800.0]  # for others they stay as they were


def test_age_is_zero_where_nobody_knows_when_an_item_was_made():
    ages = age(np.array([-np.inf, np.inf, 0.0, 7200.0]), 3600.0)
    np.testing.assert_allclose(ages, [0, 0, np.log(2), 0], atol=1e-6)
