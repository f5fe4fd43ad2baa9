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

PAUSE_SECONDS = 0.3  # between refreshes, so that a published item is rankable within a second, and an expired one gone
SHARE = 0.3  # of the time that refreshes may take when many items change


class Live:
    """Ranks with the registry's champion over `table`, which is empty before the first `refresh`.

    `changed` brings changes into the table and returns the changed rows; `now` gives event time (seconds since 1970); what
    they raise goes through. `rank` may run in any number of threads beside `refresh` and `follow`: it reads a ranker and an
    index that nobody changes, only replaces, so all feeds of one call are of one version. Of the table itself it reads what
    goes together (`ItemTable.nearby`), which may be read while it changes.
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
        self._unreadable = ""
        self._due = -1.0
        self._refreshed: float | None = None
        self._latest = 0.0
        self._shown = np.zeros(0, np.bool_)  # by rows of the table: what was showable when `expired` was called last
        self._changing = threading.Lock()  # held by whoever reads the whole table or writes into it

    @property
    def version(self) -> str | None:
        """The version that ranks; None as long as there has been no champion."""
        return None if self._ranker is None else self._ranker.version

    @property
    def generation(self) -> int:
        """The generation that ranks; 0 as long as there has been no champion."""
        return 0 if self._ranker is None else self._ranker.generation

    @property
    def refresh_age(self) -> float | None:
        """Seconds since the catalogue was last brought up to date; None as long as it has not been read."""
        return None if self._refreshed is None else self._clock() - self._refreshed

    def refresh(self) -> None:
        """Take over changed items, and a new champion; does nothing if the last refresh was a moment ago."""
        with self._changing:
            start = self._clock()
            if start < self._due:
                return
            rows = self._changed(self.table)
            self._refreshed = start
            before = self._ranker
            if (champion := self._other_champion()) is not None:
                self._take_over(champion)
            if before is not None and before is self._ranker and len(rows):
                before.refresh(self.now())
            end = self._clock()
            self._due = end + max(PAUSE_SECONDS, (end - start) * (1 - SHARE) / SHARE)

    def follow(self) -> None:
        """Take over a new champion, if there is one and the catalogue has been read.

        Looking costs one small file and no lock, so it may be done many times a second, however slow refreshes are; taking
        over waits for the refresh at hand.
        """
        if self._refreshed is not None and self._other_champion() is not None:
            with self._changing:
                if (champion := self._other_champion()) is not None:
                    self._take_over(champion)

    def rank(self, states: Sequence[UserState]) -> list[Feed]:
        """The users' feeds. Raises `NoChampion`."""
        ranker = self._ranker
        if ranker is None and self._refused is not None:
            raise NoChampion(
                f"the champion {self._refused.version} cannot be used, as was said when it was read: promote another version "
                "with `python offline/models.py`, or train one with `python offline/bootstrap.py`"
            )
        if ranker is None:
            raise NoChampion("no champion yet: train one with `python offline/bootstrap.py` (or `python offline/seed.py`)")
        return ranker.rank(states, self.now())

    def now(self) -> float:
        """Event time, seconds since 1970. It never goes back: where Redis has lost its clock, nothing dated would exist."""
        self._latest = max(self._latest, self._now())
        return self._latest

    def showable(self, item_id: str) -> bool:
        """Whether the item may be shown, by the catalogue and the time as they were read last."""
        item = self.table.by_id.get(item_id)
        return item is not None and item.showable(self._latest)

    def expired(self) -> set[str]:
        """Items that were showable when this was called last and are no more, by their times alone: described and available."""
        with self._changing:
            table, shown = self.table, self._shown
            self._shown = table.showable(self.now())
            offered = table.known & (table.until > -np.inf)
            return {table.ids[row] for row in np.flatnonzero(shown & ~self._shown[: len(shown)] & offered[: len(shown)])}

    def _other_champion(self) -> Champion | None:
        """The champion, if neither the ranker at hand is of it nor it was refused; a registry that is broken is said once."""
        try:
            champion = self._registry.champion()
        except BadModel as error:
            if str(error) != self._unreadable:
                log.error("the registry does not say who serves", error=str(error), still_ranking_with=self.version)
            self._unreadable = str(error)
            return None
        self._unreadable = ""
        ranker = self._ranker
        if champion is None or champion == self._refused:
            return None
        if ranker is not None and (ranker.version, ranker.generation) == (champion.version, champion.generation):
            return None
        return champion

    def _take_over(self, champion: Champion) -> None:
        """Rank with this champion, complete before it is used; if it cannot be loaded, the ranker at hand goes on."""
        try:
            self._ranker = load(champion, self.table, self._policy, self.now())
            log.info(
                "ranking with a new champion", version=champion.version, generation=champion.generation,
                ranked_by=self._ranker.ranked_by, repeats=str(self._ranker.repeats),
            )  # fmt: skip
        except BadModel as error:
            log.error("the champion cannot be used", error=str(error), still_ranking_with=self.version)
            self._refused = champion


def load(champion: Champion, table: ItemTable, policy: Policy, now: float) -> Ranker:
    """A ranker of this champion over `table` at `now`. Raises `BadModel`, also for weights that are not finite."""
    loaded = snapshot.load(champion.path)
    loaded.require_finite()
    ranker = Ranker(loaded, champion.version, champion.generation, table, policy, now)
    known = sorted(filter(None, table.categories))
    if known and (unknown := [name for name, _ in ranker.repeats.categories if name not in known]):
        log.warning("the rule for repeats names categories that no item has", categories=unknown, there_are=known[:20])
    return ranker
