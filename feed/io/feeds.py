"""Feeds in Redis, written by one script and nobody else.

    feed:{user id}        sorted set: item ids; ZREVRANGE gives the feed, best place first
    feed:{user id}:meta   JSON: `feed.ranking.types.Feed`, what stands where and how it came to be

The sorted set's scores say the order; the truth about an item is in the meta JSON. A user has at most FEED_FEED_SIZE items.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import redis

from feed.ranking.types import MODEL, Feed

# KEYS: feed, meta. ARGV: generation, topic id, partition, offset (three '' if the feed has no position), meta, and in
# one MessagePack array (the client is slow at many arguments) the sorted set's score and member of each item, as text.
# Of the same generation, a feed is older if it has no position and the other has, or a smaller offset of the same log.
# Positions of two logs (interactions, users) do not compare: then the last one written stays.
_WRITE = """
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
local places = cmsgpack.unpack(ARGV[6])
if #places > 0 then redis.call('ZADD', KEYS[1], unpack(places)) end
redis.call('SET', KEYS[2], ARGV[5])
return 1
"""
META = ":meta"
AT_ONCE = 200  # feeds sent to Redis together: about a megabyte

_feed = msgspec.json.Decoder(Feed)


class _Head(msgspec.Struct):
    generation: int


_head = msgspec.json.Decoder(_Head)  # passes over the rest of a feed


class FeedStore:
    """Reads and writes feeds."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._write = client.register_script(_WRITE)

    def write(self, feeds: Sequence[Feed]) -> int:
        """Replace these users' feeds, each atomically, unless a newer one is there; returns how many were written.

        Nothing is stored for a user whose id ends in `:meta`: its feed would have another user's meta as its key.
        """
        feeds = [feed for feed in feeds if not feed.user_id.endswith(META)]
        written = 0
        for start in range(0, len(feeds), AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for feed in feeds[start : start + AT_ONCE]:
                self._write(keys=[_key(feed.user_id), _meta_key(feed.user_id)], args=_arguments(feed), client=pipeline)
            written += sum(pipeline.execute())
        return written

    def read(self, user_id: str) -> Feed | None:
        """The user's feed, or None."""
        return self.read_many([user_id])[0]

    def read_many(self, user_ids: Sequence[str]) -> list[Feed | None]:
        """The users' feeds, in order, None where there is none."""
        return [None if value is None else _feed.decode(value) for value in self._metas(user_ids)]

    def generations(self, user_ids: Sequence[str]) -> list[int]:
        """The generations of the users' feeds, in order, 0 where there is none."""
        return [0 if value is None else _head.decode(value).generation for value in self._metas(user_ids)]

    def _metas(self, user_ids: Sequence[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._client.mget([_meta_key(i) for i in user_ids])) if user_ids else []


def _key(user_id: str) -> str:
    return f"feed:{user_id}"


def _meta_key(user_id: str) -> str:
    return f"feed:{user_id}{META}"


def _arguments(feed: Feed) -> list[Any]:
    at = feed.position
    arguments: list[Any] = [feed.generation, *(("", "", "") if at is None else (at.topic_id, at.partition, at.offset))]
    places = [text for item, score in zip(feed.items, order_scores(feed), strict=True) for text in (repr(score), item.item_id)]
    return [*arguments, msgspec.json.encode(feed), msgspec.msgpack.encode(places)]


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
