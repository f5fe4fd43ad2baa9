"""What the score and each of its parts are worth on held-out visits, beside lists that are the same for everybody.

All are ranked on the same visits, with ties in the same order at random, and differences are paired: NDCG@10 of one less that
of the other in each visit, with an interval over users. Which list stands for what is popular is chosen on the slice before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from feed.evaluation import holdout, metrics
from feed.evaluation.holdout import Visits
from feed.evaluation.metrics import Figure
from feed.features.counts import DAY, HALF_LIVES
from feed.models.fusion import CONSTANT
from feed.models.two_tower import FUSED, NEAR, TwoTower, fuse, logit_alone, scores

PLACES = 10
FEWEST_USERS = 20  # an interval over fewer proves nothing
PARTS = {"logit": slice(0, 1), "prior": slice(1, FUSED - NEAR), "near": slice(FUSED - NEAR, FUSED)}
SERVED, POPULAR, DECAYED = "served", "popular", "decayed-popular"

Scorer = Callable[[Visits], Mapping[str, np.ndarray]]  # float (q, m) by name


@dataclass(frozen=True)
class Comparison:
    """Mean NDCG@10 by name, with its interval; the half-life (seconds) of `decayed-popular`; the better of the two lists, and
    by how much what serves is ahead of it; the quick baseline, if there is one, and likewise; of how many users."""

    ndcg_at_10: dict[str, Figure]
    half_life: float
    best_list: str
    ahead: Figure
    quick: str | None
    ahead_of_quick: Figure | None
    users: int


def variants(fusion: Tensor) -> dict[str, Tensor]:
    """Fusion weights (3, FUSED) by name: what serves, each part alone, and all but each; of the logit, only itself.

    The logit alone is shown also where the score leaves it out.
    """
    varying = fusion.clone()
    varying[:, CONSTANT] = 0.0
    there = [name for name, columns in PARTS.items() if varying[:, columns].any()]
    found = {SERVED: fusion}
    if there == ["logit"]:
        return found
    for name in ["logit", *there]:
        alone = torch.zeros_like(fusion)
        alone[:, PARTS[name]] = fusion[:, PARTS[name]]
        found[f"{name} alone"] = logit_alone() if name == "logit" else alone
    for name in there if len(there) > 1 else ():
        without = fusion.clone()
        without[:, PARTS[name]] = 0.0
        found[f"without {name}"] = without
    return found


@torch.no_grad()
def of_model(model: TwoTower, by: Mapping[str, Tensor], visits: Visits) -> dict[str, np.ndarray]:
    """The scores of the model, float32 (q, m), by fusion weights (3, FUSED) other than its own."""
    users, items = model.user_logits(visits.users), model.item_vectors(visits.items)
    segment = torch.from_numpy(visits.users.segment)
    return {name: scores(fuse(users, weights[segment]), items, visits.near).numpy() for name, weights in by.items()}


def of_lists(visits: Visits) -> Mapping[str, np.ndarray]:
    """The scores of each list: `popular`, and by the place of its half-life as text."""
    names = [POPULAR, *map(str, range(len(HALF_LIVES)))]
    return {name: holdout.popularity(visits, column) for column, name in enumerate(names)}


def ndcg(
    groups: Sequence[Visits], scorers: Sequence[Scorer], seed: int, stepped: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """float64 (visits,) by name; `stepped` is called after each group."""
    found: dict[str, list[np.ndarray]] = {}
    for k, visits in enumerate(groups):
        relevant = visits.relevant.sum(axis=1)
        for name, scored in ((name, scored) for scorer in scorers for name, scored in scorer(visits).items()):
            best = metrics.top(np.where(visits.eligible, scored, -np.inf), PLACES, np.random.default_rng([seed, k]))
            found.setdefault(name, []).append(metrics.ndcg(metrics.hits_of(best, visits.relevant), relevant))
        stepped()
    return {name: np.concatenate(values) for name, values in found.items()}


def best_half_life(of: Mapping[str, np.ndarray]) -> int:
    """The place of the half-life whose list has the highest mean."""
    return int(np.argmax([of[str(k)].mean() for k in range(len(HALF_LIVES))]))


def compare(
    model: TwoTower,
    judged: Sequence[Visits],
    measured: Sequence[Visits],
    others: Scorer,
    seed: int,
    stepped: Callable[[], None] = lambda: None,
) -> Comparison:
    """What serves, its parts, the lists and the best of `others` on `measured`; what is chosen is chosen on `judged`."""
    before = ndcg(judged, [of_lists, others], seed, stepped)
    by = variants(model.fusion)
    now = ndcg(measured, [lambda visits: of_model(model, by, visits), of_lists, others], seed, stepped)
    half_life = best_half_life(before)
    lists = {POPULAR: now[POPULAR], DECAYED: now[str(half_life)]}
    known = {POPULAR, *map(str, range(len(HALF_LIVES)))}
    quick = max((name for name in before if name not in known), key=lambda name: before[name].mean(), default=None)
    rows = {SERVED: now[SERVED], **lists, **({quick: now[quick]} if quick else {})}
    rows |= {name: now[name] for name in by}
    best = max(lists, key=lambda name: lists[name].mean())
    users = users_of(measured)
    return Comparison(
        {name: metrics.figure(values, users, seed) for name, values in rows.items()},
        float(HALF_LIVES[half_life]),
        best,
        metrics.figure(now[SERVED] - lists[best], users, seed),
        quick,
        metrics.figure(now[SERVED] - now[quick], users, seed) if quick else None,
        len(np.unique(users)),
    )


def better_list(model: TwoTower, judged: Sequence[Visits], seed: int) -> tuple[int, Figure] | None:
    """The place of the half-life whose list is proven to be better than the score on these visits, and by how much.

    Where the log tells what was viewed and skipped, a list must not be proven worse among that: one that only follows what was
    shown is.
    """
    by = {SERVED: model.fusion}
    of = ndcg(judged, [lambda visits: of_model(model, by, visits), of_lists], seed)
    users = users_of(judged)
    half_life = best_half_life(of)
    ahead = metrics.figure(of[str(half_life)] - of[SERVED], users, seed)
    if len(np.unique(users)) < FEWEST_USERS or not ahead["low"] > 0:
        return None
    harm = np.concatenate([_auc_among_viewed(model, visits, half_life) for visits in judged])
    if not np.isnan(harm).all() and metrics.figure(harm, users, seed)["low"] > 0:
        return None
    return half_life, ahead


def _auc_among_viewed(model: TwoTower, visits: Visits, half_life: int) -> np.ndarray:
    """float64 (q,): that of the score less that of the list; nan where nothing was skipped."""
    score, listed = (
        metrics.auc_of_rows(scored, visits.relevant, visits.relevant | visits.left)
        for scored in (of_model(model, {SERVED: model.fusion}, visits)[SERVED], holdout.popularity(visits, 1 + half_life))
    )
    return np.asarray(score - listed)


def users_of(groups: Sequence[Visits]) -> np.ndarray:
    """The user of each visit."""
    return np.array([user for visits in groups for user in visits.user_ids])


def span(seconds: float) -> str:
    """A half-life in words, to follow "the last"."""
    for size, name in ((DAY, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            n = seconds / size
            return name if n == 1 else f"{n:g} {name}s"
    return f"{seconds:g} seconds"
