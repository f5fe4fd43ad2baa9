import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2
from msgspec import Struct

from feed import wire
from feed.catalogue import Item, User
from feed.errors import Unreadable
from feed.events import Event
from tests import grammar, strategies

POSITIONS = st.builds(wire.Position, strategies.TEXT, st.integers(0, 999), st.integers(0, 2**53))
LIKE: dict[str, Any] = {
    "event": "like", "event_id": "0195", "v": 1, "user_id": "42", "occurred_at": "2025-03-01T12:00:00Z", "item_id": "7",
}  # fmt: skip


@given(strategies.EVENTS)
def test_an_event_read_from_its_bytes_is_the_event(event: Event) -> None:
    assert wire.decode_event(wire.encode(event)) == event


@given(strategies.ITEMS)
def test_an_item_read_from_its_bytes_is_the_item(item: Item) -> None:
    assert wire.decode_item(wire.encode(item)) == item


@given(strategies.USERS)
def test_a_user_read_from_its_bytes_is_the_user(user: User) -> None:
    assert wire.decode_user(wire.encode(user)) == user


@given(st.lists(strategies.TEXT, max_size=3).map(tuple), POSITIONS)
def test_a_feature_update_read_from_its_bytes_is_the_update(users: tuple[str, ...], position: wire.Position) -> None:
    update = wire.FeatureUpdate(users, position)
    assert wire.decode_update(wire.encode(update)) == update


@given(POSITIONS, st.none() | st.binary(), st.none() | st.binary())
def test_a_dead_letter_keeps_any_bytes(position: wire.Position, key: bytes | None, value: bytes | None) -> None:
    letter = wire.DeadLetter("interactions", position, "why", key, value)
    assert wire.decode_letter(wire.encode(letter)) == letter


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"event": "liked"}, "event 'liked' is none of impression, .*did you mean 'like'?"),
        ({"event": "purchase"}, r"event 'purchase' is none of .* like \(rated well, saved, followed, bought\)"),
        ({"event": 3}, "event"),
        ({"v": 2}, "v"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"item_id": "x" * 129}, "item_id"),
        ({"occurred_at": "2025-03-01T12:00:00"}, "occurred_at"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": "1969-12-31T23:59:59Z"}, "occurred_at .* is before 1970"),
        ({"event": "view", "dwell_ms": -1}, "dwell_ms"),
        ({"event": "view", "dwell_ms": 86_400_001}, "dwell_ms"),
        ({"propensity": 0}, "propensity"),
        ({"propensity": 1.01}, "propensity"),
        ({"position": -1}, "position"),
        ({"position": 2**31}, "position"),
        ({"event_id": 2**63}, "event_id"),
        ({"request_id": -(2**63) - 1}, "request_id"),
        ({"item_id": 1.5}, "item_id"),
        ({"user_id": True}, "user_id"),
        ({"score": 1.1e15}, "score"),
        ({"arm": "x" * 257}, "arm"),
        ({"model_version": 7}, "model_version"),
        ({"context": {"attributes": {"n": 2**53 + 1}}}, "attributes"),
        ({"context": {"attributes": {"n": -2e15}}}, "attributes"),
        ({"context": {"attributes": {"": "x"}}}, "attributes"),
        ({"context": {"attributes": {"x" * 257: "x"}}}, "attributes"),
        ({"context": {"attributes": {"n": "x" * 257}}}, "attributes"),
        ({"context": {"attributes": {str(n): n for n in range(65)}}}, "attributes"),
        ({"occurred_at": "9999-12-31T23:59:59-00:01"}, "occurred_at .* years 1 to 9999"),
        ({"event": "impression", "items": [{"item_id": str(n), "position": n} for n in range(501)]}, "items"),
        ({"event": "impression", "items": [{"item_id": "7", "position": 0, "source": "x" * 257}]}, "source"),
        ({"context": {"hour": 24}}, "hour"),
        ({"event": "impression", "items": []}, "items"),
        ({"event": "impression", "items": [{"item_id": "7"}]}, "position"),
    ],
)
def test_an_impossible_event_is_unreadable_and_the_reason_names_the_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unreadable, match=named):
        wire.decode_event(json.dumps(LIKE | change).encode())


@pytest.mark.parametrize("missing", ["event", "event_id", "user_id", "occurred_at", "item_id"])
def test_an_event_without_a_required_field_is_unreadable(missing: str) -> None:
    with pytest.raises(Unreadable, match=missing):
        wire.decode_event(json.dumps({name: value for name, value in LIKE.items() if name != missing}).encode())


DECODERS = {"interactions": wire.decode_event, "items": wire.decode_item, "users": wire.decode_user}


@pytest.mark.parametrize("topic", DECODERS)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_is_within_every_bound_is_read_and_stays_what_it_is(topic: str, data: st.DataObject) -> None:
    read = DECODERS[topic](json.dumps(data.draw(grammar.within(grammar.TYPES[topic]))).encode())
    assert DECODERS[topic](wire.encode(read)) == read


@pytest.mark.parametrize("topic", DECODERS)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_beyond_one_bound_is_unreadable(topic: str, data: st.DataObject) -> None:
    message = data.draw(grammar.beyond(grammar.TYPES[topic]))
    with pytest.raises(Unreadable):
        DECODERS[topic](json.dumps(message).encode())


@given(st.binary() | strategies.TEXT.map(str.encode), st.sampled_from([wire.decode_event, wire.decode_item, wire.decode_user]))
def test_no_bytes_do_worse_than_unreadable(value: bytes, decode: Callable[[bytes], Struct]) -> None:
    with pytest.raises(Unreadable, match="event-schema"):
        decode(value)


def test_a_record_without_value_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="no value"):
        wire.decode_event(None)


@pytest.mark.parametrize(
    "reading", [(wire.decode_event, LIKE), (wire.decode_item, {"item_id": "7"}), (wire.decode_user, {"user_id": "7"})]
)
@pytest.mark.parametrize(
    "nested", ["[" * 100_000 + "]" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 1500, '[{"a":' * 900]
)
def test_what_is_nested_too_deep_is_unreadable(reading: tuple[Callable[[bytes], Struct], dict[str, Any]], nested: str) -> None:
    decode, message = reading
    with pytest.raises(Unreadable, match="not a valid"):
        decode(f'{json.dumps(message)[:-1]}, "extra": {nested}}}'.encode())


def test_a_message_larger_than_a_record_is_unreadable_whatever_makes_it_so() -> None:
    filled = json.dumps(LIKE | {"extra": ""}).encode()
    assert wire.decode_event(filled.replace(b'""', b'"' + b"x" * (wire.LARGEST_MESSAGE - len(filled)) + b'"'))
    with pytest.raises(Unreadable, match="at most 1,048,576 are possible"):
        wire.decode_event(filled.replace(b'""', b'"' + b"x" * wire.LARGEST_MESSAGE + b'"'))


@pytest.mark.parametrize(
    ("decode", "message", "named"),
    [
        (wire.decode_item, {"item_id": 10**199}, "item_id"),
        (wire.decode_item, {"item_id": "7", "creator_id": 2**63}, "creator_id"),
        (wire.decode_item, {"item_id": "7", "attributes": {"n": 1e16}}, "attributes"),
        (wire.decode_item, {"item_id": "7", "created_at": "0001-01-01T00:00:00+00:01"}, "created_at"),
        (wire.decode_item, {"item_id": "7", "title": "x" * 1025}, "title"),
        (wire.decode_user, {"user_id": 10**199}, "user_id"),
        (wire.decode_user, {"user_id": "7", "attributes": {"n": 10**400}}, "attributes"),
        (wire.decode_user, {"user_id": "7", "signed_up_at": "9999-12-31T23:59:59-00:01"}, "signed_up_at"),
    ],
)
def test_an_impossible_item_or_user_is_unreadable_and_the_reason_names_the_field(
    decode: Callable[[bytes], Struct], message: dict[str, Any], named: str
) -> None:
    with pytest.raises(Unreadable, match=named):
        decode(json.dumps(message).encode())


def test_times_of_any_offset_are_the_same_instant_in_utc() -> None:
    read = wire.decode_item(b'{"item_id": "7", "created_at": "2025-03-01T12:00:00+05:30"}')
    assert read.created_at is not None
    assert read.created_at.isoformat() == "2025-03-01T06:30:00+00:00"


def test_whole_number_ids_and_unknown_fields_are_accepted() -> None:
    read = wire.decode_event(json.dumps(LIKE | {"user_id": 42, "item_id": 7, "colour": "red"}).encode())
    assert read == wire.decode_event(json.dumps(LIKE).encode())


@given(strategies.TEXT, st.integers(1, 1000))
def test_partitions_are_those_of_the_java_client(key: str, partitions: int) -> None:
    assert wire.partition_of(key, partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def test_every_message_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[1] / "docs" / "event-schema.md").read_text()
    messages = [block.split("```")[0] for block in page.split("```json\n")[1:]]
    assert len(messages) == 7
    readers = [wire.decode_event] * 3 + [wire.decode_user, wire.decode_item, wire.decode_update, wire.decode_letter]
    for read, message in zip(readers, messages, strict=True):
        assert json.loads(message).keys() >= json.loads(wire.encode(read(message.encode()))).keys()  # type: ignore[operator]


def test_only_training_examples_are_kept_for_as_long_as_is_set():
    found = {topic.name: topic for topic in wire.topics(3)}
    assert found.pop("training-examples") == replace(wire.TRAINING_EXAMPLES, days=3)
    assert found == {topic.name: topic for topic in wire.TOPICS if topic is not wire.TRAINING_EXAMPLES}
