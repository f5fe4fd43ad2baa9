"""How often a trial promotes what is not better, and how many requests it needs for what is: figures into var/trials.json.

    flipped    real per-request differences with each user's sign drawn by chance: null trials, watched at every request
    seeds      closed loop: versions trained alike but for their seed, each as champion (it serves) and as challenger
    power      closed loop: the trained version as challenger of worse champions; users resampled for the share that is promoted

`python -m benchmarks.trials [--requests 12000] [--flips 2000]`
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.stats import beta

from benchmarks.loop import seeded, start
from benchmarks.refusals import CHUNK, popularity, shuffled_labels
from feed.models import snapshot
from feed.models.snapshot import Snapshot
from feed.ranking.arms import Policy
from feed.registry import Registry
from feed.trial import Comparison, LastSeen, Scorer, judge
from feed.trial.comparison import WORSE_ALPHA
from feed.trial.sequence import TUNED, Clustered, boundary, rho_of
from offline import bootstrap

OUT = Path(__file__).parents[1] / "var" / "trials.json"
ALPHA = 0.05
RESAMPLED = 100
SEEDS = 3


class Recorded(Clustered):
    """Keeps every difference it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.users_of: list[str] = []
        self.values: list[float] = []

    def add(self, user: str, x: float) -> None:
        """As `Clustered.add`."""
        super().add(user, x)
        self.users_of.append(user)
        self.values.append(x)


class Endless(Comparison):
    """Goes on after the test has spoken, to record all differences."""

    def __init__(self, champion: Scorer, challenger: Scorer) -> None:
        super().__init__(champion, challenger, ALPHA)
        self.gain = self.recorded = Recorded()
        self.speaks: int | None = None  # the first request at which the test may

    def _tested_outcome(self, sums: Clustered) -> None:
        self.speaks = self.speaks or sums.n


@dataclass
class Series:
    """The differences of one comparison: users as numbers 0 ..., values, (n,); the test may speak from request `speaks` on."""

    name: str
    users: np.ndarray
    values: np.ndarray
    speaks: int


def crossed(series: Series, signs: np.ndarray) -> np.ndarray:
    """int64 (r,): the request at which each of r trials promotes at level ALPHA; -1: it does not. `signs` (r, users).

    The sums of `Clustered`, for all trials at once; a trial that finds the champion better has ended.
    """
    users, values = series.users, series.values
    n_of, s_of = np.zeros(signs.shape[1]), np.zeros(signs.shape[1])
    ss = nn = 0.0
    total, sn = np.zeros(len(signs)), np.zeros(len(signs))
    rho = 0.0
    result = np.full(len(signs), -1)
    ended = np.zeros(len(signs), bool)
    seen = 0
    for k, (u, x) in enumerate(zip(users.tolist(), values.tolist(), strict=True), 1):
        seen += n_of[u] == 0
        ss += x * (2 * s_of[u] + x)
        sn += signs[:, u] * (s_of[u] + x * n_of[u] + x)
        nn += 2 * n_of[u] + 1
        s_of[u] += x
        n_of[u] += 1
        total += signs[:, u] * x
        if k < series.speaks:
            continue
        m = total / k
        variance = np.maximum(0.0, ss - 2 * m * sn + m * m * nn) * seen / (seen - 1)
        rho = rho or rho_of(float(np.mean(variance)) / k * TUNED, WORSE_ALPHA / 2)
        win, lose = (_bounds(variance, rho, a) for a in (ALPHA, WORSE_ALPHA))
        result[~ended & (total > win)] = k
        ended |= (total > win) | (-total > lose)
    return result


def _bounds(variance: np.ndarray, rho: float, alpha: float) -> np.ndarray:
    return np.asarray(np.sqrt(2 * (variance + rho) * np.log(np.sqrt((variance + rho) / rho) / (2 * alpha) + 1)))


def promoted_at(users: np.ndarray, values: np.ndarray, speaks: int) -> int | None:
    """The request at which the test says that the challenger is better; None if it does not, or says the champion is."""
    sums, rho = Clustered(), 0.0
    for k, (user, x) in enumerate(zip(users.tolist(), values.tolist(), strict=True), 1):
        sums.add(str(user), x)
        if sums.ready and k >= speaks:
            rho = rho or rho_of(sums.variance / k * TUNED, WORSE_ALPHA / 2)
            if abs(sums.total) > boundary(sums.variance, rho, ALPHA):
                return k if sums.total > 0 else None
    return None


def upper(hits: int, n: int) -> float:
    """The upper end of the 95 % interval of a share. Reference: Clopper and Pearson 1934, Biometrika 26(4)."""
    return 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))


def flipped(series: Series, flips: int) -> dict[str, Any]:
    """Null trials out of real differences."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (flips, series.users.max() + 1))
    at = crossed(series, signs)
    hits = int((at >= 0).sum())
    return {
        "series": series.name, "requests": len(series.values), "users": int(signs.shape[1]), "trials": flips,
        "promoted": hits, "share": hits / flips, "upper_95": upper(hits, flips),
    }  # fmt: skip


def power(series: Series) -> dict[str, Any]:
    """Share of promotions, and requests needed, when users are drawn anew with replacement."""
    rng, at = np.random.default_rng(0), []
    by_user = [np.flatnonzero(series.users == u) for u in range(series.users.max() + 1)]
    for _ in range(RESAMPLED):
        drawn = rng.integers(len(by_user), size=len(by_user))
        rows = np.concatenate([by_user[u] for u in drawn])
        users = np.repeat(np.arange(len(drawn)), [len(by_user[u]) for u in drawn])
        order = np.argsort(rows, kind="stable")
        at.append(promoted_at(users[order], series.values[rows[order]], series.speaks))
    needed = [k for k in at if k is not None]
    return {
        "series": series.name, "requests": len(series.values), "trials": RESAMPLED, "promoted": len(needed) / RESAMPLED,
        "median_requests": float(np.median(needed)) if needed else None,
        "mean": float(series.values.mean()), "z": z_of(series),
    }  # fmt: skip


def z_of(series: Series) -> float:
    """Mean over its standard error, clustered by user."""
    sums = Clustered()
    for user, value in zip(series.users.tolist(), series.values.tolist(), strict=True):
        sums.add(str(user), value)
    return sums.mean / sums.error


def serve(
    folder: Path, seed: int, name: str, versions: dict[str, Path], requests: int
) -> tuple[list[Series], list[dict[str, Any]]]:
    """Let version `name` rank for this many requests; differences and verdicts of the others on what happens."""
    loop, _, _ = start(seed, folder, Policy(), run_seed=1)
    challengers = {other: snapshot.load(path) for other, path in versions.items()}
    champion = challengers.pop(name)
    loop.serve(champion, name, 1)
    catalogue = LastSeen()
    catalogue.add(loop.past, 0)
    endless = {other: Endless(Scorer(champion), Scorer(model)) for other, model in challengers.items()}
    trials = {other: Comparison(Scorer(champion), Scorer(model), ALPHA) for other, model in challengers.items()}
    verdicts: dict[str, Any] = {}
    waiting, seen = [], 0
    while seen < requests:
        waiting += loop.step(60)
        while len(waiting) >= CHUNK:
            chunk, waiting = waiting[:CHUNK], waiting[CHUNK:]
            seen += CHUNK
            for other in challengers:
                endless[other].see(chunk, catalogue)
                if other not in verdicts:
                    trials[other].see(chunk, catalogue)
                    if verdict := judge(trials[other], requests):
                        verdicts[other] = verdict
            catalogue.add(chunk, seen)
    series = []
    for other, comparison in endless.items():
        users = np.unique(comparison.recorded.users_of, return_inverse=True)[1]
        values = np.array(comparison.recorded.values)
        series.append(Series(f"{other} against {name}", users, values, comparison.speaks or len(values) + 1))
    told = [
        {"champion": name, "challenger": other, "decision": v.decision, "why": v.why, "requests": v.figures["requests"]}
        for other, v in verdicts.items()
    ]
    return series, told


def trained_alike(folder: Path, seeds: Sequence[int]) -> dict[str, Path]:
    """Versions trained on the same log, alike but for the seed."""
    registry = Registry(folder / "registry")
    for seed in seeds[len(registry.versions()) :]:
        bootstrap.run(folder / "data", folder / "registry", seed=seed)
    return {f"seed {k}": registry.folder(version) for k, version in enumerate(registry.versions()[: len(seeds)])}


def worse(folder: Path, good: Snapshot) -> dict[str, Path]:
    """Versions that are worse than `good`."""
    made = {"popularity": popularity(good), "shuffled labels": shuffled_labels(folder / "data", 1)}
    paths = {name: folder / "worse" / name for name in made}
    for name, model in made.items():
        paths[name].mkdir(parents=True, exist_ok=True)
        snapshot.save(paths[name], model.model, model.space, {})
    return paths


def run(folder: Path, requests: int, flips: int, processes: int) -> dict[str, Any]:
    """All of it, on one world."""
    seeded(0, folder)
    models = trained_alike(folder, range(SEEDS))
    bad = worse(folder, snapshot.load(models["seed 0"]))
    jobs = [
        *((folder, 0, name, models, requests) for name in models),
        *((folder, 0, name, {name: path, "trained": models["seed 0"]}, requests) for name, path in bad.items()),
    ]
    with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,), maxtasksperchild=1) as pool:
        found = pool.starmap(serve, jobs, chunksize=1)
    null, better = ([one for series, _ in part for one in series] for part in (found[:SEEDS], found[SEEDS:]))
    closed, told = ([one for _, verdicts in part for one in verdicts] for part in (found[:SEEDS], found[SEEDS:]))
    promoted = sum(verdict["decision"] == "promote" for verdict in closed)
    n = SEEDS * (SEEDS - 1)
    return {
        "alpha": ALPHA,
        "flipped": [flipped(series, flips) for series in (*null, *better)],
        "seeds": {"trials": n, "promoted": promoted, "upper_95": upper(promoted, n), "verdicts": closed,
                  "z": {series.name: round(z_of(series), 2) for series in null}},
        "power": {"verdicts": told, "resampled": [power(series) for series in better]},
    }  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="false promotions and power of the trial")
    parser.add_argument("--requests", type=int, default=12_000, help="shown in each closed loop")
    parser.add_argument("--flips", type=int, default=2000, help="null trials a series")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the world and its versions here, and take them from here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="feedloop-bench-") as folder:
        figures = run(arguments.folder or Path(folder), arguments.requests, arguments.flips, arguments.processes)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
