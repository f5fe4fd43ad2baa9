"""What a run says: figures with intervals, by segment; and two runs compared, target by target."""

from typing import Any

import numpy as np

from feed.evaluation import metrics
from feed.evaluation.metrics import Figure
from feed.evaluation.protocol import Outcome
from feed.evaluation.ranking import NAMES, Ranking
from feed.evaluation.rows import Log
from feed.evaluation.slices import Slice

TOP = 10
Figures = dict[str, Any]


def figures(outcome: Outcome, log: Log, part: Slice, seed: int) -> Figures:
    """JSON: `all` and `segments` with a figure of each of `NAMES`, `auc_shown`, `coverage`, `novelty`, seconds and rates.

    A figure is {"mean", "low", "high"}: the mean over targets (static: over users), 95 % interval by bootstrap over users; it
    is left out where it is undefined.
    """
    targets = outcome.targets
    earlier = targets.earlier
    segments = {
        "users_0": targets.where(earlier == 0),
        "users_1_9": targets.where((earlier > 0) & (earlier < 10)),
        "users_10_plus": targets.where(earlier >= 10),
        "items_younger_than_a_day": outcome.young,
    }
    return {
        "all": summary(targets, seed),
        "segments": {name: summary(ranking, seed) for name, ranking in segments.items()},
        "auc_shown": auc_shown(*outcome.shown, seed),
        "coverage": coverage(targets, log, part),
        "novelty": novelty(targets, log, part),
        **_speed(outcome),
    }


def summary(ranking: Ranking, seed: int) -> Figures:
    """{"rankings", "users", and a figure of each name}."""
    about: Figures = {"rankings": len(ranking), "users": len(np.unique(ranking.user))}
    for name in NAMES:
        if not np.isnan(ranking.values[name]).all():
            about[name] = metrics.figure(ranking.values[name], ranking.user, seed)
    return about


def auc_shown(user: np.ndarray, scores: np.ndarray, labels: np.ndarray, seed: int) -> Figure | None:
    """Mean over users of the AUC among what each was shown; None where nobody took some of it and left some.

    `user` int, `scores` float, `labels` bool (s,). See `metrics.auc_by_user`.
    """
    values = metrics.auc_by_user(scores, labels, user)
    return metrics.figure(values, np.arange(len(values)), seed) if len(values) else None


def coverage(ranking: Ranking, log: Log, part: Slice) -> float:
    """Share of the items that existed by the slice's end that stand in any top 10.

    Reference: Ge, Delgado-Battenfeld and Jannach 2010, "Beyond Accuracy", RecSys.
    """
    there = (log.catalogue.created <= log.rows.at[part.end - 1]).sum()
    items = np.unique(ranking.items[:, :TOP])
    return float((items >= 0).sum() / max(there, 1))


def novelty(ranking: Ranking, log: Log, part: Slice) -> float | None:
    """Mean self-information of what stands in the top 10, in bits: -log2 of (n_i + 1) / (sum n + m), n_i the item's positives
    before the slice, m items.

    Reference: Zhou et al. 2010, PNAS 107(10); Vargas and Castells 2011, RecSys.
    """
    items = ranking.items[:, :TOP]
    if not (items >= 0).any():
        return None
    rows, m = log.rows, log.catalogue.n_items
    n = np.bincount(rows.item[: part.start][rows.positive[: part.start]], minlength=m)
    bits = -np.log2((n + 1) / (n.sum() + m))
    return float(bits[items[items >= 0]].mean())


def compare(a: Ranking, b: Ranking, seed: int) -> dict[str, Figure]:
    """For each name the mean of a - b over the targets, paired, with its interval; both rank the same targets."""
    return {
        name: metrics.figure(a.values[name] - b.values[name], a.user, seed)
        for name in NAMES
        if not np.isnan(a.values[name] - b.values[name]).all()
    }


def _speed(outcome: Outcome) -> Figures:
    seconds, counts = outcome.seconds, outcome.counts
    fit, rank, learn = (seconds.get(name, 0.0) for name in ("fit", "rank", "learn"))
    return {
        "counts": counts,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "fit_rows_per_second": round(counts["training_rows"] / fit) if fit else None,
        "ranking_ms": 1000 * rank / max(len(outcome.targets), 1),
        "learned_examples_per_second": round(counts["learned"] / learn) if learn else None,
    }
