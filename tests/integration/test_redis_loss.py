"""Redis loses what it held while the log goes on: on real servers, with features agents as processes; each time the state is
compared with a recount of the log."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import redis

from deploy import embedded
from feed import wire
from feed.attribution import Attribution, Marks
from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, Event, Impression, Shown, View, new_event_id, utc
from feed.examples import decode_record, is_new
from feed.features import BatchState, FrozenItems
from feed.io import kafka
from feed.io.recovery import Recovery
from feed.io.redis import FeatureStore, connect
from tests.integration.service import service
from tests.integration.test_features_agent import bare, essence, wait_until

PARTITIONS = 4
ITEMS = [Item(item_id=i, category=f"c{i % 9}", creator_id=f"k{i % 30}", tags=(f"t{i % 13}",)) for i in range(40)]
USERS = [User(user_id=u, platform=("ios", "web")[u % 2]) for u in range(60)]


def some_events(n: int, seed: int, step: float = 20.0) -> Iterator[Event]:
    draw = random.Random(seed)
    for k in range(n):
        at = utc(1.7e9 + step * k)
        common = {"event_id": new_event_id(at, draw), "user_id": draw.randrange(len(USERS)), "occurred_at": at}
        name = draw.choice(["impression", "impression", *ENGAGEMENTS])
        if name == "impression":
            yield Impression(**common, items=tuple(Shown(item_id=draw.randrange(40), position=p) for p in range(5)))
        elif name == "view":
            yield View(**common, item_id=draw.randrange(40), dwell_ms=draw.randrange(60_000))
        else:
            yield ENGAGEMENTS[name](**common, item_id=draw.randrange(40))


class System:
    """A broker and a Redis of this test's own, features agents as processes, and the log that was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent = folder, list[Event]()
        self._stack = ExitStack()
        self.broker = self._stack.enter_context(embedded.start_broker(embedded.free_port(), folder / "broker")).address
        self.port = embedded.free_port()
        self.redis = embedded.start_redis(self.port, folder / "redis")
        self.topic_ids = kafka.ensure_topics(self.broker, PARTITIONS, wire.TOPICS)
        self.sender = self._stack.enter_context(kafka.Sender(self.broker))
        self.client = connect(f"redis://{self.redis.address}/0")
        self.store = FeatureStore(self.client)
        self.log = folder / "agent.log"

    def close(self) -> None:
        self._stack.close()
        self.redis.stop()

    @contextmanager
    def agents(self, number: int = 1) -> Iterator[list]:
        settings = {
            "FEED_KAFKA": self.broker, "FEED_REDIS": f"redis://{self.redis.address}/0", "FEED_PARTITIONS": str(PARTITIONS),
            "FEED_SESSION_SECONDS": "2",
        }  # fmt: skip
        with ExitStack() as stack:
            yield [stack.enter_context(service("stream_processors/features.py", self.log, settings)) for _ in range(number)]

    def describe(self) -> None:
        for item in ITEMS:
            self.sender.send(wire.ITEMS, item.item_id, item)
        for user in USERS:
            self.sender.send(wire.USERS, user.user_id, user)
        self.sender.flush()
        self.folded()

    def send(self, *events: Event) -> None:
        for event in events:
            self.sender.send(wire.INTERACTIONS, event.user_id, event)
        self.sender.flush()
        self.sent += events

    def restart_with_its_file(self) -> None:
        self.redis.stop()
        self.redis = embedded.start_redis(self.port, self.folder / "redis")

    def folded(self) -> None:
        """Wait until everything is, in a state that is whole, and what it caused is sent."""

        def whole() -> bool:
            standing = self.store.standing(*((self.topic_ids[topic], p) for topic, p in self.sender.positions()))
            ends = {(self.topic_ids[topic], p): end for (topic, p), end in self.sender.positions().items()}
            unsent = sum(self.client.xlen(f"outbox:{topic_id}:{p}") for topic_id, p in ends)
            return standing.state == "ready" and standing.offsets == ends and not unsent

        wait_until(whole, "the folding of everything")

    def noticed(self, act: Callable[[], object], meanwhile: Iterable[Event] = ()) -> float:
        """Seconds until `act` has been noticed, while an event comes every half second; waits until all is folded again."""
        before, began = self.store.standing().epoch, time.monotonic()
        act()

        def other_epoch() -> bool:
            if time.monotonic() > began + 0.5 * len(came) and (event := next(coming, None)):
                came.append(event)
                self.send(event)
            return self.store.standing().epoch not in ("", before)

        came, coming = list[Event](), iter(meanwhile)
        wait_until(other_epoch, "a new epoch")
        seconds = time.monotonic() - began
        self.folded()
        return seconds

    def recount(self) -> tuple[BatchState, dict]:
        """What the log that was sent makes of users, items and examples, in one go."""
        state, windows, offsets = BatchState(ITEMS, USERS), {}, defaultdict(count)
        for event in self.sent:
            p = wire.partition_of(event.user_id, PARTITIONS)
            of = windows.setdefault(p, Attribution(1800.0, p, Marks(), {}, FrozenItems(state.items, 1.7e9)))
            of.add(event, state.user(event.user_id), next(offsets[p]))
            state.apply(event)
        return state, {(p, e.example_id): essence(e) for p, of in windows.items() for e in of.close()}

    def equals(self, expected: BatchState) -> None:
        """Every user, and every item's counts and neighbours."""
        ids, store = sorted(expected.users), FeatureStore(self.client)
        assert sorted(store.all_user_ids()) == ids
        states = store.users(ids)
        assert [bare(state) for state in states] == [bare(expected.users[i]) for i in ids]
        assert store.now() == expected.now
        table = store.load_items()
        assert sorted(table.ids) == sorted(item.item_id for item in ITEMS)
        ours = [table.row(item.item_id) for item in ITEMS]
        theirs = [expected.items.row(item.item_id) for item in ITEMS]
        np.testing.assert_allclose(table.sums(expected.now)[ours], expected.items.sums(expected.now)[theirs], rtol=1e-9)
        for state in states:
            np.testing.assert_allclose(_nearby(table, state), _nearby(expected.items, state), rtol=1e-5)

    def equals_a_recount(self) -> None:
        state, examples = self.recount()
        self.equals(state)
        assert {key: essence(e) for key, e in self.examples().items()} == examples

    def examples(self) -> dict:
        """What readers of the examples keep, by partition and id; what they drop must be a copy."""
        kept, last = {}, {}
        for record in kafka.read_topic(self.broker, wire.TRAINING_EXAMPLES):
            example = decode_record(record.value)
            place = example.source, example.sequence
            assert is_new(example, last) == (place not in kept)
            kept.setdefault(place, example)
        return {(example.source, example.example_id): example for example in kept.values()}


def _nearby(table, state) -> np.ndarray:
    nearby = table.nearby(state, 0.0)
    values = dict(zip((table.ids[row] for row in nearby.rows), nearby.said.tolist(), strict=True))
    return np.array([values.get(item.item_id, [0.0] * 4) for item in ITEMS])


@pytest.fixture
def system(tmp_path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def half_of(client: redis.Redis, seed: int) -> None:
    keys = sorted(client.keys("*"))
    client.delete(*random.Random(seed).sample(keys, len(keys) // 2))


def test_what_is_lost_or_overwritten_is_noticed_and_computed_anew(system):
    partition = wire.partition_of("5", PARTITIONS)
    windows = f"open:{system.topic_ids['interactions']}:{partition}"
    client, keys = system.client, ["user:5", "item:5", "near:5", "items:changed", "positions", f"members:{partition}", windows]
    losses = {key: lambda key=key: client.delete(key) for key in keys} | {
        "everything": client.flushall,
        "half of it": lambda: half_of(client, 0),
        "another type": lambda: (client.delete("user:5"), client.rpush("user:5", "x")),
    }
    at_the_next_event = {
        "a user": lambda: client.set("user:5", "not json"),
        "a part of a user": lambda: client.set("user:5", '{"user_id": "5", "events": 3}'),
        "content": lambda: client.hset("item:5", "content", "{"),
        "a count": lambda: client.hset("item:5", "click", "many"),
        "near": lambda: client.hset("near:5", "7", "x"),
        "marks of an earlier version": lambda: client.hset(
            "positions", f"marks{windows[4:]}", '{"clock":1.7e9,"sequence":811}'
        ),
    }
    with system.agents():
        system.describe()
        system.send(*some_events(300, seed=1))
        system.folded()
        expected, examples = system.recount()
        system.equals(expected)
        sent = len(list(kafka.read_topic(system.broker, wire.TRAINING_EXAMPLES)))
        for what, act in losses.items():
            client.hdel("positions", "rebuilds")  # so many in a row would have to wait
            assert system.noticed(act) < 10, what
            system.equals(expected)
        found = system.examples()
        assert {key: essence(e) for key, e in found.items()} == examples
        assert len(found) == sent  # none was sent again
        told = system.log.read_text()
        assert [key for key in keys if f'"{key}"' not in told] == []

        for k, (what, act) in enumerate(at_the_next_event.items()):
            client.hdel("positions", "rebuilds")
            # of the user, and of others who take the item for the first time, after another one
            pairs = [("5", "7"), *((f"n{k}-{n}", item) for n in range(20) for item in ("7", "5"))]
            clicks = (
                ENGAGEMENTS["click"](event_id=f"{k}-{n}", user_id=user, item_id=item, occurred_at=utc(1.7e9 + 10_000 + n))
                for n, (user, item) in enumerate(pairs)
            )
            assert system.noticed(act, clicks) < 10, what
    system.equals_a_recount()


def test_lost_and_restored_while_events_flow_through_two_workers_and_while_none_do(system):
    events = list(some_events(1500, seed=4))
    with system.agents(2):
        system.describe()

        def flow() -> None:
            for start in range(0, 1000, 20):
                system.send(*events[start : start + 20])
                time.sleep(0.05)

        flowing = threading.Thread(target=flow)
        flowing.start()
        for n, act in ((200, system.client.flushall), (600, lambda: half_of(system.client, 5))):
            wait_until(lambda n=n: len(system.sent) > n, "the flow of events")
            act()
        flowing.join()
        system.folded()
        system.equals_a_recount()

        system.client.save()
        system.send(*events[1000:1300])
        system.folded()
        for more in (events[1300:], []):
            system.noticed(system.restart_with_its_file, more)  # it is as of before these 300 events
            system.equals_a_recount()


def test_a_worker_goes_on_where_another_one_died_while_it_removed_what_was_computed(system):
    with system.agents() as (agent,):
        system.describe()
        system.send(*some_events(300, seed=7))
        system.folded()
        agent.kill()
        agent.wait()
    epoch = system.store.standing().epoch
    assert Recovery(system.client).begin(epoch)  # as it had done, and half of the users were gone by then
    system.client.delete(*sorted(system.client.keys("user:*"))[::2])
    with system.agents():
        system.folded()
        system.equals_a_recount()
        assert system.store.standing().epoch != epoch

        for p in range(PARTITIONS):  # the position of earlier versions: nothing depends on it
            system.client.delete(f"position:{system.topic_ids['interactions']}:{p}")
        system.send(*some_events(100, seed=8))
        system.folded()
    system.equals_a_recount()


def test_a_redis_that_is_full_or_misses_its_replicas_is_waited_for(system):
    events = list(some_events(200, seed=8))
    with system.agents() as (agent,):
        system.describe()
        for k, (setting, bad, good) in enumerate((("maxmemory", "1mb", "0"), ("min-replicas-to-write", "1", "0"))):
            system.client.config_set(setting, bad)
            before = system.log.read_text().count("trying again")
            system.send(*events[k * 100 : (k + 1) * 100])
            wait_until(lambda before=before: system.log.read_text().count("trying again") > before, "a word about it")
            system.client.config_set(setting, good)
            system.folded()
        assert agent.poll() is None
    system.equals_a_recount()


def shown(n: int, at: float, users: range) -> list[Impression]:
    """`n` impressions a minute apart, by turns of these users."""
    turns = [users[k % len(users)] for k in range(n)]
    return [
        Impression(
            event_id=f"{at}-{k}", user_id=user, occurred_at=utc(at + 60 * k), items=(Shown(item_id=str(k % 40), position=0),)
        )
        for k, user in enumerate(turns)
    ]


def test_what_was_sent_before_a_loss_is_not_sent_again_and_what_follows_it_is_no_copy_though_people_were_erased(system):
    junk = [b"before", b"after"]

    def send(value: bytes, *events: Impression) -> None:
        """These, with a record in every partition that nobody can read."""
        for p in range(PARTITIONS):
            system.sender.send_raw(wire.INTERACTIONS.name, p, b"", value)
        system.send(*events)

    with system.agents():
        system.describe()
        send(junk[0], *shown(300, 1.7e9, range(60)))
        system.folded()
        for user in range(30):
            system.sender.send_raw(wire.USERS.name, wire.partition_of(str(user), PARTITIONS), str(user).encode(), None)
        system.sender.flush()
        system.folded()
    before = len(system.examples())
    assert before > 200
    system.client.flushall()
    later = shown(300, 1.7e9 + 60 * 300, range(60, 90))
    send(junk[1], *later)  # in one batch with what had been before
    with system.agents():
        system.folded()
        of_partition = {(wire.partition_of(event.user_id, PARTITIONS), event.event_id): event.at for event in later}
        newest = {p: max(at for (q, _), at in of_partition.items() if q == p) for p in range(PARTITIONS)}
        closed = {key for key, at in of_partition.items() if at + 1800 < newest[key[0]]}
        assert len(closed) > 100
        wait_until(lambda: closed <= system.examples().keys(), "the examples of what came later")
    letters = [wire.decode_letter(record.value) for record in kafka.read_topic(system.broker, wire.DEAD_LETTERS)]
    assert sorted((letter.value, letter.position.partition) for letter in letters) == sorted(
        (value, p) for value in junk for p in range(PARTITIONS)
    )
