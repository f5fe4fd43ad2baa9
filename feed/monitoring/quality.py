"""How good a full ranking is, apart from accuracy: who gets a feed, what is ever shown, how unlike the items of a feed are.

All figures are of the model's own ranking, whatever arm a user is in.
"""

from dataclasses import dataclass

import numpy as np

from feed.evaluation.metrics import gini

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Quality:
    """Figures of one full ranking.

    `users`, `users_with_feeds`, `rankings` (pairs of user and item), `items` (those that could be ranked) and `missing` (those
    that the catalogue describes beside them) are counts; `user_coverage`, `item_coverage` (of both), `diversity` and `gini` lie
    in [0, 1]; `items_per_feed` is over users with a feed; `scores` are the quantiles named in `QUANTILES`, NaN without any
    ranking.
    """

    users: int
    items: int
    rankings: int
    users_with_feeds: int
    user_coverage: float
    item_coverage: float
    items_per_feed: float
    diversity: float
    gini: float
    scores: tuple[float, ...]
    missing: int = 0


def measure(rows: np.ndarray, scores: np.ndarray, category: np.ndarray, known: np.ndarray, missing: int = 0) -> Quality:
    """The quality of a ranking.

    `rows` int64 (users, k): rows of the item table, padded with -1; `scores` float64 (users, k); `category` int64 (items,):
    codes, 0 = none; `known` bool (items,): the catalogue (rows that were only mentioned in events are not part of it);
    `missing`: items of the catalogue that are no rows. Item coverage is the share of the catalogue that stands in at least one
    feed (Ge et al. 2010, "Beyond Accuracy").
    """
    there = rows >= 0
    per_user = there.sum(axis=1)
    with_feeds = int((per_user > 0).sum())
    exposure = np.concatenate([np.bincount(rows[there], minlength=len(known))[known], np.zeros(missing, np.int64)])
    values = scores[there]
    return Quality(
        users=len(rows),
        items=int(known.sum()),
        rankings=int(there.sum()),
        users_with_feeds=with_feeds,
        user_coverage=with_feeds / max(len(rows), 1),
        item_coverage=float((exposure > 0).mean()) if len(exposure) else 0.0,
        items_per_feed=float(there.sum() / max(with_feeds, 1)),
        diversity=diversity(np.where(there, category[rows], -1) if len(category) else rows),
        gini=gini(exposure),
        missing=missing,
        scores=tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else (float("nan"),) * len(QUANTILES),
    )


def diversity(categories: np.ndarray) -> float:
    """Mean over feeds of the share of pairs of places whose categories differ; feeds of one item do not count.

    D = 1 - sum_c n_c (n_c - 1) / (n (n - 1)), n_c items of category c among n. `categories` int64 (users, k): codes, padded
    with -1; an item without a category (0) is like no other. Intra-list similarity of Ziegler et al. 2005, "Improving
    Recommendation Lists Through Topic Diversification", with similarity 1 for equal categories.
    """
    n = (categories >= 0).sum(axis=1)
    several = n > 1
    if not several.any():
        return 0.0
    of = categories[several]
    pairs = np.zeros(len(of))
    for code in np.unique(of[of > 0]):
        count = (of == code).sum(axis=1)
        pairs += count * (count - 1)
    return float((1.0 - pairs / (n[several] * (n[several] - 1))).mean())
