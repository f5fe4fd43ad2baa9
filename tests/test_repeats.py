import math

import pytest

from feed import settings
from feed.errors import BadModel, BadSetting
from feed.ranking.arms import Policy
from feed.repeats import ALWAYS, NEVER, Repeats

DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "after", "categories"),
    [
        ("never", math.inf, ()),
        ("always", 0.0, ()),
        ("0", 0.0, ()),
        ("90s", 90.0, ()),
        ("1.5h", 5400.0, ()),
        (" 24h , ", DAY, ()),
        ("groceries=3d,music=0", math.inf, (("groceries", 3 * DAY), ("music", 0.0))),
        ("12h, news=never, Coffee Shop = 30m", DAY / 2, (("Coffee Shop", 1800.0), ("news", math.inf))),
        ("a=b=1d", math.inf, (("a=b", DAY),)),
        ("never, news=never", math.inf, ()),
    ],
)
def test_a_rule_is_read_and_written_so_that_it_can_be_read_again(text, after, categories):
    rule = Repeats.parse(text)
    assert rule == Repeats(after, categories)
    assert Repeats.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("24", r"'24' has no unit; write never, always, or a time like 90m, 24h or 3d"),
        ("music=24", r"'music=24' has no unit"),
        ("sometimes", r"'sometimes' says 'sometimes'; write never, always"),
        ("music=", r"'music=' says ''; write"),
        ("=3d", r"'=3d' names no category before the ="),
        ("-3d", r"'-3d' says '-3d'"),
        ("nan", r"'nan' says 'nan'"),
        ("1e9d", r"'1e9d' says"),
        ("9999d", r"'9999d' is more than 3,650 days: write never"),
        ("1d,2d", r"two rules for all categories: leave one out"),
        ("music=1d,music=2d", r"category 'music' twice: leave one out"),
        (",", r"has no rule: FEED_REPEATS=never"),
    ],
)
def test_a_bad_rule_is_refused_by_name_with_a_remedy(text, says, monkeypatch, tmp_path):
    with pytest.raises(BadSetting, match=says):
        Repeats.parse(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEED_REPEATS", text)
    with pytest.raises(BadSetting, match=says):
        settings.load()


def test_each_category_has_its_own_time_and_items_without_one_the_other():
    rule = Repeats.parse("12h, groceries=3d, news=never")
    assert [rule.seconds(name) for name in ("groceries", "news", "music", None)] == [3 * DAY, math.inf, DAY / 2, DAY / 2]


def test_a_rule_may_never_let_anything_come_again():
    assert not any(rule.ever for rule in (NEVER, Repeats.parse("never, music=never")))
    assert all(rule.ever for rule in (ALWAYS, Repeats.parse("music=1d"), Repeats.parse("1d, music=never")))


def test_the_setting_wins_over_the_version_and_without_it_the_version_decides(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    version = {"repeats": {"share": 0.8, "rule": "always"}}
    assert Policy().repeats_of(version) == ALWAYS
    assert Policy().repeats_of({}) == NEVER
    for text, expected in (("", ALWAYS), (" ", ALWAYS), ("never", NEVER), ("music=1d", Repeats.parse("music=1d"))):
        monkeypatch.setenv("FEED_REPEATS", text)
        assert Policy.of(settings.load()).repeats_of(version) == expected


@pytest.mark.parametrize("said", ["always", {"rule": "often"}, {"rule": 3}])
def test_a_manifest_that_has_no_rule_where_it_should_is_a_bad_model(said):
    with pytest.raises(BadModel, match="which is no rule"):
        Repeats.of_version({"repeats": said})
