import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.ranking.arms import Policy, arm_of
from feed.settings import Settings

USERS = [str(u) for u in range(4000)]


def test_user_42_of_the_readme_is_in_the_learned_arm_under_default_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert arm_of("42", Policy.of(Settings())) == "learned"


def test_the_policy_is_what_the_settings_say(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings(feed_size=7, popular_share=0.1, random_share=0.2, explore_every=3, arm_salt="x")
    assert Policy.of(settings) == Policy(7, 0.1, 0.2, 3, "x")
    assert Policy.of(Settings()) == Policy()


@pytest.mark.parametrize(("popular", "random"), [(0.05, 0.05), (0.0, 0.3), (0.3, 0.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_each_arm_has_its_share_and_a_share_may_be_0(popular, random):
    policy = Policy(popular_share=popular, random_share=random)
    arms = [arm_of(u, policy) for u in USERS]
    for arm, share in (("popular", popular), ("random", random), ("learned", 1 - popular - random)):
        n = arms.count(arm)
        if share in (0.0, 1.0):
            assert n == share * len(USERS)
        assert abs(n - share * len(USERS)) <= 4 * (share * (1 - share) * len(USERS)) ** 0.5


@given(st.text(max_size=20))
def test_a_user_leaves_an_arm_only_when_its_share_shrinks(user_id):
    small, large = Policy(popular_share=0.1, random_share=0.0), Policy(popular_share=0.4, random_share=0.0)
    if arm_of(user_id, small) == "popular":
        assert arm_of(user_id, large) == "popular"


def test_another_salt_draws_other_users():
    a, b = (Policy(popular_share=0.5, arm_salt=salt) for salt in ("a", "b"))
    same = sum(arm_of(u, a) == arm_of(u, b) for u in USERS)
    assert 0.4 < same / len(USERS) < 0.6
