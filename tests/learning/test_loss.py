"""The loss, counted by hand, and what it takes for evidence."""

import copy

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from feed.features.near import first_form
from feed.learning.loss import BESIDE, SAMPLED_WEIGHT, join, loss, prepare
from feed.models.examination import Examination
from feed.models.train import LEFT_WEIGHT
from feed.models.two_tower import FUSED, VECTOR
from tests.learning import taught
from tests.learning.taught import example

MODEL = copy.deepcopy(taught.world()[1].model)
MODEL.mix.data.copy_(torch.arange(MODEL.mix.numel()).view_as(MODEL.mix) / 10)  # what co-visitation says counts


def softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def logits(one, items, near) -> np.ndarray:
    with torch.no_grad():
        u = MODEL.user_logits(one.user)[0]
        return (MODEL.item_logits(items) @ u[:VECTOR] + torch.from_numpy(first_form(np.array(near))) @ u[VECTOR:]).numpy()


def near(made):
    """The example, with what the history says: of the rows, and of some items, one of its rows among them, most."""
    rng = np.random.default_rng(made.sequence)
    values = rng.random((taught.ITEMS, 2)).round(4).tolist()
    rows = tuple(replace(row, near=(*values[int(row.item.item_id)], 0.0, 0.0)) for row in made.rows)
    most = [made.rows[0].item.item_id, *map(str, rng.choice(taught.ITEMS, 20, replace=False))]
    return replace(made, rows=rows, user=replace(made.user, near=tuple((k, *values[int(k)]) for k in dict.fromkeys(most))))


def counted(examples, sampled) -> float:
    """The equation, in loops."""
    space = taught.world()[1].space
    taken = left = negative = 0.0
    positives = pairs = 0
    for made in examples:
        one = prepare(made, space)
        said = {item_id: values for item_id, *values in made.user.near}
        s = logits(one, one.items, [row.near for row in made.rows])
        drawn = logits(one, space.frozen_items(sampled), [said.get(item.item_id, (0.0, 0.0)) for item in sampled])
        mine = [softplus(x) for x, item in zip(drawn, sampled, strict=True) if item.item_id not in one.met]
        for k, row in enumerate(made.rows):
            looked = row.labels and not (made.organic and k)
            if looked and row.positive:
                taken += softplus(-s[k])
                weights = [row.stands_for for row in made.rows[1:]] if made.organic else []
                beside = [BESIDE * w * softplus(x) / sum(weights) for w, x in zip(weights, s[1:], strict=bool(weights))]
                negative += sum(mine) + sum(beside)
                pairs += len(mine) + BESIDE * bool(weights)
                positives += 1
            elif looked:
                left += softplus(s[k])
    return (taken + LEFT_WEIGHT * left) / positives + SAMPLED_WEIGHT * negative / pairs


def organic(n):
    made = example(n, organic=True)
    first, *others = made.rows
    drawn = (replace(row, labels={}, stands_for=1.0 + k) for k, row in enumerate(others))
    return replace(made, rows=(replace(first, labels={"like": 1}), *drawn))


def test_the_loss_does_not_know_what_is_added_to_the_logit():
    fused = copy.deepcopy(MODEL)
    fused.fusion.copy_(torch.randn(fused.fusion.shape[0], FUSED, generator=torch.Generator().manual_seed(0)))
    rows = join([prepare(near(example(n)), SPACE) for n in range(20)], [row.item for row in example(100).rows], SPACE)
    assert float(loss(fused, rows).detach()) == float(loss(MODEL, rows).detach())


@pytest.mark.parametrize("of", [example, organic])
def test_the_loss_is_what_the_equation_says(of):
    examples = [near(of(n)) for n in range(20)]
    sampled = list({row.item.item_id: row.item for n in range(100, 104) for row in example(n).rows}.values())
    space = taught.world()[1].space
    found = loss(MODEL, join([prepare(one, space) for one in examples], sampled, space))
    assert float(found.detach()) == pytest.approx(counted(examples, sampled), rel=1e-5)


def test_a_row_nobody_looked_at_is_no_evidence_and_a_hidden_one_is_left():
    made = example(1)
    rows = [replace(made.rows[0], labels=labels) for labels in ({}, {"view": 1}, {"click": 1}, {"click": 1, "hide": 1})]
    one = prepare(replace(made, rows=tuple(rows)), taught.world()[1].space)
    assert one.positive.tolist() == [False, False, True, False]
    assert one.left.tolist() == [False, True, False, True]
    assert not one.drawn.any()


def unviewed(made, **changes):
    """The example as a stream without views has it."""
    rows = (replace(row, labels={k: n for k, n in row.labels.items() if k != "view"}) for row in made.rows)
    return replace(made, rows=tuple(rows), **changes)


SPACE = taught.world()[1].space
LOOKS = Examination(np.array([1.0, 0.8, 0.6, 0.4, 0.2]), 0.25)


def test_without_views_as_many_rows_that_were_shown_and_left_pass_as_looked_at_as_the_model_says():
    made = [unviewed(example(n)) for n in range(1500)]
    found = [prepare(one, SPACE, LOOKS) for one in made]
    taken = np.array([one.positive for one in found])
    assert np.array_equal(taken, [prepare(one, SPACE).positive for one in made])
    left = np.array([one.left for one in found])
    assert not (left & taken).any()
    share = left.sum(axis=0) / (~taken).sum(axis=0)
    assert share == pytest.approx(LOOKS.looked(np.arange(6)), abs=0.06)
    assert share[0] == 1.0
    assert not any(prepare(one, SPACE).left.any() for one in made)


def test_which_rows_pass_follows_from_the_example_alone():
    made = [unviewed(example(n)) for n in range(50)]
    once, again, moved = (
        [prepare(one, SPACE, LOOKS).left.tolist() for one in of]
        for of in (made, made[::-1], [replace(one, source=3, sequence=one.sequence + 7) for one in made])
    )
    assert once == again[::-1] == moved
    assert len({str(left) for left in once}) > 10
    deep = replace(made[0], rows=tuple(replace(row, position=400 + k) for k, row in enumerate(made[0].rows)))
    assert prepare(deep, SPACE, LOOKS).left.sum() < 6


@pytest.mark.parametrize("views", [1, 4])
def test_an_impression_with_a_view_says_itself_what_was_looked_at(views):
    made = unviewed(example(1))
    rows = tuple(replace(row, labels={"view": 1}) if k < views else row for k, row in enumerate(made.rows))
    everywhere = Examination(np.ones(1), 0.0)
    assert prepare(made, SPACE, everywhere).left.sum() > 0
    seen = prepare(replace(made, rows=rows), SPACE, everywhere)
    assert (seen.left | seen.positive).tolist() == [k < views or made.rows[k].positive for k in range(6)]


def test_what_was_hidden_was_looked_at_and_an_item_that_stands_twice_is_not_left_where_its_label_is_not():
    made = unviewed(example(1))
    a, b, c = made.rows[:3]
    rows = [replace(a, labels={"click": 1}), replace(b, labels={"hide": 1}), replace(a, labels={}), replace(c, labels={})]
    one = prepare(replace(made, rows=tuple(rows)), SPACE, Examination(np.ones(1), 0.0))
    assert one.positive.tolist() == [True, False, False, False]
    assert one.left.tolist() == [False, True, False, True]


def test_nobody_is_asked_who_looked_at_what_was_drawn_beside_an_organic_engagement():
    one = prepare(organic(1), SPACE, Examination(np.ones(1), 0.0))
    assert not one.left.any()
    assert one.drawn.any()


def test_what_the_user_took_is_no_negative_unless_it_is_shown_again():
    made = organic(1)
    took = replace(made.rows[2], near=(0.0, 0.0, 3.0, 24.0))
    made = replace(made, rows=(*made.rows[:2], took, *made.rows[3:]))
    ids = [row.item.item_id for row in made.rows]
    with_history = replace(made.user, bags={**made.user.bags, "recent": ((ids[2], 1.0), ("elsewhere", 0.9))})
    space = taught.world()[1].space
    one = prepare(replace(made, user=with_history), space)
    assert one.drawn.tolist() == [0, 1, 0, 3, 4, 5]
    assert prepare(made, space, repeats=True).drawn.tolist() == [0, 1, 2, 3, 4, 5]
    sampled = [row.item for row in example(2).rows if row.item.item_id not in ids] + [made.rows[0].item]
    assert join([one], sampled, space).negative[0].tolist() == [True] * (len(sampled) - 1) + [False]


def test_without_a_positive_row_the_loss_is_finite():
    made = example(1)
    space = taught.world()[1].space
    one = prepare(replace(made, rows=tuple(replace(row, labels={"view": 1}) for row in made.rows)), space)
    found = float(loss(MODEL, join([one], [], space)).detach())
    assert found == pytest.approx(LEFT_WEIGHT * sum(softplus(x) for x in logits(one, one.items, one.near)), rel=1e-5)


def test_a_position_beyond_any_number_of_64_bits_is_the_last_place():
    """The wire takes it, and a record that raises would be read again for ever."""
    made = unviewed(example(1))
    rows = [replace(row, labels={}, position=10**19 + k) for k, row in enumerate(made.rows)]
    always = Examination(np.array([0.0, 1.0]), 0.25)
    assert prepare(replace(made, rows=tuple(rows)), SPACE, always).left.all()
