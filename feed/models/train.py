"""Training the two-tower on chunks of pairs and sampled items.

With s the logit of a pair and s_j those of the r items sampled for its chunk that its user never engaged with:

    loss =  mean over positive pairs of [ softplus(-s) + SAMPLED_WEIGHT * mean_j softplus(s_j) ]
          + LEFT_WEIGHT * sum over the other pairs of softplus(s) / number of positive pairs

which is binary cross-entropy: 1 for what was taken, 0 for what was sampled and for what was looked at and left. The sampled
items alone teach what a log *shows*, most of all popularity; the items left teach what people take of what they see.

Adam; what is judged and kept is a moving average of the weights, w' += AVERAGING (w - w') after each step, which takes out
most of the noise between epochs; a judge on later data chooses the epoch. Seeded: the same chunks give the same weights on the
same machine and number of threads.

References: Mikolov et al. 2013, "Distributed Representations of Words and Phrases" (negative sampling); Kingma and Ba 2015,
"Adam"; Polyak and Juditsky 1992, SIAM J. Control and Optimization 30(4) (averaging).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from feed.features import FeatureSpace
from feed.features.near import first_form
from feed.models.adam import Adam
from feed.models.pairs import CHUNK, SAMPLED, Chunks
from feed.models.two_tower import VECTOR, TwoTower, near_logits

BATCH = 8  # chunks a step
RATE = 4e-3
AVERAGING = 0.01
PATIENCE = 2
SAMPLED_WEIGHT = 4.0  # as four negatives a positive
LEFT_WEIGHT = 0.1

Further = Callable[[TwoTower, Chunks, np.ndarray], Tensor]  # as `loss`


@dataclass(frozen=True)
class Trained:
    """The model of the epoch that was judged best (from 1), in evaluation mode, and every epoch's judgement."""

    model: TwoTower
    epoch: int
    judgements: tuple[float, ...]


def train(
    space: FeatureSpace,
    chunks: Chunks,
    judge: Callable[[TwoTower], float],
    *,
    epochs: int,
    seed: int,
    stepped: Callable[[int, int], None] = lambda step, steps: None,
    kind: type[TwoTower] = TwoTower,
    further: Further = lambda model, chunks, which: torch.zeros(()),
) -> Trained:
    """Train until the judge, asked after each epoch, has found nothing better for `PATIENCE` epochs, at most `epochs`.

    `judge` gives more for a better model; `stepped` is told (steps done, steps at most). `further` is added to the loss, and
    `kind` may have weights for it.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = kind(space.user_spec, space.item_spec, space.sizes)
    optimiser = Adam(model.parameters())
    average = copy.deepcopy(model).eval()
    best = average.state_dict()
    judgements: list[float] = []
    steps = max(1, len(chunks) // BATCH)
    for epoch in range(epochs):
        for step, which in enumerate(np.array_split(rng.permutation(len(chunks)), steps), epoch * steps + 1):
            total = loss(model, chunks, which) + further(model, chunks, which)
            total.backward()  # type: ignore[no-untyped-call]
            optimiser.step(RATE)
            _approach(average, model, max(AVERAGING, 1 / step))
            stepped(step, epochs * steps)
        judgements.append(judge(average))
        since_best = epoch - int(np.argmax(judgements))
        if since_best == 0:
            best = copy.deepcopy(average.state_dict())
        if since_best == PATIENCE:
            break
    average.load_state_dict(best)
    return Trained(average, 1 + int(np.argmax(judgements)), tuple(judgements))


@torch.no_grad()
def _approach(average: TwoTower, model: TwoTower, share: float) -> None:
    for a, w in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(w, share)


def loss(model: TwoTower, chunks: Chunks, which: np.ndarray) -> Tensor:
    """The loss (scalar) of the chunks in `which`, int (b,); see above."""
    p, rows = CHUNK, CHUNK + SAMPLED
    u = model.user_logits(chunks.users.take((which[:, None] * p + np.arange(p)).ravel())).view(len(which), p, -1)
    v = model.item_logits(chunks.items.take((which[:, None] * rows + np.arange(rows)).ravel())).view(len(which), rows, -1)
    positive = torch.from_numpy(chunks.positive[which])
    negative = torch.from_numpy(chunks.negative[which]) & positive[:, :, None]
    near = near_logits(u, torch.from_numpy(first_form(chunks.near[which])))
    own = (u[:, :, :VECTOR] * v[:, :p]).sum(dim=2) + near[:, :, 0]
    sampled = u[:, :, :VECTOR] @ v[:, p:].transpose(1, 2) + near[:, :, 1:]
    taken = (softplus(-own) * positive).sum() + LEFT_WEIGHT * (softplus(own) * ~positive).sum()
    return taken / positive.sum().clamp(min=1) + SAMPLED_WEIGHT * (softplus(sampled) * negative).sum() / negative.sum().clamp(
        min=1
    )
