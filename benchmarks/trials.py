"""How often a trial promotes what is not better, and how many requests it needs for what is: figures into var/trials.json.

    flipped    real per-request differences with each user's sign drawn by chance: null trials, watched at every request
    seeds      closed loop in several worlds: versions trained alike but for their seed, each as champion (it serves) and as
               challenger, judged as the gatekeeper judges
    power      closed loop: the trained version as challenger of worse champions; users resampled for the share that is promoted

`python -m benchmarks.trials [--requests 12000] [--flips 2000] [--worlds 5] [--limit 3000]`
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
SEEDS = 4


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


def recorded(folder: Path, name: str, versions: dict[str, Path], requests: int) -> tuple[list[Series], list[dict[str, Any]]]:
    """Let version `name` rank for so many requests in world 0; differences and verdicts of the others on what happens."""
    endless = {
        other: Endless(Scorer(snapshot.load(versions[name])), Scorer(snapshot.load(path)))
        for other, path in versions.items()
        if other != name
    }
    told = serve(folder, 0, name, versions, requests, requests, list(endless.values()))
    series = []
    for other, comparison in endless.items():
        users = np.unique(comparison.recorded.users_of, return_inverse=True)[1]
        values = np.array(comparison.recorded.values)
        series.append(Series(f"{other} against {name}", users, values, comparison.speaks or len(values) + 1))
    return series, told


def serve(
    folder: Path, world: int, name: str, versions: dict[str, Path], limit: int, requests: int, beside: Sequence[Comparison] = ()
) -> list[dict[str, Any]]:
    """Let version `name` rank; verdicts of the others on what happens, each trial at most `limit` requests long.

    Ends after `requests`, or when all is said and nobody watches `beside`.
    """
    loop, _, _ = start(world, folder, Policy(), run_seed=1)
    champion = snapshot.load(versions[name])
    loop.serve(champion, name, 1)
    catalogue = LastSeen()
    catalogue.add(loop.past, 0)
    challengers = {other: snapshot.load(path) for other, path in versions.items() if other != name}
    trials = {other: Comparison(Scorer(champion), Scorer(model), ALPHA) for other, model in challengers.items()}
    told: list[dict[str, Any]] = []
    waiting, seen = [], 0
    while seen < requests and (trials or beside):
        waiting += loop.step(60)
        while len(waiting) >= CHUNK:
            chunk, waiting = waiting[:CHUNK], waiting[CHUNK:]
            seen += CHUNK
            for comparison in (*beside, *trials.values()):
                comparison.see(chunk, catalogue)
            for other, trial in list(trials.items()):
                if v := judge(trial, limit):
                    told.append({
                        "world": world, "champion": name, "challenger": other, "decision": v.decision, "why": v.why,
                        "requests": v.figures["requests"],
                    })  # fmt: skip
                    del trials[other]
            catalogue.add(chunk, seen)
    return told


def trained_alike(folder: Path, seeds: Sequence[int]) -> dict[str, Path]:
    """Versions trained on the same log, alike but for the seed."""
    registry = Registry(folder / "registry")
    for seed in seeds[len(registry.versions()) :]:
        bootstrap.run(folder / "data", folder / "registry", seed=seed)
    return {f"seed {seed}": registry.folder(version) for seed, version in zip(seeds, registry.versions(), strict=False)}


def worse(folder: Path, good: Snapshot) -> dict[str, Path]:
    """Versions that are worse than `good`."""
    made = {"popularity": popularity(good), "shuffled labels": shuffled_labels(folder / "data", 1)}
    paths = {name: folder / "worse" / name for name in made}
    for name, model in made.items():
        paths[name].mkdir(parents=True, exist_ok=True)
        snapshot.save(paths[name], model.model, model.space, {})
    return paths


def prepared(folder: Path, world: int) -> dict[str, Path]:
    """A world with versions that are trained alike; the first one has the world's own seed."""
    folder.mkdir(parents=True, exist_ok=True)
    seeded(world, folder)
    return trained_alike(folder, range(world, world + SEEDS))


def run(folder: Path, worlds: int, limit: int, requests: int, flips: int, processes: int) -> dict[str, Any]:
    """All of it: equals in all worlds, the rest in world 0."""
    folders = {world: folder / str(world) for world in range(worlds)}
    with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,), maxtasksperchild=1) as pool:
        alike = dict(zip(folders, pool.starmap(prepared, [(of, world) for world, of in folders.items()], 1), strict=True))
        equal = [(folders[world], world, name, alike[world], limit, 2 * limit) for world in folders for name in alike[world]]
        closed = [verdict for told in pool.starmap(serve, equal, chunksize=1) for verdict in told]
        bad = worse(folders[0], snapshot.load(alike[0]["seed 0"]))
        null = pool.starmap(recorded, [(folders[0], name, alike[0], requests) for name in alike[0]], chunksize=1)
        jobs = [(folders[0], name, {name: path, "trained": alike[0]["seed 0"]}, requests) for name, path in bad.items()]
        better = pool.starmap(recorded, jobs, chunksize=1)
    promoted = sum(verdict["decision"] == "promote" for verdict in closed)
    n = len(equal) * (SEEDS - 1)
    of_null, of_better = ([one for series, _ in found for one in series] for found in (null, better))
    return {
        "alpha": ALPHA, "worlds": worlds, "limit": limit, "requests": requests,
        "flipped": [flipped(series, flips) for series in (*of_null, *of_better)],
        "seeds": {"trials": n, "promoted": promoted, "upper_95": upper(promoted, n), "verdicts": closed,
                  "z": {series.name: round(z_of(series), 2) for series in of_null}},
        "power": {
            "verdicts": [verdict for _, told in better for verdict in told],
            "resampled": [power(series) for series in of_better],
        },
    }  # fmt: skip


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="false promotions and power of the trial")
    parser.add_argument("--requests", type=int, default=12_000, help="shown in each closed loop whose differences are recorded")
    parser.add_argument("--worlds", type=int, default=5, help="in which equals are tried")
    parser.add_argument("--limit", type=int, default=3_000, help="requests with evidence until a trial of equals is given up")
    parser.add_argument("--flips", type=int, default=2000, help="null trials a series")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the worlds and their versions here, and take them from here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="feedloop-bench-") as folder:
        a = arguments
        figures = run(a.folder or Path(folder), a.worlds, a.limit, a.requests, a.flips, a.processes)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
