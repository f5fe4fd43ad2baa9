"""Rankings of a full catalogue and what they are worth, one query a row."""

from dataclasses import dataclass, replace

import numpy as np

from feed.errors import BadModel
from feed.evaluation import metrics

DEPTH = 50
NAMES = ("ndcg_at_10", "recall_at_10", "recall_at_50", "hit_rate_at_10", "mrr", "auc")


@dataclass(frozen=True)
class Ranking:
    """q queries: `key` (row or user code), `user`, `earlier` (events of the user before) int64 (q,); `items` int32 and
    `scores` float32 (q, 50), best first, -1 and nan where there were fewer; `values` float64 (q,) by name of `NAMES`."""

    key: np.ndarray
    user: np.ndarray
    earlier: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.key)

    def where(self, chosen: np.ndarray) -> "Ranking":
        """The queries chosen, bool (q,)."""
        columns = {name: getattr(self, name)[chosen] for name in ("key", "user", "earlier", "items", "scores")}
        return replace(self, **columns, values={name: values[chosen] for name, values in self.values.items()})


class Ranker:
    """Ranks one query after the other; ties stand in an order drawn with the seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._queries: list[tuple[int, int, int, int, float, float]] = []
        self._hits: list[np.ndarray] = []
        self._items: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(self, key: int, user: int, earlier: int, scores: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> None:
        """Rank `candidates` bool (m,) by `scores` float (m,); `relevant` int (r,) are codes, at least one.

        Raises `BadModel` for scores that are not numbers.
        """
        codes = np.flatnonzero(candidates)
        own = np.asarray(scores)[codes]
        if np.isnan(own).any():
            raise BadModel(
                f"the model gave {np.isnan(own).sum()} of {len(own)} items no number as a score: it diverged; give it other "
                "parameters with --set (--grid shows some)"
            )
        mixed = self._rng.permutation(len(codes))
        codes, own = codes[mixed], own[mixed]
        places = _places(own, DEPTH)
        wanted = np.isin(codes, relevant)
        at = np.flatnonzero(wanted)
        ranks = np.sort([1 + (own > own[i]).sum() + (own[:i] == own[i]).sum() for i in at]).astype(np.int64)
        hits = np.zeros(DEPTH, bool)
        hits[ranks[ranks <= DEPTH] - 1] = True
        self._queries.append(
            (key, user, earlier, len(relevant), 1.0 / ranks[0] if len(ranks) else 0.0, _auc(own[wanted], own[~wanted]))
        )
        self._hits.append(hits)
        self._items.append(np.pad(codes[places].astype(np.int32), (0, DEPTH - len(places)), constant_values=-1))
        self._scores.append(np.pad(own[places].astype(np.float32), (0, DEPTH - len(places)), constant_values=np.nan))

    def ranking(self) -> Ranking:
        """All queries so far."""
        table = np.array(self._queries, np.float64).reshape(-1, 6)
        hits = np.array(self._hits, bool).reshape(-1, DEPTH)
        relevant = table[:, 3].astype(np.int64)
        values = {
            "ndcg_at_10": metrics.ndcg(hits[:, :10], relevant),
            "recall_at_10": metrics.recall(hits[:, :10], relevant),
            "recall_at_50": metrics.recall(hits, relevant),
            "hit_rate_at_10": metrics.hit_rate(hits[:, :10]),
            "mrr": table[:, 4],
            "auc": table[:, 5],
        }
        items = np.array(self._items, np.int32).reshape(-1, DEPTH)
        scores = np.array(self._scores, np.float32).reshape(-1, DEPTH)
        key, user, earlier = (table[:, i].astype(np.int64) for i in range(3))
        return Ranking(key, user, earlier, items, scores, values)


def _places(scores: np.ndarray, depth: int) -> np.ndarray:
    """int (min(depth, n),): the best, best first; of equal ones the earlier."""
    if len(scores) > depth:
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    return np.asarray(chosen[np.argsort(-scores[chosen], kind="stable")][:depth])


def _auc(relevant: np.ndarray, others: np.ndarray) -> float:
    """The AUC as in `metrics.auc`, without sorting, since there are few relevant ones; nan without both."""
    if not len(relevant) or not len(others):
        return float("nan")
    return float(np.mean([((others < s).sum() + (others == s).sum() / 2) / len(others) for s in relevant]))
