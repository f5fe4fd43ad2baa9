"""How much of a log is repeats, and the rule that follows from it."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from feed.events import POSITIVES, Engagement, Event, kind
from feed.features.user import SAME_OCCASION
from feed.repeats import ALWAYS, NEVER, Repeats

LATER = 0.2  # share of the positives, the last by time: who has no past yet repeats nothing
# Logs of check-ins have 0.80, of groceries 0.49, of articles among colleagues 0.20, of news 0.00 to 0.02, of films and games 0.
# Below a quarter, at least three takes in four are of something new, and what is known would stand in their place.
LEAST_SHARE = 0.25


class Measured(NamedTuple):
    """`share`: of the later `positives`, those with an item that their user had taken before; `median_seconds`: from one time
    an item was taken to the next, in the whole log; None without any.

    What follows within `SAME_OCCASION` of a positive with the same item is no further one.
    """

    share: float
    positives: int
    median_seconds: float | None

    @property
    def rule(self) -> Repeats:
        """The default rule for feeds of such a log."""
        return ALWAYS if self.share >= LEAST_SHARE else NEVER

    def __str__(self) -> str:
        after = f", {self.median_seconds / 3600:.0f} h after the last time at the median" if self.median_seconds else ""
        return f"{self.share:.1%} of the log's later positives are of an item that the user took before{after}"


def measure(events: Sequence[Event], catalogue: Collection[str]) -> Measured:
    """Of a log, events in time order, among the items of its `catalogue`."""
    last: dict[tuple[str, str], float] = {}
    repeated: list[bool] = []
    gaps: list[float] = []
    for event in events:
        if not isinstance(event, Engagement) or kind(event) not in POSITIVES or event.item_id not in catalogue:
            continue
        before = last.get((event.user_id, event.item_id))
        last[event.user_id, event.item_id] = event.at
        if before is not None and event.at - before <= SAME_OCCASION:
            continue
        repeated.append(before is not None)
        if before is not None:
            gaps.append(event.at - before)
    later = repeated[int(len(repeated) * (1 - LATER)) :]
    return Measured(float(np.mean(later)) if later else 0.0, len(later), float(np.median(gaps)) if gaps else None)
