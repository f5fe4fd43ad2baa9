from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from feed.errors import BadData
from feed.evaluation.rows import load
from tests.evaluation.logs import POSITIVE, START, WINDOW, dataset, log


def test_rows_of_a_user_and_item_within_the_window_of_the_first_are_one_event():
    rows = log([("u", "a", "view", 0), ("u", "b", "view", 1), ("u", "a", "like", 1800), ("u", "a", "view", 1801)]).rows
    assert rows.event.tolist() == [0, 1, 0, 3]
    assert rows.opens.tolist() == [True, True, False, True]
    assert rows.new.tolist() == [True, True, True, False]


def test_an_event_is_a_target_at_its_first_row_if_any_of_its_rows_is_positive():
    rows = log([("u", "a", "impression", 0), ("u", "b", "view", 1), ("u", "a", "click", 9), ("u", "a", "like", 10)]).rows
    assert rows.first.tolist() == [True, False, False, False]
    assert rows.positive.tolist() == [False, False, True, False]  # one event counts once
    assert rows.decided().tolist() == [2, -1, -1, -1]


def test_what_the_user_has_met_before_is_no_target_not_even_if_it_was_only_shown():
    rows = log([("u", "a", "impression", 0), ("u", "a", "click", 9000), ("v", "a", "click", 9001)]).rows
    assert rows.first.tolist() == [False, False, True]


def test_with_repeats_every_positive_event_is_a_target_once():
    met_before = [("u", "a", "click", 0), ("u", "a", "like", 60), ("u", "b", "impression", 70), ("u", "a", "view", 9000)]
    rows = log([*met_before, ("u", "b", "click", 9000), ("u", "a", "click", 9010)], repeats=True).rows
    assert rows.first.tolist() == [True, False, False, True, True, False]
    assert rows.until(5).first.tolist() == [True, False, False, False, True]
    assert rows.until(5).repeats


def test_rows_until_a_moment_know_no_later_label():
    rows = log([("u", "a", "view", 0), ("u", "a", "like", 60)]).rows
    assert rows.first.tolist() == [True, False]
    assert rows.until(1).first.tolist() == [False]


def test_row_numbers_are_those_of_a_stable_sort_by_time():
    rows = [("u", "late", "click", 9), ("u", "x", "click", 3), ("v", "y", "click", 3)]
    found = log(rows)
    assert found.item_ids[found.rows.item].tolist() == ["x", "y", "late"]
    assert found.user_ids[found.rows.user].tolist() == ["u", "v", "u"]


def test_codes_follow_neither_the_order_of_the_tables_nor_that_of_time():
    rows = [("u", f"i{k:03}", "click", k) for k in range(200)]
    codes = log(rows).rows.item
    assert abs(np.corrcoef(codes, np.arange(200))[0, 1]) < 0.3
    assert sorted(codes) == list(range(200))
    assert (log(rows, seed=1).rows.item != codes).any()


def test_an_item_that_no_table_describes_is_no_target_and_never_exists():
    found = log([("u", "a", "click", 0), ("u", "ghost", "click", 1)], items={"item_id": ["a"]})
    assert found.rows.first.tolist() == [True, False]
    assert found.catalogue.created[found.rows.item[1]] == np.inf


def test_creation_times_are_seconds_and_unknown_ones_are_always_there():
    items = {"item_id": ["a", "b"], "created_at": [pd.Timestamp(100, unit="s", tz="UTC"), None]}
    found = log([("u", "a", "click", 0), ("u", "b", "click", 0)], items=items)
    assert found.catalogue.created[found.rows.item].tolist() == [100.0, -np.inf]


def test_an_item_exists_from_its_first_row_on_if_the_table_says_later():
    items = {"item_id": ["a", "b"], "created_at": [START + pd.Timedelta(1, unit="D"), START - pd.Timedelta(1, unit="D")]}
    found = log([("u", "a", "impression", 10), ("v", "a", "click", 20), ("u", "b", "click", 20)], items=items)
    assert found.catalogue.created[found.rows.item].tolist() == [START.timestamp() + s for s in (10, 10, -86400)]


def test_items_and_users_are_those_of_the_tables_under_their_codes():
    items = [{"item_id": "b", "price": 1.5, "category": "x", "available": False, "created_at": "2025-01-02"}, {"item_id": "a"}]
    users = [{"user_id": "u", "height": 1.8, "country": "DE"}]
    found = load(dataset([("u", "a", "view", 0), ("v", "c", "view", 1)], items, users), POSITIVE, WINDOW, 0)
    described = {found.item_ids[int(item.item_id)]: item for item in found.catalogue.items}
    assert set(described) == {"a", "b"}
    assert (described["b"].attributes, described["b"].category, described["b"].available) == ({"price": 1.5}, "x", None)
    assert (described["b"].created_at, described["a"].created_at) == (datetime(2025, 1, 2, tzinfo=UTC), None)
    (user,) = found.catalogue.users
    assert (found.user_ids[int(user.user_id)], user.attributes, user.country) == ("u", {"height": 1.8}, "DE")


def test_a_kind_that_does_not_exist_cannot_be_positive():
    with pytest.raises(BadData, match="'rating' is none of"):
        load(dataset([("u", "a", "click", 0)]), ["rating"], WINDOW, 0)


def test_a_log_without_rows_is_refused():
    empty = dataset([("u", "a", "click", 0)])
    with pytest.raises(BadData, match="no rows"):
        load(type(empty)(empty.users, empty.items, empty.interactions.iloc[:0]), POSITIVE, WINDOW, 0)
