import numpy as np
import pytest

from feed.evaluation.baselines.ease import Ease, ItemKnn
from feed.evaluation.baselines.liked import liked_of, together
from feed.evaluation.baselines.popular import Popular
from tests.evaluation.logs import START, log

DAY = 86400.0
NOW = START.timestamp()


def by_id(found, scores):
    return dict(zip(found.item_ids, scores.tolist(), strict=True))


def user(found, name):
    return found.user_ids.tolist().index(name)


LOG = log(
    [("u", "a", "click", 0), ("u", "b", "click", 1), ("v", "a", "click", 2), ("v", "c", "view", 3), ("w", "c", "click", 4)]
)


def test_popular_counts_positives_and_follows_them():
    model = Popular()
    model.fit(LOG.rows.until(3), LOG.catalogue)
    assert by_id(LOG, model.scores(0, NOW)) == {"a": 2, "b": 1, "c": 0}
    for k in (3, 4):
        model.observe(k, LOG.rows)
    assert by_id(LOG, model.scores(0, NOW)) == {"a": 2, "b": 1, "c": 1}


def test_decayed_counts_are_halved_every_half_life():
    found = log([("u", "a", "click", 0), ("v", "a", "click", 2 * DAY), ("u", "b", "click", 2 * DAY)])
    model = Popular(half_life_days=2.0)
    model.fit(found.rows, found.catalogue)
    assert by_id(found, model.scores(0, NOW + 4 * DAY)) == pytest.approx({"a": 0.75, "b": 0.5})


def test_ease_is_its_closed_form():
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", "click", u * 100 + i) for u in range(30) for i in range(8) if rng.random() < 0.5]
    found = log(rows)
    model = Ease(ridge=3.0, decay=1.0)
    model.fit(found.rows, found.catalogue)
    x = np.zeros((len(found.user_ids), 8))
    x[found.rows.user, found.rows.item] = 1.0
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(8))
    weights = np.eye(8) - inverse / np.diag(inverse)
    for u in range(len(x)):
        assert model.scores(u, NOW) == pytest.approx(x[u] @ weights, abs=1e-5)


def test_neighbours_are_cosines_of_the_most_similar():
    model = ItemKnn(neighbours=1, shrink=0.0, decay=1.0)
    model.fit(LOG.rows, LOG.catalogue)
    assert by_id(LOG, model.scores(user(LOG, "v"), NOW)) == pytest.approx({"a": 0.0, "b": 1 / np.sqrt(2), "c": 0.0})


def test_history_is_fresh_and_the_latest_weighs_most():
    rows = [(f"u{n}", item, "click", n) for n in range(4) for item in ("ab" if n % 2 else "cd")]
    found = log([*rows, ("new", "a", "click", 9), ("new", "c", "click", 10)])
    model = Ease(ridge=1.0, decay=0.5)
    model.fit(found.rows.until(8), found.catalogue)
    new = user(found, "new")
    assert not model.scores(new, NOW).any()
    for k in (8, 9):
        model.observe(k, found.rows)
    scores = by_id(found, model.scores(new, NOW))
    assert scores["d"] == pytest.approx(2 * scores["b"])
    assert scores["b"] > 0.1


def test_a_prior_orders_the_items_for_a_user_without_history():
    found = log([("u", "a", "click", 0), ("v", "a", "click", 1), ("w", "b", "click", 2), ("new", "c", "view", 3)])
    model = Ease(prior=0.1)
    model.fit(found.rows, found.catalogue)
    scores = by_id(found, model.scores(user(found, "new"), NOW + 9))
    assert scores["a"] > scores["b"] > scores["c"]


@pytest.mark.parametrize("model", [ItemKnn(), Ease()])
def test_a_log_without_positives_gives_equal_scores(model):
    found = log([("u", "a", "view", 0)])
    model.fit(found.rows, found.catalogue)
    assert not model.scores(0, NOW).any()


def test_pairs_are_counted_over_users():
    found = log([(f"u{u}", item, "click", u) for u in range(1200) for item in "ab"])
    assert together(liked_of(found.rows), np.arange(2), 2).tolist() == [[1200, 1200], [1200, 1200]]
