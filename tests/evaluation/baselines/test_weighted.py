import numpy as np
import pytest

from feed.evaluation.baselines.weighted import Weights, prior, prior_covisitation
from tests.evaluation.logs import START, log

GENRES, PER_GENRE = 4, 20
ITEMS = {"item_id": [f"i{k}" for k in range(GENRES * PER_GENRE)], "category": [f"g{k // PER_GENRE}" for k in range(80)]}
NOW = START.timestamp()


def _loss(weights, positives, z, item):
    logits = weights.of(positives) @ z
    return np.log(np.exp(logits).sum()) - logits[item]


def test_a_step_follows_the_gradient_of_the_softmax_loss():
    rng = np.random.default_rng(3)
    z, item = rng.normal(size=(3, 6)).astype(np.float32), 2
    weights = Weights(["a", "b", "c"], {"a": 0.3})
    numeric = []
    for c in range(3):
        up, down = (Weights(["a", "b", "c"], {"a": 0.3}) for _ in range(2))
        up.values[2, c] += 1e-2
        down.values[2, c] -= 1e-2
        numeric.append((_loss(up, 5, z, item) - _loss(down, 5, z, item)) / 2e-2)
    before = weights.values.copy()
    weights.step(5, z, item, np.ones(6, bool), rng)
    g = np.array(numeric)
    for row in (0, 2):  # what is shared, and the segment's own
        np.testing.assert_allclose(before[row] - weights.values[row], 0.2 * g / np.sqrt(1 + g**2), rtol=1e-2, atol=1e-4)
    np.testing.assert_array_equal(weights.values[[1, 3]], before[[1, 3]])


def test_the_column_that_tells_what_is_taken_outweighs_noise():
    rng = np.random.default_rng(4)
    weights = Weights(["noise", "signal"], {})
    for _ in range(300):
        z = rng.normal(size=(2, 50))
        weights.step(20, z, int(z[1].argmax()), np.ones(50, bool), rng)
    noise, signal = weights.of(20)
    assert signal > 2
    assert abs(noise) < 0.5


def test_a_segment_of_which_nothing_is_known_begins_where_the_others_are():
    rng = np.random.default_rng(8)
    weights = Weights(["signal"], {})
    for _ in range(100):
        z = rng.normal(size=(1, 50))
        weights.step(5, z, int(z[0].argmax()), np.ones(50, bool), rng)
    assert weights.of(100)[0] > 0.5


def test_a_sampled_step_moves_like_a_full_one(monkeypatch):
    rng = np.random.default_rng(5)
    z = rng.normal(size=(2, 3000))
    full, sampled = Weights(["a", "b"], {"a": 0.5}), Weights(["a", "b"], {"a": 0.5})
    for _ in range(30):
        item = int(rng.integers(3000))
        full.step(0, z, item, np.ones(3000, bool), rng)
        monkeypatch.setattr("feed.evaluation.baselines.weighted.SAMPLED", 500)
        sampled.step(0, z, item, np.ones(3000, bool), rng)
        monkeypatch.setattr("feed.evaluation.baselines.weighted.SAMPLED", 4096)
    np.testing.assert_allclose(sampled.of(0), full.of(0), atol=0.05)


def likes(rng, user, genre, many, excluding=()):
    items = [f"i{k}" for k in range(genre * PER_GENRE, (genre + 1) * PER_GENRE)]
    return [(user, item) for item in rng.choice([item for item in items if item not in excluding], many, replace=False)]


def crowd(rng, excluding=()):
    """150 people of ten likes each, of a genre each."""
    return [pair for u in range(150) for pair in likes(rng, f"u{u}", int(rng.integers(GENRES)), 10, excluding)]


def found_of(pairs):
    """A click a minute."""
    return log([(user, item, "click", 60 * k) for k, (user, item) in enumerate(pairs)], ITEMS)


def fitted(found, trained, model=None):
    """A model that has learned so many rows in training, the rest online."""
    model = model or prior_covisitation()
    model.fit(found.rows.until(trained), found.catalogue)
    for k in range(trained, len(found.rows)):
        if found.rows.first[k]:
            model.learn(k, found.rows)
        model.observe(k, found.rows)
    return model


def scores_of(model, found, user):
    """By item, of what the user did not take."""
    at = float(found.rows.at[-1]) + 60
    code = found.user_ids.tolist().index(user)
    taken = set(found.rows.item[found.rows.user == code].tolist())
    scores = model.scores(code, at)
    return {str(item): float(scores[k]) for k, item in enumerate(found.item_ids) if k not in taken}


def share(scores, genre):
    """The genre's share of the ten best."""
    best = sorted(scores, key=lambda item: -scores[item])[:10]
    return np.mean([int(item[1:]) // PER_GENRE == genre for item in best])


def test_a_new_taste_is_learned_within_ten_events_and_the_old_one_forgotten():
    rng = np.random.default_rng(1)
    before, old, new = crowd(rng), likes(rng, "one", 0, 10), likes(rng, "one", 1, 10)
    for pairs, genre in (([*before, *old], 0), ([*before, *old, *new], 1)):
        found = found_of(pairs)
        assert share(scores_of(fitted(found, len(before)), found, "one"), genre) >= 0.9


def test_a_brand_new_item_of_a_liked_category_reaches_the_right_users():
    rng, new = np.random.default_rng(2), "i40"  # of genre 2, never taken
    before = crowd(rng, [new])
    found = found_of([*before, *likes(rng, "fan", 2, 8, [new]), *likes(rng, "other", 3, 8)])
    model = fitted(found, len(before))
    ranks = {}
    for user in ("fan", "other"):
        scores = scores_of(model, found, user)
        ranks[user] = sum(score > scores[new] for score in scores.values())
    assert ranks["fan"] < PER_GENRE <= ranks["other"]


def test_asking_changes_nothing():
    found = found_of(crowd(np.random.default_rng(3)))
    model, at = fitted(found, len(found.rows)), float(found.rows.at[-1])
    before = model.scores(3, at).copy()
    model.scores(5, at + 420)
    np.testing.assert_array_equal(model.scores(3, at), before)


def test_an_impression_says_nothing_of_taste():
    pairs = [(user, item, "click", 60 * k) for k, (user, item) in enumerate(crowd(np.random.default_rng(4)))]
    found = log([*pairs, ("new", "i0", "impression", 60 * len(pairs))], ITEMS)
    model = fitted(found, len(pairs))
    user = found.user_ids.tolist().index("new")
    before = model.scores(user, NOW + 1e6).copy()
    model.observe(len(pairs), found.rows)
    np.testing.assert_array_equal(model.scores(user, NOW + 1e6), before)


def test_a_target_is_learned_as_it_was_frozen():
    pairs = crowd(np.random.default_rng(5))[:500]
    found = found_of([*pairs, ("new", "i1"), ("new", "i2")])
    learned = []
    for freeze in (True, False):
        model = prior_covisitation()
        model.fit(found.rows.until(500), found.catalogue)
        if freeze:
            model.freeze(500, found.rows)
            model.observe(500, found.rows)
            model.observe(501, found.rows)
        model.learn(500, found.rows)
        learned.append(model.weights.values)
    np.testing.assert_array_equal(*learned)


@pytest.mark.parametrize("model", [prior, prior_covisitation])
@pytest.mark.parametrize("many", [0, 1, 2])
def test_a_log_of_nearly_nothing_is_learned(model, many):
    found = found_of([("u", "i0"), ("u", "i0")])
    made = fitted(found, many, model())
    assert np.isfinite(made.scores(0, NOW + 10)).all()


def test_the_prior_ranks_alike_for_everybody_of_a_segment():
    rng = np.random.default_rng(6)
    found = found_of([*crowd(rng), *likes(rng, "a", 0, 5), *likes(rng, "b", 1, 5)])
    model = fitted(found, len(found.rows), prior())
    one, other = (model.scores(found.user_ids.tolist().index(user), NOW + 1e6) for user in "ab")
    np.testing.assert_array_equal(one, other)
