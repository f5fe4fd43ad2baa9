import numpy as np
import pytest

from feed.examples import Example, Row
from feed.features.frozen import ItemFeatures, UserFeatures
from feed.features.items import NUMERIC as ITEM_NUMERIC
from feed.features.user import NUMERIC as USER_NUMERIC
from feed.monitoring.served import Served, degraded

DAY = 86_400.0
START = 1_750_032_000.0  # 2025-06-16 00:00 UTC
USER = UserFeatures("u", {}, {}, (0.0,) * len(USER_NUMERIC), {})


def row(item, labels=None, *, source="model", score=0.5, category="a", age=10.0, dwell_ms=0) -> Row:
    numeric = (age, *(0.0,) * (len(ITEM_NUMERIC) - 1))
    return Row(ItemFeatures(str(item), numeric, category), 0, score, 1.0, source, labels or {}, dwell_ms)


def example(sequence, rows, *, at=START, arm="learned", version="v1", user="u", organic=False) -> Example:
    about = UserFeatures(user, {}, {}, USER.numeric, {})
    return Example(
        source=0, sequence=sequence, example_id=str(sequence), at=at, user=about, rows=tuple(rows), arm=arm,
        model_version=version, organic=organic,
    )  # fmt: skip


def several(rate, popular, *, day=0, start=0, n=1000, seed=0):
    """n requests of the learned arm and n of the popular one, of 100 users, two items each."""
    draw = np.random.default_rng(seed)
    for k in range(n):
        for arm, p in (("learned", rate), ("popular", popular)):
            rows = [row(i, {"view": 1, "click": 1} if draw.random() < p else {"view": 1}) for i in range(2)]
            yield example(start + 2 * k + (arm == "popular"), rows, at=START + day * DAY + k, arm=arm, user=str(k % 100))


def days_of(*examples, catalogue=10):
    served = Served()
    for one in examples:
        served.add(one)
    return served.days(catalogue)


def test_figures_of_two_requests_counted_by_hand():
    first = [
        row(1, {"view": 1, "click": 1, "like": 1}, score=0.8, category="a", age=10, dwell_ms=3000),
        row(2, {"view": 1}, score=0.6, category="b", age=20, dwell_ms=1000),
        row(3, category="a", age=30),
        row(4, {"view": 1, "click": 1}, source="explore", category="c"),
    ]
    second = [row(1, category="a", age=20), row(5, category="a", age=20)]
    total, version = days_of(example(0, first), example(1, second))[::-1]
    assert (total.version, version.version, total.day) == ("all", "v1", "2025-06-16")
    assert total.click_through["learned"].value == pytest.approx(2 / 6)
    assert total.click_through["learned"].requests == 2
    assert total.engagement == pytest.approx(1 / 5)
    assert total.dwell_seconds == pytest.approx(4 / 5)
    assert total.calibration_gap == pytest.approx((0.8 + 0.6 - 1) / 2)
    assert total.coverage == pytest.approx(4 / 10)
    assert total.diversity == pytest.approx((2 / 3 + 0) / 2)
    assert total.age_hours == pytest.approx(20.0)


def test_copies_organic_examples_and_the_past_without_arms_do_not_count():
    clicked = [row(1, {"click": 1})]
    (_, total) = days_of(
        example(0, clicked), example(0, clicked), example(1, clicked, organic=True), example(2, clicked, arm=None)
    )
    assert total.click_through["learned"].requests == 1


def test_days_and_versions_stand_apart_and_a_day_has_their_sum():
    found = days_of(
        example(0, [row(1, {"click": 1})], version="v1"),
        example(1, [row(1)], version="v2"),
        example(2, [row(1)], at=START + DAY),
    )
    assert [(day.day, day.version) for day in found] == [
        ("2025-06-16", "v1"), ("2025-06-16", "v2"), ("2025-06-16", "all"), ("2025-06-17", "v1"), ("2025-06-17", "all"),
    ]  # fmt: skip
    assert [day.click_through["learned"].value for day in found] == [1.0, 0.0, 0.5, 0.0, 0.0]


def test_the_interval_is_over_users_not_requests():
    alike = days_of(*(example(k, [row(1, {"click": 1} if k % 2 else {})], user=str(k // 2)) for k in range(400)))[-1]
    unlike = days_of(*(example(k, [row(1, {"click": 1} if (k // 100) % 2 else {})], user=str(k // 100)) for k in range(400)))[
        -1
    ]
    one, other = alike.click_through["learned"], unlike.click_through["learned"]
    assert one.value == other.value == 0.5
    assert one.high - one.low == 0.0  # every user clicks half
    assert other.high - other.low > 0.5  # two users click all, two nothing


def test_a_day_that_loses_a_third_is_degraded_and_says_by_how_much():
    days = days_of(*several(0.3, 0.2), *several(0.3, 0.2, day=1, start=2000, seed=1), *several(0.2, 0.2, day=2, start=4000))
    assert degraded(days[:4]) is None
    assert "2025-06-18 is 0.19" in str(degraded(days))
    assert "of the 2 days before" in str(degraded(days))


def test_what_the_popular_arm_loses_too_is_no_degradation():
    assert degraded(days_of(*several(0.3, 0.2), *several(0.2, 0.133, day=1, start=2000))) is None


def test_a_gain_a_single_day_and_a_day_of_few_requests_are_no_degradation():
    assert degraded(days_of(*several(0.2, 0.2), *several(0.3, 0.2, day=1, start=2000))) is None
    assert degraded(days_of(*several(0.3, 0.2))) is None
    assert degraded(days_of(*several(0.3, 0.2), *several(0.1, 0.2, day=1, start=2000, n=100))) is None
    assert degraded([]) is None
