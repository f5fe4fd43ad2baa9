"""What bootstrap says of a comparison whose figures are given."""

import pytest

from feed.evaluation.ablation import DECAYED, POPULAR, Comparison
from offline import findings

DAY = 86400.0


def compared(low, high, best=DECAYED, users=100, half_life=DAY, quick=None):
    of = {"served": {"mean": 0.2, "low": 0.1, "high": 0.3}}
    ahead = {"mean": (low + high) / 2, "low": low, "high": high}
    return Comparison(of, half_life, best, ahead, "item-knn" if quick else None, quick, users)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.1, 0.3, "What serves is ahead of a list of what was popular in the last day by 0.2000 (0.1000 – 0.3000) NDCG@10."),
        (-0.1, 0.3, "A list of what was popular in the last day would do as well on this log"),
        (0.0, 0.0, "A list of what was popular in the last day would do as well on this log"),
        (
            -0.3,
            -0.1,
            "What serves is behind a list of what was popular in the last day by 0.2000 (0.1000 – 0.3000) NDCG@10: take",
        ),
    ],
)
def test_one_sentence_says_whether_a_simple_list_would_do_as_well(low, high, says):
    assert findings.verdict(compared(low, high), {}).startswith(says)


def test_the_sentence_names_the_list():
    assert "popular so far would do" in findings.verdict(compared(-1, 1, POPULAR), {})
    assert "in the last 15 minutes would do" in findings.verdict(compared(-1, 1, half_life=900.0), {})
    assert "in the last 30 days would do" in findings.verdict(compared(-1, 1, half_life=30 * DAY), {})


@pytest.mark.parametrize(("low", "high", "says"), [(-0.2, -0.1, "is ahead of it"), (-0.1, 0.1, "does as well"), (0.1, 0.2, "")])
def test_a_quick_baseline_that_what_serves_is_not_ahead_of_is_named(low, high, says):
    shown = findings.verdict(compared(0.1, 0.3, quick={"mean": 0.0, "low": low, "high": high}), {})
    assert (f" item-knn {says} (NDCG@10 of what serves less that of item-knn: 0.0000" in shown) == bool(says)


def test_of_a_handful_of_users_nothing_is_proven():
    assert findings.verdict(compared(0.1, 0.3, users=3), {}).startswith("Of 3 users nothing can be proven")


def test_where_a_list_does_as_well_the_figures_among_viewed_items_are_named():
    figures = {name: {"auc_looked_at": {"mean": mean, "low": mean - 0.1}} for name, mean in (("learned", 0.6), (DECAYED, 0.4))}
    said = findings.verdict(compared(-1, 1), figures)
    assert said.endswith("among viewed items its AUC is 0.600, that of decayed-popular 0.400.")
    figures["learned"]["auc_looked_at"]["low"] = 0.39
    assert "AUC" not in findings.verdict(compared(-1, 1), figures), "not proven"
    figures["learned"]["auc_looked_at"]["low"] = 0.5
    assert "AUC" not in findings.verdict(compared(0.1, 0.3), figures)
