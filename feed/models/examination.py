"""Who looked, in a log that does not say: the position-based model, from what was shown at several places and what was taken.

    P(taken | place k, row of stratum s) = theta_k r_s,   theta_0 = 1 >= theta_1 >= ...

theta_k is the probability that somebody looks at place k, r_s that who looks takes it. Clicks alone fix theta only up to a
factor, so the top place is taken to be looked at always. Within a stratum the place must be chance, or theta takes over what a
ranker knew. The strata, by what the log has:

* rows shown by chance (`random`, `explore`): all alike, if `ENOUGH` of them were taken; then nothing else is asked
* rows drawn with a logged propensity below 1: those of about the same one. What a policy knew is in the propensity; where two
  rows of the same one stand was drawn
* other rows: items with about the same share of what was taken lately, counted before they were shown. That is what a list by
  popularity knew. A ranking made for each person knows more, and theta comes out too steep: too few rows then pass for looked
  at. The item itself is no stratum: once taken it moves up, so that within an item the lower places look the better ones

Maximum likelihood with the rows taken as Poisson counts, by turns r_s = taken of s / sum of theta over s and theta_k = taken at
k / sum of r at k; then, with the r found, the most likely falling sequence. Who took a row looked at it; who did not, with

    P(looked | not taken) = theta_k (1 - r) / (1 - theta_k r),   r = mean over all rows, per look

References: Richardson et al. 2007, "Predicting Clicks"; Craswell et al. 2008, "An Experimental Comparison of Click
Position-Bias Models"; Agarwal et al. 2019, "Estimating Position Bias without Intrusive Interventions" (alike things at several
places); Rosenbaum and Rubin 1983, "The Central Role of the Propensity Score"; Deming and Stephan 1940 (the turns); Ayer et al.
1955 (the falling sequence).
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from feed.events import BY_CHANCE, POSITIVES, Engagement, Event, Shown, View, kind

ENOUGH = 1_000  # rows taken of those shown by chance: of ten places, each is known to about a tenth of itself
STEP = math.log(2) / 2  # width of a stratum in the log of a propensity or share
HALF_LIFE = 2 * 86400.0  # of what was taken of an item
LEAST = 0.05  # of that count: less is alike
PLACES = 500  # one impression's; whatever stands further down counts as the last
WINDOW_SECONDS = 1800.0  # from what was shown, or first engaged with, to what it brought; later things did not follow from it
TURNS, STILL = 500, 1e-6


class Showings(NamedTuple):
    """n rows of impressions, in order: `event` int64 (n,), the index of the impression; `item_ids`; `place` int64 (n,);
    `stratum` int64 (n,), numbered from 0; `chance` bool (n,): shown by chance; `taken` bool (n,): engaged with, in any way.
    """

    event: np.ndarray
    item_ids: Sequence[str]
    place: np.ndarray
    stratum: np.ndarray
    chance: np.ndarray
    taken: np.ndarray


class Examination(NamedTuple):
    """`theta` float64 (places,), falling from 1; `taken`: the mean r."""

    theta: np.ndarray
    taken: float

    def looked(self, place: np.ndarray) -> np.ndarray:
        """The probability that a row at `place` (n,) that was not taken was looked at; float64 (n,)."""
        theta = self.theta[np.clip(place, 0, len(self.theta) - 1)]
        return np.asarray(theta * (1 - self.taken) / np.maximum(1 - theta * self.taken, 1e-12))

    def to_json(self) -> bytes:
        """Exactly this model, for `from_json`."""
        return msgspec.json.encode(_Told(self.theta.tolist(), self.taken))

    @classmethod
    def from_json(cls, content: bytes) -> "Examination":
        """Raises `ValueError` if that is no such model."""
        told = msgspec.json.decode(content, type=_Told)
        chances = [*told.theta, told.taken]
        if not told.theta or not 0 <= min(chances) <= max(chances) <= 1:
            raise ValueError("theta and taken are no probabilities")
        return cls(np.array(told.theta), told.taken)


class _Told(msgspec.Struct):
    theta: list[float]
    taken: float


def untold(events: Sequence[Event]) -> bool:
    """Whether the log shows things and does not say what was looked at: impressions, things taken, and fewer things viewed.

    What somebody took he looked at, so views that say who looks are of no fewer items; else they come from a few clients, or by
    mistake.
    """
    done = [event for event in events if isinstance(event, Engagement)]
    taken = {(event.user_id, event.item_id) for event in done if kind(event) in POSITIVES}
    viewed = {(event.user_id, event.item_id) for event in done if isinstance(event, View)}
    return len(done) < len(events) and len(viewed) < len(taken)


def of(events: Sequence[Event]) -> Examination | None:
    """The model of a log that does not say what was looked at; None for another, of which nothing is to be guessed."""
    return fit(showings(events)) if untold(events) else None


def looks(events: Sequence[Event], seed: int) -> dict[int, list[str]]:
    """What was looked at: index of the impression -> items, of which what was not taken is drawn by its probability.

    Drawn, not weighed: the rows are then of one kind with those of a log that has views, in loss, heads and figures; and of the
    rows that fit into memory none is of little weight.
    """
    rows = showings(events)
    if not len(rows.event):
        return {}
    p = np.where(rows.taken, 1.0, fit(rows).looked(rows.place))
    found: dict[int, list[str]] = {}
    for row in np.flatnonzero(np.random.default_rng(seed).random(len(p)) < p).tolist():
        found.setdefault(int(rows.event[row]), []).append(rows.item_ids[row])
    return found


def showings(events: Sequence[Event]) -> Showings:
    """The rows of the log's impressions; `events` in time order.

    An engagement belongs to the request that it names, if that showed the item within `WINDOW_SECONDS` before or after; else to
    the newest impression that showed the item to its user up to `WINDOW_SECONDS` before.
    """
    event: list[int] = []
    item_ids: list[str] = []
    place: list[int] = []
    keys: list[tuple[str, int]] = []
    chance: list[bool] = []
    shown: dict[tuple[str, str], list[tuple[float, int]]] = {}
    named: dict[tuple[str, str | None, str], tuple[float, int]] = {}
    counts = _Counts()
    for i, one in enumerate(events):
        if isinstance(one, Engagement):
            counts.add(one)
            continue
        left = 1.0
        for row in one.items:
            shown.setdefault((one.user_id, row.item_id), []).append((one.at, len(event)))
            named[one.user_id, one.request_id, row.item_id] = one.at, len(event)
            event.append(i)
            item_ids.append(row.item_id)
            place.append(min(row.position, PLACES - 1))
            keys.append(_stratum(row, left, counts.share(row.item_id, one.at)))
            chance.append(row.source in BY_CHANCE)
            left *= 1 - (row.propensity or 0.0)
    taken = np.zeros(len(event), np.bool_)
    taken[list(_taken(events, shown, named))] = True
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    stratum = np.array([numbers[key] for key in keys], np.int64)
    return Showings(np.array(event, np.int64), item_ids, np.array(place, np.int64), stratum, np.array(chance, np.bool_), taken)


def _stratum(row: Shown, left: float, share: float) -> tuple[str, int]:
    """`left`: the share of the draw that the places above have left over, so that propensity * left is that at the top."""
    if row.source in BY_CHANCE:
        return row.source, 0
    if row.propensity is not None and row.propensity < 1:
        return "propensity", math.floor(math.log(max(row.propensity * left, 1e-12)) / STEP)
    return "share", math.floor(math.log(share) / STEP)


class _Counts:
    """How often each item was engaged with so far, fading."""

    def __init__(self) -> None:
        self._counts: dict[str | None, tuple[float, float]] = {}

    def add(self, event: Engagement) -> None:
        for name in (event.item_id, None):  # None: all items together
            self._counts[name] = self._at(name, event.at) + 1, event.at

    def share(self, item_id: str, at: float) -> float:
        """Of all that was engaged with."""
        return max(self._at(item_id, at), LEAST) / max(self._at(None, at), LEAST)

    def _at(self, name: str | None, at: float) -> float:
        count, since = self._counts.get(name, (0.0, at))
        return count * math.exp2((since - at) / HALF_LIFE)


def _taken(
    events: Sequence[Event],
    shown: dict[tuple[str, str], list[tuple[float, int]]],
    named: dict[tuple[str, str | None, str], tuple[float, int]],
) -> Iterator[int]:
    for event in events:
        if not isinstance(event, Engagement):
            continue
        request = named.get((event.user_id, event.request_id, event.item_id)) if event.request_id is not None else None
        if request is not None and abs(event.at - request[0]) <= WINDOW_SECONDS:
            yield request[1]
        elif rows := shown.get((event.user_id, event.item_id)):
            k = bisect_right(rows, (event.at, len(events) * PLACES)) - 1
            if k >= 0 and event.at - rows[k][0] <= WINDOW_SECONDS:
                yield rows[k][1]


def fit(rows: Showings) -> Examination:
    """The model of at least one row."""
    use = rows.chance if rows.taken[rows.chance].sum() >= ENOUGH else np.ones(len(rows.place), np.bool_)
    place, stratum, taken = rows.place[use], rows.stratum[use], rows.taken[use].astype(np.float64)
    at_place, in_stratum = np.bincount(place, taken), np.bincount(stratum, taken)
    theta = np.ones(len(at_place))
    for _ in range(TURNS):
        r = in_stratum / np.maximum(np.bincount(stratum, theta[place]), 1e-12)
        expected = np.bincount(place, r[stratum])
        before, theta = theta, np.divide(at_place, expected, out=np.zeros_like(theta), where=expected > 0)
        if np.abs(theta - before).max() < STILL:
            break
    theta = _filled(at_place, expected)
    everywhere = theta[np.minimum(rows.place, len(theta) - 1)].sum()
    return Examination(theta, min(float(rows.taken.sum() / everywhere), 1 - 1e-6))


def _filled(taken: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """theta (places,) from what was taken at each and expected were it 1; a place without evidence has that of the one above.

    `taken`, `expected` float64 (places,).
    """
    known = np.flatnonzero(expected > 0)
    if not len(known):
        return np.ones(len(taken))
    values = falling(taken[known] / expected[known], expected[known])
    above = np.searchsorted(known, np.arange(len(taken)), side="right") - 1
    return np.asarray(values[np.maximum(above, 0)] / values[0])


def falling(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The falling sequence with the least weighted squares from `values` (n,): neighbours out of order become their mean."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] < block[0]:
            (m, w, n), (mean, total, length) = blocks.pop(), block
            block = ((m * w + mean * total) / (w + total), w + total, n + length)
        blocks.append(block)
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])
