import numpy as np

from feed.models.mixture.weights import Weights


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


def test_what_was_skipped_weighs_as_many_times_the_catalogue_as_is_said():
    rng = np.random.default_rng(5)
    z, names = rng.normal(size=(2, 8)).astype(np.float32), ["a", "b"]
    boosted, copied = Weights(names, {"a": 0.3}), Weights(names, {"a": 0.3})
    boosted.step(5, z, 2, np.ones(8, bool), rng, skipped=[4, 6], times=1.5)
    # the two together weigh 12 items: each stands there six times more
    many = np.concatenate([z, np.repeat(z[:, [4, 6]], 6, axis=1)], axis=1)
    copied.step(5, many, 2, np.ones(20, bool), rng)
    np.testing.assert_allclose(boosted.values, copied.values, rtol=1e-4)


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
        monkeypatch.setattr("feed.models.mixture.weights.SAMPLED", 500)
        sampled.step(0, z, item, np.ones(3000, bool), rng)
        monkeypatch.setattr("feed.models.mixture.weights.SAMPLED", 4096)
    np.testing.assert_allclose(sampled.of(0), full.of(0), atol=0.05)
