"""What a live audience has done so far, by arm: for the screen while it runs, and as JSON at the end."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from feed.ranking.types import LEARNED, POPULAR, RANDOM
from feed.settings import LATE_SECONDS
from producers.audience import Visit
from producers.freshness import Ages

SPAN = 10.0  # seconds


class Arm:
    """One arm's sums; `users` maps a user to [shown, clicks]."""

    def __init__(self) -> None:
        self.users: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.requests = 0
        self.expected = self.best = 0.0

    def add(self, visit: Visit) -> None:
        """One more request."""
        self.users[visit.user_id][0] += visit.shown
        self.users[visit.user_id][1] += visit.clicks
        self.requests += 1
        self.expected += visit.expected
        self.best += visit.best

    @property
    def shown(self) -> int:
        """Items shown."""
        return sum(shown for shown, _ in self.users.values())

    @property
    def clicks(self) -> int:
        """Clicks on them."""
        return sum(clicks for _, clicks in self.users.values())

    @property
    def click_through(self) -> float | None:
        """Clicks / shown; None before anything was shown."""
        return self.clicks / self.shown if self.shown else None

    @property
    def share_of_best(self) -> float | None:
        """Expected clicks of what was shown / of the best feeds for the same users, moments and seen state, in [0, 1]."""
        return self.expected / self.best if self.best else None


class Figures:
    """All arms, as a whole and by `SPAN` seconds from the start."""

    def __init__(self) -> None:
        self.arms = {name: Arm() for name in (LEARNED, POPULAR, RANDOM)}
        self._began = time.time()
        self._spans: dict[int, dict[str, Arm]] = {}
        self.ages = Ages()
        self.span_ages: dict[int, Ages] = defaultdict(Ages)
        """By the number of the span, from 0."""

    def add(self, visits: Iterable[Visit], seconds: float) -> None:
        """Count these requests, made `seconds` from the start."""
        span = self._spans.setdefault(int(seconds // SPAN), {name: Arm() for name in self.arms})
        for visit in visits:
            for arms in (self.arms, span):
                arms.setdefault(visit.arm or "none", Arm()).add(visit)
            if visit.age is not None:
                for ages in (self.ages, self.span_ages[int(seconds // SPAN)]):
                    ages.add(visit.age)

    def table(self, title: str) -> Table:
        """For a terminal."""
        table = Table("arm", title=title, title_justify="left")
        for name in ("users", "requests", "shown", "clicks", "click-through", "share of best"):
            table.add_column(name, justify="right")
        for name, arm in self.arms.items():
            counts = (len(arm.users), arm.requests, arm.shown, arm.clicks)
            table.add_row(name, *(f"{n:,}" for n in counts), _percent(arm.click_through), _percent(arm.share_of_best))
        return table

    def line(self) -> str:
        """For a log: click-through of each arm as a whole, and share of the best possible in the newest span."""
        newest = self._spans[max(self._spans)] if self._spans else self.arms
        return "; ".join(
            f"{name} {_percent(arm.click_through)} ({arm.clicks:,}/{arm.shown:,}), "
            f"{_percent(newest.get(name, arm).share_of_best)} of best lately"
            for name, arm in self.arms.items()
        )

    def write(self, file: Path, acknowledged: int, seconds: float) -> None:
        """Write the report: `arms` maps an arm to its users' [shown, clicks], `timeline` has the spans' sums.

        `feed_age`: seconds, over all requests and in each span.
        """
        summary: dict[str, dict[str, Any]] = {
            name: {
                "users": len(arm.users), "requests": arm.requests, "shown": arm.shown, "clicks": arm.clicks,
                "click_through": arm.click_through, "share_of_best": arm.share_of_best,
            }
            for name, arm in self.arms.items()
        }  # fmt: skip
        report = {
            "began": self._began,
            "events_acknowledged": acknowledged,
            "seconds": round(seconds, 3),
            "summary": summary,
            "feed_age": _ages(self.ages),
            "arms": {name: arm.users for name, arm in self.arms.items()},
            "timeline": [
                {
                    "from": span * SPAN,
                    "feed_age": _ages(self.span_ages[span]),
                    **{name: [arm.requests, arm.expected, arm.best] for name, arm in arms.items()},
                }
                for span, arms in sorted(self._spans.items())
            ],
        }
        file.write_text(json.dumps(report) + "\n")


def _ages(ages: Ages) -> dict[str, float]:
    older = f"older_than_{LATE_SECONDS:.0f}_s"
    return {"requests": ages.requests, "p50": ages.quantile(0.5), "p95": ages.quantile(0.95), older: ages.older}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
