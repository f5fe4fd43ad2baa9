"""The served model in the evaluation is the served model: the same events, the same scores, a learner that learns."""

import dataclasses

import numpy as np
import pytest

from feed import dataset
from feed.evaluation.rows import load
from feed.events import Click, Impression, Like, View
from feed.features import BatchState
from feed.models.snapshot import Snapshot
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from offline.served import Served, events_of
from producers import generate
from tests.evaluation import logs


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    generate.generate(folder, 60, 150, 3000, 0)
    return load(dataset.read(folder), ["click", "like", "share", "comment"], 1800.0, 0)


@pytest.fixture(scope="module")
def split(log):
    begins = np.flatnonzero(log.rows.opens)
    return int(begins[int(0.8 * len(begins))])


@pytest.fixture(scope="module")
def fitted(log, split):
    model = Served()
    model.fit(log.rows.until(split), log.catalogue)
    return model


def test_rows_become_the_events_they_came_from(log, tmp_path):
    generate.generate(tmp_path, 60, 150, 3000, 0)
    original = list(dataset.events_of(dataset.read(tmp_path)))
    made = [event for _, event in events_of(log.rows, 0)]
    assert [type(event) for event in made] == [type(event) for event in original]
    for one, other in zip(made, original, strict=True):
        assert log.user_ids[int(one.user_id)] == other.user_id
        assert one.at == pytest.approx(other.at, abs=1e-3)
        if isinstance(one, Impression):
            assert [log.item_ids[int(shown.item_id)] for shown in one.items] == [shown.item_id for shown in other.items]
        else:
            assert log.item_ids[int(one.item_id)] == other.item_id
            assert getattr(one, "dwell_ms", None) == getattr(other, "dwell_ms", None)


def test_every_row_belongs_to_one_event_and_a_request_ends_with_its_last_row(log):
    ends = [end for end, _ in events_of(log.rows, 0)]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(log.rows) - 1
    first_request = next(k for k, (_, event) in enumerate(events_of(log.rows, 0)) if isinstance(event, Impression))
    inside = ends[first_request - 1] + 1 if first_request else 0
    assert ends[first_request] - inside + 1 == log.rows.shown[inside : ends[first_request] + 1].sum() > 1


def test_what_counts_in_the_evaluation_is_what_the_model_takes_for_positive():
    rows = [("u", "a", "view", 0), ("u", "b", "click", 10), ("u", "c", "like", 20)]
    for positive, kinds in ((logs.POSITIVE, [View, Click, Like]), (("view", "like"), [Like, View, Like])):
        log = load(logs.dataset(rows), positive, logs.WINDOW, 0)
        assert [type(event) for _, event in events_of(log.rows, 0)] == kinds


def test_what_makes_an_event_positive_later_is_not_known_before():
    rows = [("u", "a", "click", 0), ("u", "a", "like", 10), ("u", "a", "click", 20)]
    log = load(logs.dataset(rows), ("like",), logs.WINDOW, 0)
    assert [type(event) for _, event in events_of(log.rows, 0)] == [View, Like, Click]


def test_a_number_of_the_items_is_read_and_ranks_by_what_it_says(tmp_path):
    """Who is in the north takes what is in the north, and nothing but a number says where anything is."""
    draw = np.random.default_rng(0)
    north = {f"i{k}": float(draw.choice([-1, 1]) * draw.uniform(40, 60)) for k in range(300)}
    rows = []
    for k in range(4000):
        user, item = int(draw.integers(40)), f"i{int(draw.integers(300))}"
        rows.append((f"u{user}", item, "click" if (user % 2 == 0) == (north[item] > 0) else "view", 600.0 * k))
    items = [{"item_id": name, "lat": lat, "shelf": f"s{k % 2}"} for k, (name, lat) in enumerate(north.items())]
    users = [{"user_id": f"u{user}", "home": 50.0 if user % 2 == 0 else -50.0} for user in range(40)]
    log = load(logs.dataset(rows, items, users), logs.POSITIVE, logs.WINDOW, 0)
    model = Served()
    model.fit(log.rows, log.catalogue)
    assert "lat" in model._space.item_spec.numeric
    assert "home" in model._space.user_spec.numeric
    assert "shelf" in [name for name, _ in model._space.item_spec.categorical]
    lat = np.array([north[item_id] for item_id in log.item_ids])
    for code, user_id in enumerate(log.user_ids[:10]):
        best = np.argsort(-model.scores(code, float(log.rows.at[-1])))[:20]
        assert (np.sign(lat[best]) == (1 if int(user_id[1:]) % 2 == 0 else -1)).mean() > 0.9


def test_the_scores_are_those_of_the_ranker_on_the_same_past(log, split, fitted):
    state = BatchState(log.catalogue.items, log.catalogue.users)
    for _, event in events_of(log.rows.until(split), 0):
        state.apply(event)
    policy = Policy(feed_size=10, explore_every=0, popular_share=0, random_share=0)
    ranker = Ranker(Snapshot(fitted._model, fitted._space, {}), "v", 1, state.items, policy, state.now)
    users = [user for user in state.users.values() if user["recent"]][:10]
    assert users
    for user, feed in zip(users, ranker.rank(users, state.now), strict=True):
        logits = fitted.scores(int(user["user_id"]), state.now)
        shown = [int(item.item_id) for item in feed.items]
        np.testing.assert_allclose([item.score for item in feed.items], 1 / (1 + np.exp(-logits[shown])), rtol=1e-4)
        assert (np.diff(logits[shown]) <= 1e-5).all()


def test_weights_move_only_if_they_are_to_learn(log, split):
    def after(learns):
        model = Served()
        model.fit(log.rows.until(split), log.catalogue)
        start = [w.clone() for w in model._model.parameters()]
        for k in range(split, len(log.rows)):
            if learns and log.rows.first[k]:
                model.learn(k, log.rows)
            model.observe(k, log.rows)
        return any(not (a == b).all() for a, b in zip(start, model._model.parameters(), strict=True)), model

    moved, frozen = after(False)
    assert not moved
    assert frozen._learner.progress.examples == 0
    moved, online = after(True)
    assert moved
    assert online._learner.progress.steps > 0
    assert np.isfinite(online.scores(0, float(log.rows.at[-1]))).all()


def test_the_learner_knows_who_looks_where_no_view_says_so_and_only_there(fitted, tmp_path):
    generate.generate(tmp_path, 60, 150, 3000, 0)
    tables = dataset.read(tmp_path)
    clicks = tables.interactions[tables.interactions["event"].isin(["impression", "click"])]
    log = load(dataclasses.replace(tables, interactions=clicks.reset_index(drop=True)), ["click"], 1800.0, 0)
    model = Served()
    model.fit(log.rows, log.catalogue)
    assert model._learner.examination is not None
    assert fitted._learner.examination is None
