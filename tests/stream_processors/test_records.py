"""Single records that once stopped a partition, and others of their kinds: what comes of each, on a real Redis."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from feed.events import utc
from feed.io.redis import FeatureStore, connect
from stream_processors.features import FeaturesAgent
from stream_processors.folder import Folder
from tests.stream_processors.test_set_aside import TOPIC_IDS, Sent

NOW = time.time()
DIGITS = int("1" * 200)


def event(**more: Any) -> dict[str, Any]:
    return {"event": "click", "event_id": "c-1", "user_id": "p1", "item_id": "t1", "occurred_at": utc(NOW).isoformat(), **more}


@pytest.fixture
def agent(redis_url):
    return FeaturesAgent(FeatureStore(connect(redis_url)), Sent(), Folder(1, 300.0, 1800.0), TOPIC_IDS, None, 10.0)


def publish(agent, topic: str, *values: Any) -> None:
    """Each as a batch of its own."""
    for value in values:
        start = agent._store.position(TOPIC_IDS[topic], 0)
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        records = [SimpleNamespace(offset=start, key=b"p1", value=raw, timestamp=int(NOW * 1000))]
        place = SimpleNamespace(topic=topic, partition=0)
        batch = SimpleNamespace(tp=place, start=start, end=start + 1, records=records, again=False, caught_up=False)
        assert agent._try(batch) == start + 1


def goes_on(agent) -> None:
    """An ordinary event behind it counts, also for who starts anew."""
    publish(agent, "interactions", event(event="like", event_id="ok-1", item_id="t9"))
    assert agent._store.users(["p1"])[0]["events"]["like"] == 1
    FeatureStore(agent._store._client).load_items()


@pytest.mark.parametrize(
    "more",
    [
        {"event_id": 12345},
        {"event_id": -(2**63)},
        {"request_id": 77},
        {"user_id": 42},
        {"item_id": 2**63 - 1},
        {"event": "impression", "event_id": 1, "request_id": 2, "items": [{"item_id": 3, "position": 0}]},
        {"context": {"attributes": {"n": 2**53, "x": -1e15, "t": "x" * 256}}},
        {"position": 2**31 - 1, "score": 1e15, "propensity": 1e-12},
        {"event": "view", "dwell_ms": 86_400_000},
        {"extra": {"a": [[[[{"b": None}]]]]}},
        {"extra": "x" * 900_000},
        {"x" * 100_000: 1},
    ],
)
def test_it_counts(agent, more):
    value = event(**more)
    publish(agent, "interactions", value)
    goes_on(agent)
    assert agent._sender.letters() == []
    state = agent._store.users([str(value["user_id"])])[0]
    assert state["events"][value["event"]] == 1


@pytest.mark.parametrize(
    "more",
    [
        *({name: DIGITS} for name in ("event_id", "user_id", "item_id", "request_id")),
        *({name: 2**63} for name in ("event_id", "user_id", "item_id", "request_id")),
        *({name: value} for name in ("event_id", "user_id", "item_id") for value in (True, 1.5, [], {}, "", "x" * 129, None)),
        *({"position": value} for value in (-1, 2**31, 10**19, DIGITS, 0.5, "0")),
        *({"score": value} for value in (2e15, -1e300, 10**400, "1")),
        *({"propensity": value} for value in (0, 1e-13, 1.01, 10**400)),
        *({"event": "view", "dwell_ms": value} for value in (-1, 86_400_001, DIGITS, 1.5)),
        *({"context": {"attributes": {"n": value}}} for value in (2**53 + 1, DIGITS, 1e16, None, [], True)),
        {"context": {"hour": 24}},
        {"context": {"attributes": {str(n): n for n in range(65)}}},
        {"event": "impression", "items": [{"item_id": DIGITS, "position": 0}]},
    ],
)
def test_it_is_a_dead_letter_with_its_bytes(agent, more):
    value = json.dumps(event(**more)).encode()
    publish(agent, "interactions", value)
    goes_on(agent)
    (letter,) = agent._sender.letters()
    assert letter.value == value
    assert letter.reason.startswith("not a valid event")


@pytest.mark.parametrize("topic", ["interactions", "items", "users"])
@pytest.mark.parametrize(
    "nested", [b"[" * 1500 + b"]" * 1500, b'{"a":' * 5000 + b"0" + b"}" * 5000, b"[" * 500_000, b'[{"":' * 1200]
)
def test_what_is_nested_too_deep_is_a_dead_letter(agent, topic, nested):
    message = {"interactions": event(), "items": {"item_id": "t1"}, "users": {"user_id": "p1"}}[topic]
    publish(agent, topic, json.dumps(message)[:-1].encode() + b', "extra": ' + nested + b"}")
    goes_on(agent)
    assert len(agent._sender.letters()) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"item_id": DIGITS},
        {"item_id": "t1", "creator_id": DIGITS},
        {"item_id": "t1", "attributes": {"n": DIGITS}},
        {"item_id": "t1", "attributes": {"n": 1e300}},
        {"item_id": "t1", "tags": [1]},
        {"item_id": "t1", "created_at": "9999-12-31T23:59:59-12:00"},
    ],
)
def test_an_item_beyond_a_bound_is_a_dead_letter_and_leaves_nothing_in_redis(agent, item):
    publish(agent, "items", item)
    goes_on(agent)
    assert len(agent._sender.letters()) == 1
    assert agent._store._client.zcard("items:changed") == 0


@pytest.mark.parametrize("item", [{"item_id": 7, "creator_id": 8}, {"item_id": 7, "creator_id": -(2**63)}])
def test_an_item_whose_ids_are_numbers_is_known_by_text(agent, item):
    publish(agent, "items", item)
    publish(agent, "interactions", event(item_id=7))
    goes_on(agent)
    assert agent._store.users(["p1"])[0]["creators"].keys() == {str(item["creator_id"])}
