"""One model has one score of a user and an item: in a feed, in a step of the learner, in a trial."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from feed.attribution import Attribution, Marks
from feed.events import Impression, Shown, utc
from feed.examples import Example, Row
from feed.features import FrozenItems
from feed.features.frozen import NEAREST
from feed.learning.loss import SAMPLED_WEIGHT, join, loss, prepare
from feed.ranking import scorers
from feed.ranking.index import Index
from feed.trial import LastSeen, Scorer
from feed.trial.ranking import reciprocal_rank
from tests.small import NOW, click, snapshot, world

ITEMS = 120
SHOWN = list(range(5, 35))
CLOSE = 2e-3  # what is frozen is rounded


@pytest.fixture(scope="module")
def state():
    """User 7's history says something of more items than an example keeps beside the shown ones."""
    made = world(users=40, items=ITEMS, clicks=5)
    rng = np.random.default_rng(0)
    for user in range(40):
        for item in rng.permutation(ITEMS)[:20].tolist():
            made.apply(click(user, item, NOW - 50))
    return made


@pytest.fixture(scope="module")
def trained(state):
    made = snapshot(state)
    made.model.mix.data.copy_(0.3 + 0.1 * torch.arange(made.model.mix.numel()).view_as(made.model.mix))
    return made


@pytest.fixture(scope="module")
def example(state) -> Example:
    windows = Attribution(1800.0, 0, Marks(), {}, FrozenItems(state.items, NOW))
    items = tuple(Shown(item_id=str(k), position=p, score=0.5, propensity=1.0, source="model") for p, k in enumerate(SHOWN))
    windows.add(Impression(event_id="i", user_id="7", occurred_at=utc(NOW), request_id="r", items=items), state.user("7"), 0)
    (made,) = windows.close(everything=True)
    return made


@pytest.fixture(scope="module")
def in_a_feed(state, trained) -> np.ndarray:
    """The logits of all items, by their numbers."""
    users, index = scorers.user_vectors(trained, [state.user("7")], NOW), Index.of(trained, state.items, NOW)
    return scorers.logits(users, index.vectors, [state.items.nearby(state.user("7"))])[0, rows_of(state)]


@pytest.fixture(scope="module")
def by_the_strongest(state, trained, example, in_a_feed) -> np.ndarray:
    """The same, without what the history says beyond the strongest that an example keeps."""
    u = scorers.user_vectors(trained, [state.user("7")], NOW)[0, -2:].numpy()
    strongest = {item_id for item_id, *_ in example.user.near}
    beyond = np.array([str(k) not in strongest for k in range(ITEMS)])
    return in_a_feed - beyond * (state.items.nearby(state.user("7")).at(rows_of(state)) @ u)


def rows_of(state) -> np.ndarray:
    return np.array([state.items.row(str(k)) for k in range(ITEMS)])


def test_a_trial_scores_what_was_shown_as_the_feed_did(trained, example, in_a_feed, by_the_strongest):
    found = Scorer(trained).logits([example], example.rows, np.zeros(len(SHOWN), int))
    np.testing.assert_allclose(found, in_a_feed[SHOWN], atol=CLOSE)
    assert abs(found - by_the_strongest[SHOWN]).max() > 10 * CLOSE  # some are beyond


def test_a_trial_ranks_the_catalogue_by_the_strongest(state, trained, example, by_the_strongest):
    frozen, catalogue = FrozenItems(state.items, NOW), LastSeen()
    catalogue.add([replace(example, rows=tuple(Row(frozen[str(k)]) for k in range(ITEMS)))], 1)
    found = Scorer(trained).catalogue([example], catalogue)[0, [catalogue.slot[str(k)] for k in range(ITEMS)]]
    np.testing.assert_allclose(found, by_the_strongest, atol=CLOSE)


def test_an_item_is_ranked_by_what_is_known_of_its_rivals_too(trained, example):
    catalogue = LastSeen()
    catalogue.add([example], 1)
    scores, all_of_them = Scorer(trained).catalogue([example], catalogue)[0], catalogue.there()
    strongest = {item_id for item_id, *_ in example.user.near}
    exact = Scorer(trained).logits([example], example.rows, np.zeros(len(SHOWN), int))
    beyond = next(k for k, row in enumerate(example.rows) if row.item.item_id not in strongest and sum(row.near) > 0.5)
    item_id = example.rows[beyond].item.item_id
    rank = 1 + (scores > scores[catalogue.slot[item_id]]).sum()
    assert reciprocal_rank(exact[beyond], item_id, scores, all_of_them, catalogue) == 1 / rank
    assert (scores > exact[beyond]).sum() < rank - 1  # where nobody else's is known it would stand higher
    assert reciprocal_rank(exact[beyond], "new", scores, all_of_them, catalogue) > 1 / rank


def test_a_step_scores_rows_as_the_feed_did_and_drawn_items_by_the_strongest(
    state, trained, example, in_a_feed, by_the_strongest
):
    assert len(example.user.near) == NEAREST
    frozen, last = FrozenItems(state.items, NOW), SHOWN[-1]
    for k, row in zip(SHOWN, example.rows, strict=True):
        one = prepare(replace(example, rows=(replace(row, labels={"click": 1}),)), trained.space)
        with torch.no_grad():
            alone = float(loss(trained.model, join([one], [], trained.space)))
        assert alone == pytest.approx(np.logaddexp(0, -in_a_feed[k]), abs=CLOSE)
    drawn = [k for k in range(ITEMS) if k != last and str(k) not in dict(example.user.bags["recent"])]
    for k in drawn:
        with torch.no_grad():
            both = float(loss(trained.model, join([one], [frozen[str(k)]], trained.space)))
        assert both - alone == pytest.approx(SAMPLED_WEIGHT * np.logaddexp(0, by_the_strongest[k]), abs=CLOSE)
