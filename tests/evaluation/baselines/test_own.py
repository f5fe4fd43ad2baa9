import numpy as np
import pytest

from feed.evaluation.baselines.own import OwnFavourites
from tests.evaluation.logs import START, log

DAY = 86400.0
ROWS = [
    ("u", "often", "click", 0), ("u", "often", "click", DAY), ("u", "often", "click", 2 * DAY),
    ("u", "first", "click", 3 * DAY), ("u", "then", "click", 4 * DAY), ("u", "then", "view", 4 * DAY + 10),
    ("v", "liked", "click", 5 * DAY), ("w", "liked", "click", 5 * DAY), ("v", "also", "click", 6 * DAY),
    ("u", "lately", "click", 7 * DAY), ("u", "lately", "click", 8 * DAY),
]  # fmt: skip


def ranked(half_life_days=None, user="u", rows=ROWS, at=9 * DAY):
    found = log(rows)
    model = OwnFavourites(half_life_days)
    model.fit(found.rows.until(5), found.catalogue)
    for k in range(5, len(found.rows)):
        model.observe(k, found.rows)
    code = int(np.flatnonzero(found.user_ids == user)[0])
    scores = model.scores(code, START.timestamp() + at)
    return [str(found.item_ids[i]) for i in np.argsort(-scores)], np.sort(scores)[::-1]


def test_own_items_stand_by_times_taken_then_the_latest_first_then_comes_what_is_popular():
    names, scores = ranked()
    assert names == ["often", "lately", "then", "first", "liked", "also"]
    assert (scores[:4] > 1).all()
    assert (scores[4:] < 1).all()


def test_a_short_half_life_prefers_what_was_taken_lately():
    assert ranked(0.5)[0][:4] == ["lately", "then", "first", "often"]


def test_a_user_without_positives_is_shown_what_is_popular():
    names, _ = ranked(user="w", rows=[*ROWS, ("x", "also", "view", 9 * DAY)])
    assert names[0] == "liked", "the own one"
    found = log([*ROWS, ("x", "also", "view", 9 * DAY)])
    model = OwnFavourites(7.0)
    model.fit(found.rows, found.catalogue)
    x = int(np.flatnonzero(found.user_ids == "x")[0])
    assert found.item_ids[np.argmax(model.scores(x, START.timestamp()))] == "often"


@pytest.mark.parametrize("half_life_days", [None, 1e-4])
def test_scores_are_numbers_however_long_ago_it_was(half_life_days):
    assert np.isfinite(ranked(half_life_days, at=4000 * DAY)[1]).all()
