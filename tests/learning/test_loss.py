"""The loss, counted by hand, and what it takes for evidence."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from feed.learning.loss import SAMPLED_WEIGHT, join, loss, prepare
from feed.models.train import LEFT_WEIGHT
from tests.learning import taught
from tests.learning.taught import example


def softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def logits(one, items) -> np.ndarray:
    _, start = taught.world()
    with torch.no_grad():
        return (start.model.item_vectors(items) @ start.model.user_vectors(one.user)[0]).numpy()


def counted(examples, sampled) -> float:
    """The equation, in loops."""
    space = taught.world()[1].space
    taken = left = negative = 0.0
    positives = pairs = 0
    for made in examples:
        one = prepare(made, space)
        s, drawn = logits(one, one.items), logits(one, space.frozen_items(sampled))
        mine = [softplus(x) for x, item in zip(drawn, sampled, strict=True) if item.item_id not in one.met]
        for k, row in enumerate(made.rows):
            looked = row.labels and not (made.organic and k)
            if looked and row.positive:
                taken += softplus(-s[k])
                others = [softplus(x) for x in s[1:]] if made.organic else []
                negative += sum(mine) + sum(others)
                pairs += len(mine) + len(others)
                positives += 1
            elif looked:
                left += softplus(s[k])
    return (taken + LEFT_WEIGHT * left) / positives + SAMPLED_WEIGHT * negative / pairs


def organic(n):
    made = example(n, organic=True)
    first, *others = made.rows
    return replace(made, rows=(replace(first, labels={"like": 1}), *(replace(row, labels={}) for row in others)))


@pytest.mark.parametrize("of", [example, organic])
def test_the_loss_is_what_the_equation_says(of):
    examples = [of(n) for n in range(20)]
    sampled = [row.item for n in range(100, 104) for row in example(n).rows]
    space = taught.world()[1].space
    found = loss(taught.world()[1].model, join([prepare(one, space) for one in examples], sampled, space))
    assert float(found.detach()) == pytest.approx(counted(examples, sampled), rel=1e-5)


def test_a_row_nobody_looked_at_is_no_evidence_and_a_hidden_one_is_left():
    made = example(1)
    rows = [replace(made.rows[0], labels=labels) for labels in ({}, {"view": 1}, {"click": 1}, {"click": 1, "hide": 1})]
    one = prepare(replace(made, rows=tuple(rows)), taught.world()[1].space)
    assert one.positive.tolist() == [False, False, True, False]
    assert one.left.tolist() == [False, True, False, True]
    assert not one.drawn.any()


def test_the_users_history_is_no_negative():
    made = example(1, organic=True)
    ids = [row.item.item_id for row in made.rows]
    with_history = replace(made.user, bags={**made.user.bags, "recent": ((ids[2], 1.0), ("elsewhere", 0.9))})
    space = taught.world()[1].space
    one = prepare(replace(made, user=with_history), space)
    assert one.drawn.tolist() == [False, True, False, True, True, True]
    sampled = [row.item for row in example(2).rows if row.item.item_id not in ids] + [made.rows[0].item]
    assert join([one], sampled, space).negative[0].tolist() == [True] * (len(sampled) - 1) + [False]


def test_without_a_positive_row_the_loss_is_finite():
    made = example(1)
    space = taught.world()[1].space
    one = prepare(replace(made, rows=tuple(replace(row, labels={"view": 1}) for row in made.rows)), space)
    found = float(loss(taught.world()[1].model, join([one], [], space)).detach())
    assert found == pytest.approx(LEFT_WEIGHT * sum(softplus(x) for x in logits(one, one.items)), rel=1e-5)
