import pytest
import torch

from feed import settings
from feed.errors import BadSetting
from feed.models.heads import Head
from feed.models.two_tower import WIDTH
from feed.objective import Objective
from feed.ranking.arms import Policy

HEADS = {task: Head(1.0, torch.zeros(WIDTH), 0.0) for task in ("click", "hide")}


def test_a_table_is_read_in_any_order_with_blanks_or_commas():
    found = Objective.parse("hide=-10, click=1  like=0.5")
    assert found.weights == (("click", 1.0), ("like", 0.5), ("hide", -10.0))
    assert str(found) == "click=1 like=0.5 hide=-10"
    assert Objective.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "  ", ","])
def test_no_table_is_no_table(text):
    assert Objective.parse(text) == Objective()
    assert str(Objective.parse(text)) == ""


def test_a_weight_of_0_leaves_its_task_out():
    assert Objective.parse("click=1 like=0") == Objective.parse("click=1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("click=1 laugh=2", r"'laugh' in 'laugh=2' is no task; there are click, like, .*FEED_OBJECTIVE='click=1"),
        ("click", r"'click' has no weight; write click=NUMBER"),
        ("click=", r"'click=' has no weight; write click=NUMBER"),
        ("click=much", r"has a weight that is no number, 'much'; write click=NUMBER"),
        ("click:1", r"'click:1' in 'click:1' is no task"),
        ("click=1 like=2 click=3", r"gives click twice, 1 and 3: leave one out"),
        ("click=nan", r"the weight of 'click=nan' must lie between -1e\+06 and 1e\+06"),
        ("click=inf", r"the weight of 'click=inf' must lie between"),
        ("hide=-1e7", r"the weight of 'hide=-1e7' must lie between"),
        ("click=0 like=0", r"gives everything a weight of 0, so nothing could be ranked"),
    ],
)
def test_a_bad_table_is_refused_by_name_with_a_remedy(text, says):
    with pytest.raises(BadSetting, match=says):
        Objective.parse(text)


def test_a_version_follows_what_of_the_table_it_has_heads_for_and_a_feed_says_which():
    policy = Policy(objective=Objective.parse("click=1 share=3 hide=-10"), popularity_correction=0.3)
    assert policy.ranked_by(HEADS) == "click=1 hide=-10 - 0.3 log popularity"
    assert policy.ranked_by({}) == "logit - 0.3 log popularity"
    assert Policy().ranked_by(HEADS) == "logit"


def test_a_version_that_can_only_say_what_is_not_wanted_is_ranked_by_its_logit():
    table = Objective.parse("click=1 hide=-10")
    assert str(table.among(["hide"])) == ""
    assert str(table.among(["click", "hide"])) == "click=1 hide=-10"
    assert str(Objective.parse("hide=-10").among(["hide"])) == "hide=-10"


def test_the_policy_has_the_table_of_the_settings_and_a_bad_one_stops_any_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    policy = Policy.of(settings.Settings(objective="click=1 hide=-10", popularity_correction=0.5))
    assert (str(policy.objective), policy.popularity_correction) == ("click=1 hide=-10", 0.5)
    monkeypatch.setenv("FEED_OBJECTIVE", "click=1 laugh=2")
    with pytest.raises(BadSetting, match=r"FEED_OBJECTIVE: 'laugh' in 'laugh=2' is no task"):
        settings.load()


def test_a_kind_of_ones_own_is_a_task_whatever_the_order_of_the_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEED_OBJECTIVE", "purchase=5 click=1")
    with pytest.raises(BadSetting, match="'purchase' in 'purchase=5' is no task"):
        settings.load()
    monkeypatch.setenv("FEED_KINDS", "purchase=positive,weight=3")
    assert str(Policy.of(settings.load()).objective) == "click=1 purchase=5"
