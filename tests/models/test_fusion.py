"""Fusion weights, fitted to choices whose rule is known."""

import msgspec
import numpy as np
import pytest
import torch

from feed.events import Click, Impression, Shown, View, utc
from feed.features import BatchState, consumed
from feed.features.items import prior
from feed.features.space import SEGMENTS
from feed.models import fusion
from feed.models.fusion import CONSTANT, FEWEST, SKIPPED, Choices, collect, fit, of_list
from feed.models.pairs import Folded, Log, Pair, pairs_of, replay
from feed.models.two_tower import FUSED, NEAR, logit_alone
from feed.ranking import scorers
from feed.ranking.index import Index
from tests.small import DAY, NOW, item, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")


COUNT, AGE, TOGETHER = 1, CONSTANT - 1, FUSED - NEAR  # columns
FREE = [k for k in range(FUSED) if k != CONSTANT]


def weights(**by_name: float) -> torch.Tensor:
    """(3, FUSED): the logit and what is named."""
    found = logit_alone()
    for name, value in by_name.items():
        found[:, {"logit": 0, "count": COUNT, "age": AGE, "together": TOGETHER}[name]] = value
    return found


def columns(k: int, m: int, rng: np.random.Generator) -> torch.Tensor:
    """float32 (k, m, FUSED) of independent columns, each with its own spread; co-visitation says something of one in ten."""
    x = rng.normal(size=(k, m, FUSED)) * np.array([1.0, *[2.0] * 6, 1.0, 0.0, *[1.0] * NEAR]) + 3.0
    x[..., 0] -= 5.0
    x[..., CONSTANT] = 1.0
    x[..., -NEAR:] *= rng.random((k, m, 1)) < 0.1
    return torch.from_numpy(x).float()


def choices(by: torch.Tensor, k: int = 1500, m: int = 60, seed: int = 0, shown: np.ndarray | None = None) -> Choices:
    """Each user takes one of `m` by a softmax with weights `by` (3, FUSED), and leaves nothing.

    `shown` (k, m): with which propensities they are shown, whose logarithm is then the count.
    """
    rng = np.random.default_rng(seed)
    x, segment = columns(k, m, rng), rng.integers(len(SEGMENTS), size=k)
    if shown is not None:
        x[..., COUNT] = torch.from_numpy(np.log(shown)).float()
    scores = torch.einsum("kmd,kd->km", x.double(), by[segment].double()).numpy()
    if shown is not None:
        scores = scores + np.log(shown)
    own = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    first = np.arange(k)
    x[first, 0], x[first, own] = x[first, own], x[first, 0]
    propensity = np.full(k, np.nan) if shown is None else shown[first, own]
    return beside(x, torch.zeros(k, m), x[:, :0])._replace(segment=segment, propensity=propensity)


def beside(x: torch.Tensor, stands_for: torch.Tensor, left: torch.Tensor) -> Choices:
    """The first of each row of `x` (k, m, FUSED) beside the rest of them, and what was `left` (k, at most SKIPPED, 11)."""
    k, n = left.shape[:2]
    own = x[:, :1]
    return Choices(
        torch.cat([own, left, own.expand(k, SKIPPED - n, FUSED), x[:, 1:]], dim=1),
        torch.cat([stands_for[:, :1], torch.full((k, SKIPPED), -torch.inf), stands_for[:, 1:]], dim=1),
        np.zeros(k, np.int64),
        np.full(k, np.nan),
        np.full(k, n),
        np.arange(k),
    )


def loss(of: Choices, by: torch.Tensor) -> float:
    """Nats a positive."""
    scores = torch.einsum("kmd,kd->km", of.x, by[torch.from_numpy(of.segment)]) + of.stands_for
    return float(-scores.log_softmax(dim=1)[:, 0].mean())


RULE = weights(logit=0.6, count=0.3, age=-0.5, together=1.2)


def test_weights_come_near_those_that_the_choices_follow_and_tell_others_better_than_the_logit():
    found, _, how = fit(choices(RULE))
    np.testing.assert_allclose(found[:, FREE], RULE[:, FREE], atol=0.12)
    unseen = choices(RULE, seed=1)
    assert loss(unseen, found) < loss(unseen, logit_alone()) - 0.3
    assert loss(unseen, found) == pytest.approx(loss(unseen, RULE), abs=0.02)
    assert how.startswith("1500 positives against the catalogue, nats a positive: +")


def test_segments_that_choose_by_different_rules_have_different_weights():
    rule = logit_alone()
    rule[0, :2] = torch.tensor([0.0, 0.8])
    unseen = choices(rule, seed=1)
    found, *_ = fit(choices(rule))
    np.testing.assert_allclose(found[:, :2], rule[:, :2], atol=0.15)
    assert loss(unseen, found) < loss(unseen, logit_alone()) - 0.3


def test_segments_that_choose_by_one_rule_have_one():
    found, _, how = fit(choices(RULE, k=600))
    assert torch.equal(found, found[:1].expand_as(found)), how


@pytest.mark.parametrize("seed", range(4))
def test_choices_that_follow_the_logit_leave_the_weights_exactly_as_they_are(seed):
    assert torch.equal(fit(choices(logit_alone(), k=600, seed=seed))[0], logit_alone())


def first(of: Choices, n: int) -> Choices:
    return Choices(*(column[:n] for column in of))


def test_fewer_positives_than_can_prove_anything_leave_the_weights_as_they_are():
    enough = choices(RULE, k=FEWEST)
    assert fit(enough)[0][0, COUNT] > 0.1
    too_few, _, how = fit(first(enough, FEWEST - 1))
    assert torch.equal(too_few, logit_alone())
    assert how == f"{FEWEST - 1} positives against the catalogue: too few, {FEWEST} are needed"
    assert torch.equal(fit(first(enough, 0))[0], logit_alone())


@pytest.mark.parametrize(
    "propensity",
    [
        [1.0] * 800 + [0.5] * (FEWEST - 1),  # what was sure to be shown says nothing of taste
        [0.9] * 800 + [0.001] * 20,  # twenty count for nearly all
        [np.nan] * 800 + [0.5] * (FEWEST - 1),
    ],
)
def test_positives_are_counted_by_what_their_propensities_leave_of_them(propensity):
    of = choices(RULE, k=len(propensity), m=20)._replace(propensity=np.array(propensity))
    found, _, how = fit(of)
    assert torch.equal(found, logit_alone())
    assert how.endswith(f"effective ones): too few, {FEWEST} are needed")


@pytest.fixture
def exposed() -> Choices:
    """People take what the logit says of what they are shown, and what is popular is shown up to fifty times as often."""
    shown = 0.9 * np.exp(-np.random.default_rng(5).uniform(0, 4, size=(3000, 30)))
    return choices(logit_alone(), k=3000, m=30, shown=shown)


def test_what_is_shown_more_often_is_not_liked_more_where_propensities_are_known(exposed):
    found, _, how = fit(exposed)
    assert torch.equal(found, logit_alone()), how
    taken_for_taste = fit(exposed._replace(propensity=np.full(3000, np.nan)))[0]
    assert (taken_for_taste[:, COUNT] > 0.8).all()


def test_a_popularity_that_people_do_follow_is_found_beside_its_propensities():
    shown = 0.9 * np.exp(-np.random.default_rng(5).uniform(0, 4, size=(3000, 30)))
    found, *_ = fit(choices(weights(count=0.5), k=3000, m=30, shown=shown))
    np.testing.assert_allclose(found[:, COUNT], 0.5, atol=0.2)


def test_the_mean_score_of_what_was_taken_stays_where_the_mean_logit_was():
    of = choices(RULE)
    found, *_ = fit(of)
    own = of.x[:, 0]
    scores = (own * found[torch.from_numpy(of.segment)]).sum(dim=1)
    assert float(scores.mean()) == pytest.approx(float(own[:, 0].mean()), abs=1e-4)
    assert abs(float(found[0, CONSTANT])) > 0.1


def test_neither_the_order_of_candidates_nor_places_that_hold_none_matter():
    of, rng = choices(RULE, k=300), np.random.default_rng(3)
    m = of.x.shape[1]
    none = torch.from_numpy(rng.random((300, m)) < 0.3)
    none[:, 0] = False
    none[:, 1 : 1 + SKIPPED] = True
    of = of._replace(stands_for=torch.where(none, -torch.inf, torch.from_numpy(rng.random((300, m))).float()))
    order = torch.from_numpy(np.concatenate([np.arange(1 + SKIPPED), 1 + SKIPPED + rng.permutation(m - 1 - SKIPPED)]))
    shuffled = of._replace(x=of.x[:, order], stands_for=of.stands_for[:, order])
    garbage = of._replace(x=torch.where(none[..., None], 1e3, of.x))
    padded = of._replace(
        x=torch.cat([of.x, torch.full((300, 40, FUSED), 7.0)], dim=1),
        stands_for=torch.cat([of.stands_for, torch.full((300, 40), -torch.inf)], dim=1),
    )
    expected, *_ = fit(of)
    assert not torch.equal(expected, logit_alone())
    for other in (shuffled, garbage, padded):
        torch.testing.assert_close(fit(other)[0], expected, rtol=1e-3, atol=1e-4)


def test_one_that_stands_for_many_counts_as_many():
    """Of the popular fifth twice as many are drawn as of the others, which hides half of what people think of popularity."""
    of = choices(weights(count=0.4), m=120)
    rng = np.random.default_rng(2)
    popular = of.x[..., COUNT] > of.x[..., COUNT].quantile(0.8)
    kept = torch.where(popular, 0.5, 0.25)
    drawn = torch.from_numpy(rng.random(tuple(kept.shape))) < kept
    drawn[:, 1 : 1 + SKIPPED] = False
    stands_for = torch.where(drawn, -kept.log(), -torch.inf)
    stands_for[:, 0] = 0.0
    found, *_ = fit(of._replace(stands_for=stands_for))
    np.testing.assert_allclose(found[:, COUNT], 0.4, atol=0.06)
    biased, *_ = fit(of._replace(stands_for=torch.where(stands_for > -torch.inf, 0.0, -torch.inf)))
    assert float(biased[0, COUNT]) < float(found[0, COUNT]) - 0.05


def looked_at(by: torch.Tensor, k: int = 1000, m: int = 60, shown: int = 5) -> Choices:
    """What is popular is shown, nobody says how often; of `shown` items one is taken by a softmax with weights `by`."""
    rng = np.random.default_rng(0)
    x = columns(k, m, rng)
    in_order = (x[..., COUNT].numpy() / 2 + rng.gumbel(size=(k, m))).argsort(axis=1)[:, ::-1].copy()
    x = torch.take_along_dim(x, torch.from_numpy(in_order)[..., None], dim=1)
    taken = (np.einsum("kmd,d->km", x[:, :shown], by[0]) + rng.gumbel(size=(k, shown))).argmax(axis=1)
    first = np.arange(k)
    x[first, 0], x[first, taken] = x[first, taken], x[first, 0]
    return beside(x, torch.zeros(k, m), x[:, 1:shown])


def test_what_only_follows_what_was_shown_does_not_pass_among_what_was_looked_at():
    of = looked_at(logit_alone())
    assert (fit(of._replace(skipped=np.zeros(len(of.skipped), np.int64)))[0][:, COUNT] > 0.3).all()  # by the catalogue alone
    found, _, how = fit(of)
    assert torch.equal(found, logit_alone()), how
    assert "AUC among viewed items -0." in how


def test_a_cost_among_what_was_looked_at_is_paid_where_the_gain_is_worth_more(monkeypatch):
    of = looked_at(logit_alone())
    for worth, paid in ((0.0, True), (1.0, True), (1e3, False)):
        monkeypatch.setattr(fusion, "WORTH", worth)
        assert torch.equal(fit(of)[0], logit_alone()) != paid


def test_what_people_follow_among_what_they_look_at_passes():
    found, _, how = fit(looked_at(weights(count=0.5)))
    assert (found[:, COUNT] > 0.4).all(), how
    assert "AUC among viewed items +0." in how


def test_the_weights_begin_as_the_logit_alone_and_the_constant_column_is_the_priors_last():
    assert logit_alone().tolist() == [[1.0] + [0.0] * (FUSED - 1)] * len(SEGMENTS)
    assert (prior(np.random.default_rng(0).random((5, 7)))[:, CONSTANT - 1] == 1).all()


def visits(n: int = 40) -> Log:
    """Of `n` visits an hour apart, each by one of five users: of four items two are clicked and two only viewed."""
    draw, events = np.random.default_rng(0), []
    items = [item(k, created=NOW - 10 * DAY) for k in range(40)]
    items[3] = msgspec.structs.replace(items[3], created_at=None)
    items[4] = msgspec.structs.replace(items[4], available=False)
    items[5] = msgspec.structs.replace(items[5], created_at=utc(NOW + 30 * 3600))
    for k in range(n):
        for place, i in enumerate(draw.choice(np.arange(6, 40), 4, replace=False).tolist()):
            about = {"event_id": f"{k}-{place}", "user_id": f"u{k % 5}", "occurred_at": utc(NOW + 3600 * k + place)}
            about |= {"item_id": str(i), "propensity": 0.25 if k % 2 else None}
            events.append(View(**about) if place % 2 else Click(**about))
    return Log(items, [], events)


@pytest.fixture
def collected(monkeypatch):
    """The log, a version with some fusion weights, and what is collected of the pairs, all of them."""
    monkeypatch.setattr(fusion, "REFRESHED", 1)
    log = visits()
    state = BatchState(log.items, log.users)
    for event in log.events:
        state.apply(event)
    trained = snapshot(state)
    trained.model.fusion.copy_(torch.randn(len(SEGMENTS), FUSED, generator=torch.Generator().manual_seed(0)))
    return log, trained, collect(trained.model, trained.space, log, pairs_of(log), 0)


def test_what_is_collected_weighs_up_to_the_scores_of_a_feed_at_that_moment(collected):
    log, trained, of = collected
    pairs = [pair for pair in pairs_of(log) if pair.positive]
    assert len(pairs) == len(of.x) > 50
    by = torch.einsum("kmd,kd->km", of.x, trained.model.fusion[of.segment]).numpy()
    assert len(set(of.segment.tolist())) > 1
    for k, (stop, state) in enumerate(replay(log, [pair.event for pair in pairs])):
        user, at, table = state.user(pairs[k].user_id), log.events[stop].at, state.items
        u = scorers.user_vectors(trained, trained.space.user_inputs([user], at))
        feed = scorers.logits(u, Index.of(trained, table, at).vectors, [table.nearby(user, at)])[0]
        own = table.row(pairs[k].item_id)
        possible = table.showable(at)
        possible[[own, *(table.row(item_id) for item_id in consumed(user))]] = False
        np.testing.assert_allclose(by[k, 0], feed[own], atol=1e-3)
        drawn = (of.stands_for[k] == 0).numpy()  # all there are
        drawn[0] = False
        assert drawn.sum() == possible.sum()
        assert not possible[[table.row("4"), own]].any()
        np.testing.assert_allclose(np.sort(by[k, drawn]), np.sort(feed[possible]), atol=1e-3)


def test_beside_a_positive_stands_what_was_looked_at_and_left_in_the_same_visit(collected):
    log, _, of = collected
    positive = [pair for pair in pairs_of(log) if pair.positive]
    left = [[p for p in pairs_of(log) if not p.positive and p.user_id == q.user_id and abs(p.at - q.at) < 60] for q in positive]
    assert of.skipped.tolist() == [len(pairs) for pairs in left]
    assert set(of.skipped.tolist()) >= {1, 2}
    ages = torch.expm1(of.x[:, 1 : 1 + SKIPPED, AGE])
    for k, pairs in enumerate(left):
        for n, pair in enumerate(pairs):
            hours = (positive[k].at - log.items[int(pair.item_id)].created) / 3600
            assert float(ages[k, n]) == pytest.approx(hours, rel=1e-4)
    assert (of.stands_for[:, 1 : 1 + SKIPPED] == -torch.inf).all()


def test_a_positives_propensity_is_that_of_its_engagement(collected):
    log, _, of = collected
    expected = [log.events[pair.event].propensity for pair in pairs_of(log) if pair.positive]
    np.testing.assert_array_equal(of.propensity, np.array(expected, float))
    assert set(expected) == {None, 0.25}


def test_without_views_the_propensity_is_that_of_the_impression():
    shown = (Shown("1", 0, propensity=0.5), Shown("2", 1, propensity=0.125), Shown("3", 2))
    log = Log([], [], [Impression(event_id="e", user_id="u", occurred_at=utc(NOW), items=shown)])
    found = [fusion._propensity(log, Pair(0, NOW, "u", item_id, True)) for item_id in ("2", "1", "3")]
    np.testing.assert_array_equal(found, [0.125, 0.5, np.nan])


def test_each_drawn_candidate_stands_for_its_share_of_what_is_possible_and_only_the_newest_positives_are_read(
    collected, monkeypatch
):
    log, trained, whole = collected
    monkeypatch.setattr(fusion, "CANDIDATES", 8)
    monkeypatch.setattr(fusion, "POSITIVES", 20)
    of = collect(trained.model, trained.space, log, pairs_of(log), 0)
    assert of.x.shape == (20, 1 + SKIPPED + 8, FUSED)
    possible = (whole.stands_for[-20:] == 0).sum(dim=1) - 1
    expected = (possible / 8).log()[:, None].expand(20, 8)
    torch.testing.assert_close(of.stands_for[:, 1 + SKIPPED :], expected)
    assert (of.stands_for[:, 0] == 0).all()
    torch.testing.assert_close(of.x[:, 0], whole.x[-20:, 0])


def test_a_state_before_the_pairs_is_folded_on(collected):
    log, trained, _ = collected
    pairs = pairs_of(log)[80:]
    state = BatchState(log.items, log.users)
    for event in log.events[: pairs[0].event]:
        state.apply(event)
    stops: list[int] = []
    of = collect(trained.model, trained.space, log, pairs, 0, Folded(pairs[0].event, state), stops.append)
    for expected, column in zip(collect(trained.model, trained.space, log, pairs, 0), of, strict=True):
        np.testing.assert_array_equal(expected, column)
    assert stops == [pair.event for pair in pairs if pair.positive]


def test_the_weights_of_a_list_rank_by_its_counts_and_leave_the_mean_score_of_positives_where_it_was(collected):
    *_, of = collected
    found, squares = of_list(of, 2)
    assert (found[:, FREE] != 0).sum() == len(SEGMENTS)
    assert (found[:, 3] == 1).all()
    positives = of.x[:, 0]
    assert float((positives @ found[0]).mean()) == pytest.approx(float(positives[:, 0].mean()), abs=1e-4)
    assert (squares >= 1).all()
    assert squares[0, 3] > 1, "the learner goes on from there"


def test_of_a_log_without_positives_nothing_is_collected(collected):
    log, trained, _ = collected
    of = collect(trained.model, trained.space, log, [pair for pair in pairs_of(log) if not pair.positive], 0)
    assert len(of.x) == 0
    assert torch.equal(fit(of)[0], logit_alone())
    assert torch.equal(of_list(of, 0)[1], torch.ones(1 + len(SEGMENTS), FUSED))
