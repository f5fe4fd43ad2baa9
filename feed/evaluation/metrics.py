"""Ranking metrics in numpy: one row a query (a user's visit, say), one column an item or a place in the ranking.

Rankings enter as `hits`, bool (n, k): is the item at this place, best first, relevant? `top` and `hits_of` make them.
"""

import numpy as np

Figure = dict[str, float]  # mean, low, high


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: P(s+ > s-) + P(s+ = s-) / 2 for a random positive and a random negative.

    By ranks: (sum of the positives' average ranks - P (P + 1) / 2) / (P N), with P positives and N negatives.
    `scores` float (n,), `labels` bool (n,); nan without both classes. Reference: Hanley and McNeil 1982, Radiology 143(1).
    """
    labels = labels.astype(bool)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = _average_ranks(scores)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def auc_by_user(scores: np.ndarray, labels: np.ndarray, users: np.ndarray) -> np.ndarray:
    """float64 (u,): the AUC within each user who has both classes, in the order of the sorted users.

    All arrays (n,); `users` any sortable ids. Its mean is GAUC without weights. Reference: Zhu et al. 2017, "Optimized Cost
    per Click in Taobao Display Advertising", section 4.
    """
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.r_[True, users[order][1:] != users[order][:-1]])[1:]
    values = np.array([auc(scores[rows], labels[rows]) for rows in np.split(order, starts)]) if len(order) else np.zeros(0)
    return np.asarray(values[~np.isnan(values)])


def auc_of_rows(scores: np.ndarray, relevant: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """float64 (n,): the AUC of each row's relevant items against its other eligible ones; nan without both.

    `scores` float (n, m), `relevant` and `eligible` bool (n, m). Definition as in `auc`.
    """
    return np.array([auc(s[e], r[e]) for s, r, e in zip(scores, relevant, eligible, strict=True)])


def top(scores: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (n, min(k, m)): columns of the k highest scores of each row, best first; ties in an order drawn at random.

    `scores` float (n, m), -inf where not eligible. At random, because ids often follow time or popularity: breaking ties by
    id would let them leak into the ranking.
    """
    k = min(k, scores.shape[1])
    shuffled = rng.permutation(scores.shape[1])
    mixed = scores[:, shuffled]
    best = np.argpartition(-mixed, k - 1, axis=1)[:, :k] if k < mixed.shape[1] else np.tile(np.arange(k), (len(mixed), 1))
    best.sort(axis=1)
    order = np.argsort(-np.take_along_axis(mixed, best, axis=1), axis=1, kind="stable")
    return np.asarray(shuffled[np.take_along_axis(best, order, axis=1)])


def hits_of(ranked: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """bool (n, k): is the item at this place relevant? `ranked` int (n, k) columns, `relevant` bool (n, m)."""
    return np.asarray(np.take_along_axis(relevant, ranked, axis=1))


def ndcg(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain at k = hits.shape[1], binary relevance.

    DCG = sum over places r = 1..k of hit_r / log2(1 + r); NDCG = DCG / DCG of min(k, relevant) hits at the top.
    `hits` bool (n, k), `relevant` int (n,) relevant items of each row -> float64 (n,), 0 where there is none.
    Reference: Järvelin and Kekäläinen 2002, ACM TOIS 20(4).
    """
    gains = 1.0 / np.log2(2.0 + np.arange(hits.shape[1]))
    best = np.r_[0.0, np.cumsum(gains)][np.minimum(relevant, hits.shape[1])]
    return np.asarray(np.divide(hits @ gains, best, out=np.zeros(len(hits)), where=best > 0))


def precision(hits: np.ndarray) -> np.ndarray:
    """Hits / k. `hits` bool (n, k) -> float64 (n,). Reference: Manning et al. 2008, "Introduction to IR", section 8.4."""
    return np.asarray(hits.mean(axis=1))


def recall(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Hits / relevant. `hits` bool (n, k), `relevant` int (n,) -> float64 (n,), 0 where there is none; see `precision`."""
    return np.asarray(np.divide(hits.sum(axis=1), relevant, out=np.zeros(len(hits)), where=relevant > 0))


def hit_rate(hits: np.ndarray) -> np.ndarray:
    """1 if any of the k is relevant, else 0. `hits` bool (n, k) -> float64 (n,).

    Reference: Deshpande and Karypis 2004, ACM TOIS 22(1).
    """
    return np.asarray(hits.any(axis=1), np.float64)


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, *, seed: int, draws: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Sum of numerators / sum of denominators over users, with a percentile interval from a bootstrap over users.

    `numerator`, `denominator` float (u,): one value a user, such as clicks and impressions. Each of `draws` resamples draws u
    users with replacement. Returns (ratio, low, high), nan where the denominators sum to 0. Whole users are drawn because one
    user's events are not independent. Reference: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    total = denominator.sum()
    if not total:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(len(numerator), size=len(numerator))
        below = denominator[drawn].sum()
        ratios[i] = numerator[drawn].sum() / below if below else np.nan
    low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(numerator.sum() / total), float(low), float(high)


def mean_interval(
    values: np.ndarray, users: np.ndarray, *, seed: int, draws: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """The mean of `values` float (n,) with a bootstrap interval over `users` (n,), any ids; nan values are left out.

    See `ratio_interval`, which gets each user's sum and count.
    """
    known = ~np.isnan(values)
    _, row = np.unique(users[known], return_inverse=True)
    return ratio_interval(
        np.bincount(row, values[known]), np.bincount(row).astype(np.float64), seed=seed, draws=draws, level=level
    )


def figure(values: np.ndarray, users: np.ndarray, seed: int) -> Figure:
    """The `mean` of `values` (n,), and `low` and `high` of its 95 % interval over `users` (n,), as `mean_interval`."""
    mean, low, high = mean_interval(values, users, seed=seed)
    return {"mean": mean, "low": low, "high": high}


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of `counts` (n,), non-negative: 0 = all equal, towards 1 = all in one; 0 when all are 0.

    G = 2 sum_i i x_(i) / (n sum x) - (n + 1) / n with x sorted upwards, i = 1..n. Reference: Gini 1912; Dorfman 1979, Review of
    Economics and Statistics 61(1).
    """
    x = np.sort(counts.astype(np.float64))
    n, total = len(x), x.sum()
    if not total:
        return 0.0
    return float(2 * (np.arange(1, n + 1) @ x) / (n * total) - (n + 1) / n)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 upwards, equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])
