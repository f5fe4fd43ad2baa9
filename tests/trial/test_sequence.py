import numpy as np
import pytest

from feed.trial.sequence import TUNED, Clustered, boundary, rho_of


def add_all(users, xs):
    sums = Clustered()
    for user, x in zip(users, xs, strict=True):
        sums.add(str(user), float(x))
    return sums


def test_the_variance_kept_up_by_request_is_that_of_the_users_sums():
    rng = np.random.default_rng(0)
    users, xs = rng.integers(30, size=500), rng.normal(0.3, 1, 500)
    sums = add_all(users, xs)
    residuals = [(xs[users == u] - xs.mean()).sum() for u in range(30)]
    assert sums.variance == pytest.approx(np.square(residuals).sum() * 30 / 29)
    assert (sums.n, sums.users, sums.mean) == (500, 30, pytest.approx(xs.mean()))


def test_requests_that_repeat_a_user_widen_the_error_as_much_as_they_say_nothing_new():
    xs = np.random.default_rng(1).normal(size=200)
    apart = add_all(range(200), xs)
    repeated = add_all(np.repeat(np.arange(200), 9), np.repeat(xs, 9))
    assert repeated.error == pytest.approx(apart.error)


def test_the_boundary_is_narrowest_about_where_it_is_tuned_for():
    alpha, at = 0.025, 100.0
    tuned = boundary(at, rho_of(at, alpha), alpha)
    assert all(boundary(at, rho_of(other, alpha), alpha) > tuned for other in (at / 30, at * 30))


def test_nothing_is_shown_without_variance():
    assert boundary(0.0, rho_of(0.0, 0.05), 0.05) == float("inf")


def test_watched_at_every_request_rare_large_clustered_differences_of_mean_zero_seldom_cross():
    """A click in 30 requests carries nearly all; each user has a leaning of their own."""
    rng, alpha, trials, crossed = np.random.default_rng(2), 0.05, 200, 0
    for _ in range(trials):
        users = rng.integers(300, size=3000)
        leaning = rng.choice([-1.0, 1.0], 300)[users] * rng.exponential(0.2, 300)[users]
        x = np.where(rng.random(3000) < 1 / 30, rng.normal(leaning, 1.0), 0.0)
        crossed += crosses(users, x, alpha)
    assert crossed / trials <= 0.07


def crosses(users, x, alpha):
    sums, rho = Clustered(), 0.0
    for user, value in zip(users.tolist(), x.tolist(), strict=True):
        sums.add(user, value)
        if sums.ready:
            rho = rho or rho_of(sums.variance / sums.n * TUNED, 0.025)
            if sums.total > boundary(sums.variance, rho, alpha):
                return True
    return False
