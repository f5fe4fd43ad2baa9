"""What the runs of `benchmarks.quality` say: means, paired differences, and how learning online goes on.

A target is worth the mean of its NDCG@10 over the seeds that ranked it: several of one log, one of a world's. Means and
differences are over targets, with 95 % intervals from a bootstrap over users; they say how sure a figure is for these logs
and these seeds. How far seeds differ stands beside them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.page import table
from benchmarks.quality import BASELINES, OURS, ROWS
from feed.errors import FeedError
from feed.evaluation.metrics import mean_interval
from offline.evaluate import MODELS

SERVED, FROZEN = "served", "served, frozen"
BINS = 10  # of a slice, in a learning curve
COLOURS = {SERVED: "#1b7f4b", FROZEN: "#888888"}
SEGMENTS: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "users with 0 earlier events": lambda of: of["earlier"] == 0,
    "1–9": lambda of: of["earlier"].between(1, 9),
    "10 and more": lambda of: of["earlier"] >= 10,
    "items younger than a day": lambda of: of["young"] == 1,
}
COMPARED = (SERVED, "ease-prior", "prior-covisitation", "popular")  # by segment

Interval = tuple[float, float, float]


class Ranked:
    """All runs on one log: a table of targets a row, indexed by the log's hash and the target's number there."""

    def __init__(self, runs: Sequence[Mapping[str, Any]]) -> None:
        self.runs = runs
        self._targets = {row: _targets([run for run in runs if run["row"] == row]) for row in {run["row"] for run in runs}}

    def rows(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that were run."""
        return [name for name in names if name in self._targets]

    def mean(self, row: str, segment: str | None = None) -> tuple[Interval, int]:
        """NDCG@10 with its interval, and the number of targets."""
        targets = self._targets[row]
        if segment is not None:
            targets = targets[SEGMENTS[segment](targets)]
        return mean_interval(targets["ndcg"].to_numpy(), targets["user"].to_numpy(), seed=0), len(targets)

    def difference(self, a: str, b: str) -> Interval:
        """a - b over the targets that both ranked. Raises `FeedError` where they have none in common."""
        both = self._targets[a].join(self._targets[b]["ndcg"].rename("other"), how="inner")
        if both.empty:
            raise FeedError(f"{a} and {b} ranked no target in common: run both on the same seeds")
        return mean_interval((both["ndcg"] - both["other"]).to_numpy(), both["user"].to_numpy(), seed=0)

    def by_seed(self, row: str) -> dict[int, float]:
        """NDCG@10 of each seed."""
        return {run["seed"]: run["figures"]["all"]["ndcg_at_10"]["mean"] for run in self.of(row)}

    def ahead(self, a: str, b: str) -> tuple[int, int]:
        """In how many seeds a is better than b, of how many that both were run with."""
        of_a, of_b = self.by_seed(a), self.by_seed(b)
        both = of_a.keys() & of_b.keys()
        return sum(of_a[seed] > of_b[seed] for seed in both), len(both)

    def shown(self, row: str) -> list[float]:
        """AUC per user over the shown items, of each seed, where the log has them."""
        found = [run["figures"]["auc_shown"] for run in self.of(row)]
        return [figure["mean"] for figure in found if figure]

    def of(self, row: str) -> list[Mapping[str, Any]]:
        """The runs of a row, by seed."""
        return sorted((run for run in self.runs if run["row"] == row), key=lambda run: run["seed"])

    def curve(self, row: str) -> tuple[np.ndarray, np.ndarray]:
        """float64 (BINS, 3): NDCG@10 with its interval in each tenth of the slice's targets, and of the row less `FROZEN`."""
        both = self._targets[row].join(self._targets[FROZEN]["ndcg"].rename("other"), how="inner").sort_index()
        place = both.groupby("data").cumcount() / both.groupby("data")["user"].transform("size")
        bins = [part for _, part in both.groupby((place * BINS).astype(int))]
        own = [mean_interval(part["ndcg"].to_numpy(), part["user"].to_numpy(), seed=0) for part in bins]
        apart = [mean_interval((part["ndcg"] - part["other"]).to_numpy(), part["user"].to_numpy(), seed=0) for part in bins]
        return np.array(own), np.array(apart)


def tables(measured: Mapping[str, Any], docs: Path) -> dict[str, str]:
    """The tables of docs/quality.md by mark; the learning curves go into docs/quality/."""
    result = {}
    runs = measured["runs"]
    for log in dict.fromkeys(run["log"] for run in runs):
        ranked = Ranked([run for run in runs if run["log"] == log])
        if SERVED not in ranked.rows(ROWS):
            raise FeedError(f"no run of {SERVED!r} on {log}, which all else is compared with: run it first")
        result[f"{log}-models"] = models(ranked, counted((docs / "test-runs.md").read_text(), log))
        result[f"{log}-segments"] = segments(ranked)
        result[f"{log}-setting"] = setting(ranked)
        if FROZEN in ranked.rows(ROWS):
            result[f"{log}-online"] = online(ranked)
            plot(ranked, docs / "quality" / f"{log}.png")
    return result


def models(ranked: Ranked, test: Mapping[tuple[str, int], str]) -> str:
    """Baselines and ours, best last, those that were only tested first; `test`: figures of the test slice by model and
    `learn_every`."""
    tested = {name: test.get((ROWS[name].model, ROWS[name].learn_every), "not run") for name in (*BASELINES, *OURS)}
    run = sorted(ranked.rows(tested), key=lambda name: ranked.mean(name)[0][0])
    shown = any(ranked.shown(name) for name in run)
    header = ["model", "NDCG@10", f"{SERVED} less it", "by seed"]
    header += [*["AUC among the shown, by seed"] * shown, "coverage", "chosen"]
    rows = [
        [f"`{name}`", "not run", *[""] * (len(header) - 2)] for name in tested if name not in run and tested[name] != "not run"
    ]
    for name in run:
        cells = [f"`{name}`", plain(*ranked.mean(name)[0]), less(ranked, SERVED, name), extremes(ranked.by_seed(name).values())]
        coverage = f"{np.mean([run['figures']['coverage'] for run in ranked.of(name)]):.0%}"
        rows.append([*cells, *[extremes(ranked.shown(name))] * shown, coverage, chosen(ranked.of(name)[0])])
    if test:
        header.append("test slice, seed 0")
        rows = [[*cells, tested[cells[0].strip("`")]] for cells in rows]
    return table(header, rows)


def online(ranked: Ranked) -> str:
    """Learning less frozen, over the whole slice and its ends."""
    _, ends = ranked.curve(SERVED)
    return table(
        [f"{SERVED}, learning online less frozen", "first tenth of the slice", "last tenth"],
        [[less(ranked, SERVED, FROZEN), signed(*ends[0]), signed(*ends[-1])]],
    )


def segments(ranked: Ranked) -> str:
    """NDCG@10 by what there was to know."""
    names = ranked.rows(COMPARED)
    rows = []
    for segment in SEGMENTS:
        count = ranked.mean(SERVED, segment)[1]
        figures = [plain(*ranked.mean(name, segment)[0]) for name in names] if count else ["–"] * len(names)
        rows.append([segment, f"{count:,}", *figures])
    return table(["", "targets", *(f"`{name}`" for name in names)], rows)


def setting(ranked: Ranked) -> str:
    """What was run on what."""
    runs = ranked.of(SERVED)
    hashes = sorted({run["run"]["data"] for run in ranked.runs})
    commits = sorted({run["run"]["commit"] for run in ranked.runs})
    _, targets = ranked.mean(SERVED)
    users = sum(run["figures"]["all"]["users"] for run in {run["run"]["data"]: run for run in runs}.values())
    return (
        f"{targets:,} targets of {users:,} users in the tuning slice of {len(hashes)} {'log' if len(hashes) == 1 else 'logs'} "
        f"({', '.join(hashes)}); measured at {', '.join(commits)}."
    )


def plot(ranked: Ranked, file: Path) -> None:
    """NDCG@10 over the slice, learning and frozen, and the difference."""
    figure = Figure(figsize=(8, 5), dpi=90)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    middles = 100 * (np.arange(BINS) + 0.5) / BINS
    for row, label in ((SERVED, "learning online"), (FROZEN, "frozen")):
        own, apart = ranked.curve(row)
        above.plot(middles, own[:, 0], color=COLOURS[row], label=label, lw=2)
        if row == FROZEN:
            continue
        above.fill_between(middles, own[:, 1], own[:, 2], color=COLOURS[row], alpha=0.15, lw=0)
        below.plot(middles, apart[:, 0], color=COLOURS[row], lw=2)
        below.fill_between(middles, apart[:, 1], apart[:, 2], color=COLOURS[row], alpha=0.15, lw=0)
    below.axhline(0.0, color="black", lw=0.8)
    above.set(ylabel="NDCG@10", ylim=(0, None))
    below.set(xlabel="targets of the slice, %", ylabel="online less frozen", xlim=(0, 100))
    above.legend(frameon=False, loc="lower right")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, bbox_inches="tight")


def counted(page: str, log: str) -> dict[tuple[str, int], str]:
    """NDCG@10 on the test slice by model and `learn_every`: the newest runs with seed 0 in a folder named like the log."""
    how = re.compile(r"(\S+): progressive, .*state every 1, weights every (\d+), seed 0")
    found = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 6 and cells[3].startswith(f"{log} ") and (told := how.fullmatch(cells[4])):
            found[told[1], int(told[2])] = cells[5]
    return found


def chosen(run: Mapping[str, Any]) -> str:
    """What was tuned."""
    grid = MODELS[run["run"]["model"]].grid
    return ", ".join(f"{name} {value:g}" for name, value in run["run"]["parameters"].items() if name in grid)


def plain(value: float, low: float, high: float) -> str:
    """A figure with its interval."""
    return f"{value:.4f} ({low:.4f} – {high:.4f})"


def signed(value: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{value:+.4f} ({low:+.4f} – {high:+.4f})"


def less(ranked: Ranked, a: str, b: str) -> str:
    """a - b with its interval, and in how many seeds it is positive; nothing of a row less itself."""
    if a == b:
        return ""
    ahead, seeds = ranked.ahead(a, b)
    return f"{signed(*ranked.difference(a, b))}; {ahead} of {seeds}"


def extremes(values: Collection[float]) -> str:
    """The least and the largest, of how many."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{max(values):.4f}"
    return f"{min(values):.4f} – {max(values):.4f} ({len(values)})"


def _targets(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    columns = ("key", "user", "earlier", "young", "ndcg")
    frames = [pd.DataFrame({"data": run["run"]["data"], **{name: run[name] for name in columns}}) for run in runs]
    table = pd.concat(frames)
    table["user"] = table["data"] + "/" + table["user"]
    found: pd.DataFrame = table.groupby(["data", "key"]).agg(
        {"user": "first", "earlier": "first", "young": "first", "ndcg": "mean"}
    )
    return found
