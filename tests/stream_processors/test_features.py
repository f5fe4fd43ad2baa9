"""What the features agent makes of one batch, on a real Redis."""

from types import SimpleNamespace

import numpy as np

from feed import wire
from feed.catalogue import Item
from feed.events import Click, Impression, Like, Shown, utc
from feed.examples import decode_record
from feed.io.redis import Change, FeatureStore, connect
from feed.wire import Position
from stream_processors.features import FeaturesAgent
from stream_processors.folder import Folder


class NoBroker:
    """Takes everything."""

    def send_raw(self, topic, partition, key, value):
        pass

    def flush(self):
        pass


def records(*values: bytes) -> list[SimpleNamespace]:
    return [SimpleNamespace(offset=offset, key=b"1", value=value) for offset, value in enumerate(values)]


def test_an_example_larger_than_a_record_may_be_is_a_dead_letter_that_names_its_user_and_the_others_are_sent(redis_url):
    store, folder = FeatureStore(connect(redis_url)), Folder(1, 300.0, 1800.0)
    items = [Item(item_id=k, tags=tuple(f"{tag}".rjust(256, "x") for tag in range(64))) for k in range(200)]
    stocked = folder.fold(wire.ITEMS, records(*map(wire.encode, items)), Position("C", 0, 200), store, store.load_items())
    assert store.apply(stocked, 0, "C", 0).done
    events = [
        Impression(event_id=name, user_id="1", occurred_at=utc(at), items=tuple(Shown(item_id=k, position=k) for k in range(n)))
        for name, at, n in (("large", 1.7e9, 200), ("small", 1.7e9 + 1, 5))
    ]
    later = Like(event_id="later", user_id="1", item_id="0", occurred_at=utc(1.7e9 + 4000))
    change = folder.fold(
        wire.INTERACTIONS, records(*map(wire.encode, (*events, later))), Position("I", 0, 3), store, store.load_items()
    )

    by_topic = {message.topic: message for message in change.messages}
    letter = wire.decode_letter(by_topic[wire.DEAD_LETTERS.name].value)
    assert "example large of user 1 has" in letter.reason
    assert "show fewer items" in letter.reason
    assert (letter.topic, letter.position) == ("interactions", Position("I", 0, 3))
    assert (letter.key, letter.value) == (b"1", None)
    assert decode_record(by_topic[wire.TRAINING_EXAMPLES.name].value).example_id == "small"
    assert all(len(message.value) < wire.LARGEST for message in change.messages)


def test_an_unusable_record_too_large_for_a_dead_letter_leaves_one_that_says_where_it_is(redis_url):
    store, folder = FeatureStore(connect(redis_url)), Folder(1, 300.0, 1800.0)
    value = b'["' + bytes(wire.LARGEST)  # a compressed batch may hold it
    change = folder.fold(wire.INTERACTIONS, records(b"{}", value), Position("I", 0, 2), store, store.load_items())
    small, large = (wire.decode_letter(message.value) for message in change.messages)
    assert small.value == b"{}"
    assert (large.position, large.value) == (Position("I", 0, 1), None)
    assert "too large for dead-letters" in large.reason


def test_an_agent_forgets_what_it_counted_when_redis_comes_back_older(redis_url):
    client = connect(redis_url)
    store, folder = FeatureStore(client), Folder(2, 300.0, 1800.0)
    users = {wire.partition_of(str(u), 2): str(u) for u in range(9)}
    items = {item: Item(item_id=item) for item in "abx"}
    agent = FeaturesAgent(store, NoBroker(), folder, {"interactions": "I", "users": "U", "items": "C"}, None, 10.0)

    def catalogue():
        assert FeatureStore(client).apply(Change(Position("C", 0, 3), items=items), 0, "C", 0).done

    def batch(partition, start, *taken):
        clicks = [
            Click(event_id=f"{partition}{item}", user_id=users[partition], item_id=item, occurred_at=utc(1.7e9 + k))
            for k, item in enumerate(taken)
        ]
        tp = SimpleNamespace(topic="interactions", partition=partition)
        return SimpleNamespace(tp=tp, start=start, end=start + len(taken), records=records(*map(wire.encode, clicks)))

    catalogue()
    assert agent._try(batch(0, 0, "a", "x")) == 2
    client.flushall()
    catalogue()
    other = FeaturesAgent(FeatureStore(client), NoBroker(), folder, agent._topic_ids, None, 10.0)
    assert other._try(batch(1, 0, "b", "x")) == 2
    assert agent._try(batch(0, 2)) == 0  # it is to begin again
    assert agent._try(batch(0, 0, "a", "x")) == 2
    agent._store.refresh_items(agent._table)
    table = FeatureStore(client).load_items()
    x = np.array([table.row("x")])
    for history in ("a", "b"):
        assert table.nearby({"recent": [history]}).at(x).any()
        mine = agent._table.nearby({"recent": [history]}).at(np.array([agent._table.row("x")]))
        np.testing.assert_array_equal(mine, table.nearby({"recent": [history]}).at(x))
