"""Records that delete, through the processes: features agent, feeds agent, a real broker and a real Redis."""

import time

import pytest

from deploy import embedded
from feed import wire
from feed.catalogue import Item, User
from feed.events import Impression, Like, Shown, utc
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect
from tests.integration.service import service
from tests.small import NOW, item, promote, snapshot, world

PARTITIONS = 2
PATIENCE = 60.0
USERS = [f"quiet-{n}" for n in range(40)]


class Running:
    """Both agents, forty users who have a feed and do nothing, and a champion."""

    def __init__(self, broker, redis_url, sender, topic_ids):
        self.broker, self.sender, self.topic_ids = broker, sender, topic_ids
        self.client = connect(redis_url)
        self.store, self.feeds = FeatureStore(self.client), FeedStore(self.client)

    def fill(self):
        """Sixty items, an event that sets the clock, and a feed for each of the users."""
        for k in range(60):
            self.sender.send(wire.ITEMS, str(k), item(k))
        first = Like(event_id="first", user_id="first", item_id="0", occurred_at=utc(NOW))
        self.send(wire.INTERACTIONS, "first", first)
        until(self.folded)
        time.sleep(1.0)  # the promise: rankable within a second
        for user in USERS:
            self.sender.send(wire.USERS, user, User(user_id=user, platform="web"))
        self.sender.flush()
        until(lambda: all(feed is not None and len(feed.items) == 30 for feed in self.feeds.read_many(USERS)))

    def delete(self, topic, key):
        self.sender.send_raw(topic.name, wire.partition_of(key, PARTITIONS), key.encode(), None)
        self.sender.flush()

    def send(self, topic, key, message):
        self.sender.send(topic, key, message)
        self.sender.flush()

    def have(self, item_id):
        return [user for user in USERS if self.client.zscore(f"feed:{user}", item_id) is not None]

    def popular(self):
        counted = [place.item_id for feed in self.feeds.read_many(USERS) for place in feed.items]
        return max(sorted(set(counted)), key=counted.count)

    def folded(self):
        """Everything that was sent is in Redis."""
        positions = self.sender.positions().items()
        return all(self.store.position(self.topic_ids[topic], partition) >= end for (topic, partition), end in positions)


def until(condition, seconds=PATIENCE):
    """Seconds until `condition` is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    path = tmp_path_factory.mktemp("deletions")
    with (
        embedded.start_broker(embedded.free_port(), path) as broker,
        embedded.start_redis(embedded.free_port(), path) as redis,
    ):
        settings = {
            "FEED_KAFKA": broker.address, "FEED_REDIS": f"redis://{redis.address}/0", "FEED_REGISTRY": str(path / "registry"),
            "FEED_PARTITIONS": str(PARTITIONS), "FEED_FEED_SIZE": "30",
        }  # fmt: skip
        topic_ids = kafka.ensure_topics(broker.address, PARTITIONS, wire.TOPICS)
        promote(path / "registry", snapshot(world(users=10, items=60)))
        with (
            kafka.Sender(broker.address) as sender,
            service("stream_processors/features.py", path / "features.log", settings),
            service("stream_processors/feeds.py", path / "feeds.log", settings),
        ):
            system = Running(broker.address, settings["FEED_REDIS"], sender, topic_ids)
            system.fill()
            yield system


def test_what_is_withdrawn_is_gone_from_every_stored_feed_in_a_moment(running):
    ways = {
        "removed": lambda item_id: running.delete(wire.ITEMS, item_id),
        "not available": lambda item_id: running.send(wire.ITEMS, item_id, Item(item_id=item_id, available=False)),
        "expired": lambda item_id: running.send(wire.ITEMS, item_id, Item(item_id=item_id, expires_at=utc(NOW))),
        "year 9999": lambda item_id: running.send(wire.ITEMS, item_id, item(int(item_id), created=2.5e11)),
    }
    seconds = {}
    for name, withdraw in ways.items():
        gone = running.popular()
        assert running.have(gone)
        withdraw(gone)
        seconds[name] = until(lambda gone=gone: not running.have(gone))
    assert max(seconds.values()) < 3.0  # 0.1 to 0.3 s as measured
    until(lambda: {len(feed.items) for feed in running.feeds.read_many(USERS)} == {30})  # and others took the places

    gone = running.popular()
    running.send(wire.ITEMS, gone, Item(item_id=gone, expires_at=utc(NOW + 10)))
    until(running.folded)
    running.send(
        wire.INTERACTIONS, "first", Like(event_id="second", user_id="first", item_id="0", occurred_at=utc(NOW + 10))
    )  # the clock of the log goes on
    until(lambda: not running.have(gone))

    running.send(wire.ITEMS, gone, item(int(gone)))
    until(running.folded)
    time.sleep(1.0)
    running.send(wire.USERS, USERS[0], User(user_id=USERS[0], country="DE"))
    until(lambda: running.client.zscore(f"feed:{USERS[0]}", gone) is not None)


def test_an_erased_user_is_gone_from_redis_and_does_not_come_back_but_by_a_later_event(running):
    who, other = USERS[-2:]
    shown = tuple(Shown(str(k), k) for k in range(3))
    for user in (who, other):
        seen = Impression(event_id=f"i-{user}", request_id="r", user_id=user, occurred_at=utc(NOW), items=shown)
        running.send(wire.INTERACTIONS, user, seen)
    until(lambda: running.store.users([who])[0]["events"] == {"impression": 1})
    running.delete(wire.USERS, who)
    until(lambda: running.store.users([who])[0] is None)
    until(lambda: not held(running, who))
    assert running.feeds.read(other) is not None
    time.sleep(1.0)  # whatever was on its way has arrived
    assert not held(running, who)

    again = Like(event_id="again", user_id=who, item_id="7", occurred_at=utc(NOW + 5))
    running.send(wire.INTERACTIONS, who, again)
    until(lambda: running.feeds.read(who) is not None)
    assert running.store.users([who])[0]["events"] == {"like": 1}
    assert "7" not in {place.item_id for place in running.feeds.read(who).items}


def held(running, who):
    """Keys that have the user in their name or their value."""
    keys = running.client.scan_iter()
    found = [key for key in keys if who.encode() in key or who.encode() in (running.client.dump(key) or b"")]
    return [key for key in found if not key.startswith(b"outbox:")]  # its entries are gone, its memory is used again later


def test_unusable_deletions_are_dead_letters_and_nothing_else_stops(running):
    for key in (b"", b"\xff", b"x" * 129):
        running.sender.send_raw(wire.ITEMS.name, 0, key, None)
        running.sender.send_raw(wire.USERS.name, 0, key, None)
    running.sender.flush()
    until(running.folded)
    letters = []

    def arrived():
        letters[:] = [wire.decode_letter(record.value) for record in kafka.read_topic(running.broker, wire.DEAD_LETTERS)]
        return len(letters) == 6

    until(arrived)
    assert all("deletes nothing" in letter.reason for letter in letters)
    running.delete(wire.ITEMS, "3")
    until(lambda: not running.have("3"))
