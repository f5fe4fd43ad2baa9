"""What Redis holds, and the one script that changes it: key names live here (feeds: `feed.io.feeds`).

    user:{id}                       JSON: that user's features
    item:{id}                       hash: `content` (JSON), integer counts (see feed.features.counts), how often `taken`
    near:{id}                       hash: what the item was taken after: item id -> amount, an integer (see feed.features.near)
    items:changed                   sorted set: item ids by the number of their last change
    clock                           newest event time, seconds since 1970
    position:{topic id}:{partition} next offset to apply
    outbox:{topic id}:{partition}   stream: messages that applied batches caused and that are not yet known to be sent
    open:{topic id}:{partition}     hash: user -> JSON: impressions whose attribution window is open (feed.attribution)
    due:{topic id}:{partition}      sorted set: those users by the partition's time at which something of theirs ends
    marks:{topic id}:{partition}    JSON: the partition's clock, its next example's number, engagements that were too late
    topics, catalogue               JSON: the topics, and the world or log, that this state was computed from

A batch is applied by compare-and-set on positions: its own, and that of the other topic that changes the same users
(`interactions` and `users` share partitions). So of two workers that believe to own a partition only one can write, and
nothing is applied twice. What is counted of items are increments, because all partitions share them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import msgspec
import numpy as np
import redis
import stamina
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    TimeoutError,
)
from redis.retry import Retry

from feed.address import check_redis, masked
from feed.attribution import Marks, Pending
from feed.catalogue import Item
from feed.errors import BadSetting, FeedError, OtherCatalogue, OtherLog, Refused
from feed.events import Event
from feed.features import ItemTable, UserState, new_user
from feed.features.counts import oldest_kept
from feed.features.near import LONGEST, Taken
from feed.io.diagnosis import diagnose_redis, redis_refusal
from feed.wire import Position

log = structlog.get_logger()

# Redis is away, is loading its file, or has restarted and forgotten the script
TRANSIENT = (ConnectionError, TimeoutError, BusyLoadingError, NoScriptError, ReadOnlyError, OSError)
TAKEN = "taken"
UNCATALOGUED_SECONDS = 7 * 86400  # counts of an item that no catalogue describes are kept this long after the last event
TRIM_FIELDS = 600  # item hashes above this many fields lose their expired buckets, at most once per hour of event time

_APPLY = """
-- KEYS: own position, other position, outbox, clock, changed, stamp, open, due, marks, then user keys,
--       then per item: item, near
-- ARGV: expected own, expected other, new own, newest event time, number of users, number of items, TTL, trim limit, hour,
--       oldest bucket kept of 5m, 1h, 1d, marks or '', MessagePack array of (user, what is open or '', when due),
--       marks that these were computed from or '', fields that a near hash may have,
--       then user values, then per item: id, content or '', 'field=n;field=n', MessagePack array of (item, amount) or '',
--       then per message: topic, partition, key, value
local own, other = redis.call('GET', KEYS[1]) or '0', redis.call('GET', KEYS[2]) or '0'
if own ~= ARGV[1] or other ~= ARGV[2] then return {0, own, other} end
-- closing an idle partition moves no position: its marks say that it happened
if ARGV[13] ~= '' and (redis.call('GET', KEYS[9]) or '') ~= ARGV[15] then return {0, own, other} end
local users, items = tonumber(ARGV[5]), tonumber(ARGV[6])
for i = 1, users do redis.call('SET', KEYS[9 + i], ARGV[16 + i]) end
if ARGV[13] ~= '' then redis.call('SET', KEYS[9], ARGV[13]) end
local pending = cmsgpack.unpack(ARGV[14])
for i = 1, #pending, 3 do
  if pending[i + 1] == '' then
    redis.call('HDEL', KEYS[7], pending[i])
    redis.call('ZREM', KEYS[8], pending[i])
  else
    redis.call('HSET', KEYS[7], pending[i], pending[i + 1])
    redis.call('ZADD', KEYS[8], pending[i + 2], pending[i])
  end
end
local oldest = {['5m'] = tonumber(ARGV[10]), ['1h'] = tonumber(ARGV[11]), ['1d'] = tonumber(ARGV[12])}
local most = tonumber(ARGV[16])
local function greater(a, b) return a[2] > b[2] or a[2] == b[2] and a[1] < b[1] end
local function halve(key)
  local fields, entries = redis.call('HGETALL', key), {}
  for j = 1, #fields, 2 do entries[#entries + 1] = {fields[j], tonumber(fields[j + 1])} end
  table.sort(entries, greater)
  for j = most / 2 + 1, #entries do redis.call('HDEL', key, entries[j][1]) end
end
local arg = 16 + users
local stamp = items > 0 and redis.call('INCR', KEYS[6])
for i = 1, items do
  local key, near = KEYS[8 + users + 2 * i], KEYS[9 + users + 2 * i]
  local id, content = ARGV[arg + 1], ARGV[arg + 2]
  if content ~= '' then
    redis.call('HSET', key, 'content', content)
    redis.call('PERSIST', key)
    redis.call('PERSIST', near)
  end
  for name, n in string.gmatch(ARGV[arg + 3], '([^=;]+)=(%d+)') do redis.call('HINCRBY', key, name, n) end
  if ARGV[arg + 4] ~= '' then
    local taken_after = cmsgpack.unpack(ARGV[arg + 4])
    for j = 1, #taken_after, 2 do redis.call('HINCRBY', near, taken_after[j], taken_after[j + 1]) end
    if redis.call('HLEN', near) > most then halve(near) end
  end
  if content == '' and redis.call('HEXISTS', key, 'content') == 0 then
    redis.call('EXPIRE', key, ARGV[7])
    redis.call('EXPIRE', near, ARGV[7])
  else
    redis.call('ZADD', KEYS[5], stamp, id)
  end
  if redis.call('HLEN', key) > tonumber(ARGV[8]) and redis.call('HGET', key, 'trimmed') ~= ARGV[9] then
    for _, name in ipairs(redis.call('HKEYS', key)) do
      local resolution, bucket = string.match(name, '^%a+:(%w+):(%d+)$')
      if bucket and tonumber(bucket) < oldest[resolution] then redis.call('HDEL', key, name) end
    end
    redis.call('HSET', key, 'trimmed', ARGV[9])
  end
  arg = arg + 4
end
for i = arg + 1, #ARGV, 4 do
  redis.call('XADD', KEYS[3], '*', 'topic', ARGV[i], 'partition', ARGV[i + 1], 'key', ARGV[i + 2], 'value', ARGV[i + 3])
end
if tonumber(ARGV[4]) > tonumber(redis.call('GET', KEYS[4]) or '0') then redis.call('SET', KEYS[4], ARGV[4]) end
redis.call('SET', KEYS[1], ARGV[3])
return {1, ARGV[3], other}
"""

# one call in place of a pipeline of thousands: three times as fast
_CONTENTS = """
local contents = {}
for i, key in ipairs(KEYS) do contents[i] = redis.call('HGET', key, 'content') end
return contents
"""


@dataclass(frozen=True)
class Message:
    """A message that a batch causes."""

    topic: str
    partition: int
    key: bytes
    value: bytes


@dataclass
class Change:
    """All effects of one batch.

    `taken`: what was taken, after what. `pending`: what is open of these users now; `marks` None: the partition has none.
    `events`: those that were folded. `newest`: the newest event time (seconds since 1970, 0 if there is none).
    `marks_before`: those it was computed from.
    """

    position: Position
    users: dict[str, UserState] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    pending: dict[str, Pending] = field(default_factory=dict)
    marks: Marks | None = None
    marks_before: Marks | None = None
    events: list[Event] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    newest: float = 0.0


@dataclass(frozen=True)
class Applied:
    """Whether the change was applied, and the positions found (own and other): unequal to those expected if it was not."""

    done: bool
    own: int
    other: int


def connect(url: str) -> redis.Redis:
    """A client of the Redis at `url`; waits for it as long as it takes, saying so.

    Its own retries are off: after an error the caller must read its position again first. Raises `BadSetting` on an impossible
    URL and `Refused` if there is a Redis that cannot be used: a wrong password, TLS, a replica, a node of a cluster.
    """
    try:
        client = redis.Redis.from_url(
            check_redis(url), socket_timeout=10, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise BadSetting(f"FEED_REDIS={masked(url)!r}: {error}") from None
    away = ""
    for attempt in stamina.retry_context(on=TRANSIENT, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0):
        with attempt:
            if attempt.num > 1:
                log.warning("waiting for Redis", url=masked(url), attempt=attempt.num, error=away)
            try:
                _require_usable(client)
            except TypeError as error:  # an option in the URL that redis-py does not have
                raise BadSetting(f"FEED_REDIS={masked(url)!r}: {error}") from error
            except (redis.RedisError, OSError) as error:
                away = str(error)
                if why := diagnose_redis(url, error):
                    raise Refused(f"Redis at {masked(url)} {why}") from error
                if not isinstance(error, TRANSIENT):
                    raise Refused(f"Redis at {masked(url)} cannot be used: {error}") from error
                raise
    return client


def _require_usable(client: redis.Redis) -> None:
    client.ping()
    with suppress(NoPermissionError):  # INFO is among the commands that are often taken from users
        if client.info("cluster").get("cluster_enabled"):
            raise ClusterError(
                "it is a node of a Redis Cluster, where one script may not change keys of several nodes: "
                "point FEED_REDIS at a Redis without cluster-enabled"
            )
    client.eval("return redis.call('DEL', KEYS[1])", 1, "feedloop:writable")  # a replica, or a user that may not, says no


@contextmanager
def must_answer(url: str, doing: str = "") -> Iterator[None]:
    """For a command that does not wait: raises `FeedError` if the Redis at `url` goes away. What ails a file goes through."""
    try:
        yield
    except TRANSIENT as error:
        if getattr(error, "filename", None):
            raise
        if why := redis_refusal(error):
            raise Refused(f"Redis at {masked(url)} {why}") from error
        raise FeedError(f"Redis at {masked(url)} went away{doing}: {error}; run it again") from error


def read_catalogue(client: redis.Redis) -> dict[str, Any] | None:
    """What world or log the state holds; None if it holds none."""
    value = cast("bytes | None", client.get("catalogue"))
    return None if value is None else cast("dict[str, Any]", json.loads(value))


def claim_catalogue(client: redis.Redis, description: Mapping[str, object]) -> None:
    """Say that the state is about this world or log. Raises `OtherCatalogue` if it is already about another."""
    value = json.dumps(description, sort_keys=True)
    if not client.set("catalogue", value, nx=True) and (held := read_catalogue(client)) != json.loads(value):
        raise OtherCatalogue(
            f"the system holds {json.dumps(held, sort_keys=True)}, not {value}. Start with an empty one: stop and start "
            "`make up`, or `docker compose down -v` and up, with FEED_SEED_DATA=none to leave it empty"
        )


def claim_topics(client: redis.Redis, topic_ids: Mapping[str, str]) -> None:
    """Say that the state is computed from these topics. Raises `OtherLog` if it was computed from others of the same names."""
    value = json.dumps(dict(topic_ids), sort_keys=True)
    if not client.set("topics", value, nx=True):
        held = json.loads(cast(bytes, client.get("topics")))
        if held != json.loads(value):
            changed = ", ".join(sorted(name for name in topic_ids if held.get(name) != topic_ids[name]))
            raise OtherLog(
                f"Redis holds features of a log that is gone: {changed} was recreated. Empty Redis and the registry "
                "(`docker compose down -v`; `make up` does it by itself), or point FEED_REDIS at the right server"
            )


class FeatureStore:
    """Users, items, positions and outboxes in Redis. For one thread at a time (`refresh_items` keeps a cursor)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._apply = client.register_script(_APPLY)
        self._contents = client.register_script(_CONTENTS)
        self._stamp = 0

    def users(self, ids: Sequence[str]) -> list[UserState | None]:
        """The users' states, None where nothing is known; features that an older version did not have are as of a new user."""
        values = cast("list[bytes | None]", self._client.mget([f"user:{i}" for i in ids])) if ids else []
        return [
            None if value is None else new_user(i) | msgspec.json.decode(value) for i, value in zip(ids, values, strict=True)
        ]

    def all_user_ids(self) -> Iterator[str]:
        """Every user of whom anything is known, in no order."""
        for key in self._client.scan_iter("user:*", count=2000):
            yield key.decode().removeprefix("user:")

    def contents(self, ids: Sequence[str]) -> dict[str, Item]:
        """The catalogue's entries of these items, where there are any."""
        values = self._contents(keys=[f"item:{item_id}" for item_id in ids])
        return {i: _item(value) for i, value in zip(ids, values, strict=True) if value is not None}

    def counts(self, item_id: str) -> dict[str, int]:
        """The item's counts by field; empty if there are none."""
        fields = cast("dict[bytes, bytes]", self._client.hgetall(f"item:{item_id}"))
        return _counts(fields)

    def load_items(self) -> ItemTable:
        """The whole catalogue, as of now; further `refresh_items` go on from here."""
        table = ItemTable()
        self._stamp = 0
        self.refresh_items(table)
        return table

    def refresh_items(self, table: ItemTable) -> np.ndarray:
        """Bring in what changed since the last call; returns int64 rows of the changed items, new ones appended to `table`."""
        if int(cast("bytes | None", self._client.get("items:stamp")) or 0) < self._stamp:
            self._stamp = 0  # Redis has come back older than it was: changes are counted anew
        changed = cast(
            "list[tuple[bytes, float]]",
            self._client.zrangebyscore("items:changed", f"({self._stamp}", "+inf", withscores=True),
        )
        now = self.now()
        rows = []
        for start in range(0, len(changed), 1000):
            part = [item_id for item_id, _ in changed[start : start + 1000]]
            taken: dict[str, int] = {}
            for fields in self._hashes([b"item:" + item_id for item_id in part]):
                item = _item(fields[b"content"])  # only described items are in the set
                if item != table.by_id.get(item.item_id):
                    table.upsert(item)
                counts = _counts(fields)
                rows.append(table.set_counts(item.item_id, counts, now))
                if counts.get(TAKEN, 0) != table.taken(item.item_id):  # most that changes was only shown
                    taken[item.item_id] = counts.get(TAKEN, 0)
            for (item_id, times), after in zip(taken.items(), self._hashes([f"near:{i}" for i in taken]), strict=True):
                table.set_taken(item_id, {other.decode(): int(n) for other, n in after.items()}, times)
        if changed:
            self._stamp = int(max(stamp for _, stamp in changed))
        return np.array(rows, np.int64)

    def _hashes(self, keys: Sequence[str | bytes]) -> list[dict[bytes, bytes]]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        return cast("list[dict[bytes, bytes]]", pipeline.execute())

    def pending(self, topic_id: str, partition: int, ids: Sequence[str]) -> list[Pending | None]:
        """What is open of these users, None where nothing is."""
        values = cast("list[bytes | None]", self._client.hmget(f"open:{topic_id}:{partition}", list(ids))) if ids else []
        return [None if value is None else msgspec.json.decode(value, type=Pending) for value in values]

    def due(self, topic_id: str, partition: int, clock: float) -> list[str]:
        """The users of whom something ends before the partition's time is `clock`."""
        found = cast("list[bytes]", self._client.zrangebyscore(f"due:{topic_id}:{partition}", "-inf", f"({clock!r}"))
        return [user_id.decode() for user_id in found]

    def marks(self, topic_id: str, partition: int) -> Marks:
        """Where the partition's examples are."""
        value = cast("bytes | None", self._client.get(f"marks:{topic_id}:{partition}"))
        return Marks() if value is None else msgspec.json.decode(value, type=Marks)

    def now(self) -> float:
        """The newest event time, seconds since 1970; 0 before the first event."""
        return float(cast("bytes | None", self._client.get("clock")) or 0)

    def position(self, topic_id: str, partition: int) -> int:
        """The next offset of this partition to apply."""
        return int(cast("bytes | None", self._client.get(f"position:{topic_id}:{partition}")) or 0)

    def apply(self, change: Change, expected: int, other_topic_id: str, other_expected: int) -> Applied:
        """Apply the change, if its partition's position in its own topic and in the other is still as expected."""
        own = change.position
        counts, near = _counted(change)
        items = sorted({*change.items, *counts})
        keys = [
            f"position:{own.topic_id}:{own.partition}", f"position:{other_topic_id}:{own.partition}",
            f"outbox:{own.topic_id}:{own.partition}", "clock", "items:changed", "items:stamp",
            *(f"{name}:{own.topic_id}:{own.partition}" for name in ("open", "due", "marks")),
            *(f"user:{user_id}" for user_id in change.users),
            *(f"{name}:{item_id}" for item_id in items for name in ("item", "near")),
        ]  # fmt: skip
        arguments: list[Any] = [
            expected, other_expected, own.offset, repr(change.newest), len(change.users), len(items), UNCATALOGUED_SECONDS,
            TRIM_FIELDS, int(change.newest // 3600), *oldest_kept(change.newest),
            b"" if change.marks is None else msgspec.json.encode(change.marks), _packed(change.pending),
            b"" if change.marks_before in (None, Marks()) else msgspec.json.encode(change.marks_before), LONGEST,
            *map(msgspec.json.encode, change.users.values()),
        ]  # fmt: skip
        for item_id in items:
            item = change.items.get(item_id)
            after = [part for pair in near[item_id].items() for part in pair] if item_id in near else []
            arguments += [
                item_id,
                b"" if item is None else msgspec.json.encode(item),
                ";".join(f"{name}={n}" for name, n in counts.get(item_id, {}).items()),
                msgspec.msgpack.encode(after) if after else b"",
            ]
        for message in change.messages:
            arguments += [message.topic, message.partition, message.key, message.value]
        done, found, other = self._apply(keys=keys, args=arguments)
        return Applied(bool(done), int(found), int(other))

    def outbox(self, topic_id: str, partition: int, most: int | None = None) -> list[tuple[bytes, Message]]:
        """Messages not yet known to be sent, oldest first and at most `most`, with the id to remove them by."""
        found = self._client.xrange(f"outbox:{topic_id}:{partition}", count=most)
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        return [(entry, Message(m[b"topic"].decode(), int(m[b"partition"]), m[b"key"], m[b"value"])) for entry, m in entries]

    def sent(self, topic_id: str, partition: int, entries: Sequence[bytes]) -> None:
        """Remove messages from the outbox."""
        self._client.xdel(f"outbox:{topic_id}:{partition}", *entries)


def _counted(change: Change) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """What the change adds, by item: to its counts, and to what it was taken after."""
    counts = {item_id: Counter(fields) for item_id, fields in change.counts.items()}
    near: dict[str, Counter[str]] = {}
    for item_id, after in change.taken:
        counts.setdefault(item_id, Counter())[TAKEN] += 1
        near.setdefault(item_id, Counter()).update(after)
    return counts, near


def _packed(pending: Mapping[str, Pending]) -> bytes:
    parts: list[str | float] = []
    for user_id, of_user in pending.items():
        due = of_user.due
        parts += [user_id, "" if due is None else msgspec.json.encode(of_user).decode(), due or 0.0]
    return msgspec.msgpack.encode(parts)


@lru_cache(maxsize=20_000)
def _item(content: bytes) -> Item:
    return msgspec.json.decode(content, type=Item)


def _counts(fields: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(n) for name, n in fields.items() if name not in (b"content", b"trimmed")}
