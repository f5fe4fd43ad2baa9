"""What the features agent makes of one batch, on a real Redis."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from feed import wire
from feed.catalogue import Item, User
from feed.errors import Lost
from feed.events import Click, Impression, Like, Shown, utc
from feed.examples import decode_record
from feed.features import new_user
from feed.io.recovery import Recovery
from feed.io.redis import CATALOGUE, READY, Change, FeatureStore, FoldStore, connect
from feed.wire import Position
from stream_processors.features import FeaturesAgent
from stream_processors.folder import Folder
from tests.small import emptied


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


def clicks(partition: int, start: int, *items: str, again: bool = False, caught_up: bool = False) -> SimpleNamespace:
    """The batch of these clicks of the partition's user, and what became of it: `done`."""
    events = [
        Click(event_id=f"{partition}{item}", user_id=USER_OF[partition], item_id=item, occurred_at=utc(1.7e9 + k))
        for k, item in enumerate(items)
    ]
    made = SimpleNamespace(
        tp=SimpleNamespace(topic="interactions", partition=partition), start=start, end=start + len(items), stale=False,
        records=records(*map(wire.encode, events), start=start), again=again, caught_up=caught_up, done=[],
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
    epoch = emptied(client)
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
    for of_history in (new_user("1") | {"chosen": [name]} for name in ("a", "b")):
        assert table.nearby(of_history, 0.0).at(x).any()
        mine = agent._table.nearby(of_history, 0.0).at(np.array([agent._table.row("x")]))
        np.testing.assert_array_equal(mine, table.nearby(of_history, 0.0).at(x))


def test_events_wait_until_the_catalogue_is_folded_and_for_an_emptied_redis(redis_url):
    client = connect(redis_url)
    agent, epoch = an_agent(client), begin(client)
    assert apply(agent, clicks(0, 0, "a")) == ["held"]
    assert Recovery(client).go_on(epoch, CATALOGUE, READY)
    assert apply(agent, clicks(0, 0, "a")) == ["acknowledged"]
    client.flushall()
    assert apply(agent, clicks(0, 1, "b")) == ["held"]
    assert client.keys("*") == []


def test_what_was_acknowledged_before_is_told_of_when_all_of_it_is_there_again_and_then_of_everybody(redis_url):
    client = connect(redis_url)
    describe(client)
    sent = []
    agent = an_agent(client)
    agent._sender = SimpleNamespace(send_raw=lambda topic, *rest: sent.append(topic), flush=lambda: None)
    apply(agent, clicks(0, 0, "a", again=True))
    broken = clicks(0, 1, "b", again=True)
    broken.records = [SimpleNamespace(offset=1, key=b"", value=b"not json")]
    apply(agent, broken)
    assert sent == []  # half of a history makes worse feeds than those that are there
    apply(agent, clicks(0, 2, "c", again=True, caught_up=True))
    assert sent == ["feature-updates"]
    broken.start, broken.end, broken.again, broken.records[0].offset = 3, 4, False, 3
    apply(agent, broken)
    assert sent == ["feature-updates", "dead-letters"]


@pytest.mark.parametrize("at", [-1, int(2e13)])
def test_an_erasure_without_a_time_or_with_one_to_come_is_a_dead_letter(redis_url, at):
    log = Log(redis_url)
    log.fold(wire.USERS, (profile(), 100), (None, at))
    assert log.user()["profile"] == {"country": "DE"}
    assert ["the time of the record" in letter.reason for letter in log.letters] == [True]


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


class Log:
    """Records of users and interactions, partition 0, as they lie in the log; folded into Redis in any grouping."""

    def __init__(self, url):
        self.store, self.folder = FeatureStore(connect(url)), Folder(1, 300.0, 1800.0)
        self.letters = []

    def fold(self, topic, *sent):
        """`sent`: (value, timestamp in milliseconds) or (value, timestamp, key)."""
        own, other = {wire.USERS: "UI", wire.INTERACTIONS: "IU", wire.ITEMS: "CC"}[topic]
        start = self.store.position(own, 0)
        found = [
            SimpleNamespace(offset=start + n, key=(*key, b"1")[0], value=value, timestamp=at)
            for n, (value, at, *key) in enumerate(sent)
        ]
        end = Position(own, 0, start + len(sent))
        change = self.folder.fold(topic, found, end, self.store, self.store.load_items())
        expected = start if own == other else self.store.position(other, 0)
        assert self.store.apply(change, start, other, expected).done
        letters = [wire.decode_letter(m.value) for m in change.messages if m.topic == wire.DEAD_LETTERS.name]
        self.letters += letters
        return change

    def user(self, user_id="1"):
        return self.store.users([user_id])[0]


def profile(country="DE", user="1"):
    return wire.encode(User(user_id=user, country=country))


def like(item_id, user="1"):
    return wire.encode(Like(event_id=item_id, user_id=user, item_id=item_id, occurred_at=utc(1.7e9)))


@pytest.mark.parametrize("one_batch", [True, False])
def test_a_user_without_value_is_erased_and_begins_anew_with_what_is_recorded_later(redis_url, one_batch):
    log = Log(redis_url)
    log.fold(wire.INTERACTIONS, (like("a"), 100), (like("other", "2"), 100, b"2"))
    sent = [(profile("DE"), 100), (None, 200), (profile("FR"), 201)]
    for part in [sent] if one_batch else [[record] for record in sent]:
        log.fold(wire.USERS, *part)
    assert log.user()["profile"] == {"country": "FR"}
    assert log.user()["recent"] == []
    assert log.user("2")["recent"] == ["other"]
    log.fold(wire.INTERACTIONS, (like("late"), 150), (like("b"), 201))
    assert log.user()["recent"] == ["b"]
    assert log.letters == []


@pytest.mark.parametrize("first", [wire.USERS, wire.INTERACTIONS])
def test_who_was_erased_does_not_come_back_whichever_topic_is_folded_first(redis_url, first):
    log = Log(redis_url)
    sent = {
        wire.USERS: [(profile(), 90), (None, 200)],
        wire.INTERACTIONS: [(like("a"), 100), (like("b"), 199), (like("same instant"), 200)],
    }
    for topic in sorted(sent, key=lambda topic: topic is not first):
        log.fold(topic, *sent[topic])
    assert log.user() is None
    assert list(log.store.all_user_ids()) == []


def test_a_log_that_is_folded_again_leaves_an_erased_user_who_came_again_as_they_were(redis_url):
    log = Log(redis_url)
    users = [(profile("DE"), 200), (None, 200), (profile("FR"), 300)]
    events = [(like("a"), 100), (like("b"), 250)]
    log.fold(wire.USERS, *users)
    log.fold(wire.INTERACTIONS, *events)
    once = log.user()
    client = connect(redis_url)
    for kept in ({b"erased"}, set()):
        client.delete(*(set(client.keys()) - kept))
        log.fold(wire.USERS, *users)
        log.fold(wire.INTERACTIONS, *events)
        assert log.user() == once
    assert once["profile"] == {"country": "FR"}
    assert once["recent"] == ["b"]


def test_a_profile_that_was_sent_before_the_erasure_and_arrives_after_it_is_nothing(redis_url):
    log = Log(redis_url)
    change = log.fold(wire.USERS, (None, 200), (profile(), 199))
    assert change.messages == []  # nobody is to be ranked
    assert log.user() is None
    log.fold(wire.USERS, (None, 150))  # an older erasure does not undo a newer one
    assert log.store.erased(["1"]) == {"1": 200}


@pytest.mark.parametrize("key", [None, b"", b"x" * 129, b"\xff\xfe"])
def test_a_record_without_value_and_without_a_usable_key_is_a_dead_letter(redis_url, key):
    log = Log(redis_url)
    for topic in (wire.ITEMS, wire.USERS):
        log.fold(topic, (None, 1, key))
    assert len(log.letters) == 2
    for letter in log.letters:
        assert "deletes nothing" in letter.reason
        assert (letter.key, letter.value) == (key, None)


def test_an_erasure_in_the_wrong_partition_and_an_event_without_value_are_dead_letters(redis_url):
    log = Log(redis_url)
    log.folder = Folder(64, 300.0, 1800.0)
    log.fold(wire.USERS, (None, 1, b"1"))
    log.fold(wire.INTERACTIONS, (None, 1, b"1"))
    assert ["belongs to partition" in log.letters[0].reason, "no value" in log.letters[1].reason] == [True, True]
    assert log.store.erased(["1"]) == {}


def test_an_item_without_value_is_removed_and_the_last_record_of_a_batch_counts(redis_url):
    log = Log(redis_url)
    a, b = (wire.encode(Item(item_id=item_id)) for item_id in "ab")
    log.fold(wire.ITEMS, (a, 1), (b, 1), (None, 2, b"a"), (None, 2, b"b"), (b, 3), (None, 3, "é".encode()))
    assert log.store.contents(["a", "b", "é"]).keys() == {"b"}
    assert log.letters == []


def test_an_agent_draws_no_removed_or_expired_item_as_a_negative(redis_url):
    log = Log(redis_url)
    shown = [Item(item_id=f"shown-{k}") for k in range(3)]
    gone = [Item(item_id="away", available=False), Item(item_id="old", expires_at=utc(1.7e9)), Item(item_id="removed")]
    log.fold(wire.ITEMS, *((wire.encode(item), 1) for item in [*shown, *gone]), (None, 2, b"removed"))
    later = wire.encode(Like(event_id="later", user_id="2", item_id="x", occurred_at=utc(1.7e9 + 4000)))
    change = log.fold(wire.INTERACTIONS, (like("shown-0"), 5), (later, 5, b"2"))
    (example,) = [decode_record(m.value) for m in change.messages if m.topic == wire.TRAINING_EXAMPLES.name]
    assert {row.item.item_id for row in example.rows} == {item.item_id for item in shown}
