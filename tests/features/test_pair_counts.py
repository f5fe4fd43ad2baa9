from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.features import pair_counts
from feed.features.pair_counts import BoundedRows, Square


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
    monkeypatch.setattr(pair_counts, "WIDEST", 8)
    table = BoundedRows(20)
    for item in range(8):
        table.raise_column(np.array([0]), item, np.array([10 + item]))
    table.raise_column(np.array([0]), 15, np.array([5]))
    row = table.weighted(np.array([0]), np.ones(1))
    assert table.ids.shape == (20, 8)
    assert row[0] == 0
    assert row[15] == 5
    assert row[7] == 17


def test_counts_stay_when_there_is_room_for_more_items():
    n, rng = 30, np.random.default_rng(2)
    table, reference = BoundedRows(n), np.zeros((n, n))
    _random_raises(table, reference, rng, n, 100)
    table.grow(50)
    np.testing.assert_array_equal(table.weighted(np.array([4]), np.ones(1)), np.pad(reference[4], (0, 20)))
    np.testing.assert_array_equal(table.of_column(np.arange(n), 7), reference[:, 7])
    table.raise_column(np.array([4, 45]), 48, np.array([3, 5]))
    assert table.of_column(np.array([45, 4, 5]), 48).tolist() == [5, 3, 0]


def test_rows_too_wide_for_more_items_give_up_their_smallest_counts(monkeypatch):
    table = BoundedRows(20)
    table.raise_row(0, np.arange(16), np.arange(1, 17, dtype=np.int32))
    monkeypatch.setattr(pair_counts, "ENTRIES", 40 * 8)
    table.grow(40)
    assert table.weighted(np.array([0]), np.ones(1)).tolist() == [0] * 8 + list(range(9, 17)) + [0] * 24


PLACES = 8  # in a row of the tests below
some = st.dictionaries(st.integers(0, 15), st.integers(1, 1000), min_size=1)
raises = st.tuples(st.sampled_from(["row", "column"]), st.integers(0, 2), some)


@pytest.mark.parametrize("n", [20, 3000])
@given(steps=st.lists(raises, max_size=10))
def test_a_bounded_row_keeps_what_was_just_raised_and_gives_up_only_its_smallest_others(n, steps):
    items = np.linspace(0, n - 1, 16).astype(np.int64)  # item 0 too, whose code is that of a free place
    table = BoundedRows(n) if n <= pair_counts.SQUARE else pair_counts.empty(n)
    assert isinstance(table, BoundedRows)
    rows: dict[int, dict[int, int]] = {}
    with mock.patch.object(pair_counts, "WIDEST", PLACES):
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
