"""What Redis holds, and the one script that changes it: key names live here (feeds: `feed.io.feeds`).

    user:{id}                       JSON: that user's features
    item:{id}                       hash: `content` (JSON), integer counts and the second of the `first` event (see
                                    feed.features.counts), how often `taken`, and of how many fields its `near` hash is
    near:{id}                       hash: what the item was taken after: item id -> amount, an integer (see feed.features.near)
    items:changed                   sorted set: ids of described items by the number of their last change
    items:withdrawn                 sorted set: the last `WITHDRAWN` items that records have withdrawn, by the same number
    erased                          hash: who was erased (see `erased_name`) -> up to when, milliseconds since 1970
    members:{partition}             set: ids of the partition's users
    counters                        hash: `features.events`, `.repeats`, `.erased`, `.dead_letters`, `.set_aside`;
                                    `feeds.set_aside`
    outbox:{topic id}:{partition}   stream: messages that applied batches caused and that are not yet known to be sent
    open:{topic id}:{partition}     hash: user -> JSON: impressions whose attribution window is open (feed.attribution)
    due:{topic id}:{partition}      sorted set: those users by the partition's time at which something of theirs ends
    positions                       hash, of everything that must not be lost by itself:
      {topic id}:{partition}          next offset to apply
      marks:{topic id}:{partition}    JSON: the partition's clock, when its newest window closes, how many examples it has made,
                                      how many engagements were too late
      clock                           newest event time, seconds since 1970
      stamp                           number of the last change of an item
      items:changed, members:…, open:…, outbox:…   how many entries the key of that name has
      epoch, state, …                 whether this is whole, and since when (see feed.io.recovery)
    topics, catalogue               JSON: the topics, and the world or log, that this state was computed from

A batch is applied by compare-and-set on positions: its own, and that of the other topic that changes the same users
(`interactions` and `users` share partitions). So of two workers that believe to own a partition only one can write, and
nothing is applied twice. What is counted of items are increments, because all partitions share them.

A key that has vanished or cannot be read is never taken for one that was not there yet: what says that it should be there is
kept in another key (`positions`, `members`, `items:changed`), and the script compares before it writes.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import redis
import stamina
import structlog
from redis._parsers import BaseParser
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from feed.address import check_redis, masked
from feed.attribution import Marks, Pending
from feed.catalogue import Item
from feed.errors import BadSetting, FeedError, Lost, OtherCatalogue, OtherLog, Refused
from feed.events import Event
from feed.features import ItemTable, UserState, new_user
from feed.features.counts import oldest_kept
from feed.features.near import LONGEST, Taken
from feed.io.diagnosis import diagnose_redis, redis_refusal
from feed.wire import Position

log = structlog.get_logger()


class Unready(ResponseError):
    """Redis answers that it cannot do this now: it could not write its file, misses replicas, or runs a script."""


# Redis is away, is loading its file, is full, or has restarted and forgotten the script
TRANSIENT = (
    ConnectionError, TimeoutError, BusyLoadingError, NoScriptError, ReadOnlyError, OutOfMemoryError, ClusterDownError,
    MasterDownError, TryAgainError, Unready, OSError,
)  # fmt: skip
_UNREADY = dict.fromkeys(("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE"), Unready)  # redis-py knows no class for these
POSITIONS = "positions"
# `state` in positions: `wiping`, then `catalogue`, then `ready` (see feed.io.recovery)
WIPING, CATALOGUE, READY = "wiping", "catalogue", "ready"
TAKEN = "taken"
NAMED = 5  # keys in one line of the log
UNCATALOGUED_SECONDS = 7 * 86400  # counts of an item that no catalogue describes are kept this long after the last event
WITHDRAWN = 10_000  # whoever has missed more looks through the whole catalogue
TRIM_FIELDS = 600  # item hashes above this many fields lose their expired buckets, at most once per hour of event time

# what a script can tell of a key that is missing or is none of ours; `lost` are their names
SOUND = """
local lost = {}
local function require_sound(sound, key) if not sound then lost[#lost + 1] = key end end
local function held(field) return redis.call('HGET', KEYS[1], field) or '' end
local function size(command, key)
  local n = redis.pcall(command, key)
  return type(n) == 'number' and n or -1
end
local function expected(key) return tonumber(held(key)) or 0 end
local function require_sizes(members, changed, open, due, outbox, withdrawn, erasures)
  require_sound(size('SCARD', members) == expected(members), members)
  require_sound(size('ZCARD', changed) == expected(changed), changed)
  require_sound(size('HLEN', open) == expected(open), open)
  require_sound(size('ZCARD', due) == expected(open), due)
  require_sound(size('XLEN', outbox) >= expected(outbox), outbox)
  require_sound(size('ZCARD', withdrawn) == expected(withdrawn), withdrawn)
  require_sound(size('HLEN', erasures) >= expected(erasures), erasures)
end
local function require_user(key, member)
  require_sound(redis.call('TYPE', key).ok == (member and 'string' or 'none'), key)
end
local function require_item(key, near, described)
  require_sound(redis.pcall('HEXISTS', key, 'content') == (described and 1 or 0), key)
  local fields = redis.pcall('HGET', key, 'near')
  require_sound(size('HLEN', near) == (type(fields) == 'string' and tonumber(fields) or 0), near)
end
"""

_APPLY = (
    SOUND
    + """
-- KEYS: positions, members, outbox, changed, open, due, then user keys, then per item: item, near; last: withdrawn, erased,
--       open and due of the other topic
-- ARGV: expected own, expected other, new own, newest event time, number of users, number of items, TTL, trim limit, hour,
--       oldest bucket kept of 5m, 1h, 1d, marks or '', MessagePack array of (user, what is open or '', when due),
--       marks that these were computed from or '', fields that a near hash may have, epoch, names of own and other position,
--       MessagePack array of (erased user, their name in `erased`, until when), withdrawn items that are remembered,
--       MessagePack array of (counter, how much more),
--       then user values, then per item: id, content ('': as it is, 'removed'), 'shown' or 'withdrawn' (with content),
--       'field=n;field=n', MessagePack array of (item, amount) or '',
--       then per message: topic, partition, key, value
local positions, members, outbox, changed, open, due = unpack(KEYS, 1, 6)
local own_name, other_name = ARGV[18], ARGV[19]
local own = redis.call('HGET', positions, own_name) or '0'
local other = redis.call('HGET', positions, other_name) or '0'
if held('epoch') ~= ARGV[17] or held('state') == 'wiping' then return {0, own, other, {}} end
if own ~= ARGV[1] or other ~= ARGV[2] then return {0, own, other, {}} end
-- closing an idle partition moves no position: its marks say that it happened
if ARGV[13] ~= '' and held('marks:' .. own_name) ~= ARGV[15] then return {0, own, other, {}} end
local users, items = tonumber(ARGV[5]), tonumber(ARGV[6])
local first_user, first_item = 6, 6 + users
local user_values, item_values = 22, 22 + users
local withdrawn, erasures, others_open, others_due = unpack(KEYS, #KEYS - 3, #KEYS)
require_sizes(members, changed, open, due, outbox, withdrawn, erasures)
if #lost > 0 then return {0, own, other, lost} end
for i = 1, users do
  local key = KEYS[first_user + i]
  require_user(key, redis.call('SISMEMBER', members, string.sub(key, 6)) == 1)
end
for i = 1, items do
  local described = redis.call('ZSCORE', changed, ARGV[item_values + 5 * i - 4])
  require_item(KEYS[first_item + 2 * i - 1], KEYS[first_item + 2 * i], described)
end
local erased = cmsgpack.unpack(ARGV[20])
if #erased > 0 then
  require_sound(size('HLEN', others_open) == expected(others_open), others_open)
  require_sound(size('ZCARD', others_due) == expected(others_open), others_due)
end
if #lost > 0 then return {0, own, other, lost} end
for i = 1, #erased, 3 do
  local id = erased[i]
  redis.call('HSET', erasures, erased[i + 1], erased[i + 2])
  redis.call('DEL', 'user:' .. id)
  redis.call('SREM', members, id)
  redis.call('HDEL', others_open, id)
  redis.call('ZREM', others_due, id)
  -- a feed of who is called so would have another user's meta as its key: there is none (feed.io.feeds)
  if string.sub(id, -5) ~= ':meta' then redis.call('DEL', 'feed:' .. id, 'feed:' .. id .. ':meta') end
end
for i = 1, users do
  redis.call('SET', KEYS[first_user + i], ARGV[user_values + i])
  redis.call('SADD', members, string.sub(KEYS[first_user + i], 6))
end
if ARGV[13] ~= '' then redis.call('HSET', positions, 'marks:' .. own_name, ARGV[13]) end
local tallies = cmsgpack.unpack(ARGV[22])
for i = 1, #tallies, 2 do redis.pcall('HINCRBY', 'counters', tallies[i], tallies[i + 1]) end
local pending = cmsgpack.unpack(ARGV[14])
for i = 1, #pending, 3 do
  if pending[i + 1] == '' then
    redis.call('HDEL', open, pending[i])
    redis.call('ZREM', due, pending[i])
  else
    redis.call('HSET', open, pending[i], pending[i + 1])
    redis.call('ZADD', due, pending[i + 2], pending[i])
  end
end
local oldest = {['5m'] = tonumber(ARGV[10]), ['1h'] = tonumber(ARGV[11]), ['1d'] = tonumber(ARGV[12])}
local most = tonumber(ARGV[16])
local function added(key, name, n) return type(redis.pcall('HINCRBY', key, name, n)) == 'number' end
local function lowered(key, name, n)
  local least = redis.pcall('HGET', key, name)
  if type(least) == 'table' or least and not string.match(least, '^%d+$') then return false end
  if not least or tonumber(n) < tonumber(least) then redis.call('HSET', key, name, n) end
  return true
end
local function greater(a, b) return a[2] > b[2] or a[2] == b[2] and a[1] < b[1] end
local function halve(key)
  local fields, entries = redis.call('HGETALL', key), {}
  for j = 1, #fields, 2 do entries[#entries + 1] = {fields[j], tonumber(fields[j + 1])} end
  table.sort(entries, greater)
  for j = most / 2 + 1, #entries do redis.call('HDEL', key, entries[j][1]) end
end
local arg = item_values
local stamp = items > 0 and redis.call('HINCRBY', positions, 'stamp', 1)
for i = 1, items do
  local key, near = KEYS[first_item + 2 * i - 1], KEYS[first_item + 2 * i]
  local id, content = ARGV[arg + 1], ARGV[arg + 2]
  if content == 'removed' then
    redis.call('HDEL', key, 'content')
    redis.call('ZREM', changed, id)
  elseif content ~= '' then
    redis.call('HSET', key, 'content', content)
    redis.call('PERSIST', key)
    redis.call('PERSIST', near)
  end
  if ARGV[arg + 3] == 'withdrawn' then
    redis.call('ZADD', withdrawn, stamp, id)
    redis.call('ZREMRANGEBYRANK', withdrawn, 0, -tonumber(ARGV[21]) - 1)
  elseif ARGV[arg + 3] == 'shown' then
    redis.call('ZREM', withdrawn, id)
  end
  -- a count that is no number: a part is applied by now, which is why the state is computed anew
  for name, n in string.gmatch(ARGV[arg + 4], '([^=;]+)=(%d+)') do
    if not (name == 'first' and lowered or added)(key, name, n) then return {0, own, other, {key}} end
  end
  if ARGV[arg + 5] ~= '' then
    local taken_after = cmsgpack.unpack(ARGV[arg + 5])
    for j = 1, #taken_after, 2 do
      if not added(near, taken_after[j], taken_after[j + 1]) then return {0, own, other, {near}} end
    end
    if redis.call('HLEN', near) > most then halve(near) end
    redis.call('HSET', key, 'near', redis.call('HLEN', near))
  end
  if redis.call('HEXISTS', key, 'content') == 0 then
    redis.call('EXPIRE', key, ARGV[7])
    redis.call('EXPIRE', near, ARGV[7])
  else
    redis.call('ZADD', changed, stamp, id)
  end
  if redis.call('HLEN', key) > tonumber(ARGV[8]) and redis.call('HGET', key, 'trimmed') ~= ARGV[9] then
    for _, name in ipairs(redis.call('HKEYS', key)) do
      local resolution, bucket = string.match(name, '^[%w_]+:(%w+):(%d+)$')
      if bucket and tonumber(bucket) < oldest[resolution] then redis.call('HDEL', key, name) end
    end
    redis.call('HSET', key, 'trimmed', ARGV[9])
  end
  arg = arg + 5
end
for i = arg + 1, #ARGV, 4 do
  redis.call('XADD', outbox, '*', 'topic', ARGV[i], 'partition', ARGV[i + 1], 'key', ARGV[i + 2], 'value', ARGV[i + 3])
end
local sized = {
  [members] = 'SCARD', [changed] = 'ZCARD', [open] = 'HLEN', [outbox] = 'XLEN', [withdrawn] = 'ZCARD', [erasures] = 'HLEN'
}
if #erased > 0 then sized[others_open] = 'HLEN' end  -- else nobody would notice that it is lost
for key, command in pairs(sized) do
  local n = redis.call(command, key)
  if n ~= expected(key) then redis.call('HSET', positions, key, n) end
end
if tonumber(ARGV[4]) > (tonumber(held('clock')) or 0) then redis.call('HSET', positions, 'clock', ARGV[4]) end
redis.call('HSET', positions, own_name, ARGV[3])
return {1, ARGV[3], other, {}}
"""
)

_SENT = """
redis.call('XDEL', KEYS[2], unpack(ARGV))
if redis.call('HEXISTS', KEYS[1], KEYS[2]) == 1 then redis.call('HSET', KEYS[1], KEYS[2], redis.call('XLEN', KEYS[2])) end
"""

# one call in place of a pipeline of thousands: three times as fast
_CONTENTS = """
local contents = {}
for i, key in ipairs(KEYS) do
  local content = redis.pcall('HGET', key, 'content')
  contents[i] = type(content) == 'table' and '' or content
end
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

    `items`: None of one that is removed. `erased`: users of whom nothing is kept that was recorded until then (milliseconds
    since 1970); what `users` has of them came later. `taken`: what was taken, after what. `pending`: what is open of these
    users now; `marks` None: the partition has none. `events`: those that were folded. `newest`: the newest event time (seconds
    since 1970, 0 if there is none).
    `marks_before`: those it was computed from. `tallies`: what is counted of it in `counters`.
    """

    position: Position
    users: dict[str, UserState] = field(default_factory=dict)
    erased: dict[str, int] = field(default_factory=dict)
    items: dict[str, Item | None] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    pending: dict[str, Pending] = field(default_factory=dict)
    marks: Marks | None = None
    marks_before: Marks | None = None
    events: list[Event] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    newest: float = 0.0
    tallies: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Applied:
    """Whether the change was applied, and the positions found (own and other).

    It was not if they are unequal to those expected, or if the state is not the one any more that the change was computed from.
    """

    done: bool
    own: int
    other: int


class Standing(NamedTuple):
    """What `positions` says. `epoch`: another one means that the state is another one; empty before anything has begun."""

    epoch: str
    state: str
    offsets: dict[tuple[str, int], int]  # (topic id, partition): next offset to apply


class Stamp(NamedTuple):
    """The number of a change of the items, in a state."""

    epoch: str
    number: int


def connect(url: str) -> redis.Redis:
    """A client of the Redis at `url`; waits for it as long as it takes, saying so.

    Its own retries are off: after an error the caller must read its position again first. Raises `BadSetting` on an impossible
    URL and `Refused` if there is a Redis that cannot be used: a wrong password, TLS, a replica, a node of a cluster.
    """
    BaseParser.EXCEPTION_CLASSES.update(_UNREADY)
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
    return _claimed(client, "catalogue")


def claim_catalogue(client: redis.Redis, description: Mapping[str, object]) -> None:
    """Say that the state is about this world or log. Raises `OtherCatalogue` if it is already about another."""
    held, value = read_catalogue(client), json.dumps(description, sort_keys=True)
    if held is None and not client.set("catalogue", value, nx=True):
        held = read_catalogue(client)
    if held is not None and held != json.loads(value):
        raise OtherCatalogue(
            f"the system holds {json.dumps(held, sort_keys=True)}, not {value}. Start with an empty one: stop and start "
            "`make up`, or `docker compose down -v` and up, with FEED_SEED_DATA=none to leave it empty"
        )


def claim_topics(client: redis.Redis, topic_ids: Mapping[str, str]) -> None:
    """Say that the state is computed from these topics. Raises `OtherLog` if it was computed from others of the same names."""
    held = read_topics(client)
    if not held and not client.set("topics", json.dumps(dict(topic_ids), sort_keys=True), nx=True):
        held = read_topics(client)
    if held and held != topic_ids:
        changed = ", ".join(sorted(name for name in topic_ids if held.get(name) != topic_ids[name]))
        raise OtherLog(
            f"Redis holds features of a log that is gone: {changed} was recreated. Empty Redis and the registry "
            "(`docker compose down -v`; `make up` does it by itself), or point FEED_REDIS at the right server"
        )


def read_topics(client: redis.Redis) -> dict[str, str]:
    """The ids of the topics that this state is computed from, by name; empty if it is computed from none."""
    return _claimed(client, "topics") or {}


def _claimed(client: redis.Redis, key: str) -> dict[str, Any] | None:
    """What `key` says; None if there is none. One that cannot be read is removed: nobody knows what state that is.

    Without `positions`, which go with the topics, everything is computed anew.
    """
    try:
        value = cast("bytes | None", client.get(key))
        held = None if value is None else json.loads(value)
    except TRANSIENT:
        raise
    except (ResponseError, ValueError):
        held = False
    if held is None or isinstance(held, dict):
        return held
    log.error("a key in Redis cannot be read: removed", key=key)
    client.delete(key, *([POSITIONS] if key == "topics" else []))
    return None


class FeatureStore:
    """Users, items, positions and outboxes in Redis. For one thread at a time (`refresh_items` keeps a cursor).

    What is missing although it was there, or is nothing that was written here, is said once and passed over; `FoldStore`,
    from which more is computed, stops at it.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._apply = client.register_script(_APPLY)
        self._contents = client.register_script(_CONTENTS)
        self._sent = client.register_script(_SENT)
        self._stamp, self._epoch = 0, ""  # of what `refresh_items` has read
        self._now = 0.0
        self._passed_over: set[str] = set()

    def users(self, ids: Sequence[str]) -> list[UserState | None]:
        """The users' states, None where nothing is known; features that an older version did not have are as of a new user."""
        values = cast("list[bytes | None]", self._client.mget([f"user:{i}" for i in ids])) if ids else []
        states = [None if value is None else _user(i, value) for i, value in zip(ids, values, strict=True)]
        self._unreadable(
            [f"user:{i}" for i, value, s in zip(ids, values, states, strict=True) if value is not None and s is None]
        )
        return states

    def all_user_ids(self) -> Iterator[str]:
        """Every user of whom anything is known, in no order."""
        for key in self._client.scan_iter("user:*", count=2000):
            yield key.decode().removeprefix("user:")

    def members(self, partition: int) -> list[str]:
        """The users of this partition, in no order."""
        return [user_id.decode() for user_id in cast("set[bytes]", self._client.smembers(f"members:{partition}"))]

    def contents(self, ids: Sequence[str]) -> dict[str, Item]:
        """The catalogue's entries of these items, where there are any."""
        values = self._contents(keys=[f"item:{item_id}" for item_id in ids])
        items = {i: _item(i, value) for i, value in zip(ids, values, strict=True) if value is not None}
        self._unreadable([f"item:{i}" for i, item in items.items() if item is None])
        return {i: item for i, item in items.items() if item is not None}

    def erased(self, ids: Sequence[str]) -> dict[str, int]:
        """Those of these users who were erased, and until when (milliseconds since 1970, as Kafka's records have it)."""
        try:
            found = cast("list[bytes | None]", self._client.hmget("erased", [erased_name(i) for i in ids])) if ids else []
            return {user_id: int(until) for user_id, until in zip(ids, found, strict=True) if until is not None}
        except (ResponseError, ValueError) as error:
            self._none_of_ours("erased", error)
            return {}

    def counts(self, item_id: str) -> dict[str, int]:
        """The item's counts by field; empty if there are none."""
        return _counts(self._hashes([f"item:{item_id}"])[0]) or {}

    def load_items(self) -> ItemTable:
        """The whole catalogue, as of now; further `refresh_items` go on from here."""
        table = ItemTable()
        self._stamp = 0
        self.refresh_items(table)
        return table

    def refresh_items(self, table: ItemTable) -> np.ndarray:
        """Bring in what changed since the last call; returns int64 rows of the changed items, new ones appended to `table`.

        While the catalogue is not there (Redis was emptied, or is being filled anew) the table stays as it is.
        """
        if (found := self._changed(table)) is None:
            return np.array([], np.int64)
        changed, removed, stamp, anew = found
        now = self.now()
        rows = [row for item_id in removed if (row := table.remove(item_id)) is not None]
        for start in range(0, len(changed), 1000):
            part = changed[start : start + 1000]
            taken: dict[str, int] = {}
            unreadable: list[str] = []
            for item_id, fields in zip(part, self._hashes([f"item:{i}" for i in part]), strict=True):
                item, counts = _item(item_id, (fields or {}).get(b"content", b"")), _counts(fields)
                if item is None or counts is None:
                    unreadable.append(item_id)
                    continue
                if item != table.by_id.get(item_id):
                    table.upsert(item)
                rows.append(table.set_counts(item_id, counts, now))
                if anew or counts.get(TAKEN, 0) != table.taken(item_id):  # most that changes was only shown
                    taken[item_id] = counts.get(TAKEN, 0)
            described = [
                self._client.zscore("items:changed", item_id) is not None for item_id in unreadable
            ]  # or removed since
            unreadable = [f"item:{item_id}" for item_id, there in zip(unreadable, described, strict=True) if there]
            for (item_id, times), fields in zip(taken.items(), self._hashes([f"near:{i}" for i in taken]), strict=True):
                if (after := _numbers(fields)) is None:
                    unreadable.append(f"near:{item_id}")
                else:
                    table.set_taken(item_id, after, times)
            self._unreadable(unreadable)
        self._stamp = stamp
        return np.array(rows, np.int64)

    def _changed(self, table: ItemTable) -> tuple[list[str], Collection[str], int, bool] | None:
        """Since `_stamp`: items whose content or counts changed, items that the catalogue has no more, the newest stamp, and
        whether everything is read anew; None while the catalogue is not there.
        """
        epoch, state, newest = self._fields("epoch", "state", "stamp")
        emptied = (self._epoch and not epoch) or (self._stamp and not newest and epoch == self._epoch)
        if state in (WIPING, CATALOGUE) or emptied:
            return None
        anew = epoch != self._epoch or self._number(newest) < self._stamp
        if anew:  # the state is another one, or has come back older: changes are counted anew
            self._stamp, self._epoch = 0, epoch
            self._passed_over.clear()
        together = self._client.pipeline(transaction=True)  # else one of them could miss what the other has seen of one batch
        for key in ("items:changed", "items:withdrawn"):
            together.zrangebyscore(key, f"({self._stamp}", "+inf", withscores=True)
        try:
            found = cast("list[list[tuple[bytes, float]]]", together.execute())
        except ResponseError as error:
            self._none_of_ours("items:changed", error)
            return None
        changed, withdrawn = ({item_id.decode(): int(stamp) for item_id, stamp in entries} for entries in found)
        removed: Collection[str] = withdrawn.keys() - changed.keys()
        if anew:
            removed = table.by_id.keys() - changed.keys()
        elif len(withdrawn) >= WITHDRAWN:  # some may be forgotten
            described = {item_id.decode() for item_id in cast("list[bytes]", self._client.zrange("items:changed", 0, -1))}
            removed = table.by_id.keys() - described
        return list(changed), removed, max((*changed.values(), *withdrawn.values()), default=self._stamp), anew

    def withdrawn(self, since: Stamp | None) -> tuple[set[str] | None, Stamp | None]:
        """The items that records have withdrawn since the change with this stamp, and the stamp of the newest change.

        None if they cannot be told: nothing was asked for before, more were withdrawn than are remembered, or the state is
        another one. While the catalogue is not there nothing is withdrawn, and the stamp stays.
        """
        epoch, state, number = self._fields("epoch", "state", "stamp")
        if state in (WIPING, CATALOGUE) or (since is not None and since.epoch and not epoch):
            return set(), since
        newest = Stamp(epoch, int(self._number(number)))
        if since is None or epoch != since.epoch or newest.number < since.number:
            return None, newest
        found = cast("list[bytes]", self._client.zrangebyscore("items:withdrawn", f"({since.number}", "+inf"))
        return None if len(found) >= WITHDRAWN else {item_id.decode() for item_id in found}, newest

    def _hashes(self, keys: Sequence[str]) -> list[dict[bytes, bytes] | None]:
        """The hashes of these keys; None where there is another type of value."""
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        found = pipeline.execute(raise_on_error=False)
        for answer in found:
            if isinstance(answer, TRANSIENT):
                raise answer
        return [answer if isinstance(answer, dict) else None for answer in found]

    def pending(self, topic_id: str, partition: int, ids: Sequence[str]) -> list[Pending | None]:
        """What is open of these users, None where nothing is."""
        key = f"open:{topic_id}:{partition}"
        try:
            values = cast("list[bytes | None]", self._client.hmget(key, list(ids))) if ids else []
            return [None if value is None else msgspec.json.decode(value, type=Pending) for value in values]
        except (ResponseError, msgspec.DecodeError) as error:
            self._none_of_ours(key, error)
            return [None] * len(ids)

    def due(self, topic_id: str, partition: int, clock: float) -> list[str]:
        """The users of whom something ends before the partition's time is `clock`."""
        key = f"due:{topic_id}:{partition}"
        try:
            found = cast("list[bytes]", self._client.zrangebyscore(key, "-inf", f"({clock!r}"))
        except ResponseError as error:
            self._none_of_ours(key, error)
            return []
        return [user_id.decode() for user_id in found]

    def marks(self, topic_id: str, partition: int) -> Marks:
        """Where the partition's examples are."""
        (value,) = self._fields(f"marks:{topic_id}:{partition}")
        try:
            return msgspec.json.decode(value, type=Marks) if value else Marks()
        except msgspec.DecodeError as error:
            self._none_of_ours(POSITIONS, error)
            return Marks()

    def now(self) -> float:
        """The newest event time, seconds since 1970; 0 before the first event. Never less than at a call before."""
        (clock,) = self._fields("clock")
        self._now = max(self._now, self._number(clock))
        return self._now

    def position(self, topic_id: str, partition: int) -> int:
        """The next offset of this partition to apply."""
        return self.standing((topic_id, partition)).offsets[topic_id, partition]

    def standing(self, *places: tuple[str, int]) -> Standing:
        """Epoch, state and the positions of these (topic id, partition), as they are at one moment."""
        epoch, state, *offsets = self._fields("epoch", "state", *(f"{topic_id}:{partition}" for topic_id, partition in places))
        return Standing(epoch, state, {place: int(self._number(at)) for place, at in zip(places, offsets, strict=True)})

    def _fields(self, *names: str) -> list[str]:
        """Fields of `positions`, empty where there is none."""
        try:
            values = cast("list[bytes | None]", self._client.hmget(POSITIONS, list(names)))
            return ["" if value is None else value.decode() for value in values]
        except (ResponseError, UnicodeDecodeError) as error:
            self._none_of_ours(POSITIONS, error)
            return [""] * len(names)

    def _number(self, field: str) -> float:
        """A field of `positions` as a number of at most 53 bits, 0 for an empty one."""
        try:
            number = float(field or 0)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self._unreadable([POSITIONS])
            return 0.0
        return number

    def _unreadable(self, keys: Sequence[str]) -> None:
        """These keys do not hold what belongs there, or are missing although something says that they were there."""
        if new := [key for key in keys if key not in self._passed_over]:
            log.error("Redis lacks keys or holds what cannot be read: passed over", keys=new[:NAMED], in_all=len(new))
            self._passed_over.update(new)

    def _none_of_ours(self, key: str, error: Exception) -> None:
        """`error` was the answer for `key`: it holds something else than it should, unless Redis is just not ready."""
        if isinstance(error, TRANSIENT):
            raise error
        self._unreadable([key])

    def apply(self, change: Change, expected: int, other_topic_id: str, other_expected: int, epoch: str = "") -> Applied:
        """Apply the change, if its partition's position in its own topic and in the other is still as expected, and the epoch.

        It is not applied either if something is missing of what it builds upon. (If a count is no number a part of it is: the
        state is to be computed anew.)
        """
        own, partition = change.position, change.position.partition
        counts, near = _counted(change)
        items = sorted({*change.items, *counts})
        own_name = f"{own.topic_id}:{partition}"
        keys = [
            POSITIONS, f"members:{partition}", f"outbox:{own_name}", "items:changed", f"open:{own_name}", f"due:{own_name}",
            *(f"user:{user_id}" for user_id in change.users),
            *(f"{name}:{item_id}" for item_id in items for name in ("item", "near")),
            "items:withdrawn", "erased", *(f"{name}:{other_topic_id}:{own.partition}" for name in ("open", "due")),
        ]  # fmt: skip
        arguments: list[Any] = [
            expected, other_expected, own.offset, repr(change.newest), len(change.users), len(items), UNCATALOGUED_SECONDS,
            TRIM_FIELDS, int(change.newest // 3600), *oldest_kept(change.newest),
            b"" if change.marks is None else msgspec.json.encode(change.marks), _packed(change.pending),
            b"" if change.marks_before in (None, Marks()) else msgspec.json.encode(change.marks_before), LONGEST,
            epoch, own_name, f"{other_topic_id}:{partition}",
            msgspec.msgpack.encode([part for u, until in change.erased.items() for part in (u, erased_name(u), str(until))]),
            WITHDRAWN, msgspec.msgpack.encode([part for name, n in change.tallies.items() for part in (f"features.{name}", n)]),
            *map(msgspec.json.encode, change.users.values()),
        ]  # fmt: skip
        for item_id in items:
            content, shown = _content(change.items, item_id)
            after = [part for pair in near[item_id].items() for part in pair] if item_id in near else []
            arguments += [
                item_id,
                content,
                shown,
                ";".join(f"{name}={n}" for name, n in counts.get(item_id, {}).items()),
                msgspec.msgpack.encode(after) if after else b"",
            ]
        for message in change.messages:
            arguments += [message.topic, message.partition, message.key, message.value]
        try:
            done, found, other, lost = self._apply(keys=keys, args=arguments)
        except ResponseError as error:
            self._none_of_ours("a key of this batch", error)
            raise
        if lost:
            self._unreadable([key.decode() for key in lost])
        return Applied(bool(done), int(found), int(other))

    def tally(self, name: str) -> None:
        """One more of what is counted so in `counters`; what ails that hash is said, and nothing else."""
        try:
            self._client.hincrby("counters", name, 1)
        except ResponseError as error:
            log.warning("not counted", counter=name, error=str(error))

    def tallies(self) -> dict[str, int]:
        """What the processes have counted, `process.what` -> how many."""
        found = cast("dict[bytes, bytes]", self._client.hgetall("counters"))
        return {name.decode(errors="replace"): int(n) for name, n in found.items() if n.isdigit()}

    def outbox(self, topic_id: str, partition: int, most: int | None = None) -> list[tuple[bytes, Message]]:
        """Messages not yet known to be sent, oldest first and at most `most`, with the id to remove them by."""
        key = f"outbox:{topic_id}:{partition}"
        together = self._client.pipeline(transaction=True)
        together.xrange(key, count=most)
        together.hget(POSITIONS, key)
        try:
            found, expected = together.execute()
        except ResponseError as error:
            self._none_of_ours(key, error)
            return []
        if not found and self._number(expected):  # lost before it was sent
            self._unreadable([key])
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        return [(entry, Message(m[b"topic"].decode(), int(m[b"partition"]), m[b"key"], m[b"value"])) for entry, m in entries]

    def sent(self, topic_id: str, partition: int, entries: Sequence[bytes]) -> None:
        """Remove messages from the outbox."""
        self._sent(keys=[POSITIONS, f"outbox:{topic_id}:{partition}"], args=entries)


class FoldStore(FeatureStore):
    """For who computes further from what he reads: raises `Lost` at what is missing or cannot be read."""

    def _unreadable(self, keys: Sequence[str]) -> None:
        if keys:
            raise Lost(keys)


def erased_name(user_id: str) -> str:
    """What stands for an erased user in `erased`: 32 hex digits, which do not say who it is."""
    return blake2b(user_id.encode(), digest_size=16).hexdigest()


def _content(items: Mapping[str, Item | None], item_id: str) -> tuple[bytes, str]:
    """What the script is told of an item: its content, and whether that shows or withdraws it; '' if it stays as it is."""
    if item_id not in items:
        return b"", ""
    item = items[item_id]
    if item is None:
        return b"removed", "withdrawn"
    return msgspec.json.encode(item), "withdrawn" if item.available is False else "shown"


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


_START = new_user("")


def _user(user_id: str, value: bytes) -> UserState | None:
    """The state in `value`; None if it is none of this user's."""
    try:
        state = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(state, dict) or state.get("user_id") != user_id:
        return None
    if any(type(state.get(name, part)) is not type(part) for name, part in _START.items() if part is not None):
        return None
    return new_user(user_id) | state


@lru_cache(maxsize=20_000)
def _item(item_id: str, content: bytes) -> Item | None:
    """The catalogue's entry in `content`; None if it is none of this item's."""
    try:
        item = msgspec.json.decode(content, type=Item)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return item if item.item_id == item_id else None


def _counts(fields: Mapping[bytes, bytes] | None) -> dict[str, int] | None:
    others = (b"content", b"trimmed", b"near")
    return None if fields is None else _numbers({name: n for name, n in fields.items() if name not in others})


def _numbers(fields: Mapping[bytes, bytes] | None) -> dict[str, int] | None:
    """The fields as they are counted; None if these are none."""
    try:
        return None if fields is None else {name.decode(): int(n) for name, n in fields.items()}
    except ValueError:
        return None
