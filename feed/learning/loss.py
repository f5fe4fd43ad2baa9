"""What a step descends: the loss of `feed.models.train`, whose weights are gone on from, over rows of examples.

With s the logit of a row, s_j those of the items drawn for the step that the row's user is not known to have met:

    loss =  mean over positive rows of [ softplus(-s) + SAMPLED_WEIGHT * mean_j softplus(s_j) ]
          + LEFT_WEIGHT * sum over the rows looked at and left of softplus(s) / number of positive rows

SAMPLED_WEIGHT is a quarter of the bootstrap's: feeds show mostly what a model chose, which drawn items teach again. Measured
in one simulated world, two runs, frozen weights serving: the share of the best possible first ten, 4,500 examples after half of
the users' tastes had changed, was 0.348 and 0.351 for the frozen weights, 0.390 and 0.380 with 4, 0.402 and 0.387 with 1;
before the change all were within 0.004 of each other.

A row nobody looked at is no evidence: people look at the first places, so it would teach the place. The other items of an
organic example count among the drawn ones, each in proportion to how many it stands for.

Whoever did something with a row looked at it. Where the weights come from a log without views, they bring how often each place
is looked at (`feed.models.examination`), and of the rows without a label as many pass as looked at, drawn with

    P(looked | not taken) = theta_k (1 - r) / (1 - theta_k r)

by the example's id: the same rows each time that it is learned. An impression with a view says itself what was looked at.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from feed.examples import Example
from feed.features import FeatureSpace, Inputs
from feed.features.frozen import ItemFeatures, NearItem, nearby
from feed.features.near import SAID, TAKEN_BESIDE, first_form
from feed.models.examination import PLACES, Examination
from feed.models.train import LEFT_WEIGHT
from feed.models.two_tower import VECTOR, TwoTower, near_logits

SAMPLED_WEIGHT = 1.0
BESIDE = 10.0  # drawn items of the step that those drawn beside an organic engagement count as, together


class Prepared(NamedTuple):
    """An example of k rows as model inputs: `user` (1 row), `items` (k rows), and per row, bool (k,): taken; looked at and
    left. `drawn` float32 (k,): how many items a row stands for that was drawn by chance, 0 of all others. `met`: ids of items
    that are no negatives of this user. `near` float32 (k, 4): what the user's history says of the rows; `nearest`: of other
    items, as in `UserFeatures.near`.
    """

    user: Inputs
    items: Inputs
    positive: np.ndarray
    left: np.ndarray
    drawn: np.ndarray
    met: Collection[str]
    near: np.ndarray
    nearest: Sequence[NearItem]


class Rows(NamedTuple):
    """n examples of R rows in all, and s drawn items.

    `users`: n rows; `items`: R + s rows, those drawn for the step last; `owner` int64 (R,): which example a row is of;
    `positive`, `left` bool (R,); `drawn` float32 (R,): what rows count that were drawn beside their example's, `BESIDE` in all;
    `negative` bool (n, s): the user is not known to have met the drawn item; `near` float32 (R, 4), `near_drawn` float32
    (n, s, 4): what the user's history says of the row and of the drawn items.
    """

    users: Inputs
    items: Inputs
    owner: np.ndarray
    positive: np.ndarray
    left: np.ndarray
    drawn: np.ndarray
    negative: np.ndarray
    near: np.ndarray
    near_drawn: np.ndarray


def prepare(example: Example, space: FeatureSpace, examination: Examination | None = None, repeats: bool = False) -> Prepared:
    """One example as this space reads it; always alone, so that the same example gives the same bits.

    `examination`: who looks, in a stream whose views do not say it. `repeats`: what was taken may be shown again, so that a
    drawn item which the user took before is a negative as others are.
    """
    rows = example.rows
    history = {item_id for item_id, _ in example.user.bags["recent"]}
    positive = np.array([row.positive for row in rows], bool)
    looked = np.array([bool(row.labels) for row in rows], bool)
    drawn = np.array([row.stands_for if repeats or not row.near[TAKEN_BESIDE] else 0.0 for row in rows], np.float32)
    if example.organic:
        positive[1:] = looked[1:] = False
    elif examination is not None and not viewed(example):
        looked |= _passing(example, examination)
    items = [row.item for row in rows]
    met = frozenset(history | {item.item_id for item in items})
    near = np.array([row.near for row in rows], np.float32)
    return Prepared(
        space.frozen_users([example.user]), space.frozen_items(items), positive, looked & ~positive, drawn, met, near,
        example.user.near,
    )  # fmt: skip


def viewed(example: Example) -> bool:
    """Whether anything of it has a view."""
    return any("view" in row.labels for row in example.rows)


def _passing(example: Example, examination: Examination) -> np.ndarray:
    """bool (k,): which rows pass as looked at; of an item that stands twice and has its label at the other place, none."""
    labelled = {row.item.item_id for row in example.rows if row.labels}
    others = np.array([row.item.item_id not in labelled for row in example.rows])
    place = np.array([min(row.position or 0, PLACES - 1) for row in example.rows], np.int64)  # the wire bounds no position
    draw = np.random.default_rng(crc32(example.example_id.encode()))
    return np.asarray(others & (draw.random(len(place)) < examination.looked(place)))


def join(examples: Sequence[Prepared], sampled: Sequence[ItemFeatures], space: FeatureSpace) -> Rows:
    """At least one example, and the items drawn for the step, all different."""
    place = {item.item_id: k for k, item in enumerate(sampled)}
    near_drawn = np.zeros((len(examples), len(sampled), len(SAID)), np.float32)
    for of, one in zip(near_drawn, examples, strict=True):
        said = nearby(one.nearest, place)
        of[said.rows] = said.said
    owner = np.repeat(np.arange(len(examples)), [len(one.positive) for one in examples])
    drawn = np.concatenate([one.drawn for one in examples])
    together = np.maximum(np.bincount(owner, drawn, minlength=len(examples)), 1e-9)
    return Rows(
        Inputs.concat([one.user for one in examples]),
        Inputs.concat([*(one.items for one in examples), space.frozen_items(sampled)]),
        owner,
        np.concatenate([one.positive for one in examples]),
        np.concatenate([one.left for one in examples]),
        (BESIDE * drawn / together[owner]).astype(np.float32),
        np.array([[item.item_id not in one.met for item in sampled] for one in examples], bool).reshape(len(examples), -1),
        np.concatenate([one.near for one in examples]),
        near_drawn,
    )


def loss(model: TwoTower, rows: Rows) -> Tensor:
    """The loss (scalar); see above. Without a positive row only what was left counts."""
    u, v = model.user_logits(rows.users), model.item_logits(rows.items)
    owner = torch.from_numpy(rows.owner)
    positive, left = torch.from_numpy(rows.positive), torch.from_numpy(rows.left)
    mine = u.index_select(0, owner)
    near = near_logits(mine, torch.from_numpy(first_form(rows.near))[:, None])[:, 0]
    own = (mine[:, :VECTOR] * v[: len(owner)]).sum(dim=1) + near
    sampled = u[:, :VECTOR] @ v[len(owner) :].T + near_logits(u, torch.from_numpy(first_form(rows.near_drawn)))
    taken = torch.zeros(len(rows.users)).index_add_(0, owner, positive.float())  # positive rows of each example
    weight, drawn = torch.from_numpy(rows.negative) * taken[:, None], torch.from_numpy(rows.drawn) * taken[owner]
    negatives = (softplus(sampled) * weight).sum() + (softplus(own) * drawn).sum()
    own_rows = (softplus(-own) * positive).sum() + LEFT_WEIGHT * (softplus(own) * left).sum()
    return own_rows / positive.sum().clamp(min=1) + SAMPLED_WEIGHT * negatives / (weight.sum() + drawn.sum()).clamp(min=1)
