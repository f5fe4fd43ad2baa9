import random
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, KINDS, POSITIVES, Like, Shown, kind, new_event_id, utc
from tests.strategies import EVENTS, TIMES

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)


@given(TIMES, st.integers())
def test_an_event_id_is_a_uuid_of_version_7_that_carries_its_time(at: datetime, seed: int) -> None:
    made = UUID(new_event_id(at, random.Random(seed)))
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == int(at.timestamp() * 1000)


@given(TIMES, TIMES, st.randoms(use_true_random=False))
def test_event_ids_sort_by_time(one: datetime, other: datetime, draw: random.Random) -> None:
    if abs((one - other).total_seconds()) >= 0.001:
        assert (new_event_id(one, draw) < new_event_id(other, draw)) == (one < other)


def test_the_same_draws_give_the_same_ids() -> None:
    assert new_event_id(AT, random.Random(3)) == new_event_id(AT, random.Random(3))
    assert new_event_id(AT, random.Random(3)) != new_event_id(AT, random.Random(4))


def test_whole_numbers_become_text_in_every_id() -> None:
    like = Like(event_id=-1, user_id=42, item_id=7, request_id=0, occurred_at=AT)  # type: ignore[arg-type]
    assert (like.event_id, like.user_id, like.item_id, like.request_id) == ("-1", "42", "7", "0")
    assert Shown(item_id=7, position=0).item_id == "7"  # type: ignore[arg-type]
    item = Item(item_id=7, creator_id=8)  # type: ignore[arg-type]
    assert (item.item_id, item.creator_id, User(user_id=9).user_id) == ("7", "8", "9")  # type: ignore[arg-type]


@given(EVENTS)
def test_every_event_has_one_of_the_seven_kinds_and_is_frozen(event: object) -> None:
    assert kind(event) in KINDS  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        event.user_id = "other"  # type: ignore[attr-defined]


def test_positives_are_engagements_other_than_looking_and_hiding() -> None:
    assert set(ENGAGEMENTS) - {"view", "hide"} == POSITIVES


def test_seconds_become_utc_and_come_back() -> None:
    assert utc(0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert Like(event_id="e", user_id="1", item_id="2", occurred_at=utc(1.5)).at == 1.5
