"""Whatever a fold, a ranking, a step or a detector raises: the guilty one is set aside, everything else counts."""

import json
from collections import Counter
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from feed import wire
from feed.events import Like, utc
from feed.features import ItemTable
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect
from feed.learning import learner as learning
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.ranking.standard import Ranker
from feed.registry import Registry
from feed.wire import Position
from offline.gatekeeper import Gatekeeper
from stream_processors import folder as folding
from stream_processors.features import FeaturesAgent
from stream_processors.feeds import FeedsAgent
from stream_processors.folder import Folder
from stream_processors.monitor import MonitorAgent
from tests.learning import taught
from tests.small import NOW, fill, promote, snapshot, world

TOPIC_IDS = {"interactions": "I", "users": "U", "items": "C"}


class Sent:
    """A sender that keeps what it is given."""

    def __init__(self):
        self.messages = []

    def send_raw(self, topic, partition, key, value):
        self.messages.append((topic, key, value))

    def flush(self):
        pass

    def letters(self):
        return [wire.decode_letter(value) for topic, _, value in self.messages if topic == wire.DEAD_LETTERS.name]


def like(k: int, user: str = "1", **more) -> bytes:
    return wire.encode(Like(event_id=f"e{k}", user_id=user, item_id=f"i{k}", occurred_at=utc(1.7e9 + k), **more))


def batch(values, topic="interactions", start=0):
    records = [SimpleNamespace(offset=start + k, key=b"1", value=value, timestamp=0) for k, value in enumerate(values)]
    return SimpleNamespace(
        tp=SimpleNamespace(topic=topic, partition=0), start=start, end=start + len(values), records=records,
        again=False, caught_up=False,
    )  # fmt: skip


@pytest.fixture
def agent(redis_url):
    return FeaturesAgent(FeatureStore(connect(redis_url)), Sent(), Folder(1, 300.0, 1800.0), TOPIC_IDS, None, 10.0)


def state_of(agent, user="1"):
    return agent._store.users([user])[0]


@pytest.mark.parametrize("guilty", [[0], [6], [12], [3, 4], [0, 5, 12], list(range(13))])
def test_a_record_whose_fold_fails_is_a_dead_letter_with_its_bytes_and_the_reason_and_all_others_count_once(
    agent, guilty, monkeypatch
):
    update = folding.update_user

    def failing(state, event, items):
        if int(event.event_id[1:]) in guilty:
            raise ZeroDivisionError("nobody thought of this")
        update(state, event, items)

    monkeypatch.setattr(folding, "update_user", failing)
    values = [like(k) for k in range(13)]
    with capture_logs() as said:
        assert agent._try(batch(values)) == 13
    letters = agent._sender.letters()
    assert [letter.value for letter in letters] == [values[k] for k in guilty]
    assert [letter.position for letter in letters] == [Position("I", 0, k) for k in guilty]
    assert all("ZeroDivisionError: nobody thought of this at test_set_aside.py:" in letter.reason for letter in letters)
    loud = [line for line in said if line["log_level"] == "error"]
    assert [line["offset"] for line in loud] == guilty
    good = [k for k in range(13) if k not in guilty]
    state = state_of(agent)
    assert (state and state["recent"]) == ([f"i{k}" for k in good] or None)
    assert all(agent._store.counts(f"i{k}")["like"] == 1 for k in good)
    assert agent._store.position("I", 0) == 13


def test_what_fails_only_together_with_what_was_before_it_costs_one_record(agent, monkeypatch):
    update = folding.update_user

    def failing(state, event, items):
        if len(state["recent"]) == 3 and event.item_id != "i9":
            raise OverflowError("a fourth is too much")
        update(state, event, items)

    monkeypatch.setattr(folding, "update_user", failing)
    assert agent._try(batch([*map(like, range(4)), like(9)])) == 5
    assert [letter.position.offset for letter in agent._sender.letters()] == [3]
    assert state_of(agent)["recent"] == ["i0", "i1", "i2", "i9"]


@pytest.mark.parametrize("topic", ["items", "users"])
def test_a_catalogue_record_that_cannot_be_folded_is_set_aside_too(agent, topic, monkeypatch):
    name = {"items": "item_id", "users": "user_id"}[topic]
    values = [json.dumps({name: str(k)}).encode() for k in range(5)]
    decode = getattr(wire, f"decode_{topic[:-1]}")

    def failing(value):
        if value == values[2]:
            raise UnicodeError("of all things")
        return decode(value)

    monkeypatch.setattr(wire, f"decode_{topic[:-1]}", failing)
    assert agent._try(batch(values, topic)) == 5
    assert [letter.value for letter in agent._sender.letters()] == [values[2]]
    found = agent._store.all_user_ids() if topic == "users" else agent._store.contents([str(k) for k in range(5)])
    assert set(found) == {"0", "1", "3", "4"}


def test_a_window_that_makes_no_example_is_told_once_and_keeps_no_event_from_counting(agent, redis_url):
    agent._try(batch([like(0, request_id=None)]))
    client = connect(redis_url)
    windows = json.loads(client.hget("open:I:0", "1"))
    windows["windows"][0]["body"] = {"source": "no example"}
    client.hset("open:I:0", "1", json.dumps(windows))
    later = [like(k) for k in (5000, 5001)]
    assert agent._try(batch(later, start=1)) == 3
    (letter,) = agent._sender.letters()
    assert "no example of request e0 of user 1: ValidationError" in letter.reason
    assert state_of(agent)["recent"] == ["i0", "i5000", "i5001"]


def test_an_event_that_comes_again_counts_once_wherever_batches_end(agent):
    assert agent._try(batch([like(0), like(0), like(1), like(0)])) == 4
    assert agent._try(batch([like(1), like(2)], start=4)) == 6
    state = state_of(agent)
    assert state["events"] == {"like": 3}
    assert agent._store.counts("i0") | {"first": 0} == agent._store.counts("i1") | {"first": 0}  # but for when
    assert [agent._store.counts(f"i{k}")["like"] for k in range(3)] == [1, 1, 1]


def test_an_impression_that_comes_again_counts_once(agent):
    shown = {"event": "impression", "event_id": "x", "user_id": "1", "occurred_at": "2025-01-01T00:00:00Z",
             "items": [{"item_id": "a", "position": 0}]}  # fmt: skip
    assert agent._try(batch([json.dumps(shown).encode()] * 3)) == 3
    assert agent._store.counts("a")["impression"] == 1
    assert state_of(agent)["events"] == {"impression": 1}


def test_an_event_of_another_user_with_the_same_id_is_another_event(agent):
    values = [like(0), like(0, user="2")]
    records = batch(values)
    assert agent._try(records) == 2
    assert agent._store.counts("i0")["like"] == 2


@pytest.mark.parametrize("days", [1, 2, 45, 4000])
def test_an_engagement_of_days_ago_counts_in_features_and_makes_no_example_and_every_number_stays_sane(agent, days):
    at = 1.7e9
    now = Like(event_id="now", user_id="1", item_id="i", occurred_at=utc(at))
    late = Like(event_id="late", user_id="1", item_id="i2", occurred_at=utc(at - 86_400 * days))
    item = json.dumps({"item_id": "i2", "created_at": utc(at).isoformat()}).encode()  # made after the late event
    agent._try(batch([item], "items"))
    agent._try(batch([wire.encode(now)]))
    agent._refresh_due = -1.0
    agent._try(batch([wire.encode(late)], start=1))
    agent._try(batch([wire.encode(Like(event_id="end", user_id="1", item_id="i", occurred_at=utc(at + 9000)))], start=2))
    assert state_of(agent)["events"] == {"like": 3}
    examples = [msgspec.json.decode(v) for topic, _, v in agent._sender.messages if topic == wire.TRAINING_EXAMPLES.name]
    assert [e["example_id"] for e in examples] == ["now"]
    assert agent._store.marks("I", 0).late == 1
    for table in (agent._table, agent._store.load_items()):
        for moment in (at - 86_400 * days, 0.0, at, at + 1e9):
            numeric = table.numeric(moment)
            assert np.isfinite(numeric).all()
            assert ((numeric >= 0) | (numeric == -1)).all()
            assert numeric.max() < 1e7


def test_a_clock_behind_the_counts_makes_no_number_that_is_not_finite(agent):
    agent._try(batch([b'{"item_id": "i0"}'], "items"))
    agent._try(batch([like(0)]))
    agent._store._client.hdel("positions", "clock")
    table = FeatureStore(agent._store._client).load_items()
    assert table.sums(0.0)[table.row("i0")].max() <= 2.0


def test_a_user_who_cannot_be_ranked_keeps_the_feed_that_is_there_and_everybody_else_has_a_new_one(redis_url, tmp_path):
    people = world(users=9, items=60)
    fill(redis_url, people)
    promote(tmp_path, snapshot(people))
    features = FeatureStore(connect(redis_url))
    live = Live(Registry(tmp_path), Policy(), features.refresh_items, features.now)
    live.refresh()
    agent = FeedsAgent(live, features, FeedStore(connect(redis_url)))
    features._client.set("user:4", json.dumps(people.users["4"] | {"categories": {"c1": "much"}}))
    with capture_logs() as said:
        assert agent.rank([str(u) for u in range(9)]) == 8
    assert [(line["user"], line["set_aside"]) for line in said if line["log_level"] == "error"] == [("4", 1)]


def test_an_item_whose_vector_is_not_finite_is_not_ranked_and_all_others_are(redis_url, tmp_path, monkeypatch):
    people = world(users=3, items=60)
    trained = snapshot(people)
    vectors = trained.model.item_vectors

    def one_broken(inputs):
        found = vectors(inputs)
        found[7] = float("nan")
        return found

    monkeypatch.setattr(trained.model, "item_vectors", one_broken)
    ranker = Ranker(trained, "v1", 1, people.items, Policy(feed_size=60, popular_share=0, random_share=0), NOW)
    (feed,) = ranker.rank([people.users["0"]], NOW)
    ids = {item.item_id for item in feed.items}
    assert people.items.ids[7] not in ids
    assert len(ids) >= 50


def test_an_example_that_the_learner_cannot_read_is_set_aside_and_the_others_of_its_step_are_learned(monkeypatch):
    prepare = learning.prepare

    def failing(example, *rest):
        if example.example_id == "e3":
            raise KeyError("what is this")
        return prepare(example, *rest)

    monkeypatch.setattr(learning, "prepare", failing)
    learner = taught.learner()
    with capture_logs() as said:
        steps = [step for n in range(learning.STEP) if (step := learner.take(n, taught.example(n)))]
    assert [step.refused for step in steps] == [None]
    assert learner.set_aside.count == 1
    assert [line["example"] for line in said if line["log_level"] == "error"] == ["e3"]
    assert "e3" not in {example.example_id for example in learner.reservoir.examples}
    assert all(bool(w.isfinite().all()) for w in learner.weights.live.parameters())


def test_a_step_that_fails_is_refused_and_learning_goes_on(monkeypatch):
    loss, calls = learning.loss, Counter()

    def failing(*of):
        calls["n"] += 1
        if calls["n"] == 1:
            raise RuntimeError("shapes do not match")
        return loss(*of)

    monkeypatch.setattr(learning, "loss", failing)
    learner = taught.learner()
    steps = [step for n in range(2 * learning.STEP) if (step := learner.take(n, taught.example(n)))]
    assert "RuntimeError: shapes do not match" in (steps[0].refused or "")
    assert steps[1].refused is None
    assert learner.progress.guard.held is None


def test_an_example_on_which_a_comparison_or_the_detectors_fail_is_set_aside_and_counted(tmp_path):
    gatekeeper = Gatekeeper(Registry(tmp_path), "T", 1000, lambda command: None)
    examples = [taught.example(n) for n in range(8)]

    class Comparison:
        requests, seen = 0, []

        def see(self, some, catalogue):
            if len(some) > 1 and some[0] is examples[0]:
                raise ValueError("in the scores of all")
            for example in some:
                self.requests += 1
                if example is examples[5]:
                    raise ValueError("of this one")
                self.seen.append(example)

    comparison = Comparison()
    gatekeeper._compare(comparison, examples)
    assert comparison.seen == [e for e in examples if e is not examples[5]]
    assert gatekeeper._set_aside.count == 1

    monitor = MonitorAgent("nowhere", Sent())
    monitor._monitor.see = lambda example: 1 / 0
    records = [SimpleNamespace(offset=n, value=wire.encode(example)) for n, example in enumerate(examples)]
    monitor._look(records)
    assert (monitor._set_aside.count, monitor._next) == (8, 8)


def test_an_empty_table_has_no_number_that_is_not_finite():
    assert ItemTable().numeric(1.7e9).shape[0] == 0


def test_what_is_folded_comes_again_or_is_set_aside_is_counted(agent, monkeypatch):
    update = folding.update_user

    def failing(state, event, items):
        if event.event_id == "e1":
            raise ArithmeticError("no")
        update(state, event, items)

    monkeypatch.setattr(folding, "update_user", failing)
    agent._try(batch([like(0), like(0), like(1), b"junk", like(2)]))
    assert agent._store.tallies() == {
        "features.events": 2,
        "features.repeats": 1,
        "features.dead_letters": 2,
        "features.set_aside": 1,
    }
