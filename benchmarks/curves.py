"""What the runs of `benchmarks.learning` say: shares of the best possible click-through over time, and their plots.

    share = sum over requests of expected clicks of what was shown / sum of expected clicks of the best feeds

over the learned arm's requests of all worlds. Intervals are 95 %, from a bootstrap over users: a user of one world is drawn
with all requests, and, where two ways of making feeds are compared, with those in front of both (they have the same people).
They say how sure the figures of these worlds are, not how much worlds differ: for that stands in how many worlds one was ahead.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from feed.evaluation.metrics import ratio_interval
from feed.ranking.types import LEARNED, POPULAR, RANDOM

DRAWS = 1000
JUST_AFTER, AT_THE_END = 1000, 1500  # requests
PAIRS = (("online", "frozen"), ("ungated", "frozen"), ("nightly", "frozen"), ("online", "nightly"), ("ungated", "nightly"))
WINDOW, HOP = 500, 50  # requests, of which recovery is seen
BIN = 500  # requests a point of a plot
RECOVERED = 0.9
COLOURS = {
    "frozen": "#888888",
    "online": "#1b7f4b",
    "ungated": "#3bb5c4",
    "nightly": "#d9822b",
    POPULAR: "#5b6abf",
    RANDOM: "#b05050",
}

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Alert:
    """The first alert after a drift, and how much happened from the drift to it."""

    what: str
    requests: int
    events: int


class Run:
    """One run as arrays over its requests; `user` are numbers, the same for the same user of one world in all runs."""

    def __init__(self, told: dict[str, Any], users: dict[tuple[int, str], int]) -> None:
        self.seed, self.kind = told["seed"], told["kind"]
        self.user = np.array([users.setdefault((self.seed, user), len(users)) for user in told["user"]])
        self.arm = np.array(told["arm"])
        self.expected, self.best = np.array(told["expected"]), np.array(told["best"])
        self.events = np.array(told["events"])
        self.happened: list[tuple[int, str]] = [(at, what) for at, what in told["happened"]]
        self.drift = next((at for at, what in self.happened if what == "drift"), None)

    def sums(self, arm: str, span: tuple[int, int], users: int) -> np.ndarray:
        """float64 (2, users): expected and best clicks of each user's requests in `span`."""
        rows = np.arange(len(self.user))
        rows = rows[(rows >= span[0]) & (rows < span[1]) & (self.arm == arm)]
        return np.array([np.bincount(self.user[rows], of[rows], users) for of in (self.expected, self.best)])


class Scenario:
    """All runs in worlds that drift, or in worlds that do not."""

    def __init__(self, runs: Sequence[Run], users: int, drift_at: int, drifts: bool) -> None:
        self._runs, self._users, self.drifts = runs, users, drifts
        self.drift_at = runs[0].drift or drift_at
        self.requests = min(len(run.user) for run in runs)
        self.kinds = list(dict.fromkeys(run.kind for run in runs))
        self.seeds = sorted({run.seed for run in runs})
        self.rows = [*self.kinds, POPULAR, RANDOM]
        self.pairs = [(a, b) for a, b in PAIRS if {a, b} <= set(self.kinds)]
        at, end = self.drift_at, self.requests
        names = ("before the drift", f"first {JUST_AFTER:,} after it", f"last {AT_THE_END:,}")
        if not drifts:
            names = (f"first {at:,} requests", f"next {JUST_AFTER:,}", f"last {AT_THE_END:,}")
        spans = ((0, at), (at, at + JUST_AFTER), (max(at, end - AT_THE_END), end))
        self.phases = dict(zip(names, spans, strict=True))

    @cached_property
    def _counts(self) -> np.ndarray:
        """float64 (DRAWS, users): how often each user is in each resample; users without requests weigh nothing."""
        return resamples(self._users)

    def _sums(self, row: str, span: tuple[int, int], seed: int | None = None) -> np.ndarray:
        """Of a kind's learned arm, or of one of the other arms over all kinds."""
        arm = LEARNED if row in self.kinds else row
        mine = [run for run in self._runs if (run.kind == row or arm == row) and seed in (None, run.seed)]
        return np.asarray(sum(run.sums(arm, span, self._users) for run in mine))

    def share(self, row: str, phase: str) -> Interval:
        """Share of the best possible with its interval."""
        expected, best = self._sums(row, self.phases[phase])
        there = best > 0
        return ratio_interval(expected[there], best[there], seed=0, draws=DRAWS)

    def difference(self, a: str, b: str, phase: str) -> tuple[float, float, float, int, int]:
        """Share of `a` less that of `b` with its interval, paired; in how many worlds it is positive, of how many."""
        span = self.phases[phase]
        of_a, of_b = self._sums(a, span), self._sums(b, span)
        ahead = sum(_share(self._sums(a, span, seed)) > _share(self._sums(b, span, seed)) for seed in self.seeds)
        drawn = self._drawn(of_a) - self._drawn(of_b)
        return _share(of_a) - _share(of_b), *ends(drawn), ahead, len(self.seeds)

    def lost(self, kind: str, calm: "Scenario") -> tuple[Interval, float]:
        """Part of the click-through that the drift took until the end, and how many clicks that is in 1,000 requests.

        Beside the frozen model's share in `calm`, the same worlds without drift, since shares change there, too.
        """
        after = self.drift_at, self.requests
        mine, without = self._sums(kind, after), calm._sums("frozen", after)
        requests = sum(int((run.arm[self.drift_at :] == LEARNED).sum()) for run in self._runs if run.kind == kind)
        clicks = (_share(without) * mine[1].sum() - mine[0].sum()) / requests * 1000
        drawn = 1 - self._drawn(mine) / self._drawn(without)
        return (1 - _share(mine) / _share(without), *ends(drawn)), clicks

    def recovery(self, kind: str, calm: "Scenario") -> tuple[Interval, int | None, int]:
        """Part of the loss regained in the last phase; requests until 90 % were, over all worlds; and in how many they were.

        The loss is what the frozen model's share in the phase just after the drift is below its share there in `calm`; 90 % are
        regained at the end of the first `WINDOW` requests whose share is within a tenth of it of what is in `calm`.
        """
        just_after, last = list(self.phases.values())[1:]
        of = (
            calm._sums("frozen", just_after),
            self._sums("frozen", just_after),
            calm._sums("frozen", last),
            self._sums(kind, last),
        )

        def regained(calm_then: Any, then: Any, calm_now: Any, now: Any) -> Any:
            return 1 - (calm_now - now) / (calm_then - then)

        interval = ends(regained(*map(self._drawn, of)))
        seeds = sum(self._regained_at(kind, calm, seed) is not None for seed in self.seeds)
        return (float(regained(*map(_share, of))), *interval), self._regained_at(kind, calm, None), seeds

    def _regained_at(self, kind: str, calm: "Scenario", seed: int | None) -> int | None:
        just_after = list(self.phases.values())[1]
        loss = _share(calm._sums("frozen", just_after, seed)) - _share(self._sums("frozen", just_after, seed))
        for start in range(self.drift_at, self.requests - WINDOW + 1, HOP):
            span = start, start + WINDOW
            below = _share(calm._sums("frozen", span, seed)) - _share(self._sums(kind, span, seed))
            if below <= (1 - RECOVERED) * loss:
                return start + WINDOW - self.drift_at
        return None

    def alert(self, seed: int) -> tuple[int, Alert | None]:
        """How many alerts came before the drift in front of the online runs' feeds, and the first one after it."""
        run = self._online(seed)
        alerts = [(at, what.removeprefix("alert: ")) for at, what in run.happened if what.startswith("alert: ")]
        first = next(((at, what) for at, what in alerts if at >= self.drift_at), None)
        early = sum(at < self.drift_at for at, _ in alerts)
        if first is None:
            return early, None
        return early, Alert(first[1], first[0] - self.drift_at, int(run.events[self.drift_at : first[0]].sum()))

    def alerts(self, seed: int) -> int:
        """How many alerts came in all."""
        return sum(what.startswith("alert: ") for _, what in self._online(seed).happened)

    def when(self, seed: int, what: str) -> list[int]:
        """At which requests this happened."""
        return [at for at, told in self._online(seed).happened if told.startswith(f"{what}: ")]

    def ledger(self, seed: int) -> Counter[str]:
        """How many lines of each kind the ledger has."""
        told = (what.split(": ") for _, what in self._online(seed).happened if what.startswith("ledger: "))
        return Counter(parts[1] for parts in told)

    def plot(self, file: Path) -> None:
        """Share over requests, all worlds together, with its interval."""
        figure = Figure(figsize=(8, 4), dpi=90)
        axes = figure.subplots()
        middles = np.arange(BIN / 2, self.requests - BIN / 2 + 1, BIN)
        for row in self.rows:
            sums = [self._sums(row, (int(x - BIN / 2), int(x + BIN / 2))) for x in middles]
            axes.plot(middles, [100 * _share(s) for s in sums], color=COLOURS[row], label=row, lw=4 if row == "frozen" else 1.8)
            if row in self.kinds:
                low, high = zip(*(ends(self._drawn(s)) for s in sums), strict=True)
                axes.fill_between(middles, 100 * np.array(low), 100 * np.array(high), color=COLOURS[row], alpha=0.15, lw=0)
        if self.drifts:
            axes.axvline(self.drift_at, color="black", lw=0.8, ls="--")
            axes.annotate("tastes drift", (self.drift_at, 2), xytext=(4, 0), textcoords="offset points")
        for what, mark in (("alert", "v"), ("promoted", "^")):
            at = [x for seed in self.seeds for x in self.when(seed, what)]
            if at:
                axes.plot(at, np.zeros(len(at)), mark, color=COLOURS["online"], ms=6, label=what, clip_on=False)
        axes.set(xlabel="requests", ylabel="share of the best possible, %", xlim=(0, self.requests), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15))
        figure.savefig(file, bbox_inches="tight")

    def _online(self, seed: int) -> Run:
        return next(run for run in self._runs if run.kind == "online" and run.seed == seed)

    def _drawn(self, sums: np.ndarray) -> np.ndarray:
        """float64 (DRAWS,): the share in each resample."""
        return np.asarray((self._counts @ sums[0]) / (self._counts @ sums[1]))


def scenarios(measured: dict[str, Any]) -> list[Scenario]:
    """Stationary worlds and drifting ones, as far as they were run."""
    users: dict[tuple[int, str], int] = {}
    by_drift: dict[bool, list[Run]] = {False: [], True: []}
    for told in measured["runs"]:
        by_drift[told["drift_at"] is not None].append(Run(told, users))
    return [Scenario(runs, len(users), measured["drift_at"], drifts) for drifts, runs in by_drift.items() if runs]


def _share(sums: np.ndarray) -> float:
    return float(sums[0].sum() / sums[1].sum())


def resamples(users: int) -> np.ndarray:
    """float64 (DRAWS, users): how often each user is in each resample of a bootstrap over users."""
    return np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), DRAWS).astype(float)


def ends(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % interval of what was drawn."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
