"""The state in Redis: compare-and-set, bounds, outbox, claims."""

import random

import msgspec
import pytest
from structlog.testing import capture_logs

from feed import wire
from feed.attribution import Marks, Pending, Window
from feed.catalogue import Item
from feed.errors import BadSetting, Lost, OtherCatalogue, OtherLog
from feed.events import utc
from feed.features import counts, new_user
from feed.features.near import LONGEST, Taken
from feed.io import redis as module
from feed.io.recovery import Recovery
from feed.io.redis import (
    TRANSIENT,
    TRIM_FIELDS,
    UNCATALOGUED_SECONDS,
    Change,
    FeatureStore,
    FoldStore,
    Message,
    claim_catalogue,
    claim_topics,
    connect,
    read_catalogue,
)  # fmt: skip
from feed.wire import Position


@pytest.fixture
def client(redis_url):
    return connect(redis_url)


def change(offset: int, user: str = "1", **more) -> Change:
    state = new_user(user)
    state["last"] = float(offset)
    return Change(Position("I", 0, offset), users={user: state}, **more)


def test_a_change_is_applied_only_to_the_position_it_was_computed_from(client):
    store = FeatureStore(client)
    assert store.apply(change(10), 0, "U", 0).done
    late = store.apply(change(20, counts={"7": {"click": 1}}), 0, "U", 0)
    assert (late.done, late.own, late.other) == (False, 10, 0)
    assert store.users(["1"])[0]["last"] == 10.0
    assert store.counts("7") == {}


def test_a_change_is_refused_when_the_other_topic_moved_the_same_users(client):
    store = FeatureStore(client)
    profile = Change(Position("U", 0, 3), users={"1": new_user("1")})
    assert store.apply(profile, 0, "I", 0).done
    refused = store.apply(change(10), 0, "U", 0)
    assert (refused.done, refused.own, refused.other) == (False, 0, 3)
    assert store.apply(change(10), 0, "U", 3).done


def test_positions_of_other_partitions_and_topics_are_independent(client):
    store = FeatureStore(client)
    assert store.apply(change(10), 0, "U", 0).done
    assert store.position("I", 0) == 10
    assert store.position("I", 1) == store.position("another", 0) == 0


def filled(client, epoch: str = "") -> None:
    """Users 1 and 2 of partition 0; items 7 and 8, of which 7 was taken after 8; something open of user 1."""
    store, at = FeatureStore(client), Marks(1.7e9)
    items = {i: Item(item_id=i, title="one") for i in "78"}
    assert store.apply(Change(Position("C", 0, 2), items=items), 0, "C", 0, epoch).done
    pending = {"1": Pending(closed=[("r", 1.7e9 + 60)])}
    made = change(10, taken=[Taken("7", {"8": 1000})], pending=pending, marks=at, marks_before=Marks(), newest=1.7e9)
    made.users["2"] = new_user("2")
    made.messages.append(Message("t", 0, b"", b""))
    assert store.apply(made, 0, "U", 0, epoch).done
    gone = Change(Position("C", 0, 3), items={"9": None})
    assert store.apply(gone, 2, "C", 2, epoch).done
    assert store.apply(Change(Position("U", 0, 1), erased={"9": 1234}), 0, "I", 10, epoch).done


def test_a_change_is_applied_only_in_the_epoch_it_was_computed_in_and_not_while_that_begins(client):
    store = FeatureStore(client)
    client.hset("positions", mapping={"epoch": "e1", "state": "ready"})
    for epoch in ("", "e0"):
        assert not store.apply(change(10), 0, "U", 0, epoch).done
    assert store.apply(change(10), 0, "U", 0, "e1").done
    client.hset("positions", "state", "wiping")
    assert not store.apply(change(20), 10, "U", 0, "e1").done


@pytest.mark.parametrize(
    ("key", "lose"),
    [
        ("user:1", lambda c: c.delete("user:1")),
        ("user:1", lambda c: (c.delete("user:1"), c.sadd("user:1", "x"))),
        ("user:3", lambda c: c.set("user:3", "{}")),  # who is no member
        ("item:7", lambda c: c.delete("item:7")),
        ("item:7", lambda c: c.hdel("item:7", "content")),
        ("item:7", lambda c: (c.delete("item:7"), c.set("item:7", "x"))),
        ("item:7", lambda c: c.hset("item:7", "click", "many")),
        ("item:7", lambda c: c.hset("item:7", "first", "long ago")),
        ("item:7", lambda c: c.hset("item:7", "first", "1.5")),
        ("near:7", lambda c: c.delete("near:7")),
        ("near:7", lambda c: c.hset("near:7", "8", "many")),
        ("near:7", lambda c: c.hset("near:7", "9", "1")),
        ("items:changed", lambda c: c.delete("items:changed")),
        ("items:changed", lambda c: c.zrem("items:changed", "8")),
        ("members:0", lambda c: c.delete("members:0")),
        ("members:0", lambda c: c.srem("members:0", "2")),
        ("members:0", lambda c: (c.delete("members:0"), c.set("members:0", "x"))),
        ("open:I:0", lambda c: c.delete("open:I:0")),
        ("due:I:0", lambda c: c.delete("due:I:0")),
        ("outbox:I:0", lambda c: c.delete("outbox:I:0")),
        ("items:withdrawn", lambda c: c.delete("items:withdrawn")),
        ("erased", lambda c: c.delete("erased")),
        ("erased", lambda c: (c.delete("erased"), c.set("erased", "x"))),
    ],
)
def test_what_is_lost_or_no_number_stops_the_next_change_of_it_and_is_named(client, key, lose):
    filled(client)
    store = FoldStore(client)
    after = change(11, counts={"7": {"click": 1, "first": 5}}, taken=[Taken("7", {"8": 1000})])
    after.users["3"] = new_user("3")
    lose(client)
    with pytest.raises(Lost) as lost:
        store.apply(after, 10, "U", 1)
    assert lost.value.keys[0] == key
    assert store.position("I", 0) == 10


def test_what_is_whole_is_not_lost(client):
    filled(client)
    store = FoldStore(client)
    entries = [entry for entry, _ in store.outbox("I", 0)]
    store.sent("I", 0, entries)
    closed = change(11, counts={"ghost": {"click": 1}}, pending={"1": Pending()}, marks=Marks(), marks_before=Marks(1.7e9))
    assert store.apply(closed, 10, "U", 1).done
    client.delete("item:ghost")  # it has expired, say
    assert store.apply(change(12, counts={"ghost": {"click": 1}}), 11, "U", 1).done
    assert (client.hget("positions", "outbox:I:0"), client.hget("positions", "open:I:0")) == (b"0", b"0")


@pytest.mark.parametrize(
    ("key", "value"),
    [("user:1", b"\xff"), ("user:1", b"[]"), ("user:1", b'{"user_id":"2"}'), ("user:1", b'{"user_id":"1","seen":{}}')],
)
def test_a_user_who_cannot_be_read_is_passed_over_and_said_once(client, key, value):
    filled(client)
    client.set(key, value)
    store = FeatureStore(client)
    with capture_logs() as lines:
        for _ in range(2):
            first, second = store.users(["1", "2"])
            assert first is None
            assert second["user_id"] == "2"
    assert [line["keys"] for line in lines] == [["user:1"]]
    with pytest.raises(Lost, match="user:1"):
        FoldStore(client).users(["1", "2"])


@pytest.mark.parametrize(
    ("key", "lose"),
    [
        ("item:7", lambda c: c.delete("item:7")),
        ("item:7", lambda c: (c.delete("item:7"), c.set("item:7", "x"))),
        ("item:7", lambda c: c.hset("item:7", "content", "{")),
        ("item:7", lambda c: c.hset("item:7", "content", '{"item_id":"8"}')),
        ("item:7", lambda c: c.hset("item:7", "click", "many")),
        ("item:7", lambda c: c.hset("item:7", "first", "long ago")),
        ("near:7", lambda c: c.hset("near:7", "8", "many")),
        ("near:7", lambda c: (c.delete("near:7"), c.set("near:7", "x"))),
        ("items:changed", lambda c: (c.delete("items:changed"), c.set("items:changed", "x"))),
    ],
)
def test_an_item_that_cannot_be_read_is_passed_over_and_said_once_and_the_others_are_read(client, key, lose):
    filled(client)
    lose(client)
    store = FeatureStore(client)
    with capture_logs() as lines:
        table = store.load_items()
        store.refresh_items(table)
    assert [line["keys"] for line in lines] == [[key]]
    with pytest.raises(Lost, match=key):
        FoldStore(client).load_items()
    assert ("8" in table.by_id) == (key != "items:changed")


def test_a_table_stays_as_it_is_while_redis_is_filled_anew_and_is_read_anew_then(client):
    client.hset("positions", mapping={"epoch": "e1", "state": "ready"})
    filled(client, "e1")
    store = FeatureStore(client)
    table = store.load_items()
    client.flushall()
    assert len(store.refresh_items(table)) == 0
    client.hset("positions", mapping={"epoch": "e2", "state": "catalogue"})
    items = {i: Item(item_id=i, title="another") for i in "78"}
    assert store.apply(Change(Position("C", 0, 2), items=items), 0, "C", 0, "e2").done
    assert len(store.refresh_items(table)) == 0
    assert (table.by_id["7"].title, table.taken("7")) == ("one", 1)
    client.hset("positions", "state", "ready")
    assert len(store.refresh_items(table)) == 2
    assert (table.by_id["7"].title, table.taken("7")) == ("another", 0)


def test_now_does_not_go_back_when_redis_has_lost_it(client):
    filled(client)
    store = FeatureStore(client)
    assert store.now() == 1.7e9
    client.flushall()
    assert store.now() == 1.7e9
    client.hset("positions", "clock", "nan")
    assert store.now() == 1.7e9
    assert FeatureStore(client).now() == 0


@pytest.mark.parametrize("bad", [{"I:0": "x"}, {"clock": "inf"}, {"stamp": "x"}, None])
def test_positions_that_cannot_be_read_are_passed_over_by_who_only_reads(client, bad):
    filled(client)
    if bad is None:
        client.delete("positions")
        client.set("positions", "x")
    else:
        client.hset("positions", mapping=bad)
    store = FeatureStore(client)
    store.now(), store.standing(("I", 0)), store.refresh_items(store.load_items())
    strict = FoldStore(client)
    with pytest.raises(Lost, match="positions"):
        strict.now(), strict.standing(("I", 0)), strict.load_items()


def test_a_redis_that_misses_its_replicas_is_one_to_wait_for(client):
    client.config_set("min-replicas-to-write", "1")
    try:
        with pytest.raises(TRANSIENT, match="good replicas"):
            FoldStore(client).apply(change(10), 0, "U", 0)
    finally:
        client.config_set("min-replicas-to-write", "0")


def test_counts_of_all_partitions_add_up(client):
    store, expected = FeatureStore(client), 0
    draw = random.Random(0)
    positions = [0, 0, 0]
    for _ in range(60):
        p, n = draw.randrange(3), draw.randrange(1, 5)
        expected += n
        made = Change(Position("I", p, positions[p] + 1), counts={"7": {"click": n, "click:1h:5": n}})
        assert store.apply(made, positions[p], "U", 0).done
        positions[p] += 1
    assert store.counts("7") == {"click": expected, "click:1h:5": expected}


@pytest.mark.parametrize("seed", range(3))
def test_the_first_event_is_the_earliest_whatever_the_order_of_batches_and_partitions(client, seed):
    store, draw = FeatureStore(client), random.Random(seed)
    times, positions = [draw.randrange(2_000_000_000) for _ in range(20)], [0, 0, 0]
    for n, at in enumerate(times, 1):
        p = draw.randrange(3)
        made = Change(Position("I", p, positions[p] + 1), counts={"7": {"click": 1, "first": at}})
        assert store.apply(made, positions[p], "U", 0).done
        positions[p] += 1
        assert store.counts("7") == {"click": n, "first": min(times[:n])}


def test_the_first_event_outlives_trimming(client):
    store, at = FeatureStore(client), 1.6e9
    for position in range(200):
        at += 86400
        fields = {f"click:{r.name}:{int(at // r.seconds) - k}": 1 for r in counts.RESOLUTIONS for k in range(8)}
        made = Change(Position("I", 0, position + 1), counts={"7": {**fields, "first": int(at)}}, newest=at)
        assert store.apply(made, position, "U", 0).done
    assert store.counts("7")["first"] == 1.6e9 + 86400
    assert client.hget("item:7", "trimmed")


def test_an_item_called_first_is_counted_in_what_others_were_taken_after_like_any_other(client):
    store = FeatureStore(client)
    for offset, amount in enumerate((1000, 900, 1000)):
        assert store.apply(change(offset + 1, taken=[Taken("7", {"first": amount})]), offset, "U", 0).done
    assert client.hgetall("near:7") == {b"first": b"2900"}


def test_an_item_that_no_catalogue_describes_is_counted_but_not_rankable_and_expires(client):
    store = FeatureStore(client)
    store.apply(change(1, counts={"ghost": {"click": 1}}), 0, "U", 0)
    assert client.ttl("item:ghost") > 0
    assert len(store.load_items()) == 0

    store.apply(Change(Position("C", 0, 1), items={"ghost": Item(item_id="ghost", title="here after all")}), 0, "C", 0)
    assert client.ttl("item:ghost") == -1
    assert store.counts("ghost") == {"click": 1}
    assert store.load_items().ids == ["ghost"]


def test_what_an_item_was_taken_after_is_counted_with_the_batch_or_not_at_all(client):
    store = FeatureStore(client)
    taken = [Taken("7", {"a": 1000, "b": 900}), Taken("7", {"b": 1000}), Taken("8", {})]
    assert store.apply(change(10, taken=taken), 0, "U", 0).done
    assert not store.apply(change(20, taken=taken), 0, "U", 0).done
    assert client.hgetall("near:7") == {b"a": b"1000", b"b": b"1900"}
    assert [store.counts(item) for item in "78"] == [{"taken": 2}, {"taken": 1}]
    assert not client.exists("near:8")


def test_what_an_undescribed_item_was_taken_after_expires_with_it_and_stays_when_it_is_described(client):
    store = FeatureStore(client)
    store.apply(change(1, taken=[Taken("ghost", {"other": 1000})]), 0, "U", 0)
    assert client.ttl("near:ghost") == client.ttl("item:ghost") == UNCATALOGUED_SECONDS
    store.apply(Change(Position("C", 0, 1), items={i: Item(item_id=i) for i in ("ghost", "other")}), 0, "C", 0)
    assert client.ttl("near:ghost") == client.ttl("item:ghost") == -1
    state = new_user("1") | {"chosen": ["other"]}
    table = store.load_items()
    assert [table.ids[row] for row in table.nearby(state, 0.0).rows] == ["ghost"]


def test_a_row_of_what_an_item_was_taken_after_gives_up_its_smaller_half_when_it_is_full(client):
    store = FeatureStore(client)
    reader = FeatureStore(connect(f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"))
    store.apply(Change(Position("C", 0, 1), items={"7": Item(item_id="7")}), 0, "C", 0)
    lasting = reader.load_items()
    names = [f"{k:03}" for k in range(LONGEST)]
    first = {name: 1000 if k < 100 else 500 for k, name in enumerate(names)}
    assert store.apply(change(1, taken=[Taken("7", first)]), 0, "U", 0).done
    assert client.hlen("near:7") == LONGEST
    reader.refresh_items(lasting)
    assert store.apply(change(2, taken=[Taken("7", {"one more": 501})]), 1, "U", 0).done
    kept = {**dict.fromkeys(names[:100], 1000), "one more": 501, **dict.fromkeys(names[100:127], 500)}
    assert {name.decode(): int(n) for name, n in client.hgetall("near:7").items()} == kept
    assert store.counts("7") == {"taken": 2}

    # a table that knew more forgets it, as one that is loaded now never knew
    described = {name: Item(item_id=name) for name in (*names, "one more")}
    store.apply(Change(Position("C", 0, 2), items=described), 1, "C", 1)
    reader.refresh_items(lasting)
    for table in (lasting, store.load_items()):
        says = {name for name in described if len(table.nearby(new_user("1") | {"chosen": [name]}, 0.0).rows)}
        assert says == kept.keys()


def test_a_table_that_counts_for_itself_gives_up_what_the_row_gives_up(client):
    """As the agent that alone writes a row, which it has no reason to read."""
    store, draw = FeatureStore(client), random.Random(0)
    described = {str(k): Item(item_id=k) for k in range(400)}
    store.apply(Change(Position("C", 0, 1), items=described), 0, "C", 0)
    alone = store.load_items()
    for offset in range(20):
        after = {str(k): draw.randrange(1, 2**20) for k in draw.sample(range(1, 400), 50)}
        assert store.apply(change(offset + 1, taken=[Taken("0", after)]), offset, "U", 0).done
        alone.take("0", after)
        read = FeatureStore(client).load_items()
        assert client.hlen("near:0") <= LONGEST
        for name in described:
            state = new_user("1") | {"chosen": [name]}
            found, expected = alone.nearby(state, 0.0), read.nearby(state, 0.0)
            assert [alone.ids[row] for row in found.rows] == [read.ids[row] for row in expected.rows]
            assert found.said.tolist() == expected.said.tolist()


def test_refresh_brings_exactly_what_changed(client):
    store = FeatureStore(client)
    items = {str(i): Item(item_id=i) for i in range(5)}
    store.apply(Change(Position("C", 0, 1), items=items), 0, "C", 0)
    reader = FeatureStore(connect(f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"))
    table = reader.load_items()
    assert len(reader.refresh_items(table)) == 0

    store.apply(change(1, counts={"3": {"click": 1}}, newest=1.7e9), 0, "U", 0)
    store.apply(Change(Position("C", 0, 2), items={"9": Item(item_id=9, title="new")}), 1, "C", 1)
    assert [table.ids[row] for row in reader.refresh_items(table)] == ["3", "9"]
    assert table.by_id["9"].title == "new"
    assert reader.now() == 1.7e9


@pytest.mark.parametrize("other", ["like", "skip_30s"])
def test_an_item_hash_is_bounded_however_long_it_lives_and_whatever_its_kinds_are_called(client, other):
    store = FeatureStore(client)
    largest = 0
    for position, day in enumerate(range(0, 400, 2)):
        at = 1.6e9 + day * 86400
        fields = {
            f"{name}:{r.name}:{int(at // r.seconds) - k}": 1
            for name in ("click", other)
            for r in counts.RESOLUTIONS
            for k in range(8)
        }
        assert store.apply(Change(Position("I", 0, position + 1), counts={"7": fields}, newest=at), position, "U", 0).done
        largest = max(largest, client.hlen("item:7"))
    assert largest <= TRIM_FIELDS + 60


def test_trimming_does_not_change_what_is_read(client):
    store = FeatureStore(client)
    now = 1.7e9
    fields = {f"click:{r.name}:{int(now // r.seconds) - k}": 1 for r in counts.RESOLUTIONS for k in range(300)}
    store.apply(Change(Position("I", 0, 1), counts={"7": fields}, newest=now), 0, "U", 0)
    kept = store.counts("7")
    assert len(kept) < len(fields)
    assert counts.decayed(kept, now) == pytest.approx(counts.decayed(fields, now), rel=0.005)


def test_messages_leave_the_outbox_only_when_they_are_known_to_be_sent(client):
    store = FeatureStore(client)
    messages = [Message(wire.FEATURE_UPDATES.name, 0, b"k", b"\x00\xff%d" % i) for i in range(3)]
    store.apply(change(1, messages=messages[:2]), 0, "U", 0)
    store.apply(change(2, messages=messages[2:]), 1, "U", 0)
    waiting = store.outbox("I", 0)
    assert [message for _, message in waiting] == messages
    store.sent("I", 0, [entry for entry, _ in waiting[:1]])
    assert [message for _, message in store.outbox("I", 0)] == messages[1:]


def test_another_catalogue_is_refused_by_name(client):
    claim_catalogue(client, {"kind": "simulated", "seed": 0})
    claim_catalogue(client, {"seed": 0, "kind": "simulated"})
    with pytest.raises(OtherCatalogue, match=r"simulated.*movielens"):
        claim_catalogue(client, {"kind": "log", "name": "movielens"})
    assert read_catalogue(client) == {"kind": "simulated", "seed": 0}


@pytest.mark.parametrize("value", ["{", "3", "\ud83d", None])
def test_a_claim_that_cannot_be_read_is_removed_and_what_is_of_unknown_topics_is_computed_anew(client, value):
    filled(client)
    for key in ("topics", "catalogue"):
        if value is None:
            client.rpush(key, "x")
        else:
            client.set(key, value.encode("utf-8", "surrogatepass"))
    assert read_catalogue(client) is None
    claim_catalogue(client, {"kind": "log"})
    assert read_catalogue(client) == {"kind": "log"}
    assert client.exists("positions")
    claim_topics(client, {"interactions": "a"})
    assert module.read_topics(client) == {"interactions": "a"}
    assert not client.exists("positions")


def test_state_of_a_recreated_topic_is_refused(client):
    claim_topics(client, {"interactions": "a", "users": "b"})
    claim_topics(client, {"interactions": "a", "users": "b"})
    with pytest.raises(OtherLog, match="interactions was recreated"):
        claim_topics(client, {"interactions": "c", "users": "b"})


def test_an_impossible_url_is_named():
    with pytest.raises(BadSetting, match="FEED_REDIS='http://x'"):
        connect("http://x")


class Catalogue:
    """Records of items, one batch each, and a table that follows them."""

    def __init__(self, client, *ids):
        self.client, self.store, self.offset = client, FeatureStore(client), 0
        self.send(**{item_id: Item(item_id=item_id, category="c") for item_id in ids})
        self.table = self.store.load_items()

    def send(self, **items):
        change = Change(Position("C", 0, self.offset + 1), items=items)
        assert FeatureStore(self.client).apply(change, self.offset, "C", self.offset).done
        self.offset += 1

    def shown(self, now=1.7e9):
        """By the table that follows and by a fresh one, which must agree."""
        self.store.refresh_items(self.table)
        fresh = FeatureStore(self.client).load_items()
        found = [
            {item_id for item_id, shown in zip(table.ids, table.showable(now), strict=True) if shown}
            for table in (self.table, fresh)
        ]
        assert found[0] == found[1]
        return found[0]


def test_a_removed_item_is_described_no_more_here_or_after_a_fresh_load_and_its_counts_stay_for_a_while(client):
    found = Catalogue(client, "a", "b")
    FeatureStore(client).apply(change(1, counts={"a": {"click": 3}}), 0, "U", 0)
    found.send(a=None)
    assert found.shown() == {"b"}
    assert "a" not in found.table.by_id
    assert found.store.contents(["a", "b"]).keys() == {"b"}
    assert found.store.counts("a") == {"click": 3}
    assert client.ttl("item:a") == UNCATALOGUED_SECONDS
    FeatureStore(client).apply(change(2, counts={"a": {"click": 1}}), 1, "U", 0)  # somebody still clicks on it
    assert found.shown() == {"b"}
    assert client.ttl("item:a") == UNCATALOGUED_SECONDS


def test_an_item_that_comes_again_is_there_again_with_its_counts(client):
    found = Catalogue(client, "a", "b")
    FeatureStore(client).apply(change(1, counts={"a": {"click": 3}}), 0, "U", 0)
    for _ in range(3):
        found.send(a=None)
        assert found.shown() == {"b"}
        found.send(a=Item(item_id="a"))
        assert found.shown() == {"a", "b"}
    assert client.ttl("item:a") == -1
    assert found.store.counts("a") == {"click": 3}


@pytest.mark.parametrize(
    "item",
    [
        Item(item_id="a", available=False),
        Item(item_id="a", expires_at=utc(1.7e9)),
        Item(item_id="a", created_at=utc(1.7e9 + 1)),
        Item(item_id="a", created_at=utc(1.6e9), expires_at=utc(1.65e9), available=True),
    ],
)
def test_what_may_not_be_shown_now_is_described_and_not_showable(client, item):
    found = Catalogue(client, "a", "b")
    found.send(a=item)
    assert found.shown() == {"b"}
    assert found.table.by_id["a"] == item
    found.send(a=Item(item_id="a"))
    assert found.shown() == {"a", "b"}


def test_a_removal_and_a_return_in_one_batch_or_between_two_looks_end_as_the_last_record_says(client):
    found = Catalogue(client, "a", "b")
    found.send(a=None)
    found.send(a=Item(item_id="a", title="again"))
    found.send(b=Item(item_id="b", title="again"))
    found.send(b=None)
    assert found.shown() == {"a"}
    assert found.table.by_id["a"].title == "again"


def test_who_has_missed_more_removals_than_are_remembered_still_hears_of_all(client, monkeypatch):
    monkeypatch.setattr(module, "WITHDRAWN", 5)
    ids = [str(k) for k in range(20)]
    found = Catalogue(client, *ids)
    for item_id in ids[:12]:
        found.send(**{item_id: None})
    assert client.zcard("items:withdrawn") == 5
    assert found.shown() == set(ids[12:])
    newest = module.Stamp("", 13)
    assert found.store.withdrawn(None) == (None, newest)
    assert found.store.withdrawn(newest) == (set(), newest)
    assert found.store.withdrawn(module.Stamp("", 1)) == (None, newest)  # they cannot be told
    assert found.store.withdrawn(module.Stamp("", 11)) == ({"10", "11"}, newest)


def test_where_redis_lost_everything_a_table_keeps_what_it_knows_until_it_is_told_anew(client):
    found = Catalogue(client, "a", "b")
    client.flushall()
    found.store.refresh_items(found.table)
    assert found.table.showable(1.7e9).all()


def test_erasing_removes_all_that_holds_the_id_and_only_that(client):
    window = Window("r", 0, 1.0, 2.0, ("a",), msgspec.Raw(b"{}"))
    pending = {user: Pending([window], [("r", 5.0)]) for user in ("who", "another")}
    store = FeatureStore(client)
    for offset, user in enumerate(pending):
        state = new_user(user)
        made = Change(Position("I", 0, offset + 1), users={user: state}, pending={user: pending[user]})
        assert store.apply(made, offset, "U", 0).done
        client.zadd(f"feed:{user}", {"a": 1})
        client.set(f"feed:{user}:meta", "{}")
    assert store.apply(Change(Position("U", 0, 1), erased={"who": 1234}), 0, "I", 2).done
    held = {key: client.dump(key) for key in client.scan_iter()}
    assert not [key for key, value in held.items() if b"who" in key or b"who" in value]
    assert store.users(["who", "another"])[0] is None
    assert store.pending("I", 0, ["who", "another"]) == [None, pending["another"]]
    assert store.due("I", 0, 10.0) == ["another"]
    assert client.exists("user:another", "feed:another", "feed:another:meta") == 3
    assert store.erased(["who", "another"]) == {"who": 1234}


def test_a_batch_of_users_does_not_hide_that_open_windows_of_the_partition_are_lost(client):
    store, pending = FoldStore(client), Pending(closed=[("r", 5.0)])
    assert store.apply(Change(Position("I", 0, 1), users={"1": new_user("1")}, pending={"1": pending}), 0, "U", 0).done
    client.delete("open:I:0")
    assert FeatureStore(client).apply(Change(Position("U", 0, 1), users={"2": new_user("2")}), 0, "I", 1).done
    assert client.hget("positions", "open:I:0") == b"1"
    with pytest.raises(Lost, match="open:I:0"):
        store.apply(Change(Position("U", 0, 2), erased={"2": 1}), 1, "I", 1)
    assert client.exists("user:2")  # nothing is applied


@pytest.mark.parametrize("marks", ['{"clock":1.7e9,"sequence":811,"late":3}', '{"clock":1.7e9,"examples":2,"late":3}'])
def test_marks_of_an_earlier_version_are_lost_so_that_all_is_computed_anew(client, marks):
    """Versions that numbered examples by a counter, and versions whose users' states had no `positives`."""
    client.hset("positions", "marks:I:0", marks)
    assert FeatureStore(client).marks("I", 0) == Marks()
    with pytest.raises(Lost, match="positions"):
        FoldStore(client).marks("I", 0)


def test_an_overwritten_record_of_who_was_erased_is_lost_and_not_the_fault_of_the_events(client):
    client.set("erased", "x")
    assert FeatureStore(client).erased(["1"]) == {}
    with pytest.raises(Lost, match="erased"):
        FoldStore(client).erased(["1"])
    assert Recovery(client).begin("", ["erased"])
    assert not client.exists("erased")
