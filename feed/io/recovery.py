"""Redis has lost something: how that is found, and how what was computed is removed, so that the log can be folded anew.

`positions` has an `epoch`, a random name of the state that grows from here on, and a `state`:

    wiping      what earlier batches computed is being removed; nothing is applied
    catalogue   items and users are folded; events wait for them, because what an event says depends on the item's content
    ready       everything is

A batch carries the epoch that it was computed in, and is refused in another one. So a worker that comes too late can neither
write into a new state nor remove from it, and any worker can go on where one has died.
"""

import time
import uuid
from collections.abc import Callable, Collection
from typing import NamedTuple, cast

import redis
import structlog
from redis.exceptions import ResponseError

from feed.address import masked
from feed.errors import BadSetting
from feed.io.redis import POSITIONS, SOUND, TRANSIENT

log = structlog.get_logger()

# what is computed from the log; `position:`, `marks:`, `items:stamp` and `clock` are of earlier versions
# (`erased` is, too, but stays unless it is what is lost: a log may have lost the record that says who was erased)
COMPUTED = (b"user:", b"item:", b"near:", b"items:", b"members:", b"open:", b"due:", b"position:", b"marks:")
CLOCK, ERASED = b"clock", "erased"
AT_ONCE = 1000  # keys looked at, or removed, in one script
AGAIN_SECONDS = 60.0  # a rebuild that begins so soon after the one before counts as one in a row
AT_ONCE_IN_A_ROW = 4  # the next ones wait, from 10 seconds to 5 minutes
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10.0, 300.0

# KEYS: positions, then what is of no use any more. ARGV: epoch found, new epoch, now, rebuilds in a row
_BEGIN = """
local epoch = redis.pcall('HGET', KEYS[1], 'epoch')
if (type(epoch) == 'string' and epoch or '') ~= ARGV[1] then return 0 end
redis.call('DEL', unpack(KEYS))
for _, name in ipairs({'events', 'repeats', 'erased', 'dead_letters', 'set_aside'}) do
  redis.pcall('HDEL', 'counters', 'features.' .. name)
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'state', 'wiping', 'since', ARGV[3], 'rebuilds', ARGV[4])
return 1
"""

# KEYS: positions, then what is to go. ARGV: epoch. -1: it is not for this worker to remove any more
_WIPE = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'state') ~= 'wiping' then return -1 end
return redis.call('UNLINK', unpack(KEYS, 2))
"""

# KEYS: positions. ARGV: epoch, state, next state, now
_GO_ON = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'state') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'since', ARGV[4])
return 1
"""

# KEYS: positions. ARGV: epoch, new epoch
_RENEW = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
return 1
"""

# KEYS: positions, members, changed, open, due, outbox, withdrawn, erased.
# ARGV: where to go on among the users and the items, how many at once. Returns the epoch, where to go on, what is missing
_AUDIT = (
    SOUND
    + """
local epoch = held('epoch')
if held('state') == 'wiping' then return {epoch, '0', '0', {}} end
require_sizes(unpack(KEYS, 2, 8))
local users, items = {'0', {}}, {'0', {}}
if #lost == 0 then
  users = redis.call('SSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[3])
  for _, id in ipairs(users[2]) do require_user('user:' .. id, true) end
  items = redis.call('ZSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3])
  for i = 1, #items[2], 2 do require_item('item:' .. items[2][i], 'near:' .. items[2][i], true) end
end
return {epoch, users[1], items[1], lost}
"""
)


class Found(NamedTuple):
    """What an audit has found: the keys that are missing or not what they should be, and the epoch in which they are."""

    epoch: str
    keys: list[str]


class Recovery:
    """Finds what is missing, and makes room for what is computed anew. For one thread at a time."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._begin, self._wipe = client.register_script(_BEGIN), client.register_script(_WIPE)
        self._go_on, self._renew = client.register_script(_GO_ON), client.register_script(_RENEW)
        self._audit = client.register_script(_AUDIT)
        self._users: dict[str, bytes] = {}  # by members key: where the audit of the users goes on
        self._items = b"0"
        self._wiping, self._cursor = "", 0

    def audit(self, topic_id: str, partition: int) -> Found:
        """Looks at this partition of `interactions`, at the next thousand of its users and the next thousand items."""
        members, name = f"members:{partition}", f"{topic_id}:{partition}"
        keys = [
            POSITIONS, members, "items:changed", f"open:{name}", f"due:{name}", f"outbox:{name}", "items:withdrawn", ERASED
        ]  # fmt: skip
        cursor = self._users.get(members, b"0")
        epoch, users, items, lost = self._audit(keys=keys, args=[cursor, self._items, AT_ONCE])
        self._users[members], self._items = users, items
        return Found(epoch.decode(), [key.decode() for key in lost])

    def wait(self) -> float:
        """Seconds until a rebuild may begin: 0, unless Redis has just lost what was rebuilt, again and again."""
        since, rebuilds = self._last()
        return max(0.0, since + _pause(rebuilds) - time.time())

    def begin(self, epoch: str, lost: Collection[str] = ()) -> bool:
        """Forget all positions, for everything to be computed anew; False if the state is not the one of `epoch` any more.

        `lost`: the keys that are missing or cannot be read, for which it is done.
        """
        since, rebuilds = self._last()
        rebuilds = rebuilds + 1 if time.time() - since < _pause(rebuilds) + AGAIN_SECONDS else 1
        keys = [POSITIONS, *(key for key in lost if key == ERASED)]
        return bool(self._begin(keys=keys, args=[epoch, uuid.uuid4().hex, time.time(), rebuilds]))

    def renew(self, epoch: str) -> None:
        """Give the state another epoch: it has come back older than it was, so who keeps up with it must read it anew."""
        self._renew(keys=[POSITIONS], args=[epoch, uuid.uuid4().hex])

    def wipe(self, epoch: str, seconds: float) -> bool:
        """Remove what was computed before this epoch, for about `seconds`; True when nothing of it is left."""
        if self._wiping != epoch:
            self._wiping, self._cursor = epoch, 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._cursor, keys = cast("tuple[int, list[bytes]]", self._client.scan(self._cursor, count=AT_ONCE))
            gone = [key for key in keys if key.startswith(COMPUTED) or key == CLOCK]
            if gone and self._wipe(keys=[POSITIONS, *gone], args=[epoch]) < 0:
                return True  # another worker was faster
            if self._cursor == 0:
                return True
        return False

    def go_on(self, epoch: str, state: str, following: str) -> bool:
        """From `state` to the `following` one; False if another worker was faster."""
        return bool(self._go_on(keys=[POSITIONS], args=[epoch, state, following, time.time()]))

    def _last(self) -> tuple[float, int]:
        """When the state became what it is, seconds since 1970, and how many rebuilds came soon after one another."""
        try:
            since, rebuilds = cast("list[bytes | None]", self._client.hmget(POSITIONS, ["since", "rebuilds"]))
            return float(since or 0), int(rebuilds or 0)
        except TRANSIENT:
            raise
        except (ResponseError, ValueError):  # it is lost, too
            return 0.0, 0


def _pause(rebuilds: int) -> float:
    more = rebuilds - AT_ONCE_IN_A_ROW
    return 0.0 if more < 0 else min(FIRST_WAIT_SECONDS * 2.0**more, LONGEST_WAIT_SECONDS)


def require_no_eviction(client: redis.Redis, url: str) -> None:
    """Raises `BadSetting` if this Redis removes keys when its memory is full. Where it does not say so, that is logged."""
    try:
        policy = cast("dict[str, str]", client.config_get("maxmemory-policy")).get("maxmemory-policy")
    except TRANSIENT:
        raise
    except ResponseError:  # managed servers forbid CONFIG
        policy = None
    policy = policy or client.info("memory").get("maxmemory_policy")
    if policy is None:
        log.warning("Redis does not say what it does when its memory is full: set its maxmemory-policy to noeviction")
    elif policy != "noeviction":
        raise BadSetting(
            f"Redis at {masked(url)} has maxmemory-policy {policy}: when its memory is full it removes keys, and features "
            "with them. Set it to noeviction (`redis-cli CONFIG SET maxmemory-policy noeviction`, and in its configuration)"
        )


def require_own(client: redis.Redis, url: str, known: Callable[[], bool]) -> None:
    """Raises `BadSetting` if this Redis holds users or items that were not computed from the log at hand.

    `known`: whether anything was computed from this log before; asked only where Redis itself does not say so.
    """
    if client.exists(POSITIONS, "topics"):
        return
    key = next((key for pattern in ("user:*", "item:*") for key in client.scan_iter(pattern, count=AT_ONCE)), None)
    if key is not None and not known():
        raise BadSetting(
            f"Redis at {masked(url)} holds {key.decode()!r}, which is not of this system: it needs a database of its own, "
            "because it removes such keys before it computes them anew. Point FEED_REDIS at an empty one"
        )
