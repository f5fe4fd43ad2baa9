"""Says when records wait for their effects for longer than a few seconds: feeds are then late, whatever the model is worth."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import structlog

from feed.settings import LATE_SECONDS
from stream_processors.batches import Batch

log = structlog.get_logger()

SAY_SECONDS = 10.0  # between two lines


class Lag:
    """Measures how long records have waited when a batch is done, from when they were sent, by the wall clock.

    A batch waits as long as its first record. What was sent before this process began is not counted: it is old because nobody
    was there, or because its sender (a mirror, a replay) gave it a time of its own.
    """

    def __init__(self, event: str, remedy: str, clock: Callable[[], float] = time.time) -> None:
        """`event` and `remedy`: what is said beside the figures."""
        self._event, self._remedy, self._clock = event, remedy, clock
        self._began = clock()
        self._say_next = self._began
        self._waits: list[float] = []

    def timed(self, apply: Callable[[Batch], Awaitable[None]]) -> Callable[[Batch], Awaitable[None]]:
        """`apply`, measured."""

        async def apply_and_measure(batch: Batch) -> None:
            await apply(batch)
            if not batch.again:  # a rebuild is not late
                self.done(batch.records)

        return apply_and_measure

    def done(self, records: Sequence[Any]) -> None:
        """These records (`timestamp`: ms since 1970) have had their effect."""
        now, sent = self._clock(), records[0].timestamp / 1000
        if sent < self._began:
            return
        if now >= self._say_next + SAY_SECONDS:  # nothing was late for a while: figures of now, not of then
            self._waits.clear()
            self._say_next = now
        self._waits.append(now - sent)
        if now - sent > LATE_SECONDS and now >= self._say_next:
            p50, p95 = np.quantile(self._waits, (0.5, 0.95)).round(1).tolist()
            late = sum(wait > LATE_SECONDS for wait in self._waits) / len(self._waits)
            log.warning(self._event, p50_seconds=p50, p95_seconds=p95, share_of_batches=f"{late:.0%}", remedy=self._remedy)
            self._say_next = now + SAY_SECONDS
            self._waits.clear()
