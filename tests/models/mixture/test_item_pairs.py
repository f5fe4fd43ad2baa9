from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


PLACES = 8  # in a row of the tests below
some = st.dictionaries(st.integers(0, 15), st.integers(1, 1000), min_size=1)
raises = st.tuples(st.sampled_from(["row", "column"]), st.integers(0, 2), some)


@pytest.mark.parametrize("n", [20, 3000])
@given(steps=st.lists(raises, max_size=10))
def test_a_bounded_row_keeps_what_was_just_raised_and_gives_up_only_its_smallest_others(n, steps):
    items = np.linspace(0, n - 1, 16).astype(np.int64)  # item 0 too, whose code is that of a free place
    table = BoundedRows(n) if n <= pairs.SQUARE else pairs.empty(n)
    assert isinstance(table, BoundedRows)
    rows: dict[int, dict[int, int]] = {}
    with mock.patch.object(pairs, "WIDEST", PLACES):
        for way, place, raised in steps:
            codes, by = items[list(raised)], np.array(list(raised.values()), np.int32)
            if way == "row":
                table.raise_row(int(items[place]), codes, by)
                _follow(table, rows, int(items[place]), dict(zip(codes.tolist(), by.tolist(), strict=True)))
            else:
                table.raise_column(codes, int(items[place]), by)
                for row, amount in zip(codes.tolist(), by.tolist(), strict=True):
                    _follow(table, rows, row, {int(items[place]): amount})


def _follow(table, rows, row, raised):
    """Compare a row after a raise with the dictionary it was before, and put the dictionary in its place."""
    before = rows.get(row, {})
    sums = table.weighted(np.array([row]), np.ones(1))
    after = {int(item): int(sums[item]) for item in np.flatnonzero(sums)}
    known = [item for item in raised if item in before]
    new = [item for item in raised if item not in before][: PLACES - len(known)]
    for item in [*known, *new]:
        assert after[item] == before.get(item, 0) + raised[item]
    others = {item: count for item, count in before.items() if item not in raised}
    kept = {item: after[item] for item in others if item in after}
    assert kept == {item: others[item] for item in kept}
    given_up = [count for item, count in others.items() if item not in kept]
    assert len(given_up) == max(len(before) + len(new) - PLACES, 0)
    assert max(given_up, default=0) <= min(kept.values(), default=1000000)
    assert set(after) == {*known, *new, *kept}
    rows[row] = after
