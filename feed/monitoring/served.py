"""Figures of the feeds that were served, by event-time day (UTC) and model version, and when they count as degraded.

Rates are ratios of sums, with 95 % intervals by the bootstrap over users: people differ more than their requests do (Efron and
Tibshirani 1993, "An Introduction to the Bootstrap", ch. 8). Everything is a sum of what single examples add, so a log of any
length is read once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from feed.events import utc
from feed.examples import Example, is_new
from feed.features.items import NUMERIC
from feed.monitoring import figures
from feed.monitoring.quality import diversity
from feed.ranking.types import LEARNED, MODEL, POPULAR

RESAMPLES = 500
BEFORE_DAYS = 7  # days that the newest is compared with
FEWEST = 500  # learned requests of a day that is judged or compared with
WORSE = 0.9  # degraded: the interval's upper end below this share of before
AGE = NUMERIC.index("age_hours")
OF_NO_VERSION = "none"


@dataclass(frozen=True)
class Rate:
    """A rate with its 95 % interval over users; `requests` it comes from."""

    value: float
    low: float
    high: float
    requests: int


@dataclass(frozen=True)
class Day:
    """One day of one version (`all`: of all versions).

    `click_through` by arm: clicks per item shown. Of the learned arm, items that the model chose: `engagement` (likes, shares,
    comments per item shown), `dwell_seconds` per item shown, `calibration_gap` (mean score - share clicked, of what was looked
    at; the scores are no click probabilities, so what counts is how it moves), `coverage` (share of the catalogue shown),
    `diversity` (see `feed.monitoring.quality`), `age_hours` (mean age of what was shown).
    """

    day: str
    version: str
    click_through: dict[str, Rate]
    engagement: float
    dwell_seconds: float
    calibration_gap: float | None
    coverage: float
    diversity: float
    age_hours: float


@dataclass
class _Sums:
    """Of one day and version: by arm and user (clicks, shown, requests); and sums over what the model chose to show."""

    arms: dict[str, dict[str, np.ndarray]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: np.zeros(3)))
    )
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(4))  # items, engagements, seconds, hours of age
    looked: np.ndarray = field(default_factory=lambda: np.zeros(3))  # items, scores, clicks
    unlike: np.ndarray = field(default_factory=lambda: np.zeros(2))  # requests, diversities
    items: set[str] = field(default_factory=set)


class Served:
    """Adds up examples, in the order of their log; copies and what no feed showed are left out."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._sums: dict[tuple[str, str], _Sums] = defaultdict(_Sums)
        self.newest = 0.0  # event time, seconds since 1970

    def add(self, example: Example) -> None:
        """One more."""
        if not is_new(example, self._last):
            return
        if example.organic or example.arm is None:
            return
        self.newest = max(self.newest, example.at)
        day, version = f"{utc(example.at):%Y-%m-%d}", example.model_version or OF_NO_VERSION
        for sums in (self._sums[day, version], self._sums[day, "all"]):
            _add(sums, example)

    def days(self, catalogue: int, seed: int = 0) -> list[Day]:
        """Every day and version, oldest first, a day's `all` last; `catalogue`: how many items there are."""
        order = sorted(self._sums, key=lambda key: (key[0], key[1] == "all", key[1]))
        return [_day(day, version, self._sums[day, version], catalogue, seed) for day, version in order]


def degraded(days: Sequence[Day]) -> str | None:
    """Why the newest day with enough requests counts as degraded; None if it does not, or if there is nothing to compare.

    Degraded: the learned arm's click-through lies below `WORSE` times its mean over the `BEFORE_DAYS` days before, with its
    whole interval; and so does its ratio to the popular arm's, where that arm is known: what befalls both is no degradation.
    """
    judged = [day for day in days if day.version == "all" and _requests(day, LEARNED) >= FEWEST]
    if len(judged) < 2:
        return None
    now, before = judged[-1], judged[-1 - BEFORE_DAYS : -1]
    was = _pooled(before, LEARNED)
    mine = now.click_through[LEARNED]
    if was is None or mine.high >= WORSE * was:
        return None
    popular, popular_was = now.click_through.get(POPULAR), _pooled(before, POPULAR)
    if popular and popular_was and popular.value > 0 and mine.value / popular.value >= WORSE * was / popular_was:
        return None
    return (
        f"click-through of the learned arm on {now.day} is {mine.value:.4f} ({mine.low:.4f} – {mine.high:.4f}), below "
        f"{WORSE:.0%} of the {was:.4f} of the {len(before)} day{'s' * (len(before) > 1)} before"
    )


def _add(sums: _Sums, example: Example) -> None:
    clicks = sum(row.clicked for row in example.rows)
    sums.arms[example.arm or ""][example.user.user_id] += (clicks, len(example.rows), 1)
    rows = [row for row in example.rows if row.source == MODEL]
    if example.arm != LEARNED or not rows:
        return
    outcome = figures.outcomes(rows)
    ages = sum(max(row.item.numeric[AGE], 0.0) for row in rows)
    sums.chosen += (len(rows), outcome["engagement"] * len(rows), outcome["dwell"] * len(rows), ages)
    looked = [row for row in rows if figures.looked_at(row) and row.score is not None]
    sums.looked += (len(looked), sum(row.score or 0.0 for row in looked), sum(row.clicked for row in looked))
    codes: dict[str, int] = {}
    categories = [codes.setdefault(row.item.category, 1 + len(codes)) if row.item.category else 0 for row in rows]
    sums.unlike += (1, diversity(np.array([categories])))
    sums.items.update(row.item.item_id for row in rows)


def _day(day: str, version: str, sums: _Sums, catalogue: int, seed: int) -> Day:
    shown, engagement, seconds, hours = sums.chosen.tolist()
    looked, scores, clicked = sums.looked.tolist()
    return Day(
        day=day,
        version=version,
        click_through={arm: _rate(np.array(list(users.values())), seed) for arm, users in sorted(sums.arms.items())},
        engagement=engagement / max(shown, 1),
        dwell_seconds=seconds / max(shown, 1),
        calibration_gap=(scores - clicked) / looked if looked else None,
        coverage=len(sums.items) / max(catalogue, 1),
        diversity=float(sums.unlike[1] / max(sums.unlike[0], 1)),
        age_hours=hours / max(shown, 1),
    )


def _rate(users: np.ndarray, seed: int) -> Rate:
    """Of `users` float64 (users, 3): clicks, items shown, requests of each."""
    n = len(users)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) @ users
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1), (0.025, 0.975)).tolist()
    clicks, shown, requests = users.sum(axis=0).tolist()
    return Rate(clicks / shown, low, high, int(requests))


def _requests(day: Day, arm: str) -> int:
    return day.click_through[arm].requests if arm in day.click_through else 0


def _pooled(days: Sequence[Day], arm: str) -> float | None:
    """The days' mean click-through, by requests."""
    rates = [day.click_through[arm] for day in days if arm in day.click_through]
    requests = sum(rate.requests for rate in rates)
    return sum(rate.value * rate.requests for rate in rates) / requests if requests else None
