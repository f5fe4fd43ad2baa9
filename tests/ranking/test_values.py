"""What a feed is ranked by: the logit, a table of weights, and popularity taken off it."""

import dataclasses

import numpy as np
import pytest
import torch

from feed.features.near import columns
from feed.models.heads import Head
from feed.models.two_tower import NEAR, OF_LOGIT, WIDTH
from feed.objective import Objective
from feed.ranking.arms import Policy
from feed.ranking.index import Index
from feed.ranking.standard import Ranker, candidates
from tests.small import NOW, click, snapshot, world

LEARNED = Policy(feed_size=20, popular_share=0, random_share=0, explore_every=0)
STATE = world()
STATES = list(STATE.users.values())
MODEL = snapshot(STATE)


def head(a, b, seed):
    torch.manual_seed(seed)
    return Head(a, 0.5 * torch.randn(WIDTH), b)


HEADS = {"click": head(0.5, -1.5, 1), "like": head(0.4, -2.5, 2), "hide": head(-0.4, -3.0, 3)}
WITH_HEADS = dataclasses.replace(MODEL, heads=HEADS)


def with_table(text, model=WITH_HEADS, dial=0.0):
    return Ranker(
        model, "v1", 1, STATE.items,
        dataclasses.replace(LEARNED, objective=Objective.parse(text), popularity_correction=dial), NOW, lambda: NOW,
    )  # fmt: skip


def ids(ranker):
    return [[item.item_id for item in feed.items] for feed in ranker.rank(STATES, NOW)]


def logits():
    of = candidates(MODEL, Index.of(MODEL, STATE.items, NOW), STATES, NOW, LEARNED)
    return of.logits, of.eligible


def test_without_a_table_or_correction_heads_change_nothing():
    assert with_table("").rank(STATES, NOW) == with_table("", MODEL).rank(STATES, NOW)
    scores, eligible = logits()
    for of, row, may in zip(ids(with_table("")), scores, eligible, strict=True):
        assert of == [STATE.items.ids[k] for k in np.argsort(-np.where(may, row, -np.inf), kind="stable")[:20]]


def test_with_a_table_a_feed_stands_in_the_order_of_the_weighted_chances():
    made = with_table("click=1 like=2 hide=-10")
    with torch.inference_mode():
        u = MODEL.model.terms(MODEL.space.user_inputs(STATES, NOW)).double().numpy()
        v = MODEL.model.item_vectors(MODEL.space.item_inputs(STATE.items, None, NOW)).double().numpy()
    pairs = np.repeat(v[None], len(u), axis=0)
    pairs[..., -NEAR:] = [columns(STATE.items.nearby(state, NOW).at(np.arange(len(v)))) for state in STATES]
    assert pairs[..., -NEAR:].any()
    chance = {
        task: 1 / (1 + np.exp(-(np.einsum("ud,uid,d->ui", u, pairs, (head.a * OF_LOGIT + head.w).numpy()) + head.b)))
        for task, head in HEADS.items()
    }
    value = chance["click"] + 2 * chance["like"] - 10 * chance["hide"]
    _, eligible = logits()
    for feed, row, may in zip(made.rank(STATES, NOW), value, eligible, strict=True):
        places = [STATE.items.row(item.item_id) for item in feed.items]
        assert (np.diff(row[places]) < 1e-5).all()
        assert row[places].min() > np.delete(row, places)[np.delete(may, places)].max() - 1e-5
        assert feed.ranked_by == "click=1 like=2 hide=-10"
    assert ids(made) != ids(with_table(""))


def test_the_score_of_an_item_stays_the_models_whatever_it_is_ranked_by():
    scores = [{i.item_id: i.score for i in feed.items} for feed in with_table("").rank(STATES, NOW)]
    for before, feed in zip(scores, with_table("hide=-1", dial=0.5).rank(STATES, NOW), strict=True):
        for item in feed.items:
            assert before.get(item.item_id, item.score) == item.score


@pytest.mark.parametrize("heads", [{}, {"share": HEADS["like"]}])
def test_a_version_without_the_tables_heads_ranks_by_its_logit_and_says_so(heads):
    feeds = with_table("click=1 hide=-10", dataclasses.replace(MODEL, heads=heads)).rank(STATES, NOW)
    assert feeds == with_table("").rank(STATES, NOW)
    assert feeds[0].ranked_by == "logit"


def test_to_raise_a_weight_raises_what_it_is_about():
    def mean_chance(task, table):
        with torch.inference_mode():
            u = MODEL.model.terms(MODEL.space.user_inputs(STATES, NOW))
            v = MODEL.model.item_vectors(MODEL.space.item_inputs(STATE.items, None, NOW))
            p = HEADS[task].logits(u, v, [STATE.items.nearby(state, NOW) for state in STATES]).sigmoid().numpy()
        rows = with_table(table).model_ranking(STATES, NOW).rows
        return np.take_along_axis(p, rows, axis=1).mean()

    for task, tables in (
        ("like", ("click=1", "click=1 like=1", "click=1 like=10")),
        ("hide", ("click=1 hide=-100", "click=1 hide=-1", "click=1 hide=1")),
    ):
        chances = [mean_chance(task, table) for table in tables]
        assert chances == sorted(chances)
        assert chances[0] < chances[-1]


@pytest.mark.parametrize(("table", "dials"), [("", (0.0, 0.1, 0.3, 1.0, 3.0)), ("click=1 like=2", (0.0, 0.01, 0.03, 0.1, 0.3))])
def test_the_rank_of_popular_items_falls_as_the_correction_is_dialled_up(table, dials):
    state = world(users=20, items=60, clicks=0)
    for k in range(60):  # item k is clicked k times
        for n in range(k):
            state.apply(click(f"fan {n}", k))
    model = dataclasses.replace(snapshot(state), heads=HEADS)
    states = [state.user(str(u)) for u in range(20)]
    popular = [state.items.row(str(k)) for k in range(50, 60)]
    ranks = []
    for dial in dials:
        policy = dataclasses.replace(
            LEARNED, feed_size=60, objective=Objective.parse(table), popularity_correction=dial
        )  # fmt: skip
        rows = Ranker(model, "v1", 1, state.items, policy, NOW).model_ranking(states, NOW).rows
        ranks.append(np.argsort(rows, axis=1)[:, popular].mean())
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[2] < ranks[-1]


def test_the_correction_takes_off_the_logarithm_of_what_has_been_taken_of_late():
    made = with_table("", dial=0.5)
    scores, eligible = logits()
    popularity = STATE.items.popularity(NOW)
    value = scores - 0.5 * np.log((popularity + 1) / (popularity + 1).sum())
    for of, row, may in zip(ids(made), value, eligible, strict=True):
        assert of == [STATE.items.ids[k] for k in np.argsort(-np.where(may, row, -np.inf), kind="stable")[:20]]
