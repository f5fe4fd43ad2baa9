"""The fusion weights go on online, one step a positive, where the version's score is more than its logit.

    loss = -log softmax(score)_i over the item i taken and the items j drawn beside it, of which each stands for its share of
           the catalogue,    g = sum_j softmax(score)_j (x_j - x_i),    x = (logit, prior, near)
    G += g²,   w -= RATE g / sqrt(G),   once for what all segments share and once for the user's own

Only organic examples teach: what a feed showed says what it chose, not what is liked. The items beside an organic engagement
are drawn by chance from what its user could have been shown, as they were at that moment (`FrozenItems.draw`). G goes on from
what the bootstrap's positives had, and forgets: a version that learned from millions can still follow a taste for the new. The
constant column, which no softmax sees, keeps the scores of positives where their logits are.

Tried: candidates out of the learner's own memory, the items as examples last showed them. Their counts are a take or two
behind, and what goes together is known of a user's nearest only. Both make what is taken look unusual: on Deskdrop NDCG@10
fell from 0.459 to 0.378.
Reference: Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning" (Adagrad).
"""

from collections.abc import Sequence

import numpy as np
import torch

from feed.features import Inputs
from feed.features.near import columns
from feed.learning.loss import Prepared
from feed.models.fusion import CONSTANT
from feed.models.two_tower import TwoTower, score_columns

RATE = 0.2
FORGETS = 1 / 20_000  # a positive's share of G
LEVELLING = 0.01


@torch.no_grad()
def learn(model: TwoTower, organic: Sequence[Prepared]) -> None:
    """Move `model.fusion` and `model.fusion_squares` by organic examples."""
    if not organic:
        return
    users = model.user_logits(Inputs.concat([one.user for one in organic]))
    items = torch.split(model.item_logits(Inputs.concat([one.items for one in organic])), [len(one.items) for one in organic])
    fusion, squares = model.fusion.double().numpy(), model.fusion_squares.double().numpy()
    for u, v, one in zip(users, items, organic, strict=True):
        if not one.positive[0] or not one.drawn.any():
            continue
        segment, near = int(one.user.segment[0]), torch.from_numpy(columns(one.near))
        x = score_columns(u, v, torch.from_numpy(one.items.prior), near).double().numpy()
        own, drawn = x[0], one.drawn > 0
        scores = np.append(own @ fusion[segment], x[drawn] @ fusion[segment] + np.log(one.drawn[drawn]))
        shares = np.exp(scores - scores.max())
        g = (shares[1:] / shares.sum()) @ (x[drawn] - own)
        for rows, of in ((slice(None), 0), (segment, 1 + segment)):
            squares[of] += g**2 - FORGETS * (squares[of] - 1)
            fusion[rows] -= RATE * g / np.sqrt(squares[of])
        fusion[:, CONSTANT] += LEVELLING * (own[0] - own @ fusion[segment])
    if np.isfinite(fusion).all() and np.isfinite(squares).all():
        model.fusion.copy_(torch.from_numpy(fusion))
        model.fusion_squares.copy_(torch.from_numpy(squares))
