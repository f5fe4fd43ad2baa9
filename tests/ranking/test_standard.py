import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feed.catalogue import Item
from feed.errors import BadModel
from feed.events import Hide, utc
from feed.features import consumed, new_user, update_user
from feed.ranking.arms import Policy, arm_of
from feed.ranking.index import Index
from feed.ranking.standard import Ranker, candidates, proposals
from tests.small import DAY, NOW, click, item, logits, snapshot, world

EVEN = Policy(feed_size=20, popular_share=1 / 3, random_share=1 / 3)  # all arms among few users


def ranker(state, policy=EVEN, model=None, **more):
    return Ranker(model or snapshot(state), "v1", 1, state.items, policy, NOW, clock=lambda: NOW, **more)


def ids(feed):
    return [item.item_id for item in feed.items]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 39)), max_size=80), st.integers(0, 3))
def test_what_was_consumed_or_hidden_is_never_shown(events, seed):
    state = world(users=6, items=40, clicks=0)
    for n, (user, k) in enumerate(events):
        kind = Hide if n % 2 else type(click(0, 0))
        state.apply(kind(event_id=str(n), user_id=str(user), item_id=str(k), occurred_at=utc(NOW - n)))
    states = list(state.users.values())
    made = ranker(state, model=snapshot(state, seed))
    for feed, user in zip(made.rank(states, NOW), states, strict=True):
        assert not set(ids(feed)) & set(consumed(user))
        assert len(feed.items) == min(20, 40 - len(consumed(user)))
    best = made.model_ranking(states, NOW)
    for rows, user in zip(best.rows, states, strict=True):
        assert not {state.items.ids[row] for row in rows if row >= 0} & set(consumed(user))


def test_what_does_not_exist_yet_is_never_shown_and_what_has_no_date_is():
    state = world(items=30)
    state.items.upsert(item(900, created=NOW + 1))
    state.items.upsert(item(901, created=NOW))
    state.items.upsert(Item(item_id="undated"))
    made = ranker(state, dataclasses.replace(EVEN, feed_size=500))
    for feed in made.rank(list(state.users.values()), NOW):
        assert "900" not in ids(feed)
        assert {"901", "undated"} <= set(ids(feed))
    for feed in made.rank(list(state.users.values()), NOW + 1):
        assert "900" in ids(feed)


def test_what_the_catalogue_does_not_describe_is_never_shown():
    state = world(items=30)
    state.apply(click(3, "mentioned only"))
    for feed in ranker(state, dataclasses.replace(EVEN, feed_size=500)).rank(list(state.users.values()), NOW):
        assert "mentioned only" not in ids(feed)


def test_a_new_item_is_rankable_after_the_next_refresh_and_not_before():
    state = world(items=30)
    made = ranker(state, dataclasses.replace(EVEN, feed_size=500))
    states = list(state.users.values())
    state.items.upsert(item(777))
    update_user(states[0], click(0, 777), state.items.by_id)  # seen elsewhere before this ranker knows it
    assert not any("777" in ids(feed) for feed in made.rank(states, NOW))
    made.refresh(NOW)
    feeds = made.rank(states, NOW)
    assert "777" not in ids(feeds[0])
    assert all("777" in ids(feed) for feed in feeds[1:])


def test_every_arm_gives_what_it_promises():
    state = world(users=60)
    made, states = ranker(state), list(state.users.values())
    best = made.model_ranking(states, NOW)
    popularity = dict(zip(state.items.ids, state.items.popularity(NOW), strict=True))
    arms = set()
    for feed, rows in zip(made.rank(states, NOW), best.rows, strict=True):
        arms.add(feed.arm)
        assert feed.arm == arm_of(feed.user_id, EVEN)
        sources = [i.source for i in feed.items]
        if feed.arm == "learned":
            assert sources.count("explore") == 2
            chosen = [i.item_id for i in feed.items if i.source == "model"]
            drawn = {i.item_id for i in feed.items if i.source == "explore"}
            assert chosen == [state.items.ids[row] for row in rows if state.items.ids[row] not in drawn][:18]
            assert {i.propensity for i in feed.items if i.source == "model"} == {1.0}
            # uniform is one of three shares
            assert all(0.99 / 117 / 3 < i.propensity < 1 for i in feed.items if i.source == "explore")
        else:
            assert set(sources) == {feed.arm}
        if feed.arm == "popular":
            shown = [popularity[i] for i in ids(feed)]
            assert shown == sorted(shown, reverse=True)
            assert (
                max(popularity[i] for i in popularity.keys() - set(ids(feed)) - set(state.users[feed.user_id]["seen"]))
                <= shown[-1]
            )
        if feed.arm == "random":
            assert {i.propensity for i in feed.items} == {1 / 117}
    assert arms == {"learned", "popular", "random"}


def proposed(state, user):
    """The two proposals, normalised, of this user's state."""
    model = snapshot(state)
    of = candidates(model, Index.of(model, state.items, NOW), [user], NOW, Policy(feed_size=10))
    return [p / max(p.sum(), 1e-9) for p in proposals(0, of)], of


def test_what_is_tried_is_new_and_of_the_users_categories_and_popular_or_not():
    state = world(users=20, items=0, clicks=0)
    for k in range(20):
        state.items.upsert(item(k, created=NOW - (1 + k // 5) * DAY))  # category k % 5
    for user in range(1, 17):
        state.apply(click(user, 6))
    (new, popular), of = proposed(state, state.apply(click(0, 1)) or state.user("0"))
    assert set(np.flatnonzero(new)) == {1, 6, 11, 16}
    np.testing.assert_allclose(new[[6, 11, 16]] / new[1], [2**-0.5, 0.5, 2**-1.5])
    np.testing.assert_allclose(popular[6] / popular[1], 2**-0.5 * np.sqrt(of.popularity[6] / of.popularity[1]))
    assert popular[6] > popular[1] > popular[11] == 0


def test_to_a_user_who_has_taken_nothing_new_ones_of_every_category_are_tried():
    (new, _), _ = proposed(world(), new_user("somebody"))
    np.testing.assert_allclose(new, 1 / 120)  # all as old


def test_items_without_a_date_count_as_old_and_without_any_date_age_is_nothing():
    state = world(users=1, items=0, clicks=0)
    for k in range(3):
        state.items.upsert(Item(item_id=k, category="c"))
    (new, _), _ = proposed(state, new_user("somebody"))
    np.testing.assert_allclose(new, 1 / 3)
    state.items.upsert(item(3, created=NOW - 4 * DAY))
    state.items.upsert(item(4, created=NOW - 2 * DAY))
    (new, _), _ = proposed(state, new_user("somebody"))
    np.testing.assert_allclose(new, np.array([1, 1, 1, 1, 2]) / 6)


def test_scores_are_the_models_in_every_arm():
    state = world()
    model = snapshot(state)
    states = list(state.users.values())
    expected = 1 / (1 + np.exp(-logits(model, state, states)))
    for of_user, feed in zip(expected, ranker(state, model=model).rank(states, NOW), strict=True):
        rows = [state.items.row(i) for i in ids(feed)]
        np.testing.assert_allclose([i.score for i in feed.items], of_user[rows], rtol=1e-4)


def test_the_same_inputs_give_the_same_feed_and_another_position_another_draw():
    state = world()
    model = snapshot(state)
    states = list(state.users.values())
    first, again = (ranker(state, model=model).rank(states, NOW) for _ in range(2))
    assert first == again
    alone = [ranker(state, model=model).rank([user], NOW)[0] for user in states]
    assert [ids(feed) for feed in alone] == [ids(feed) for feed in first]  # whoever else is in the batch
    for user in states:
        user["position"]["offset"] += 1000
    later = ranker(state, model=model).rank(states, NOW)
    for a, b in zip(first, later, strict=True):
        assert a.request_id != b.request_id
        assert (ids(a) == ids(b)) == (a.arm == "popular")


def test_the_request_id_depends_on_user_generation_and_position():
    state = world(users=3)
    model, states = snapshot(state), list(state.users.values())
    made = [Ranker(model, "v", g, state.items, EVEN, NOW).rank(states, NOW) for g in (1, 2)]
    assert len({feed.request_id for feeds in made for feed in feeds}) == 6


def test_a_user_of_whom_nothing_is_known_gets_a_full_feed_in_every_arm():
    state = world()
    feeds = ranker(state).rank([new_user(f"new {k}") for k in range(30)], NOW)
    assert {feed.arm for feed in feeds} == {"learned", "popular", "random"}
    assert all(len(set(ids(feed))) == 20 and feed.position is None for feed in feeds)


def test_an_empty_catalogue_gives_empty_feeds():
    state = world(items=5)
    empty = world(users=20, items=0, clicks=0)
    made = Ranker(snapshot(state), "v", 1, empty.items, EVEN, NOW)
    assert all(feed.items == () for feed in made.rank(list(empty.users.values()), NOW))
    assert made.model_ranking(list(empty.users.values()), NOW).rows.shape == (20, 0)
    assert made.rank([], NOW) == []


def test_weights_that_are_not_finite_are_refused():
    state = world()
    broken = snapshot(state)
    with torch.no_grad():
        next(broken.model.item_tower.parameters()).fill_(float("nan"))
    with pytest.raises(BadModel, match="item vectors are not finite"):
        ranker(state, model=broken)
    broken = snapshot(state)
    with torch.no_grad():
        next(broken.model.user_tower.parameters()).fill_(float("nan"))
    with pytest.raises(BadModel, match="user vectors are not finite"):
        ranker(state, model=broken).rank(list(state.users.values()), NOW)


def test_feeds_stay_full_long_after_the_last_event():
    state = world(items=30)
    later = NOW + 400 * DAY
    made = ranker(state)
    made.refresh(later)
    assert all(len(feed.items) == 20 for feed in made.rank(list(state.users.values()), later))
