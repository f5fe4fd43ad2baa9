import numpy as np

from feed.models.mixture.prior import FLOOR, HALF_LIVES, NAMES, Decayed, Prior, age

DAY = 86400.0
UNKNOWN = np.full(3, -np.inf)


def test_a_count_halves_with_each_half_life():
    counts = Decayed(2)
    counts.add(1, 0.0)
    for h, half_life in enumerate(HALF_LIVES):
        np.testing.assert_allclose(np.exp(counts.columns(3 * half_life)[h]) - FLOOR, [0, 1 / 8], atol=1e-5)


def test_the_order_in_which_counts_arrive_does_not_matter():
    early, late = Decayed(1), Decayed(1)
    for at in (0.0, DAY, 2 * DAY):
        early.add(0, at)
    for at in (2 * DAY, 0.0, DAY):
        late.add(0, at)
    np.testing.assert_allclose(early.columns(3 * DAY), late.columns(3 * DAY), rtol=1e-6)


def test_what_was_only_shown_counts_among_the_events():
    prior = Prior(UNKNOWN)
    prior.see(0, 0.0)
    prior.see(1, 0.0)
    prior.like(1, 0.0)
    columns = dict(zip(NAMES, prior.columns(0.0), strict=True))
    np.testing.assert_allclose(np.exp(columns["events_1d"]) - FLOOR, [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(np.exp(columns["count_1d"]) - FLOOR, [0, 1, 0], atol=1e-5)


def test_an_item_whose_creation_nobody_knows_ages_from_its_first_event():
    prior = Prior(np.array([-np.inf, -np.inf, 1800.0]))
    prior.see(0, 3600.0)
    prior.see(0, 7000.0)
    prior.see(2, 7000.0)
    np.testing.assert_allclose(prior.columns(7200.0)[NAMES.index("age")], np.log1p([1.0, 0.0, 1.5]), atol=1e-6)


def test_a_prior_leaves_the_times_of_creation_as_they_were():
    created = UNKNOWN.copy()
    Prior(created).see(0, 3600.0)
    assert (created == UNKNOWN).all()


def test_age_is_zero_where_nobody_knows_when_an_item_was_made():
    ages = age(np.array([-np.inf, np.inf, 0.0, 7200.0]), 3600.0)
    np.testing.assert_allclose(ages, [0, 0, np.log(2), 0], atol=1e-6)
