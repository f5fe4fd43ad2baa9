"""What the features agent makes of one batch, on a real Redis."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from feed import wire
from feed.catalogue import Item
from feed.errors import Lost
from feed.events import Click, Impression, Like, Shown, utc
from feed.examples import decode_record
from feed.io.recovery import Recovery
from feed.io.redis import CATALOGUE, READY, WIPING, Change, FeatureStore, FoldStore, connect
from feed.wire import Position
from stream_processors.features import FeaturesAgent
from stream_processors.folder import Folder


class NoBroker:
    """Takes everything."""

    def send_raw(self, topic, partition, key, value):
        pass

    def flush(self):
        pass


def records(*values: bytes, start: int = 0) -> list[SimpleNamespace]:
    return [SimpleNamespace(offset=start + n, key=b"1", value=value) for n, value in enumerate(values)]


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


USER_OF = {wire.partition_of(str(u), 2): str(u) for u in range(9)}
TOPIC_IDS = {"interactions": "I", "users": "U", "items": "C"}


def an_agent(client) -> FeaturesAgent:
    return FeaturesAgent(FoldStore(client), NoBroker(), Folder(2, 300.0, 1800.0), TOPIC_IDS, None, 10.0)


def clicks(partition: int, start: int, *items: str, again: bool = False) -> SimpleNamespace:
    """The batch of these clicks of the partition's user, and what became of it: `done`."""
    events = [
        Click(event_id=f"{partition}{item}", user_id=USER_OF[partition], item_id=item, occurred_at=utc(1.7e9 + k))
        for k, item in enumerate(items)
    ]
    made = SimpleNamespace(
        tp=SimpleNamespace(topic="interactions", partition=partition), start=start, end=start + len(items), stale=False,
        records=records(*map(wire.encode, events), start=start), again=again, done=[],
    )  # fmt: skip

    async def hold():
        made.done.append("held")

    made.hold, made.ack, made.touch = hold, lambda: made.done.append("acknowledged"), lambda: None
    return made


def apply(agent: FeaturesAgent, batch: SimpleNamespace) -> list[str]:
    asyncio.run(agent.apply(batch))
    return batch.done


def describe(client, epoch: str = "") -> None:
    items = {item: Item(item_id=item) for item in "abx"}
    assert FeatureStore(client).apply(Change(Position("C", 0, 3), items=items), 0, "C", 0, epoch).done


def begin(client) -> str:
    """Empties Redis as the keeper does; returns the new epoch, in which only the catalogue is there."""
    recovery, store = Recovery(client), FeatureStore(client)
    assert recovery.begin(store.standing().epoch)
    epoch = store.standing().epoch
    assert recovery.wipe(epoch, 10.0)
    assert recovery.go_on(epoch, WIPING, CATALOGUE)
    describe(client, epoch)
    return epoch


def test_an_agent_forgets_what_it_counted_when_redis_has_lost_it(redis_url):
    client = connect(redis_url)
    assert Recovery(client).go_on(begin(client), CATALOGUE, READY)
    agent = an_agent(client)
    assert apply(agent, clicks(0, 0, "a", "x")) == ["acknowledged"]
    assert Recovery(client).go_on(begin(client), CATALOGUE, READY)
    assert apply(an_agent(client), clicks(1, 0, "b", "x")) == ["acknowledged"]
    assert apply(agent, clicks(0, 2, "b")) == ["held"]  # it is to begin again
    assert apply(agent, clicks(0, 0, "a", "x")) == ["acknowledged"]
    agent._store.refresh_items(agent._table)
    table = FeatureStore(client).load_items()
    x = np.array([table.row("x")])
    for history in ("a", "b"):
        assert table.nearby({"recent": [history]}).at(x).any()
        mine = agent._table.nearby({"recent": [history]}).at(np.array([agent._table.row("x")]))
        np.testing.assert_array_equal(mine, table.nearby({"recent": [history]}).at(x))


def test_events_wait_until_the_catalogue_is_folded_and_for_an_emptied_redis(redis_url):
    client = connect(redis_url)
    agent, epoch = an_agent(client), begin(client)
    assert apply(agent, clicks(0, 0, "a")) == ["held"]
    assert Recovery(client).go_on(epoch, CATALOGUE, READY)
    assert apply(agent, clicks(0, 0, "a")) == ["acknowledged"]
    client.flushall()
    assert apply(agent, clicks(0, 1, "b")) == ["held"]
    assert client.keys("*") == []


def test_what_was_acknowledged_before_is_told_of_users_only(redis_url):
    client = connect(redis_url)
    describe(client)
    sent = []
    agent = an_agent(client)
    agent._sender = SimpleNamespace(send_raw=lambda topic, *rest: sent.append(topic), flush=lambda: None)
    apply(agent, clicks(0, 0, "a", again=True))
    broken = clicks(0, 1, "b", again=True)
    broken.records = [SimpleNamespace(offset=1, key=b"", value=b"not json")]
    apply(agent, broken)
    assert sent == ["feature-updates"]
    broken.start, broken.end, broken.again, broken.records[0].offset = 2, 3, False, 2
    apply(agent, broken)
    assert sent == ["feature-updates", "dead-letters"]


@pytest.mark.parametrize("lose", [lambda c: c.delete("user:" + USER_OF[0]), lambda c: c.set("user:" + USER_OF[0], "[]")])
def test_a_user_who_is_lost_is_reported_and_nothing_is_applied(redis_url, lose):
    client, reported = connect(redis_url), []
    describe(client)
    agent = an_agent(client)
    apply(agent, clicks(0, 0, "a"))
    before = client.hgetall("item:b")
    lose(client)
    agent._report = lambda epoch, keys: reported.append((epoch, keys))
    with pytest.raises(Lost, match="user:" + USER_OF[0]):
        asyncio.run(agent._alone(agent._try, clicks(0, 1, "b")))
    assert reported == [("", ["user:" + USER_OF[0]])]
    assert client.hgetall("item:b") == before
    assert agent._store.position("I", 0) == 1
