"""What is delivered again, from where, and when a state is whole: on a real Redis, look by look."""

import asyncio
import json

import pytest
from faust.types import TP
from kafka.errors import KafkaError
from structlog.testing import capture_logs

from feed.catalogue import Item
from feed.events import Click, utc
from feed.features import new_user
from feed.io.kafka import Log
from feed.io.redis import CATALOGUE, READY, Change, FeatureStore, FoldStore, connect
from feed.wire import Position
from stream_processors import keeper
from stream_processors.keeper import Keeper

TOPIC_IDS = {"interactions": "I", "users": "U", "items": "C"}
EVENTS, USERS, ITEMS = TP("interactions", 0), TP("users", 0), TP("items", 0)


class Consumer:
    """What is assigned, up to where each partition is acknowledged, and what was delivered again since this was last asked."""

    def __init__(self, events: int = 0, users: int = 0, items: int = 0) -> None:
        self.done = {EVENTS: events, USERS: users, ITEMS: items}
        self.once = dict(self.done)
        self.assigned, self.held, self._rewound = frozenset(self.done), set(), {}

    async def acknowledged(self, tp):
        return self.done[tp]

    def acknowledged_once(self, tp):
        return self.once[tp]

    async def rewind(self, tp, offset):
        self.done[tp] = self._rewound[tp] = offset
        self.held.discard(tp)

    def rewound(self):
        found, self._rewound = self._rewound, {}
        return found


class Ended:
    """The tail of a topic that has nothing more."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = set(partitions)

    def ended(self, positions):
        return self.partitions & positions.keys()


class System:
    def __init__(self, redis_url: str) -> None:
        self.client, self.consumer = connect(redis_url), Consumer()
        self.logs = {tuple(tp): Log(0, 0, None) for tp in self.consumer.done}
        self.tails = {"items": Ended(), "users": Ended()}
        self.keeper = Keeper(self.client, TOPIC_IDS, self._ask, self.tails)

    def _ask(self):
        if self.logs is None:
            raise KafkaError("away")
        return self.logs

    def look(self) -> dict[TP, int]:
        """One look; returns what was delivered again, from where."""
        before, keeper.LOOK_SECONDS = keeper.LOOK_SECONDS, 0.0
        try:
            asyncio.run(self.keeper.look(self.consumer))
        finally:
            keeper.LOOK_SECONDS = before
        return self.consumer.rewound()

    @property
    def standing(self):
        return FeatureStore(self.client).standing(("I", 0), ("U", 0), ("C", 0))

    def fold(self, tp: TP, end: int) -> None:
        """As the agent: up to `end`, and acknowledged."""
        topic_id, (epoch, _, offsets) = TOPIC_IDS[tp.topic], self.standing
        other = {"I": "U", "U": "I", "C": "C"}[topic_id]
        change = Change(Position(topic_id, 0, end))
        if tp is ITEMS:
            change.items = {"7": Item(item_id="7")}
        else:
            change.users = {"1": new_user("1")}
        if tp is EVENTS:
            change.events = [Click(event_id=str(end), user_id="1", item_id="7", occurred_at=utc(1.7e9))]
            change.counts = {"7": {"click": 1}}
        assert FoldStore(self.client).apply(change, offsets[topic_id, 0], other, offsets[other, 0], epoch).done
        self.consumer.done[tp] = end
        self.consumer.once[tp] = max(end, self.consumer.once[tp])
        self.logs[tuple(tp)] = Log(0, max(end, self.logs[tuple(tp)].end), end)

    def fill(self) -> str:
        """Items, users and events; returns the epoch."""
        self.keeper.start("redis://here")
        self.look()
        for tp, end in ((ITEMS, 3), (USERS, 5), (EVENTS, 8)):
            self.fold(tp, end)
        assert self.look() == {}
        assert self.standing.state == READY
        return self.standing.epoch


@pytest.fixture
def system(redis_url):
    return System(redis_url)


def test_a_state_that_is_whole_is_left_alone(system):
    epoch = system.fill()
    for _ in range(3):
        assert system.look() == {}
    assert system.standing.epoch == epoch


@pytest.mark.parametrize(
    "lose",
    [lambda c: c.flushall(), lambda c: c.delete("positions"), lambda c: c.delete("user:1"), lambda c: c.delete("item:7")],
)
def test_what_is_lost_is_delivered_again_the_catalogue_first_and_once(system, lose):
    epoch = system.fill()
    lose(system.client)
    assert system.look() == {ITEMS: 0, USERS: 0}
    assert system.standing.epoch not in ("", epoch)
    assert system.standing.state == CATALOGUE
    assert system.client.keys("user:*") == []
    system.fold(ITEMS, 3)
    assert system.look() == {}
    system.fold(USERS, 5)
    assert system.look() == {EVENTS: 0}
    assert system.look() == {}
    system.fold(EVENTS, 8)
    assert system.look() == {}
    assert system.standing.state == READY


def test_partitions_that_were_held_meanwhile_are_delivered_again_when_they_may_be_folded(system):
    system.logs[tuple(ITEMS)] = Log(0, 3, None)
    system.keeper.start("redis://here")
    system.consumer.held = {EVENTS, ITEMS}
    assert system.look() == {ITEMS: 0}
    system.fold(ITEMS, 3)
    assert system.look() == {EVENTS: 0}


def test_an_end_that_nobody_is_handed_is_not_waited_for(system):
    system.fill()
    system.logs[tuple(ITEMS)] = Log(0, 4, 3)  # the last one is the end of a transaction
    system.client.flushall()
    system.look()
    system.fold(USERS, 5)
    system.fold(ITEMS, 3)
    assert system.look() == {}
    system.tails["items"].partitions = {0}
    assert system.look() == {EVENTS: 0}


def test_a_redis_that_has_come_back_older_is_given_another_epoch_and_delivered_again_from_where_it_is(system):
    epoch = system.fill()
    before = system.client.dump("positions")
    system.fold(EVENTS, 20)
    system.client.restore("positions", 0, before, replace=True)
    with capture_logs() as lines:
        assert system.look() == {}
        second = system.standing.epoch
        assert system.look() == {EVENTS: 8}
        assert system.look() == {}
    assert second not in ("", epoch)
    assert system.standing.epoch == second
    assert [line["records"] for line in lines if "older" in line["event"]] == [12]
    system.fold(EVENTS, 20)
    assert system.look() == {}


def test_a_worker_that_finds_an_older_redis_when_it_starts_does_the_same(system):
    epoch = system.fill()
    system.consumer.done[EVENTS] = system.consumer.once[EVENTS] = 20
    system.keeper = Keeper(system.client, TOPIC_IDS, system._ask, system.tails)
    system.keeper.start("redis://here")
    assert [system.look() for _ in range(3)] == [{}, {EVENTS: 8}, {}]
    assert system.standing.epoch != epoch


def test_what_another_worker_has_begun_is_followed_and_not_begun_once_more(system):
    epoch = system.fill()
    another = Keeper(system.client, TOPIC_IDS, system._ask, system.tails)
    system.client.delete("user:1")
    another.report(epoch, ["user:1"])
    asyncio.run(another.look(Consumer(8, 5, 3)))
    begun = system.standing.epoch
    assert begun != epoch
    system.keeper.report(epoch, ["user:1"])  # found by a batch of before
    assert system.look() == {ITEMS: 0, USERS: 0}
    assert system.standing.epoch == begun


def test_a_partition_that_was_taken_over_during_a_rebuild_is_delivered_from_where_redis_is(system):
    system.fill()
    system.client.flushall()
    system.look()
    system.fold(ITEMS, 3)
    system.fold(USERS, 5)
    system.look()
    epoch = system.standing.epoch
    system.consumer.assigned = frozenset({ITEMS, USERS})
    system.look()
    system.consumer.assigned, system.consumer.done[EVENTS] = frozenset({ITEMS, USERS, EVENTS}), 8  # what is committed
    assert system.look() == {EVENTS: 0}
    assert system.standing.epoch == epoch


def test_keys_lost_again_and_again_are_waited_for_and_that_is_said_once(system):
    system.fill()
    system.client.hset("positions", "rebuilds", "9")
    epoch = system.standing.epoch
    system.client.delete("user:1")
    with capture_logs() as lines:
        for _ in range(3):
            assert system.look() == {}
    assert [line["error"].startswith("keys of Redis are lost again") for line in lines] == [True]
    assert system.standing.epoch == epoch


def test_what_the_state_belongs_to_is_kept_when_redis_is_emptied(system):
    system.client.set("catalogue", '{"kind": "simulated"}')
    system.fill()
    system.client.flushall()
    system.look()
    assert json.loads(system.client.get("topics")) == TOPIC_IDS
    assert system.client.get("catalogue") == b'{"kind": "simulated"}'


def test_a_broker_that_is_away_is_said_once_and_the_rebuild_goes_on_then(system):
    system.fill()
    system.client.flushall()
    logs, system.logs = system.logs, None
    with capture_logs() as lines:
        for _ in range(3):
            system.look()
    assert [line["error"] for line in lines if "not compared" in line["event"]] == ["KafkaError: away"]
    system.logs = logs
    assert system.look() == {ITEMS: 0, USERS: 0}
