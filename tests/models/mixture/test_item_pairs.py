import numpy as np
import pytest

from feed.models.mixture import pairs
from feed.models.mixture.pairs import BoundedRows, Square


def _random_raises(table, reference, rng, n, steps):
    for _ in range(steps):
        some = rng.choice(n, rng.integers(1, 5), replace=False)
        amounts = rng.integers(1, 1000, len(some)).astype(np.int32)
        item = int(rng.integers(n))
        table.raise_column(some, item, amounts)
        reference[some, item] += amounts
        table.raise_row(item, some, amounts)
        reference[item, some] += amounts


@pytest.mark.parametrize("make", [Square, BoundedRows])
def test_counts_are_the_sums_of_what_was_raised(make):
    n, rng = 40, np.random.default_rng(1)
    table, reference = make(n), np.zeros((n, n))
    _random_raises(table, reference, rng, n, 500)
    rows, weights = np.array([3, 7, 11]), np.array([1.0, 0.5, 0.25])
    np.testing.assert_allclose(table.weighted(rows, weights), weights @ reference[rows], rtol=1e-5)


def test_a_full_row_gives_up_its_smallest_count(monkeypatch):
    monkeypatch.setattr(pairs, "WIDEST", 8)
    table = BoundedRows(20)
    for item in range(8):
        table.raise_column(np.array([0]), item, np.array([10 + item]))
    table.raise_column(np.array([0]), 15, np.array([5]))
    row = table.weighted(np.array([0]), np.ones(1))
    assert table.ids.shape == (20, 8)
    assert row[0] == 0
    assert row[15] == 5
    assert row[7] == 17


@pytest.mark.parametrize("make", [Square, BoundedRows])
def test_arrays_bring_back_the_same_counts(make):
    n, rng = 30, np.random.default_rng(2)
    table = make(n)
    _random_raises(table, np.zeros((n, n)), rng, n, 100)
    back = pairs.from_arrays(table.to_arrays())
    rows = np.arange(n)
    np.testing.assert_array_equal(back.weighted(rows, np.ones(n)), table.weighted(rows, np.ones(n)))
