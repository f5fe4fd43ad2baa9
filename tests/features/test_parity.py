"""One log through batch and stream: the same states, the same numbers."""

import json
import random
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed import kinds, wire
from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, Context, Engagement, Impression, Shown, View, adopt, new_event_id, utc
from feed.features import SEEN, BatchState, FeatureSpace, ItemTable, counts, new_user, update_user
from feed.features.user import numeric_values
from feed.io.redis import FeatureStore, connect
from feed.wire import Position
from stream_processors.folder import Folder

ITEMS = [
    Item(item_id=i, category=f"c{i % 3}", creator_id=f"k{i % 4}", tags=(f"t{i % 5}",), created_at=utc(1.6e9 + i), title="x")
    for i in range(12)
]
USERS = [User(user_id=u, platform="web" if u % 2 else "ios", attributes={"age": 20.5 + u}) for u in range(5)]


@pytest.fixture(params=["", "purchase=positive,weight=3,consumes;skip_30s=negative;queue=neutral"], ids=["six", "nine"])
def own_kinds(request):
    """The kinds of all, and with some of one's own."""
    adopt(kinds.parse(request.param))


def some_events(seed: int, n: int, start: float = 1.7e9, step: float = 2000.0):
    draw = random.Random(seed)
    events, at = [], start
    for k in range(n):
        at += draw.expovariate(1 / step)
        common = {
            "event_id": new_event_id(utc(at), draw),
            "user_id": draw.randrange(6),
            "occurred_at": utc(at - draw.choice([0, 0, 4000])),
        }
        common["context"] = Context(device=draw.choice([None, "phone", "tv"]), hour=draw.choice([None, 3, 20]))
        name = draw.choice(["impression", *ENGAGEMENTS])
        if name == "impression":
            shown = tuple(Shown(item_id=draw.randrange(14), position=p) for p in range(3))
            events.append(Impression(**common, items=shown))
        elif name == "view":
            events.append(View(**common, item_id=draw.randrange(14), dwell_ms=draw.choice([None, k])))
        else:
            events.append(ENGAGEMENTS[name](**common, item_id=draw.randrange(14)))
    return events


def stream_into(
    store: FeatureStore,
    events,
    batch: int,
    partitions: int = 2,
    folder: Folder | None = None,
    items=ITEMS,
    applied: Callable[[], object] = lambda: None,
) -> None:
    """What the features agent does, without a broker: items, users, then the events in batches of `batch`; tells each."""
    folder = folder or Folder(partitions, 300.0, 1800.0)

    def apply(topic, topic_id, partition, records, start):
        position = store.position(topic_id, partition)
        assert position == start
        end = Position(topic_id, partition, records[-1].offset + 1)
        change = folder.fold(topic, records, end, store, store.load_items())
        other = {"I": "U", "U": "I", "C": "C"}[topic_id]
        expected = position if topic is wire.ITEMS else store.position(other, partition)
        assert store.apply(change, position, other, expected).done
        applied()

    def records_of(messages, key):
        by_partition: dict[int, list] = {}
        for message in messages:
            at = wire.partition_of(key(message), partitions)
            of = by_partition.setdefault(at, [])
            of.append(SimpleNamespace(offset=len(of), key=key(message).encode(), value=wire.encode(message)))
        return by_partition

    for partition, records in records_of(items, lambda i: i.item_id).items():
        apply(wire.ITEMS, "C", partition, records, 0)
    for partition, records in records_of(USERS, lambda u: u.user_id).items():
        apply(wire.USERS, "U", partition, records, 0)
    for partition, records in records_of(events, lambda e: e.user_id).items():
        for i in range(0, len(records), batch):
            apply(wire.INTERACTIONS, "I", partition, records[i : i + batch], records[i].offset)


def bare(state):
    return {name: part for name, part in json.loads(json.dumps(state)).items() if name not in ("features", "position")}


@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_stream_and_batch_agree_on_every_user_and_item(redis_url, batch):
    events = some_events(seed=batch, n=300)
    offline = BatchState(ITEMS, USERS)
    for event in events:
        offline.apply(event)
    store = FeatureStore(connect(redis_url))
    stream_into(store, events, batch)

    ids = sorted(offline.users)
    assert sorted(store.all_user_ids()) == ids
    streamed = dict(zip(ids, store.users(ids), strict=True))
    for user_id in ids:
        assert bare(streamed[user_id]) == bare(offline.users[user_id])
    assert store.now() == offline.now

    table = store.load_items()
    known = [table.ids[row] for row in np.flatnonzero(table.known)]
    assert sorted(known) == sorted(i.item_id for i in ITEMS)  # what no catalogue describes is not rankable
    for item in ITEMS:
        there, here = table.row(item.item_id), offline.items.row(item.item_id)
        assert table.item(there) == offline.items.item(here)
        np.testing.assert_allclose(table.sums(offline.now)[there], offline.items.sums(offline.now)[here], rtol=1e-9, atol=1e-12)


def both_ways(redis_url, items, events, batch):
    """The log folded offline and streamed, and a table that was refreshed after each batch."""
    offline = BatchState(items, USERS)
    for event in events:
        offline.apply(event)
    store, reader = FeatureStore(connect(redis_url)), FeatureStore(connect(redis_url))
    lasting = reader.load_items()
    stream_into(store, events, batch, items=items, applied=lambda: reader.refresh_items(lasting))
    return offline, store, lasting


@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_stream_and_batch_agree_on_age_and_counts_of_an_item_whether_or_not_its_creation_is_known(redis_url, batch):
    """Events come in any order, so the first to come is seldom the earliest."""
    items = [msgspec.structs.replace(item, created_at=item.created_at if k % 3 else None) for k, item in enumerate(ITEMS)]
    items += [Item(item_id="untouched"), Item(item_id="dated", created_at=utc(1.65e9))]
    known = {item.item_id for item in items}
    events = [e for e in some_events(seed=batch, n=300) if known.issuperset(counts.shown_or_engaged(e))]
    random.Random(batch).shuffle(events)
    offline, store, lasting = both_ways(redis_url, items, events, batch)

    ids, now = [item.item_id for item in items], offline.now + 5000
    expected = np.array([offline.items.row(item_id) for item_id in ids])
    for table in (store.load_items(), lasting):
        rows = np.array([table.row(item_id) for item_id in ids])
        np.testing.assert_array_equal(table.age(now, rows), offline.items.age(now, expected))
        np.testing.assert_allclose(table.prior(now)[rows], offline.items.prior(now)[expected], rtol=1e-6)
        np.testing.assert_allclose(table.numeric(now, rows), offline.items.numeric(now, expected), rtol=1e-9, atol=1e-12)
    for item, age in zip(items, offline.items.age(now, expected).tolist(), strict=True):
        at = [event.at // 1 for event in events if item.item_id in counts.shown_or_engaged(event)]
        begun = min(at, default=None) if item.created is None else item.created
        assert age == (-1.0 if begun is None else (now - begun) / 3600)


# what a hash's fields, scripts and keys might take for something else
NAMES = ("a=b", "x;y=3", ":c", "'q'", '"d"', "日本", "first", "a b", "%d", "=1;", "taken", "content", "3", "{3}\n")


def said(table, state, now):
    """What the state says at `now`, by item."""
    nearby = table.nearby(state, now)
    return dict(zip((table.ids[row] for row in nearby.rows), nearby.said.tolist(), strict=True))


@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_stream_and_batch_agree_on_what_goes_together_for_every_user(redis_url, batch):
    items = [Item(item_id=name) for name in NAMES[:12]]  # two are never described
    events = [
        msgspec.structs.replace(event, item_id=NAMES[int(event.item_id)])
        for event in some_events(seed=batch, n=300)
        if isinstance(event, Engagement)
    ]
    offline, store, lasting = both_ways(redis_url, items, events, batch)

    loaded = store.load_items()
    for user_id, state in sorted(offline.users.items()):
        expected = said(offline.items, state, offline.now)
        (streamed,) = store.users([user_id])
        for table in (loaded, lasting):
            found = said(table, streamed, offline.now)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                assert found[name] == pytest.approx(values, rel=1e-5)
    assert all(offline.items.taken(name) for name in NAMES)
    assert [loaded.taken(item.item_id) for item in items] == [offline.items.taken(item.item_id) for item in items]


@pytest.mark.usefixtures("own_kinds")
def test_the_model_reads_the_same_inputs_from_stream_and_batch(redis_url):
    events = some_events(seed=5, n=400)
    known = {item.item_id for item in ITEMS}
    events = [e for e in events if all(i in known for i in counts.shown_or_engaged(e))]
    offline = BatchState(ITEMS, USERS)
    for event in events:
        offline.apply(event)
    store = FeatureStore(connect(redis_url))
    stream_into(store, events, 50)
    table = store.load_items()
    ids = sorted(offline.users)
    space = FeatureSpace.fit([offline.users[i] for i in ids], offline.items, offline.now, {"1": 9})
    assert FeatureSpace.from_json(space.to_json()).fingerprint == space.fingerprint

    rows = np.array([table.row(i) for i in offline.items.ids])
    for a, b in (
        (space.user_inputs(store.users(ids), offline.now), space.user_inputs([offline.users[i] for i in ids], offline.now)),
        (space.item_inputs(table, rows, offline.now), space.item_inputs(offline.items, None, offline.now)),
    ):
        np.testing.assert_allclose(a.numeric, b.numeric, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(a.categorical, b.categorical)
        for name in a.bag_ids:
            np.testing.assert_array_equal(a.bag_ids[name], b.bag_ids[name])
            np.testing.assert_allclose(a.bag_weights[name], b.bag_weights[name], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_item_sums_and_ages_do_not_depend_on_the_order_of_events(seed, n):
    events = some_events(seed, n)
    table, shuffled = ItemTable(), ItemTable()
    now = max(event.at for event in events) + 1
    for event in events:
        table.add(event)
    for event in random.Random(seed).sample(events, n):
        shuffled.add(event)
    for item_id in table.ids:
        np.testing.assert_allclose(
            table.sums(now)[table.row(item_id)], shuffled.sums(now)[shuffled.row(item_id)], rtol=1e-9, atol=1e-12
        )
    here, there = (np.array([of.row(item_id) for item_id in table.ids]) for of in (table, shuffled))
    assert table.age(now, here).tolist() == shuffled.age(now, there).tolist()
    np.testing.assert_allclose(table.prior(now)[here], shuffled.prior(now)[there], rtol=1e-6)


def test_seen_is_exact_up_to_its_bound_and_forgets_the_oldest():
    state = new_user("1")
    for k in range(SEEN + 5):
        event = ENGAGEMENTS["click"](event_id=str(k), user_id=1, item_id=k, occurred_at=utc(1.7e9 + k))
        update_user(state, event, {})
        update_user(state, event, {})
    assert state["seen"] == [str(k) for k in range(5, SEEN + 5)]
    assert numeric_values(state, 1.7e9)[10] == SEEN


def test_values_known_by_hand():
    state = new_user("1")
    items = {"7": Item(item_id=7, category="jazz")}
    at = 1.7e9
    for k, (name, more) in enumerate([("view", {"dwell_ms": 3000}), ("view", {"dwell_ms": 1000}), ("like", {}), ("hide", {})]):
        update_user(state, ENGAGEMENTS[name](event_id=str(k), user_id=1, item_id=7, occurred_at=utc(at), **more), items)
    values = dict(
        zip(
            ("total", "requests", "view", "click", "like", "share", "comment", "hide", "dwell"),
            numeric_values(state, at),
            strict=False,
        )
    )
    assert values == {
        "total": 4,
        "requests": 0,
        "view": 0.5,
        "click": 0,
        "like": 0.25,
        "share": 0,
        "comment": 0,
        "hide": 0.25,
        "dwell": 2.0,
    }
    assert state["categories"] == {"jazz": [pytest.approx(0.1 + 0.1 + 2 - 3), at]}
    assert state["recent"] == ["7"]
    assert state["seen"] == ["7"]
