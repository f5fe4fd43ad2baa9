"""Keeps what the features agent has in Redis whole: compares it with the log, and has it computed anew when a part is missing.

Every second, whether anything comes or not:

* Redis is behind what was acknowledged (it came back older than it was): those partitions are delivered again from there;
* something is missing (Redis was emptied, a key was removed or overwritten): everything computed is removed and the log is
  delivered from its beginning, the catalogue first. A part cannot be computed alone: counts of items are sums over all users.

Any number of workers do this at once, and any of them may be killed: see `feed.io.recovery`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import redis
import stamina
import structlog
from faust.types import TP
from kafka.errors import KafkaError

from feed import wire
from feed.errors import FeedError
from feed.io.kafka import Log, Tail
from feed.io.recovery import Found, Recovery, require_own
from feed.io.redis import CATALOGUE, NAMED, POSITIONS, READY, TRANSIENT, WIPING, FeatureStore, Standing, claim_topics
from stream_processors.batches import Consumer

log = structlog.get_logger()

LOOK_SECONDS = 1.0
BETWEEN_SECONDS = 0.1  # between two looks during a rebuild
WIPE_SECONDS = 1.0  # at a stretch
DESCRIPTIONS = (wire.ITEMS.name, wire.USERS.name)


def admitted(topic: str, state: str) -> bool:
    """Whether batches of `topic` are to be folded; what events say depends on the catalogue, so they wait for it."""
    return state != WIPING and (state != CATALOGUE or topic in DESCRIPTIONS)


class Keeper:
    """`logs` asks the broker for every partition of the three topics (`GroupView.read`); `tails`: those of items and users."""

    def __init__(
        self,
        client: redis.Redis,
        topic_ids: Mapping[str, str],
        logs: Callable[[], Mapping[tuple[str, int], Log]],
        tails: Mapping[str, Tail],
    ) -> None:
        self._client, self._store, self._recovery = client, FeatureStore(client), Recovery(client)
        self._topic_ids, self._logs, self._tails = topic_ids, logs, tails
        self._catalogue: bytes | None = None
        self._epoch: str | None = None  # of the last look
        self._placed: set[TP] = set()  # delivered from where Redis is, in this epoch
        self._reported: Found | None = None
        self._ends: tuple[str, dict[tuple[str, int], int]] = ("", {})  # the catalogue's, as of the beginning of an epoch
        self._since: float | None = None  # when a rebuild was seen that is not finished
        self._said = ""

    def start(self, url: str) -> None:
        """Begin, where nothing has; to be called before the first batch. Waits for Redis.

        Raises `BadSetting` if it holds something else, `OtherLog` if features of another log.
        """
        for attempt in stamina.retry_context(on=TRANSIENT, attempts=None, timeout=None, wait_initial=0.2, wait_max=5.0):
            with attempt:
                require_own(self._client, url, lambda: any(at.committed for at in self._logs().values()))
                claim_topics(self._client, self._topic_ids)
                if not self._store.standing().epoch and self._recovery.begin(""):
                    log.info("Redis is empty, or of an earlier version: folding the log from its beginning")

    def report(self, epoch: str, keys: Sequence[str]) -> None:
        """A batch was not applied in this epoch, because these keys are missing or cannot be read."""
        self._reported = Found(epoch, list(keys))

    async def look(self, consumer: Consumer) -> None:
        """Do what there is to do; to be called every `LOOK_SECONDS`. What is waited for is said once."""
        deadline = time.monotonic() + LOOK_SECONDS
        try:
            while await self._look_once(consumer) and time.monotonic() < deadline:
                await asyncio.sleep(BETWEEN_SECONDS)
            self._said = ""
        except (*TRANSIENT, FeedError, KafkaError) as error:
            if self._said != repr(error):
                log.warning("positions are not compared", error=str(error) or repr(error))
            self._said = repr(error)

    async def _look_once(self, consumer: Consumer) -> bool:
        """Whether there is more to do soon."""
        # before Redis is asked: what is acknowledged is there, and what comes meanwhile only adds to it
        found = {tp: await consumer.acknowledged(tp) for tp in sorted(consumer.assigned)}
        done = {tp: offset for tp, offset in found.items() if offset is not None}
        standing = await asyncio.to_thread(self._see_to, done)
        return await self._place(consumer, done, standing) or standing.state != READY

    def _see_to(self, done: Iterable[TP]) -> Standing:
        """Find what is missing, go on with a rebuild; returns what there is then."""
        self._catalogue = self._client.get("catalogue") or self._catalogue  # type: ignore[assignment]
        partitions = sorted({tp.partition for tp in done if tp.topic == wire.INTERACTIONS.name})
        standing = self._standing(done)
        if not standing.epoch:
            self._lose(Found("", [POSITIONS]))
        elif standing.state != WIPING and (found := self._missing(standing.epoch, partitions)):
            self._lose(found)
        standing = self._standing(done)
        if standing.state == WIPING:
            self._since = self._since or time.monotonic()
            if self._recovery.wipe(standing.epoch, WIPE_SECONDS):
                if self._recovery.go_on(standing.epoch, WIPING, CATALOGUE):
                    log.info("what was computed is removed: folding items and users")
                standing = self._standing(done)
        if standing.state == CATALOGUE and self._catalogue_is_there(standing.epoch):
            if self._recovery.go_on(standing.epoch, CATALOGUE, READY):
                log.info("items and users are folded: folding events")
            standing = self._standing(done)
        return standing

    def _standing(self, places: Iterable[TP]) -> Standing:
        return self._store.standing(*((self._topic_ids[tp.topic], tp.partition) for tp in places))

    def _missing(self, epoch: str, partitions: Sequence[int]) -> Found | None:
        reported, self._reported = self._reported, None
        if reported is not None and reported.epoch == epoch:
            return reported
        for partition in partitions:
            found = self._recovery.audit(self._topic_ids[wire.INTERACTIONS.name], partition)
            if found.keys:
                return found
        return None

    def _lose(self, found: Found) -> None:
        if self._recovery.wait() > 0:
            raise FeedError(
                f"keys of Redis are lost again, soon after they were computed anew ({', '.join(found.keys[:NAMED])}): find out "
                "who removes them. Until then each attempt waits longer than the one before"
            )
        if self._recovery.begin(found.epoch, found.keys):
            log.error(
                "keys in Redis are missing or cannot be read: everything is computed anew from the log",
                keys=found.keys[:NAMED], found=len(found.keys),
            )  # fmt: skip
            claim_topics(self._client, self._topic_ids)
            if self._catalogue is not None:
                self._client.set("catalogue", self._catalogue, nx=True)

    def _catalogue_is_there(self, epoch: str) -> bool:
        """Whether Redis has all of items and users that there was when this was first asked in this epoch."""
        if self._ends[0] != epoch:
            logs = {place: at for place, at in self._logs().items() if place[0] in DESCRIPTIONS}
            self._ends = epoch, {place: max(at.end, at.committed or 0) for place, at in logs.items()}
        ends = self._ends[1]
        standing = self._standing(TP(*place) for place in ends)
        for topic in DESCRIPTIONS:
            here = {p: standing.offsets[self._topic_ids[name], p] for name, p in ends if name == topic}
            behind = {p: offset for p, offset in here.items() if offset < ends[topic, p]}
            # an end may be one of a transaction, or of records that are gone: nobody is handed anything up to there
            if behind and not behind.keys() <= self._tails[topic].ended(behind):
                return False
        return standing.epoch == epoch

    async def _place(self, consumer: Consumer, done: Mapping[TP, int], standing: Standing) -> bool:
        """Have everything delivered from where Redis is; True if the state has got another epoch, so that it is to be done."""
        first, changed, self._epoch = self._epoch is None, standing.epoch != self._epoch, standing.epoch
        self._placed = set() if changed else self._placed & done.keys()
        offsets = {tp: standing.offsets[self._topic_ids[tp.topic], tp.partition] for tp in done}
        behind = {tp for tp in done if admitted(tp.topic, standing.state) and offsets[tp] < done[tp]}
        if behind and (first or behind & self._placed):
            log.warning(
                "Redis is behind what was acknowledged, it has come back older: folding again from where it is",
                partitions=len(behind), records=sum(done[tp] - offsets[tp] for tp in behind),
            )  # fmt: skip
            await asyncio.to_thread(self._recovery.renew, standing.epoch)
            self._since = self._since or time.monotonic()
            return True
        for tp in done:
            if admitted(tp.topic, standing.state):
                if tp in behind or tp in consumer.held:
                    await consumer.rewind(tp, offsets[tp])
                self._placed.add(tp)
        self._tell_when_whole(consumer, offsets, standing.state)
        return False

    def _tell_when_whole(self, consumer: Consumer, offsets: Mapping[TP, int], state: str) -> None:
        if self._since is None or state != READY or not offsets:
            return
        once = {tp: consumer.acknowledged_once(tp) for tp in offsets}
        if all(offsets[tp] >= once[tp] for tp in offsets):
            if any(once.values()):
                log.info("everything is folded that had been before", seconds=round(time.monotonic() - self._since, 1))
            self._since = None
