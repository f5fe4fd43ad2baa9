"""Fusion weights that go on online, on choices whose rule is known."""

import copy
import functools

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from feed.features.items import NUMERIC, PRIOR, prior
from feed.learning import fusion
from feed.learning.loss import prepare
from feed.models.fusion import CONSTANT
from feed.models.two_tower import logit_alone
from tests.learning import taught
from tests.learning.taught import example

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = taught.world()[1].space
DAY = 1 + PRIOR.index("engagement_1d") - 1  # its column of the score: the logit is the first, the age comes last
RULE = 0.8


@functools.cache
def some_example(n: int):
    return example(n, rows=21, organic=True)


def model(weight: float = 0.3):
    """A copy of the taught world's, whose score counts what was engaged with in the last day."""
    made = copy.deepcopy(taught.world()[1].model)
    made.fusion.copy_(logit_alone())
    made.fusion[:, 0], made.fusion[:, DAY] = 0.0, weight
    return made


def choice(n: int, *, rule: float = RULE, drawn: int = 20, stands_for: float = 1.0):
    """An organic example, whose user took one of `drawn` + 1 items by `rule` times the log of its engagements of a day."""
    rng = np.random.default_rng(n)
    base = some_example(n % 50)
    rows = list(base.rows[: drawn + 1])
    for k, row in enumerate(rows):
        numeric = list(row.item.numeric)
        numeric[NUMERIC.index("engagement_1d")] = float(rng.exponential(2.0))
        rows[k] = replace(row, item=replace(row.item, numeric=tuple(numeric)), labels={}, stands_for=stands_for)
    scores = rule * prior(np.array([row.item.numeric for row in rows]))[:, DAY - 1]
    own = rows.pop(int(np.argmax(scores + rng.gumbel(size=len(rows)))))
    rows = [replace(own, labels={"click": 1}, stands_for=0.0), *rows]
    return replace(base, rows=tuple(rows))


def learned(made, choices):
    examples = [prepare(one, SPACE) for one in choices]
    for start in range(0, len(examples), 64):
        fusion.learn(made, examples[start : start + 64])
    return made.fusion


def test_weights_come_near_those_that_people_choose_by():
    found = learned(model(), map(choice, range(3000)))
    segments = {int(prepare(choice(n), SPACE).user.segment[0]) for n in range(100)}
    for segment in segments:
        assert float(found[segment, DAY]) == pytest.approx(RULE, abs=0.15)


def test_weights_that_are_right_stay_where_they_are():
    found = learned(model(RULE), map(choice, range(2000)))
    assert float(found[:, DAY].mean()) == pytest.approx(RULE, abs=0.15)


def test_what_was_drawn_stands_for_as_many_as_it_says():
    """Two strata: of 40 popular items 8 are drawn, of 400 others 8. Taken for equals they hide what a count is worth."""

    def stratified(n: int, honest: bool):
        rng = np.random.default_rng([n, 1])
        counts = np.concatenate([rng.exponential(6.0, 40), rng.exponential(0.5, 400)])
        raw = np.zeros((440, len(NUMERIC)))
        raw[:, NUMERIC.index("engagement_1d")] = counts
        own = int(np.argmax(RULE * prior(raw)[:, DAY - 1] + rng.gumbel(size=440)))
        strata = (np.setdiff1d(np.arange(40), own), np.setdiff1d(np.arange(40, 440), own))
        drawn = [k for stratum in strata for k in rng.permutation(stratum)[:8]]
        base = choice(n, drawn=16)
        rows = []
        for row, k in zip(base.rows, [own, *drawn], strict=True):
            numeric = tuple(float(x) for x in np.concatenate([raw[k, : len(PRIOR)], row.item.numeric[len(PRIOR) :]]))
            stands_for = 0.0 if k == own else 1.0 if not honest else 5.0 if k < 40 else 50.0
            rows.append(replace(row, item=replace(row.item, numeric=numeric), stands_for=stands_for))
        return replace(base, rows=tuple(rows))

    def weight(honest: bool) -> float:
        return float(learned(model(), (stratified(n, honest) for n in range(2500)))[:, DAY].mean())

    honest, equal = weight(True), weight(False)
    assert 0.5 < honest < RULE, "16 of 440 leave a ratio's bias"
    assert equal < 0.3


def test_scores_of_what_is_taken_stay_where_the_logits_are():
    made = model()
    learned(made, map(choice, range(2000)))
    some = [prepare(choice(n), SPACE) for n in range(2000, 2200)]
    differences = []
    for one in some:
        with torch.no_grad():
            u, v = made.user_vectors(one.user)[0], made.item_vectors(one.items)[0]
            differences.append(float(u @ v) - float((made.user_logits(one.user)[0, :64] * v[:64]).sum()))
    assert abs(np.mean(differences)) < 0.3
    assert float(made.fusion[:, CONSTANT].abs().max()) > 0.1


def test_examples_that_say_nothing_move_nothing():
    made = model()
    hidden = choice(1)
    hidden = replace(hidden, rows=(replace(hidden.rows[0], labels={"hide": 1}), *hidden.rows[1:]))
    alone = replace(choice(2), rows=choice(2).rows[:1])
    before = made.fusion.clone()
    assert torch.equal(learned(made, [hidden, alone]), before)
    fusion.learn(made, [])
    assert torch.equal(made.fusion, before)
