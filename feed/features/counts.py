"""Item counts as integers in time buckets, which any number of writers may increment, and their decayed sums.

Field names in `item:{id}`: `click` is the total, `click:1h:489234` the clicks in the 489,234th hour since 1970, `first` the
whole second of the earliest event. One resolution serves two half-lives h, from a quarter of an hour to 30 days:
value(now) = sum over buckets of n * 2^(-(now - middle of the bucket) / h). Buckets older than eight half-lives weigh less than
1/256 and are dropped when the hash is trimmed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from feed.events import KINDS, Event, Impression, kind

FIRST = "first"  # the field of the earliest event's time
DAY = 86400.0
HALF_LIVES_KEPT = 8


@dataclass(frozen=True)
class Resolution:
    """Buckets of `seconds`, read with `half_lives` (seconds), the longest one last."""

    name: str
    seconds: int
    half_lives: tuple[float, ...]

    def middle(self, bucket: int) -> float:
        """The bucket's middle, seconds since 1970."""
        return (bucket + 0.5) * self.seconds


RESOLUTIONS = (
    Resolution("5m", 300, (900.0, 3600.0)),
    Resolution("1h", 3600, (6 * 3600.0, DAY)),
    Resolution("1d", 86400, (7 * DAY, 30 * DAY)),
)
HALF_LIVES = np.array([half_life for r in RESOLUTIONS for half_life in r.half_lives])
# columns of the half-lives that are asked for by name
OF_DAY, OF_WEEK = (int(np.flatnonzero(h == HALF_LIVES)[0]) for h in (DAY, 7 * DAY))
_COLUMNS = {r.name: np.isin(HALF_LIVES, r.half_lives) for r in RESOLUTIONS}
BY_NAME = {r.name: i for i, r in enumerate(RESOLUTIONS)}


def shown_or_engaged(event: Event) -> Iterable[str]:
    """The items whose counts the event raises."""
    return [shown.item_id for shown in event.items] if isinstance(event, Impression) else [event.item_id]


def fields(event: Event) -> list[str]:
    """The hash fields that the event raises by one in each of its items."""
    name, at = kind(event), event.at
    return [name, *(f"{name}:{r.name}:{int(at // r.seconds)}" for r in RESOLUTIONS)]


def oldest_kept(now: float) -> list[int]:
    """For each resolution the oldest bucket that is kept at `now`."""
    return [int((now - HALF_LIVES_KEPT * r.half_lives[-1]) // r.seconds) for r in RESOLUTIONS]


def decayed(counts: Mapping[str, int], now: float) -> np.ndarray:
    """float64 (kinds, half-lives): the decayed sums of one item's hash fields at `now`; fields of other names are ignored.

    A bucket that is still to come at `now` weighs as if it had just begun: after a loss the clock may be behind the counts.
    """
    sums, place = np.zeros((len(KINDS), len(HALF_LIVES))), {name: i for i, name in enumerate(KINDS)}
    for field, n in counts.items():
        name, _, bucket = field.partition(":")
        if not bucket or name not in place:
            continue
        resolution, _, number = bucket.partition(":")
        r = BY_NAME[resolution]
        since = max(now - RESOLUTIONS[r].middle(int(number)), -RESOLUTIONS[r].seconds / 2)
        columns = _COLUMNS[resolution]
        sums[place[name], columns] += n * np.exp2(-since / HALF_LIVES[columns])
    return sums


def add(sums: np.ndarray, since: float, event: Event) -> float:
    """Fold one event into one item's decayed sums (kinds, half-lives) of time `since`, in place; returns their new time."""
    when = event.at
    at = max(since, when)
    sums *= 2.0 ** (-(at - since) / HALF_LIVES)
    k = KINDS.index(kind(event))
    middles = [resolution.middle(int(when // resolution.seconds)) for resolution in RESOLUTIONS for _ in resolution.half_lives]
    sums[k] += np.exp2(-(at - np.array(middles)) / HALF_LIVES)
    return at
