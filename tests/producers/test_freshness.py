"""How old a feed is: how long ago its user did what it does not know."""

from datetime import UTC, datetime

import pytest

from feed.ranking.types import Feed
from feed.wire import Position
from producers.freshness import Ages, Freshness

LOG = "interactions-1"


def feed(offset: int | None, topic_id: str = LOG, user_id: str = "7") -> Feed:
    at = None if offset is None else Position(topic_id, 3, offset)
    return Feed(
        generation=1, position=at, user_id=user_id, request_id="r", arm="learned", model_version="v1",
        made_at=datetime.now(UTC), items=(),
    )  # fmt: skip


@pytest.fixture
def freshness() -> Freshness:
    return Freshness(LOG)


def test_the_feed_of_somebody_who_has_done_nothing_since_does_not_age(freshness: Freshness) -> None:
    assert freshness.age(feed(5), 3600.0) == 0.0
    freshness.sent("7", 4000.0)(9)
    assert freshness.age(feed(10), 4000.5) == 0.0
    assert freshness.age(feed(10), 9000.0) == 0.0


def test_a_feed_is_as_old_as_the_first_visit_that_it_does_not_know(freshness: Freshness) -> None:
    for sent, offset in ((100.0, 10), (130.0, 20), (160.0, 30)):
        freshness.sent("7", sent)(offset)
    assert [freshness.age(feed(end), 170.0) for end in (10, 11, 20, 21, 30, 31)] == [70.0, 40.0, 40.0, 10.0, 10.0, 0.0]
    assert freshness.age(feed(10, user_id="8"), 170.0) == 0.0


def test_what_the_broker_has_not_acknowledged_no_feed_knows(freshness: Freshness) -> None:
    acknowledged = freshness.sent("7", 100.0)
    assert freshness.age(feed(1000), 107.0) == 7.0
    acknowledged(999)
    assert freshness.age(feed(1000), 107.0) == 0.0


def test_of_a_repetition_that_the_broker_had_the_place_is_not_known_so_it_does_not_count(freshness: Freshness) -> None:
    freshness.sent("7", 100.0)(-1)
    assert freshness.age(feed(5), 107.0) == 0.0


@pytest.mark.parametrize("made_of", [feed(None), feed(1000, "users-1"), feed(1000, "interactions-of-another-broker")])
def test_a_feed_made_of_nothing_or_of_another_log_knows_no_visit(freshness: Freshness, made_of: Feed) -> None:
    assert freshness.age(made_of, 100.0) == 0.0
    freshness.sent("7", 100.0)(3)
    assert freshness.age(made_of, 104.0) == 4.0


def test_quantiles_and_the_share_of_old_feeds_are_of_all_requests() -> None:
    ages = Ages()
    assert (ages.requests, ages.quantile(0.5), ages.older, ages.late) == (0, 0.0, 0.0, False)
    for age in [0.0] * 90 + [5.0] * 4 + [5.1, 6.0, 7.0, 8.0, 9.0, 31.24]:
        ages.add(age)
    assert (ages.requests, ages.older, ages.late) == (100, 0.06, True)
    assert [ages.quantile(q) for q in (0.0, 0.5, 0.9, 0.94, 0.95, 1.0)] == [0.0, 0.0, 0.0, 5.0, 5.1, 31.2]
    assert "6.0% of 100 requests" in str(ages)
    assert "p50 0.0 s, p95 5.1 s" in str(ages)


@pytest.mark.parametrize(("late", "said"), [(5, False), (6, True)])
def test_feeds_are_late_if_more_than_one_request_in_twenty_saw_an_old_one(late: int, said: bool) -> None:
    ages = Ages()
    for age in [0.0] * (100 - late) + [60.0] * late:
        ages.add(age)
    assert ages.late is said
