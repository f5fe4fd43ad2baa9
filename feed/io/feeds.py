"""Feeds in Redis, written by one script; nobody else changes one but by taking withdrawn items out of it.

    feed:{user id}        sorted set: item ids; ZREVRANGE gives the feed, best place first
    feed:{user id}:meta   JSON: `feed.ranking.types.Feed`, what stands where and how it came to be

The sorted set's scores say the order; the truth about an item is in the meta JSON. A user has at most FEED_FEED_SIZE items.

An item that a record has withdrawn enters no feed any more, whoever ranked it and when. It leaves all of them by `take_out`, a
change of the feed that is there, which keeps the generation and position by which the next one is judged. So neither can an
older feed bring it back, nor does taking it out replace a newer feed. (`feed.io.redis` removes the feeds of erased users.)
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import redis
import structlog

from feed.io.redis import erased_name
from feed.ranking.types import MODEL, Feed

# The JSON of a feed without the item that begins at `first`. It and where it ends are unambiguous: within a text of the JSON
# every quote has a backslash before it.
_WITHOUT = """
local function without(meta, first)
  local last = string.find(meta, '}', string.find(meta, ',"score":', first, true), true)
  if string.sub(meta, last + 1, last + 1) == ',' then last = last + 1
  elseif string.sub(meta, first - 1, first - 1) == ',' then first = first - 1 end
  return string.sub(meta, 1, first - 1) .. string.sub(meta, last + 1)
end
"""

# KEYS: feed, meta, user, erased, items:withdrawn. ARGV: generation, topic id, partition, offset (three '' if the feed has no
# position), meta, the user's name in `erased`, and in one MessagePack array (the client is slow at many arguments) the sorted
# set's score and member of each item, as text.
# Of the same generation, a feed is older if it has no position and the other has, or a smaller offset of the same log.
# Positions of two logs (interactions, users) do not compare: then the last one written stays.
_WRITE = (
    _WITHOUT
    + """
if redis.call('EXISTS', KEYS[3]) == 0 and redis.call('HEXISTS', KEYS[4], ARGV[6]) == 1 then return 0 end
local held = redis.call('GET', KEYS[2])
if held then
  local generation = tonumber(string.match(held, '^{"generation":(%d+)') or '-1')
  if generation > tonumber(ARGV[1]) then return 0 end
  local topic, partition, offset =
    string.match(held, '^{"generation":%d+,"position":{"topic_id":"(.-)","partition":(%d+),"offset":(%d+)}')
  if topic and generation == tonumber(ARGV[1]) then
    if ARGV[4] == '' then return 0 end
    if topic == ARGV[2] and partition == ARGV[3] and tonumber(offset) > tonumber(ARGV[4]) then return 0 end
  end
end
redis.call('DEL', KEYS[1])
local meta, places = ARGV[5], cmsgpack.unpack(ARGV[7])
if #places > 0 and redis.call('EXISTS', KEYS[5]) == 1 then
  local ids, shown, first = {}, {}, 1
  for i = 2, #places, 2 do ids[#ids + 1] = places[i] end
  for i, withdrawn in ipairs(redis.call('ZMSCORE', KEYS[5], unpack(ids))) do
    first = string.find(meta, '{"item_id":', first, true)
    if withdrawn then meta = without(meta, first)
    else
      shown[#shown + 1] = places[2 * i - 1]
      shown[#shown + 1] = places[2 * i]
      first = first + 1
    end
  end
  places = shown
end
if #places > 0 then redis.call('ZADD', KEYS[1], unpack(places)) end
redis.call('SET', KEYS[2], meta)
return 1
"""
)

# One step of a walk over all feeds. ARGV: cursor, MessagePack array of (item, item as JSON). Returns the next cursor and the
# feeds that had one of the items. Few items are asked for by name; with many, what a feed has is read.
_TAKE_OUT = (
    _WITHOUT
    + """
local step = redis.call('SCAN', ARGV[1], 'MATCH', 'feed:*', 'COUNT', 1000, 'TYPE', 'zset')
local gone, ids, json, found = cmsgpack.unpack(ARGV[2]), {}, {}, {}
for i = 1, #gone, 2 do ids[#ids + 1] = gone[i] json[gone[i]] = gone[i + 1] end
local function held(feed)
  local there = {}
  if #ids > 20 then
    for _, id in ipairs(redis.call('ZRANGE', feed, 0, -1)) do if json[id] then there[#there + 1] = id end end
  else
    for i, score in ipairs(redis.call('ZMSCORE', feed, unpack(ids))) do if score then there[#there + 1] = ids[i] end end
  end
  return there
end
for _, feed in ipairs(step[2]) do
  local there = held(feed)
  if #there > 0 then
    redis.call('ZREM', feed, unpack(there))
    local meta = redis.call('GET', feed .. ':meta')
    if meta then
      for _, id in ipairs(there) do
        local first = string.find(meta, '{"item_id":' .. json[id] .. ',', 1, true)
        if first then meta = without(meta, first) end
      end
      redis.call('SET', feed .. ':meta', meta)
    end
    found[#found + 1] = feed
  end
end
return {step[1], found}
"""
)

# One step of a walk over all feeds. ARGV: cursor. Returns the next cursor and the distinct items of the feeds.
_ITEMS = """
local step, seen, items = redis.call('SCAN', ARGV[1], 'MATCH', 'feed:*', 'COUNT', 1000, 'TYPE', 'zset'), {}, {}
for _, feed in ipairs(step[2]) do
  for _, id in ipairs(redis.call('ZRANGE', feed, 0, -1)) do
    if not seen[id] then
      seen[id] = true
      items[#items + 1] = id
    end
  end
end
return {step[1], items}
"""
META = ":meta"
AT_ONCE = 200  # feeds sent to Redis together: about a megabyte

log = structlog.get_logger()
T = TypeVar("T")

_feed = msgspec.json.Decoder(Feed)


class _Head(msgspec.Struct):
    generation: int


_head = msgspec.json.Decoder(_Head)  # passes over the rest of a feed


class FeedStore:
    """Reads and writes feeds."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._write = client.register_script(_WRITE)
        self._take_out = client.register_script(_TAKE_OUT)
        self._items = client.register_script(_ITEMS)

    def write(self, feeds: Sequence[Feed]) -> int:
        """Replace these users' feeds, each atomically, unless a newer one is there; returns how many were written.

        Items that were withdrawn meanwhile are left out, and so are users who were erased. Nothing is stored for a user whose
        id ends in `:meta`: its feed would have another user's meta as its key.
        """
        feeds = [feed for feed in feeds if not feed.user_id.endswith(META)]
        written = 0
        for start in range(0, len(feeds), AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for feed in feeds[start : start + AT_ONCE]:
                user_id = feed.user_id
                keys = [_key(user_id), _meta_key(user_id), f"user:{user_id}", "erased", "items:withdrawn"]
                self._write(keys=keys, args=_arguments(feed), client=pipeline)
            written += sum(pipeline.execute())
        return written

    def read(self, user_id: str) -> Feed | None:
        """The user's feed, or None."""
        return self.read_many([user_id])[0]

    def read_many(self, user_ids: Sequence[str]) -> list[Feed | None]:
        """The users' feeds, in order, None where there is none."""
        return [_decoded(_feed, user_id, value) for user_id, value in zip(user_ids, self._metas(user_ids), strict=True)]

    def generations(self, user_ids: Sequence[str]) -> list[int]:
        """The generations of the users' feeds, in order, 0 where there is none."""
        heads = [_decoded(_head, user_id, value) for user_id, value in zip(user_ids, self._metas(user_ids), strict=True)]
        return [0 if head is None else head.generation for head in heads]

    def take_out(self, item_ids: Collection[str]) -> set[str]:
        """Take these items out of all feeds, each feed atomically; returns the users who had one of them in theirs."""
        if not item_ids:
            return set()
        gone = [part for item_id in item_ids for part in (item_id, msgspec.json.encode(item_id).decode())]
        return {feed.decode().removeprefix("feed:") for feed in self._walk(self._take_out, msgspec.msgpack.encode(gone))}

    def items(self) -> set[str]:
        """The items of all feeds."""
        return {item_id.decode() for item_id in self._walk(self._items)}

    def _walk(self, step: Callable[..., Any], *arguments: Any) -> Iterator[bytes]:
        """What the steps of a walk over all feeds return; a feed that is made meanwhile may be passed over."""
        cursor: int | None = None
        while cursor != 0:
            next_cursor, found = step(args=[cursor or 0, *arguments])
            yield from found
            cursor = int(next_cursor)

    def _metas(self, user_ids: Sequence[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._client.mget([_meta_key(i) for i in user_ids])) if user_ids else []


def _decoded(decoder: msgspec.json.Decoder[T], user_id: str, value: bytes | None) -> T | None:
    """What the meta of this user's feed says; a value that says nothing counts as none, and is written anew."""
    try:
        return None if value is None else decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("a feed that cannot be read counts as none", user=user_id, error=str(error))
        return None


def _key(user_id: str) -> str:
    return f"feed:{user_id}"


def _meta_key(user_id: str) -> str:
    return f"feed:{user_id}{META}"


def _arguments(feed: Feed) -> list[Any]:
    at = feed.position
    arguments: list[Any] = [feed.generation, *(("", "", "") if at is None else (at.topic_id, at.partition, at.offset))]
    places = [text for item, score in zip(feed.items, order_scores(feed), strict=True) for text in (repr(score), item.item_id)]
    return [*arguments, msgspec.json.encode(feed), erased_name(feed.user_id), msgspec.msgpack.encode(places)]


def order_scores(feed: Feed) -> list[float]:
    """Strictly decreasing finite scores in feed order.

    Where the model placed the item it is the model's score; one that is not lower than the score above it (a tie, or a table of
    weights ranks) is lowered to the smallest possible step below that. An item drawn in between stands on the line between its
    neighbours, towards 1 above the first and 0 below the last. Where the model placed nothing, n, n - 1, ..., 1.
    """
    n = len(feed.items)
    anchors = [(k, item.score) for k, item in enumerate(feed.items) if item.source == MODEL and item.score is not None]
    if not anchors:
        return [float(n - k) for k in range(n)]
    places, scores = zip((-1, 1.0), *anchors, (n, 0.0), strict=True)
    result: list[float] = []
    for score in np.interp(np.arange(n), places, scores).tolist():
        result.append(min(score, math.nextafter(result[-1], -math.inf)) if result else score)
    return result
