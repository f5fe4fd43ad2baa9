"""A ranker that keeps up with catalogue and champion while it serves."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from feed.errors import BadModel, NoChampion
from feed.features import ItemTable, UserState
from feed.models import snapshot
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.ranking.types import Feed
from feed.registry import Champion, Registry

log = structlog.get_logger()

PAUSE_SECONDS = 0.5  # between refreshes, so that a published item is rankable within a second
SHARE = 0.3  # of the time that refreshes may take when many items change


class Live:
    """Ranks with the registry's champion over `table`, which is empty before the first `refresh`.

    `changed` brings changes into the table and returns the changed rows; `now` gives event time (seconds since 1970); what
    they raise goes through. `rank` may run in any number of threads beside a `refresh`: it reads an index that no refresh
    changes, only replaces.
    """

    def __init__(
        self,
        registry: Registry,
        policy: Policy,
        changed: Callable[[ItemTable], np.ndarray],
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = ItemTable()
        self._registry, self._policy, self._changed, self._now, self._clock = registry, policy, changed, now, clock
        self._ranker: Ranker | None = None
        self._refused: Champion | None = None
        self._due = -1.0
        self._refreshing = threading.Lock()

    @property
    def version(self) -> str | None:
        """The version that ranks; None as long as there has been no champion."""
        return None if self._ranker is None else self._ranker.version

    def refresh(self) -> None:
        """Take over changed items and a new champion; does nothing if the last refresh was a moment ago."""
        with self._refreshing:
            start = self._clock()
            if start < self._due:
                return
            rows = self._changed(self.table)
            ranker = self._champion()
            if ranker is self._ranker and ranker is not None and len(rows):
                ranker.refresh(self._now())
            self._ranker = ranker
            end = self._clock()
            self._due = end + max(PAUSE_SECONDS, (end - start) * (1 - SHARE) / SHARE)

    def rank(self, states: Sequence[UserState]) -> list[Feed]:
        """The users' feeds. Raises `NoChampion`."""
        ranker = self._ranker
        if ranker is None:
            raise NoChampion("no champion yet: train one with `python offline/bootstrap.py` (or `python offline/seed.py`)")
        return ranker.rank(states, self._now())

    def _champion(self) -> Ranker | None:
        """A ranker of the champion: the one at hand if it is, else a new one, complete before it is used.

        One that cannot be loaded is reported once; the ranker at hand goes on.
        """
        ranker = self._ranker
        champion = None
        try:
            champion = self._registry.champion()
            if champion is None or champion == self._refused:
                return ranker
            if ranker is not None and (ranker.version, ranker.generation) == (champion.version, champion.generation):
                return ranker
            loaded = load(champion, self.table, self._policy, self._now())
            log.info("ranking with a new champion", version=champion.version, generation=champion.generation)
            return loaded
        except BadModel as error:
            if champion is None or champion != self._refused:
                log.error("the champion cannot be used", error=str(error), still_ranking_with=self.version)
            self._refused = champion
            return ranker


def load(champion: Champion, table: ItemTable, policy: Policy, now: float) -> Ranker:
    """A ranker of this champion over `table` at `now`. Raises `BadModel`."""
    return Ranker(snapshot.load(champion.path), champion.version, champion.generation, table, policy, now)
