"""The fusion weights: what the logit, counts and age, and co-visitation are worth relative to each other, by segment of users.

    score(i) = w_s . x_i,    x_i = (logit, prior_i, near_ui) as in `feed.models.two_tower`
    w   = argmin  sum_r o_r [-log softmax(score)_{i_r}] / mean(o)                     + RIDGE / 2 |w - (1, 0, ...)|²
    w_s = argmin  the same, over the rows r of segment s                              + RIDGE_SEGMENT / 2 |w_s - w|²

over positives r that the towers were not trained on, each against the items that its user could have been shown at that moment
(a sample of them, each standing for as many as were left out), with columns in units of their standard deviation. A softmax
over a log learns what was shown as well as what is liked. Where the log says with which propensity q a positive was shown, its
weight is o = CLIP / max(q, CLIP), which takes the showing out; elsewhere o = 1. The constant column, which no softmax sees,
then keeps the mean score of the positives where their mean logit was.

References: McFadden 1974, "Conditional Logit Analysis of Qualitative Choice Behavior"; Schnabel et al. 2016, "Recommendations
as Treatments: Debiasing Learning and Evaluation" (inverse propensities).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from feed.events import Impression
from feed.features import BatchState, FeatureSpace, kept_away, own_items
from feed.features.near import columns
from feed.features.space import SEGMENTS
from feed.models.pairs import Folded, Log, Pair, replay, visits_of
from feed.models.two_tower import FUSED, NEAR, VECTOR, TwoTower, logit_alone, score_columns
from feed.repeats import Repeats

POSITIVES = 2000  # the newest ones that weights are fitted to
SKIPPED = 10  # viewed and skipped, at most so many a positive
CANDIDATES = 500  # drawn for each
REFRESHED = 32  # positives after which the items' vectors are made anew
RIDGE, RIDGE_SEGMENT = 1.0, 30.0
FOLDS = 3
PRECISION = 1e-5  # of the loss
STEPS, HALVED = 50, 10  # of Newton's method, and how often a step is halved
CLIP = 1e-3
# A hundredth of that AUC is worth 0.2 nats. Propensities withheld, counts gain 0.07 and 0.12 nats in two simulated worlds, at
# 0.03, and they do harm in front of people there; on MIND (news) 1.4 nats at 0.016.
WORTH = 20.0
FEWEST = 200  # positives (effective ones) that can prove anything
CONSTANT = FUSED - NEAR - 1  # the column that is the same for all


class Choices(NamedTuple):
    """k positives, in row 0 of m: `x` float32 (k, m, FUSED), the columns of the score.

    Rows 1 to `SKIPPED` are items that the user viewed in the same visit and skipped, `skipped` int64 (k,) of them; the rest
    are drawn candidates. `stands_for` float32 (k, m): log of how many items a candidate stands for, -inf where there is none.
    `segment` int64 (k,); `propensity` float64 (k,), NaN where unknown; `user` int64 (k,): a number a user.
    """

    x: Tensor
    stands_for: Tensor
    segment: np.ndarray
    propensity: np.ndarray
    skipped: np.ndarray
    user: np.ndarray


@torch.no_grad()
def collect(
    model: TwoTower, space: FeatureSpace, log: Log, pairs: Sequence[Pair], seed: int,
    begun: Folded | None = None, stepped: Callable[[int], None] = lambda stop: None,
) -> Choices:  # fmt: skip
    """What could have been chosen in place of the newest positives among `pairs`, which come after what trained the towers.

    `begun`: a state before them, which is folded on; `stepped` is told how many events have been.
    """
    at: dict[int, list[Pair]] = {}
    for pair in [pair for pair in pairs if pair.positive][-POSITIVES:]:
        at.setdefault(pair.event, []).append(pair)
    visit_of = {pair: visit for visit in visits_of(pairs) for pair in visit}
    rng = np.random.default_rng([seed, 2])
    found: list[tuple[Tensor, Tensor, int, float, int, int]] = []
    users: dict[str, int] = {}
    vectors, age = torch.zeros(0, VECTOR), 0
    for stop, state in replay(log, list(at), begun):
        table = state.items
        stepped(stop)
        for pair in at[stop]:
            if age % REFRESHED == 0 or len(vectors) < len(table):
                vectors, age = model.item_logits(space.item_inputs(table, None, pair.at)), 0
            age += 1
            skipped = [table.row(other.item_id) for other in visit_of[pair] if not other.positive][:SKIPPED]
            rows, stands_for = _candidates(state, pair, skipped, rng, log.repeats)
            user = users.setdefault(pair.user_id, len(users))
            inputs = space.user_inputs([state.user(pair.user_id)], pair.at)
            u = model.user_logits(inputs)[0]
            near = torch.from_numpy(columns(table.nearby(state.user(pair.user_id), pair.at).at(rows)))
            x = score_columns(u, vectors[rows], torch.from_numpy(table.prior(pair.at, rows)), near)
            found.append((x, stands_for, int(inputs.segment[0]), _propensity(log, pair), len(skipped), user))
    xs, stands, *rest = zip(*found, strict=True) if found else ((),) * 6
    return Choices(
        pad_sequence(list(xs), batch_first=True) if xs else torch.zeros(0, 1 + SKIPPED, FUSED),
        pad_sequence(list(stands), batch_first=True, padding_value=-torch.inf) if xs else torch.zeros(0, 1 + SKIPPED),
        *(np.array(column, dtype) for column, dtype in zip(rest, (np.int64, np.float64, np.int64, np.int64), strict=True)),
    )


def _candidates(
    state: BatchState, pair: Pair, skipped: Sequence[int | None], rng: np.random.Generator, repeats: Repeats
) -> tuple[np.ndarray, Tensor]:
    """The rows of a positive's `Choices`, int64 (m,), and what each of them stands for, float32 (m,)."""
    table, own = state.items, state.items.row(pair.item_id)
    possible = table.showable(pair.at)
    away = [table.row(item_id) for item_id in kept_away(state.user(pair.user_id), pair.at, repeats, table.by_id)]
    possible[[row for row in (*away, own) if row is not None]] = False
    taken = own_items(state.user(pair.user_id), pair.at).ids if repeats.ever else ()
    again = [row for item_id in taken if (row := table.row(item_id)) is not None and possible[row]]
    possible[again] = False  # they are so few and so likely that each stands for itself
    there = np.flatnonzero(possible)
    drawn = rng.permutation(there)[:CANDIDATES]
    stands_for = torch.zeros(1 + SKIPPED + len(again) + len(drawn))
    stands_for[1 : 1 + SKIPPED], stands_for[1 + SKIPPED + len(again) :] = -torch.inf, np.log(len(there) / max(len(drawn), 1))
    return np.array([own, *skipped, *[own] * (SKIPPED - len(skipped)), *again, *drawn.tolist()], np.int64), stands_for


def _propensity(log: Log, pair: Pair) -> float:
    """With which the pair's item was shown, as its first engagement says or, without views, its impression; NaN: unknown."""
    event = log.events[pair.event]
    if isinstance(event, Impression):
        known = next(shown.propensity for shown in event.items if shown.item_id == pair.item_id)
    else:
        known = event.propensity
    return np.nan if known is None else known


def fit(choices: Choices) -> tuple[Tensor, Tensor, str]:
    """The fusion weights float32 (3, FUSED), the squares that go with them (4, FUSED), and in a few words how they came about.

    The score stays the logit unless more is proven: first the same change for everybody, then one for each segment. On
    positives that it was not fitted to (`FOLDS`-fold by user, 95 % interval over users), each must be proven to lower the loss;
    and by more than `WORTH` times what it costs of their AUC among what the same user viewed, where what only follows the
    showing loses.
    """
    chosen, sizes, summary = _weighted(choices)
    if len(chosen) < FEWEST:
        return logit_alone(), torch.ones(1 + len(SEGMENTS), FUSED), f"{summary}: too few, {FEWEST} are needed"
    weights = sizes / sizes.mean()
    x, segment = choices.x[chosen].double(), torch.from_numpy(choices.segment[chosen])
    stands_for, skipped = choices.stands_for[chosen].double(), torch.from_numpy(choices.skipped[chosen])
    spread = x[stands_for > -torch.inf].std(dim=0)
    spread = torch.where(spread > 1e-6, spread, 1.0)
    positives, logits = x[:, 0].clone(), x[:, :, 0].clone()
    x /= spread  # in place: 120 MB
    rows = _Rows(x, logits, stands_for, weights, segment, skipped)
    users = choices.user[chosen]
    fold = torch.from_numpy(np.random.default_rng(0).integers(FOLDS, size=users.max() + 1)[users])
    change, best, gains = torch.zeros(len(SEGMENTS), FUSED, dtype=torch.float64), rows.losses(rows.logits), []
    auc = rows.auc_among_viewed(rows.logits)
    for by_segment in (False, True):
        whole, scores = _fitted(rows, by_segment, change), torch.zeros_like(rows.logits)
        for k in range(FOLDS):
            out = rows.where(fold == k)
            scores[fold == k] = out.scores(_fitted(rows.where(fold != k), by_segment, whole)[out.segment])
        held_out, held_out_auc = rows.losses(scores), rows.auc_among_viewed(scores)
        gain, harm = weights * (best - held_out), auc - held_out_auc
        least = _least(gain, users)
        gains.append(f"{_mean(gain):+.3f} (at least {least:+.3f}), AUC among viewed items {-_mean(harm):+.3f}")
        if not least > 0 or not _mean(gain) > WORTH * _mean(harm):
            break
        change, best, auc = whole, held_out, held_out_auc
    found = logit_alone().double() + change / spread
    found[:, CONSTANT] += (positives[:, 0] - (positives * found[segment]).sum(dim=1)).mean()
    squares = _squares(rows, change, spread, sizes)
    return found.float(), squares.float(), f"{summary}, nats a positive: {'; '.join(gains)}"


def of_list(choices: Choices, half_life: int) -> tuple[Tensor, Tensor]:
    """The fusion weights float32 (3, FUSED) that rank by the counts of the `half_life` in this place, and squares (4, FUSED).

    With weight 1 an item is chosen in proportion to its count.
    """
    listed = torch.zeros(len(SEGMENTS), FUSED, dtype=torch.float64)
    listed[:, 1 + half_life] = 1.0
    if not len(choices.x):
        return listed.float(), torch.ones(1 + len(SEGMENTS), FUSED)
    x, one = choices.x.double(), torch.ones(len(choices.x), dtype=torch.float64)
    listed[:, CONSTANT] = (x[:, 0, 0] - x[:, 0, 1 + half_life]).mean()
    segment, skipped = torch.from_numpy(choices.segment), torch.from_numpy(choices.skipped)
    rows = _Rows(x, x[:, :, 0], choices.stands_for.double(), one, segment, skipped)
    squares = _squares(rows, listed - logit_alone().double(), torch.ones(FUSED, dtype=torch.float64), one)
    return listed.float(), squares.float()


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def _least(values: Tensor, users: np.ndarray) -> float:
    """The lower end of the mean's 95 % interval, each user a cluster; -inf of one user."""
    mean = float(values.mean())
    of_users = np.bincount(users, (values - mean).numpy())
    n = len(np.unique(users))
    return mean - 1.96 * float(np.sqrt((of_users**2).sum() * n / (n - 1))) / len(values) if n > 1 else -np.inf


class _Rows(NamedTuple):
    """`Choices` with columns in units of their spread, the logits, and each positive's weight."""

    x: Tensor
    logits: Tensor
    stands_for: Tensor
    weights: Tensor
    segment: Tensor
    skipped: Tensor

    def where(self, rows: Tensor) -> "_Rows":
        return _Rows(*(column[rows] for column in self))

    def scores(self, w: Tensor) -> Tensor:
        """float64 (k, m), for a change of everybody's weights (FUSED,) or of each row's (k, FUSED)."""
        return self.logits + torch.einsum("kmd,kd->km", self.x, w.expand(len(self.x), FUSED))

    def losses(self, scores: Tensor) -> Tensor:
        """float64 (k,)."""
        return (scores + self.stands_for).logsumexp(dim=1) - scores[:, 0]

    def auc_among_viewed(self, scores: Tensor) -> Tensor:
        """The share of what was skipped that the positive stands above, float64 of those whose user skipped anything."""
        mine, others = scores[:, :1], scores[:, 1 : 1 + SKIPPED]
        there = torch.arange(SKIPPED) < self.skipped[:, None]
        above = ((mine > others).double() + (mine == others).double() / 2) * there
        return (above.sum(dim=1) / self.skipped)[self.skipped > 0]


def _squares(rows: _Rows, change: Tensor, spread: Tensor, sizes: Tensor) -> Tensor:
    """float64 (4, FUSED): 1 + the squared slopes of all positives, and of each segment's; see `feed.learning.fusion`."""
    p = (rows.scores(change[rows.segment]) + rows.stands_for).softmax(dim=1)
    slopes = sizes[:, None] * (torch.einsum("km,kmd->kd", p, rows.x) - rows.x[:, 0]) * spread
    squares = torch.ones(1 + len(SEGMENTS), FUSED, dtype=torch.float64)
    squares[0] += slopes.square().sum(dim=0)
    squares.index_add_(0, 1 + rows.segment, slopes.square())
    return squares


def _fitted(rows: _Rows, by_segment: bool, begin: Tensor) -> Tensor:
    """float64 (3, FUSED), searched from `begin`."""
    shared = _newton(rows, torch.zeros(FUSED, dtype=torch.float64), RIDGE, begin.mean(dim=0))
    if not by_segment:
        return shared.expand(len(SEGMENTS), FUSED).clone()
    return torch.stack([_newton(rows.where(rows.segment == s), shared, RIDGE_SEGMENT, begin[s]) for s in range(len(SEGMENTS))])


def _newton(rows: _Rows, centre: Tensor, ridge: float, begin: Tensor) -> Tensor:
    """The weights (FUSED,) of least loss, by Newton's method with halved steps from `begin`."""
    ridges = ridge * torch.eye(FUSED, dtype=torch.float64)

    def objective(w: Tensor) -> Tensor:
        return rows.weights @ rows.losses(rows.scores(w)) + ridge / 2 * (w - centre).square().sum()

    w, value = begin, objective(begin)
    for _ in range(STEPS):
        p = (rows.scores(w) + rows.stands_for).softmax(dim=1)
        mean = torch.einsum("km,kmd->kd", p, rows.x)
        slope = rows.weights @ (mean - rows.x[:, 0]) + ridge * (w - centre)
        flat = rows.x.reshape(-1, FUSED)
        curve = (flat * (p * rows.weights[:, None]).reshape(-1, 1)).T @ flat - (mean * rows.weights[:, None]).T @ mean
        step = torch.linalg.solve(curve + ridges, slope)
        tries = (w - step / 2**k for k in range(HALVED))
        better = next(((t, found) for t in tries if (found := objective(t)) < value), None)
        if better is None:
            break
        done, (w, value) = float(value - better[1]) < PRECISION * float(value), better
        if done:
            break
    return w


def _weighted(choices: Choices) -> tuple[np.ndarray, Tensor, str]:
    """Which positives count, and their weights; where the log has propensities, those that chance has shown."""
    q = choices.propensity
    if not np.isfinite(q).any():
        return np.arange(len(q)), torch.ones(len(q), dtype=torch.float64), f"{len(q)} positives against the catalogue"
    chosen = np.flatnonzero(q < 1)
    weights = CLIP / np.maximum(q[chosen], CLIP)
    effective = float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0
    how = f"{len(chosen)} positives weighted by their propensities ({effective:.0f} effective ones)"
    if effective < FEWEST:
        return chosen[:0], torch.ones(0, dtype=torch.float64), how
    return chosen, torch.from_numpy(weights), how
