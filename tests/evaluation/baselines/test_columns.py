import numpy as np
import pytest

from feed.evaluation.baselines.columns import COUNT_FLOOR, FLOOR, HALF_LIVES, Counts, History
from tests.evaluation.logs import START, log

DAY = 86400.0
NOW = START.timestamp()


def observed(group, found):
    """The columns of `group` by name, after the log, as functions of user, item and seconds after its start."""
    made = group(found.catalogue)
    for k in range(len(found.rows)):
        made.observe(k, found.rows)
    users, items = found.user_ids.tolist(), found.item_ids.tolist()

    def value(name, user, item, at):
        return float(made.columns(users.index(user), NOW + at)[made.names.index(name), items.index(item)])

    return value


def test_a_count_halves_with_each_half_life_and_only_positives_count():
    value = observed(Counts, log([("u", "a", "view", 0), ("u", "b", "click", 0)]))
    for name, half_life in zip(Counts.names, HALF_LIVES, strict=False):
        counts = [np.exp(value(name, "u", item, 3 * half_life)) - COUNT_FLOOR for item in "ab"]
        assert counts == pytest.approx([0, 1 / 8], abs=1e-5)


def test_positives_add_up_however_far_apart():
    value = observed(Counts, log([("u", "a", "click", 0), ("v", "a", "click", 2 * DAY)]))
    assert np.exp(value("count_1d", "u", "a", 2 * DAY)) - COUNT_FLOOR == pytest.approx(1.25, abs=1e-5)


def test_an_item_whose_creation_nobody_knows_ages_from_its_first_event():
    items = {"item_id": ["a", "b", "c"], "created_at": [None, None, START]}
    value = observed(Counts, log([("u", "a", "view", 3600), ("u", "c", "view", 7000)], items))
    ages = [value("age", "u", item, 7200) for item in "abc"]
    assert ages == pytest.approx(np.log1p([1.0, 0.0, 2.0]), abs=1e-6)


def test_what_was_liked_together_goes_together_and_with_nothing_else():
    found = log([("u", "a", "click", 0), ("u", "b", "click", 60), ("v", "a", "click", 120), ("w", "c", "click", 180)])
    value = observed(History, found)
    liked = {item: value("liked_together", "v", item, 200) for item in "abc"}
    assert liked["b"] > liked["a"] == liked["c"] == pytest.approx(np.log(FLOOR))
    assert value("liked_next_linear", "v", "b", 200) > 0 == value("liked_next_linear", "w", "b", 200)


def test_a_view_is_met_and_not_liked_and_an_impression_neither():
    found = log([(u, i, kind, 60 * k) for u, kind in (("u", "view"), ("v", "impression")) for k, i in enumerate("abc")])
    value = observed(History, found)
    assert value("met_next_linear", "u", "c", 999) > 0 == value("liked_next_linear", "u", "c", 999)
    assert value("met_together_linear", "v", "c", 999) == 0


def test_content_is_the_recent_share_of_each_attribute_and_of_tags():
    items = {"item_id": list("abc"), "category": ["x", "x", "y"], "tags": [("s", "t"), ("s",), ("r",)]}
    found = log([("u", "a", "click", 0), ("u", "c", "click", 60)], items)
    value = observed(History, found)
    weight = 0.9 / 1.9  # of a, the like before the latest
    assert [value("attribute_0", "u", item, 99) for item in "bc"] == pytest.approx([3 * weight, 3 * (1 - weight)], rel=1e-5)
    assert value("tags", "u", "b", 99) == pytest.approx(3 * weight * 0.5, rel=1e-5)
    assert "attribute_1" not in History(found.catalogue).names  # no item has a creator
