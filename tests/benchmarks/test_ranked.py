"""The tables of docs/quality.md out of runs whose answers are known."""

import pytest

from benchmarks import quality, ranked
from benchmarks.page import put, table
from feed.errors import FeedError
from offline.evaluate import MODELS


def run(row, ndcg, seed=0, data="aa", users=None, **others):
    n = len(ndcg)
    figures = {"all": {"ndcg_at_10": {"mean": sum(ndcg) / n}, "users": n}, "auc_shown": None, "coverage": 0.5}
    about = {"data": data, "commit": "c0ffee", "model": quality.ROWS[row].model, "parameters": {}}
    return {
        "log": "movielens", "row": row, "seed": seed, "run": about, "tuned": [], "figures": figures, "key": list(range(n)),
        "user": users or [f"u{k}" for k in range(n)], "earlier": [0] * n, "young": [0] * n, "ndcg": ndcg, **others,
    }  # fmt: skip


def test_seeds_of_one_log_are_averaged_target_by_target():
    found = ranked.Ranked([run("served", [0.0, 1.0], seed=0), run("served", [1.0, 1.0], seed=1)])
    assert found.mean("served")[0][0] == pytest.approx(0.75)
    assert found.mean("served")[1] == 2
    assert found.by_seed("served") == {0: 0.5, 1: 1.0}


def test_targets_of_different_worlds_stand_beside_each_other():
    """Their users, too: user u0 of one world is nobody in another."""
    one, other = run("served", [0.0, 0.0], data="aa"), run("served", [1.0, 1.0], seed=1, data="bb")
    (mean, low, high), targets = ranked.Ranked([one, other]).mean("served")
    assert (mean, targets) == (0.5, 4)
    assert low < 0.5 < high


def test_a_difference_that_is_the_same_for_every_target_has_no_width():
    runs = [run("served", [0.5, 0.9, 0.3]), run("ease", [0.4, 0.8, 0.2])]
    assert ranked.Ranked(runs).difference("served", "ease") == pytest.approx((0.1, 0.1, 0.1))


def test_a_difference_is_over_the_worlds_that_both_ranked():
    runs = [run("served", [0.5], data="aa"), run("served", [0.0], seed=1, data="bb"), run("ease", [0.4], data="aa")]
    assert ranked.Ranked(runs).difference("served", "ease")[0] == pytest.approx(0.1)
    assert ranked.Ranked(runs).ahead("served", "ease") == (1, 1)
    with pytest.raises(FeedError, match="no target in common"):
        ranked.Ranked([run("served", [0.5]), run("ease", [0.4], data="bb")]).difference("served", "ease")


def test_intervals_draw_whole_users():
    found = ranked.Ranked([run("served", [0.0] * 500 + [1.0] * 500, users=["u"] * 500 + ["v"] * 500)])
    assert found.mean("served")[0] == (0.5, 0.0, 1.0)


def test_a_curve_follows_the_targets_in_their_order():
    falls, rises = [0.1] * 10 + [0.0] * 90, [0.0] * 90 + [0.3] * 10
    own, less = ranked.Ranked([run("served", rises), run("served, frozen", falls)]).curve("served")
    assert (own[:, 0] == [0] * 9 + [pytest.approx(0.3)]).all()
    assert less[[0, 1, 9], 0] == pytest.approx([-0.1, 0.0, 0.3])


def test_segments_are_by_what_was_known_of_user_and_item():
    runs = [run("served", [0.1, 0.2, 0.4, 0.8], earlier=[0, 9, 10, 99], young=[0, 0, 0, 1])]
    shown = ranked.segments(ranked.Ranked(runs)).splitlines()[2:]
    assert [line.split("|")[3].split("(")[0].strip() for line in shown] == ["0.1000", "0.2000", "0.6000", "0.8000"]


def test_the_newest_counted_run_of_this_log_stands_in_the_table():
    page = """# Runs
| n | when | commit | data | model and configuration | NDCG@10 |
|---|---|---|---|---|---|
| 1 | now | c | ml-data 1 | ease: progressive, ridge=3, state every 1, weights every 0, seed 0 | 0.1 (0.0 – 0.2) |
| 2 | now | c | movielens 1 | ease: progressive, positive like, state every 1, weights every 0, seed 0 | 0.2 (0.1 – 0.3) |
| 3 | now | c | movielens 2 | ease: progressive, positive like, state every 1, weights every 0, seed 0 | 0.3 (0.2 – 0.4) |
| 4 | now | c | movielens 2 | ease: progressive, positive like, state every 1, weights every 0, seed 1 | 0.4 (0.3 – 0.5) |
| 5 | now | c | movielens 2 | ease: static, positive like, seed 0 | 0.5 (0.4 – 0.6) |
| 6 | now | c | movielens 2 | served: progressive, positive like, state every 32, weights every 1, seed 0 | 0.6 (0.5 – 0.7) |
"""
    assert ranked.counted(page, "movielens") == {("ease", 0): "0.3 (0.2 – 0.4)"}


def test_a_model_that_was_only_tested_stands_in_the_table_without_the_tuning_slice():
    runs = [run("served", [0.5]), run("ease", [0.4])]
    lines = ranked.models(ranked.Ranked(runs), {("als", 0): "0.2", ("ease", 0): "0.3"}).splitlines()[2:]
    assert [(line.split(" | ")[0], line.split(" | ")[1], line.rstrip(" |").split(" | ")[-1]) for line in lines] == [
        ("| `als`", "not run", "0.2"),
        ("| `ease`", "0.4000 (0.4000 – 0.4000)", "0.3"),
        ("| `served`", "0.5000 (0.5000 – 0.5000)", "not run"),
    ]


def test_every_row_can_be_built():
    for row in quality.ROWS.values():
        MODELS[row.model].build(**row.fixed)
        assert not row.learn_every or MODELS[row.model].online


def test_parameters_come_from_the_seed_that_was_tuned():
    tuned = run("ease", [0.5]) | {"tuned": [{"parameters": {"ridge": 3}, "ndcg_at_10": 0.5}]}
    tuned["run"]["parameters"] = {"ridge": 3}
    assert quality.parameters("ease", "movielens", 1, [tuned]) == ({"ridge": 3}, False)
    assert quality.parameters("ease", "movielens", 0, [tuned]) == ({}, True)  # the same seed is tuned anew
    assert quality.parameters("ease", "world", 1, [tuned]) == ({}, True)


def test_the_naive_model_online_is_the_frozen_one_with_a_rate_of_its_own():
    frozen = run("naive-two-tower, frozen", [0.5])
    frozen["run"]["parameters"] = {"epochs": 20, "online_rate": 0.0}
    assert quality.parameters("naive-two-tower", "movielens", 0, [frozen]) == ({"epochs": 20}, True)


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path):
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    new = put(page, "a", table(["x"], [["1"]]), tmp_path)
    assert new == "before\n<!-- a -->\n| x |\n| --- |\n| 1 |\n<!-- /a -->\nafter\n"
    with pytest.raises(FeedError, match="no place for the table 'b'"):
        put(page, "b", "", tmp_path)
