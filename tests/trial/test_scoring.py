"""One model has one score of a user and an item: in a feed, in a trial, and, as long as nothing is added to it, in a step of
the learner."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from feed.attribution import Attribution, Marks
from feed.events import Impression, Shown, utc
from feed.examples import Example, Row
from feed.features import FrozenItems
from feed.features.frozen import NEAREST
from feed.features.near import OWN, columns
from feed.learning.loss import SAMPLED_WEIGHT, join, loss, prepare
from feed.models.two_tower import NEAR, PRIOR, VECTOR, logit_alone
from feed.ranking import scorers
from feed.ranking.arms import Policy
from feed.ranking.index import Index
from feed.ranking.standard import Ranker
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
    for k in range(0, ITEMS, 4):  # nobody says since when there are these
        made.items.upsert(replace(made.items.by_id[str(k)], created_at=None))
    rng = np.random.default_rng(0)
    for user in range(40):
        for item in rng.permutation(ITEMS)[:20].tolist():
            made.apply(click(user, item, NOW - 50))
    return made


@pytest.fixture(scope="module")
def trained(state):
    made = snapshot(state)
    made.model.mix.data.copy_(0.3 + 0.1 * torch.arange(made.model.mix.numel()).view_as(made.model.mix))
    made.model.fusion.copy_(0.5 * torch.rand(made.model.fusion.shape, generator=torch.Generator().manual_seed(0)))
    return made


@pytest.fixture(scope="module")
def unfused(trained):
    """The same weights, whose score is the logit."""
    model = copy.deepcopy(trained.model)
    model.fusion.copy_(logit_alone())
    return dataclasses.replace(trained, model=model)


@pytest.fixture(scope="module")
def example(state) -> Example:
    windows = Attribution(1800.0, 0, Marks(), {}, FrozenItems(state.items, NOW))
    items = tuple(Shown(item_id=str(k), position=p, score=0.5, propensity=1.0, source="model") for p, k in enumerate(SHOWN))
    windows.add(Impression(event_id="i", user_id="7", occurred_at=utc(NOW), request_id="r", items=items), state.user("7"), 0)
    (made,) = windows.close(everything=True)
    return made


@pytest.fixture(scope="module")
def in_a_feed(state, trained) -> np.ndarray:
    return of_all(state, trained)


def of_all(state, trained) -> np.ndarray:
    """The scores of all items for user 7 in a feed, by their numbers."""
    users, index = (
        scorers.user_vectors(trained, trained.space.user_inputs([state.user("7")], NOW)),
        Index.of(trained, state.items, NOW),
    )
    return scorers.logits(users, index.vectors, [state.items.nearby(state.user("7"), NOW)])[0, rows_of(state)]


@pytest.fixture(scope="module")
def by_the_strongest(state, trained, example) -> np.ndarray:
    return of_all_by_the_strongest(state, trained, example)


def of_all_by_the_strongest(state, trained, example) -> np.ndarray:
    """The same, without what the history says beyond the strongest that an example keeps, and of what the user took."""
    u = scorers.user_vectors(trained, trained.space.user_inputs([state.user("7")], NOW))[0, -NEAR:].numpy()
    strongest = {item_id for item_id, *_ in example.user.near}
    beyond = np.array([str(k) not in strongest for k in range(ITEMS)])
    read = columns(state.items.nearby(state.user("7"), NOW).at(rows_of(state)))
    read[~beyond, :-OWN] = 0
    return of_all(state, trained) - read @ u


def rows_of(state) -> np.ndarray:
    return np.array([state.items.row(str(k)) for k in range(ITEMS)])


def test_a_trial_scores_what_was_shown_as_the_feed_did(trained, example, in_a_feed, by_the_strongest):
    found = Scorer(trained).logits([example], example.rows, np.zeros(len(SHOWN), int))
    np.testing.assert_allclose(found, in_a_feed[SHOWN], atol=CLOSE)
    assert abs(found - by_the_strongest[SHOWN]).max() > 10 * CLOSE  # some are beyond


def test_a_trial_scores_a_feed_as_the_ranker_that_made_it(state, trained):
    """Frozen at that moment, with all that is added to the logit."""
    learned = Policy(feed_size=30, popular_share=0.0, random_share=0.0)
    ranker = Ranker(trained, "v1", 1, state.items, learned, NOW, clock=lambda: NOW)
    (feed,) = ranker.rank([state.user("7")], NOW)
    shown = Impression(
        event_id="i", user_id="7", occurred_at=utc(NOW), request_id="r",
        items=tuple(Shown(item_id=of.item_id, position=p, score=of.score) for p, of in enumerate(feed.items)),
    )  # fmt: skip
    windows = Attribution(1800.0, 0, Marks(), {}, FrozenItems(state.items, NOW))
    windows.add(shown, state.user("7"), 0)
    (made,) = windows.close(everything=True)
    found = Scorer(trained).logits([made], made.rows, np.zeros(len(feed.items), int))
    feeds = np.array([row.score for row in made.rows])
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), feeds, atol=CLOSE)
    assert np.ptp(found) > 1  # they differ


def test_a_trial_ranks_the_catalogue_by_the_strongest(state, trained, example, by_the_strongest):
    frozen, catalogue = FrozenItems(state.items, NOW), LastSeen()
    catalogue.add([replace(example, rows=tuple(Row(frozen[str(k)]) for k in range(ITEMS)))], 1)
    found = Scorer(trained).catalogue([example], catalogue)[0, [catalogue.slot[str(k)] for k in range(ITEMS)]]
    np.testing.assert_allclose(found, by_the_strongest, atol=CLOSE)


def test_the_counts_of_an_item_that_a_trial_saw_long_ago_have_faded(state, trained, example):
    """As they have in the table, in which nothing happened since."""
    frozen, catalogue, later = FrozenItems(state.items, NOW), LastSeen(), NOW + 5000.0
    catalogue.add([replace(example, rows=tuple(Row(frozen[str(k)]) for k in range(ITEMS)))], 1)
    scorer, slots = Scorer(trained), [catalogue.slot[str(k)] for k in range(ITEMS)]
    before, after = (scorer.catalogue([replace(example, at=at)], catalogue)[0, slots] for at in (NOW, later))
    p = scorer.users([example])[0, VECTOR : VECTOR + PRIOR]
    faded = (state.items.prior(later, rows_of(state)) - state.items.prior(NOW, rows_of(state))) @ p
    np.testing.assert_allclose(after - before, faded, atol=CLOSE)
    assert np.abs(faded).min() > 10 * CLOSE


def test_an_item_is_ranked_by_what_is_known_of_its_rivals_too(trained, example):
    catalogue = LastSeen()
    catalogue.add([example], 1)
    scores, all_of_them = Scorer(trained).catalogue([example], catalogue)[0], catalogue.there()
    strongest = {item_id for item_id, *_ in example.user.near}
    exact = Scorer(trained).logits([example], example.rows, np.zeros(len(SHOWN), int))
    beyond = next(k for k, row in enumerate(example.rows) if row.item.item_id not in strongest and sum(row.near) > 0.03)
    item_id = example.rows[beyond].item.item_id
    rank = 1 + (scores > scores[catalogue.slot[item_id]]).sum()
    assert reciprocal_rank(exact[beyond], item_id, scores, all_of_them, catalogue) == 1 / rank
    assert (scores > exact[beyond]).sum() < rank - 1  # where nobody else's is known it would stand higher
    assert reciprocal_rank(exact[beyond], "new", scores, all_of_them, catalogue) > 1 / rank


def test_a_step_scores_rows_as_the_feed_did_and_drawn_items_by_the_strongest(state, unfused, example):
    trained, in_a_feed = unfused, of_all(state, unfused)
    by_the_strongest = of_all_by_the_strongest(state, unfused, example)
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
