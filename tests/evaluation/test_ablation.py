"""Parts of the score and simple lists, on visits whose order is known."""

import numpy as np
import pytest
import torch

from feed.catalogue import Item
from feed.evaluation import ablation, holdout
from feed.evaluation.ablation import better_list, compare, ndcg, of_lists, of_model, variants
from feed.evaluation.holdout import VisitCollector
from feed.evaluation.quick import Quick
from feed.events import Click, View, utc
from feed.features import FeatureSpace
from feed.features.counts import HALF_LIVES
from feed.models.fusion import CONSTANT
from feed.models.pairs import Log, pairs_of, replay
from feed.models.two_tower import FUSED, NEAR, TwoTower, logit_alone
from feed.repeats import ALWAYS

pytestmark = pytest.mark.usefixtures("one_thread")

START = 1_700_000_000.0
HOUR = 1 + HALF_LIVES.tolist().index(3600.0)  # of the fusion weights and of the positives


def fashions(n: int = 900, users: int = 60) -> Log:
    """Everybody clicks the item of the hour, one of 40, or one of two that are clicked now and then."""
    draw, events = np.random.default_rng(0), []
    for k in range(n):
        at = START + 120 * k
        hot = int(at // 3600) % 40
        item = hot if draw.random() < 0.8 else draw.integers(40, 42)
        about = {"user_id": f"u{draw.integers(users)}"}
        events.append(Click(event_id=f"c{k}", item_id=f"i{item}", occurred_at=utc(at), **about))
    return Log([Item(item_id=f"i{i}") for i in range(42)], [], events, ALWAYS)


@pytest.fixture(scope="module")
def world():
    log = fashions()
    pairs = pairs_of(log)
    half, last = len(pairs) // 2, len(pairs) * 3 // 4
    for _, state in replay(log, [pairs[half].event]):
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    torch.manual_seed(0)
    model = TwoTower(space.user_spec, space.item_spec, space.sizes).eval()
    found = []
    for before, part in ((pairs[:half], pairs[half:last]), (pairs[:last], pairs[last:])):
        collector = VisitCollector(log, space, before, part, 300, np.random.default_rng(0))
        for stop, state in replay(log, collector.stops):
            collector.look(stop, state)
        found.append(collector.groups())
    return log, model, *found, pairs[half].event


def weights(**by_column: float) -> torch.Tensor:
    found = torch.zeros_like(logit_alone())
    for name, value in by_column.items():
        found[:, {"logit": 0, "hour": HOUR, "constant": CONSTANT, "near": FUSED - NEAR}[name]] = value
    return found


def test_a_score_of_one_part_is_shown_alone():
    assert list(variants(logit_alone())) == ["served"]
    assert list(variants(weights(logit=1.0, constant=0.3))) == ["served"], "a constant is no part"
    assert list(variants(weights(hour=1.0))) == ["served", "logit alone", "prior alone"]


def test_each_part_is_shown_alone_and_left_out():
    fusion = weights(logit=0.5, hour=1.0, near=2.0)
    found = variants(fusion)
    assert list(found) == [
        "served", "logit alone", "prior alone", "near alone", "without logit", "without prior", "without near",
    ]  # fmt: skip
    torch.testing.assert_close(found["prior alone"] + found["near alone"], found["without logit"])
    torch.testing.assert_close(found["without near"], weights(logit=0.5, hour=1.0))


def test_the_prior_alone_of_one_half_life_is_the_list_of_that_half_life(world):
    _, model, _, measured, _ = world
    by = {"prior": weights(hour=1.0, constant=-3.0)}
    of = ndcg(measured, [lambda visits: of_model(model, by, visits), of_lists], 0)
    np.testing.assert_allclose(of["prior"], of[str(HOUR - 1)])
    assert of["prior"].mean() > 2 * of["popular"].mean()


def test_what_serves_is_compared_with_the_list_that_was_best_before(world):
    log, model, judged, measured, until = world
    found = compare(model, judged, measured, Quick(log, until), 0)
    assert found.half_life == HALF_LIVES[np.argmax([_mean(judged, 1 + k) for k in range(len(HALF_LIVES))])]
    assert found.half_life <= 3600
    assert found.best_list == "decayed-popular"
    assert found.ahead["high"] < 0, "the towers are untrained"
    assert found.ndcg_at_10["decayed-popular"]["low"] > found.ndcg_at_10["popular"]["high"]
    *first, quick = found.ndcg_at_10
    assert first == ["served", "popular", "decayed-popular"]
    assert quick in ("item-knn", "own-favourites")
    assert quick == found.quick
    assert found.ahead_of_quick["mean"] == pytest.approx(found.ndcg_at_10["served"]["mean"] - found.ndcg_at_10[quick]["mean"])
    difference = found.ndcg_at_10["served"]["mean"] - found.ndcg_at_10["decayed-popular"]["mean"]
    assert found.ahead["mean"] == pytest.approx(difference)


def _mean(groups, column):
    return holdout.per_visit(groups, lambda visits: holdout.popularity(visits, column), 0)["ndcg_at_10"].mean()


def test_a_list_is_better_only_if_that_is_proven(world, monkeypatch):
    _, model, judged, _, _ = world
    place, ahead = better_list(model, judged, 0)
    assert place <= HOUR - 1
    assert 0 < ahead["low"] < ahead["mean"] < ahead["high"]
    monkeypatch.setattr(ablation, "FEWEST_USERS", 61)
    assert better_list(model, judged, 0) is None


def test_a_score_that_is_such_a_list_has_no_better_one(world):
    _, model, judged, _, _ = world
    place, _ = better_list(model, judged, 0)
    listed = weights()
    listed[:, 1 + place] = 1.0
    before = model.fusion.clone()
    model.fusion.copy_(listed)
    assert better_list(model, judged, 0) is None
    model.fusion.copy_(before)


def test_a_list_that_follows_what_was_shown_takes_no_place(world, monkeypatch):
    _, model, judged, _, _ = world
    monkeypatch.setattr(ablation, "_auc_among_viewed", lambda model, visits, half_life: np.full(len(visits.user_ids), 0.1))
    assert better_list(model, judged, 0) is None


def test_quick_baselines_know_what_happened_before_a_visit_and_no_more():
    """u and w like a and b together; v, who has only a so far, is asked for the next."""
    rows = [("u", "a"), ("u", "b"), ("w", "a"), ("w", "b"), ("v", "a"), ("v", "b"), ("v", "c")]
    events = [
        Click(event_id=str(k), user_id=user, item_id=item, occurred_at=utc(START + 3600 * k))
        for k, (user, item) in enumerate(rows)
    ]
    events.insert(0, View(event_id="v", user_id="v", item_id="c", occurred_at=utc(START - 60)))
    log = Log([Item(item_id=i) for i in "abc"], [], events)
    quick = Quick(log, 5)
    assert list(quick.models) == ["item-knn"]
    pairs = pairs_of(log)
    for _, state in replay(log, [5]):
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    collector = VisitCollector(log, space, pairs[:5], [pair for pair in pairs if pair.event == 6], 9, np.random.default_rng(0))
    for stop, state in replay(log, collector.stops):
        collector.look(stop, state)
    (visits,) = collector.groups()
    assert visits.begins == (6,)
    (scores,) = quick(visits)["item-knn"]
    assert scores[1] > 0, "v has a, which goes with b"
    assert scores[0] == scores[2] == 0, "b, which goes with a, is yet to come"
    assert list(Quick(log, 0).models) == [], "nothing to fit"
