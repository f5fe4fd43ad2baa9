"""The features agent as a process, on a real broker and a real Redis."""

import json
import random
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from feed import wire
from feed.attribution import Attribution, Marks
from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, Impression, Like, Shown, View, new_event_id, utc
from feed.examples import Example, decode_record, is_new
from feed.features import BatchState, FrozenItems
from feed.features.near import LONGEST, taken
from feed.io import kafka
from feed.io.publish import wait_for_features
from feed.io.redis import FeatureStore, connect
from tests.integration.service import service, wait_until

ITEMS = [Item(item_id=i, category=f"c{i % 9}", creator_id=f"k{i % 30}", tags=(f"t{i % 13}",), title=str(i)) for i in range(400)]
USERS = [User(user_id=u, platform=("ios", "web")[u % 2], country="DE") for u in range(1000)]


def features_agent(broker: str, redis_url: str, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {"FEED_KAFKA": broker, "FEED_REDIS": redis_url}
    return service("stream_processors/features.py", log, settings)


def events(n: int, seed: int):
    draw = random.Random(seed)
    for k in range(n):
        at = utc(1.7e9 + 5 * k)
        common = {"event_id": new_event_id(at, draw), "user_id": draw.randrange(len(USERS)), "occurred_at": at}
        name = draw.choice(["impression", *ENGAGEMENTS])
        if name == "impression":
            yield Impression(**common, items=tuple(Shown(item_id=draw.randrange(400), position=p) for p in range(5)))
        elif name == "view":
            yield View(**common, item_id=draw.randrange(400), dwell_ms=draw.randrange(60_000))
        else:
            yield ENGAGEMENTS[name](**common, item_id=draw.randrange(400))


def last_words() -> list[Impression]:
    """One impression on each partition, an hour after everything else: it ends all windows before it."""
    at = utc(1.7e9 + 5 * 20_000 + 3600)
    of = {wire.partition_of(user.user_id, 8): user.user_id for user in USERS}
    shown = (Shown(item_id="0", position=0),)
    return [Impression(event_id=f"last-{p}", user_id=of[p], occurred_at=at, items=shown) for p in range(8)]


def bare(state):
    return {name: part for name, part in json.loads(json.dumps(state)).items() if name not in ("features", "position")}


def updates(broker: str) -> Iterator[wire.FeatureUpdate]:
    """What was told of changed users, oldest first in each partition; all of one user's is in one partition."""
    for record in kafka.read_topic(broker, wire.FEATURE_UPDATES):
        yield wire.decode_update(record.value)


def recount(log) -> dict[tuple[int, str], Example]:
    """The examples of this log, by partition and id, made in one go; what is still open at its end is not among them."""
    state, windows, offsets = BatchState(ITEMS, USERS), {}, defaultdict(count)
    for event in log:
        p = wire.partition_of(event.user_id, 8)
        of = windows.setdefault(p, Attribution(1800.0, p, Marks(), {}, FrozenItems(state.items, 1.7e9)))
        of.add(event, state.user(event.user_id), next(offsets[p]))
        state.apply(event)
    return {(p, example.example_id): example for p, of in windows.items() for example in of.close()}


def taken_after(log) -> dict[str, dict[str, int]]:
    """What each item was taken after, in one go, and how often it was taken."""
    state, near = BatchState(ITEMS, USERS), {item.item_id: Counter[str]() for item in ITEMS}
    for event in log:
        if (of := taken(state.user(event.user_id), event)) is not None:
            near[of.item_id].update(of.after, taken=1)
        state.apply(event)
    assert max(map(len, near.values())) < LONGEST  # no row gives anything up, so it does not matter who came first
    return near


def examples(broker: str) -> dict[tuple[int, str], Example]:
    """What readers of the log of examples keep; what they drop must be a copy."""
    found: dict[tuple[int, int], Example] = {}
    last: dict[int, int] = {}
    for record in kafka.read_topic(broker, wire.TRAINING_EXAMPLES):
        example = decode_record(record.value)
        place = example.source, example.sequence
        assert is_new(example, last) == (place not in found)
        assert found.setdefault(place, example) == example
    return {(example.source, example.example_id): example for example in found.values()}


def essence(example: Example) -> tuple[object, ...]:
    """All but what is read of items, which depends on how far other partitions are."""
    labels = [(row.item.item_id, row.labels, row.dwell_ms) for row in example.rows[: 1 if example.organic else None]]
    return example.at, example.organic, msgspec.structs.replace(example.user, near=()), labels


def test_after_a_burst_of_20000_events_and_a_kill_every_user_and_item_equals_a_recount(own_broker, redis_url, tmp_path):
    topic_ids = kafka.ensure_topics(own_broker, 8, wire.TOPICS)
    store = FeatureStore(connect(redis_url))
    log = tmp_path / "agent.log"
    expected, everything = BatchState(ITEMS, USERS), [*events(20_000, seed=1), *last_words()]
    with kafka.Sender(own_broker) as sender:
        with features_agent(own_broker, redis_url, log) as agent:
            for item in ITEMS:
                sender.send(wire.ITEMS, item.item_id, item)
            for user in USERS:
                sender.send(wire.USERS, user.user_id, user)
            sender.flush()
            wait_for_features(store, topic_ids, sender.positions())
            for event in everything:
                expected.apply(event)
                sender.send(wire.INTERACTIONS, event.user_id, event)
            sender.flush()
            wait_until(lambda: store.now() > 0, "the first event's arrival")
            agent.kill()  # wherever it is in the burst
            agent.wait()
        with features_agent(own_broker, redis_url, log):
            wait_for_features(store, topic_ids, sender.positions())
            owned = [(topic_ids[topic], p) for topic in ("interactions", "users") for p in range(8)]
            wait_until(lambda: not any(store.outbox(*of) for of in owned), "the sending of what the killed agent had left")
            recounted = recount(everything)
            counted = wait_until(lambda: (found := examples(own_broker)).keys() == recounted.keys() and found, "all examples")

    assert {key: essence(e) for key, e in counted.items()} == {key: essence(e) for key, e in recounted.items()}
    ids = sorted(expected.users)
    told = {user: update.position for update in updates(own_broker) for user in update.users}
    assert [msgspec.to_builtins(told[i]) for i in ids] == [state["position"] for state in store.users(ids)]
    assert sorted(store.all_user_ids()) == ids
    assert [bare(state) for state in store.users(ids)] == [bare(expected.users[i]) for i in ids]
    assert store.now() == expected.now
    table = store.load_items()
    for item in ITEMS:
        ours, theirs = table.row(item.item_id), expected.items.row(item.item_id)
        np.testing.assert_allclose(table.sums(expected.now)[ours], expected.items.sums(expected.now)[theirs], rtol=1e-9)
    client = connect(redis_url)
    near = {
        item.item_id: {name.decode(): int(n) for name, n in client.hgetall(f"near:{item.item_id}").items()}
        | {"taken": store.counts(item.item_id).get("taken", 0)}
        for item in ITEMS
    }
    assert near == taken_after(everything)


def test_unusable_records_become_dead_letters_with_bytes_and_reason_and_the_stream_goes_on(own_broker, redis_url, tmp_path):
    topic_ids = kafka.ensure_topics(own_broker, 8, wire.TOPICS)
    store = FeatureStore(connect(redis_url))
    at = utc(1.7e9)
    good = Like(event_id="good", user_id="1", item_id="unknown-item", occurred_at=at)
    late = wire.encode(Like(event_id="x", user_id="1", item_id="2", occurred_at=utc(time.time() + 9_000)))
    right = wire.partition_of("1", 8)
    bad = {
        "JSON is malformed": (right, b"\xff\x00 not json"),
        "dwell_ms": (
            right,
            wire.encode(View(event_id="x", user_id="1", item_id="2", occurred_at=at)).replace(b"}", b',"dwell_ms":-5}', 1),
        ),
        "in the future": (right, late),
        "belongs to partition": ((right + 1) % 8, wire.encode(good)),
        "required field": (right, b'{"event":"like"}'),
        "got `array`": (right, b'["' + b"x" * 1_000_000 + b'"]'),  # as large as a record may be: larger still as a letter
    }
    with kafka.Sender(own_broker) as sender, features_agent(own_broker, redis_url, tmp_path / "agent.log"):
        for partition, value in bad.values():
            sender.send_raw(wire.INTERACTIONS.name, partition, b"1", value)
        sender.send(wire.INTERACTIONS, "1", good)
        sender.flush()
        wait_for_features(store, topic_ids, sender.positions())
        letters = wait_until(
            lambda: (
                len(found := [wire.decode_letter(r.value) for r in kafka.read_topic(own_broker, wire.DEAD_LETTERS)]) >= len(bad)
                and found
            ),
            "the arrival of the dead letters",
        )
    state = store.users(["1"])[0]
    assert state["events"] == {"like": 1}
    assert state["recent"] == ["unknown-item"]  # an item that no catalogue describes counts for its user
    assert len(letters) == len(bad)
    for part, (partition, value) in bad.items():
        (letter,) = [letter for letter in letters if part in letter.reason]
        assert (letter.value, letter.key, letter.topic) == (value, b"1", "interactions")
        assert letter.position.partition == partition
        assert letter.position.topic_id == topic_ids["interactions"]


def test_a_partition_that_is_rewound_while_nothing_else_comes_is_folded_again(own_broker, redis_url, tmp_path):
    topic_ids = kafka.ensure_topics(own_broker, 8, wire.TOPICS)
    client = connect(redis_url)
    store = FeatureStore(client)
    likes = [Like(event_id=str(k), user_id="1", item_id=str(k), occurred_at=utc(1.7e9 + k)) for k in range(6)]
    with kafka.Sender(own_broker) as sender, features_agent(own_broker, redis_url, tmp_path / "agent.log"):
        for like in likes[:5]:
            sender.send(wire.INTERACTIONS, "1", like)
        sender.flush()
        wait_for_features(store, topic_ids, sender.positions())
        client.flushall()  # Redis comes back without what it had
        sender.send(wire.INTERACTIONS, "1", likes[5])  # and this is the last that anybody says
        sender.flush()
        wait_until(lambda: store.position(topic_ids["interactions"], wire.partition_of("1", 8)) == 6, "the second folding")
    assert store.users(["1"])[0]["recent"] == [str(k) for k in range(6)]
