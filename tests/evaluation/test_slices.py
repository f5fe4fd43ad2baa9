import pytest

from feed.errors import BadData
from feed.evaluation.slices import slices
from tests.evaluation.logs import START, log

ROWS = log([("u", f"i{k}", kind, 3600 * k) for k in range(10) for kind in ("view", "like")]).rows


def test_slices_are_shares_of_events_not_of_rows():
    tuning, test = slices(ROWS)
    assert (tuning.start, tuning.end, test.start, test.end) == (14, 16, 16, 20)


def test_times_take_the_place_of_shares():
    tuning, test = slices(ROWS, START.timestamp() + 3600 * 2, START.timestamp() + 3600 * 5)
    assert (tuning.start, tuning.end, test.start, test.end) == (4, 10, 10, 20)


@pytest.mark.parametrize(("tune", "test"), [(0.0, None), (None, 1e12), (1e12, None)])
def test_a_slice_without_rows_in_it_or_before_it_is_refused(tune, test):
    with pytest.raises(BadData, match="slice would be rows"):
        slices(ROWS, tune, test)
