import dataclasses
import math

import numpy as np
import pytest
import torch

from feed.features import Inputs, InputSpec
from feed.features.near import Nearby, columns, first_form
from feed.models.two_tower import NEAR, PRIOR, WIDTH, TwoTower, near_logits, score_columns, scores

USERS = InputSpec(("age",), (("country", "user.country"),), (("categories", "category"), ("tags", "tag"), ("recent", "item")))
ITEMS = InputSpec(("clicks", "fresh"), (("category", "category"), ("item", "item")), (("tags", "tag"),))
SIZES = {"user.country": 4, "category": 6, "item": 50, "tag": 9}


def users(categories, weights=None, segment=0):
    n = len(categories)
    ids = np.asarray(categories, np.int64).reshape(n, -1)
    weights = np.ones_like(ids, np.float32) if weights is None else np.asarray(weights, np.float32).reshape(n, -1)
    none = np.zeros((n, 1), np.int64)
    return Inputs(
        np.zeros((n, 1), np.float32),
        np.zeros((n, 1), np.int64),
        {"categories": ids, "tags": none, "recent": none},
        {"categories": weights, "tags": none.astype(np.float32), "recent": none.astype(np.float32)},
        np.full(n, segment),
        np.zeros((n, 0), np.float32),
    )


def items(categories, ids=None, prior=0.0):
    n = len(categories)
    ids = np.zeros(n, np.int64) if ids is None else np.asarray(ids)
    return Inputs(
        np.zeros((n, 2), np.float32),
        np.stack([np.asarray(categories), ids], axis=1).astype(np.int64),
        {"tags": np.zeros((n, 2), np.int64)},
        {"tags": np.zeros((n, 2), np.float32)},
        np.zeros(n, np.int64),
        np.full((n, PRIOR), prior, np.float32),
    )


def logits(model, u, v):
    """Row by row, where co-visitation says nothing."""
    return (model.user_vectors(u) * model.item_vectors(v)).sum(dim=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoTower(USERS, ITEMS, SIZES).eval()


def test_the_logit_is_a_dot_product_and_what_the_history_says_weighed_by_segment(model):
    u = model.user_vectors(users([[1], [2], [3]], segment=2))
    v = model.item_vectors(items([1, 2, 3, 4], [7, 8, 9, 1]))
    assert (u.shape, v.shape) == ((3, WIDTH), (4, WIDTH))
    values = [[1.0, 0.5, 0, 0], [0.2, 0, 0, 0], [5.0, 5.0, 1, 1]]
    said = Nearby(np.array([0, 2, 9]), np.array(values, np.float32))  # 9: an item that came later
    with torch.no_grad():
        assert torch.equal(scores(u, v, [said] * 3), u @ v.T)  # nothing was learned of co-visitation yet
        model.mix[0], model.mix[3] = torch.tensor([0.4, 0.0]), torch.tensor([0.1, -0.2])
        u = model.user_vectors(users([[1], [2], [3]], segment=2))
        together, following, *others = u[0, -NEAR:].tolist()
        assert together / following == pytest.approx(0.5 / -0.2)
        assert not any(others)
        more = scores(u, v, [said] * 3) - u @ v.T
        form = first_form(said.at(np.arange(4)))
        np.testing.assert_allclose(more[1], form @ [together, following], rtol=1e-5, atol=1e-6)
        of_logit = model.user_logits(users([[1], [2], [3]], segment=2))
        np.testing.assert_allclose(near_logits(of_logit, torch.from_numpy(form).expand(3, 4, 2)), more, atol=1e-6)
        elsewhere = model.user_vectors(users([[1], [2], [3]], segment=1))
        assert elsewhere[0, -NEAR:].tolist() == pytest.approx([together * 0.4 / 0.5, *[0.0] * (NEAR - 1)])


def test_the_score_adds_logit_prior_and_co_visitation_with_the_weights_of_the_users_segment(model):
    said = Nearby(np.array([1]), np.array([[1.0, 2.0, 3.0, 5.0]], np.float32))
    with torch.no_grad():
        model.mix[0] = torch.tensor([0.3, 0.1])
        u, v = model.user_vectors(users([[1]], segment=1)), model.item_vectors(items([1, 2], prior=0.5))
        logit = scores(u, v, [said])
        assert torch.equal(logit, scores(u, model.item_vectors(items([1, 2], prior=9.0)), [said]))  # until weights are fitted
        model.fusion[1] = torch.tensor([2.0, *[0.1] * PRIOR, *[0.0] * (NEAR - 3), 1.5, 0.5, -0.25])
        u, elsewhere = (model.user_vectors(users([[1]], segment=segment)) for segment in (1, 2))
        expected = 2 * logit + 0.1 * PRIOR * 0.5 + torch.tensor([0.0, 1.5 + 0.5 * math.log(4) - 0.25 * math.log(6)])
        torch.testing.assert_close(scores(u, v, [said]), expected)
        torch.testing.assert_close(scores(elsewhere, v, [said]), logit)


def test_the_columns_weighed_by_fusion_weights_are_the_score(model):
    """In the order in which both fits of the weights and the vectors of feeds read them."""
    rng, drawn = np.random.default_rng(0), torch.Generator().manual_seed(0)
    user, made = users([[1]], segment=1), items([1, 2, 3], prior=0.5)
    made = dataclasses.replace(made, prior=rng.random(made.prior.shape).astype(np.float32))
    said = Nearby(np.arange(3), rng.random((3, 4)).astype(np.float32))
    with torch.no_grad():
        model.mix.copy_(torch.randn(model.mix.shape, generator=drawn))
        model.fusion.copy_(torch.randn(model.fusion.shape, generator=drawn))
        near, prior = torch.from_numpy(columns(said.said)), torch.from_numpy(made.prior)
        x = score_columns(model.user_logits(user)[0], model.item_logits(made), prior, near)
        score = scores(model.user_vectors(user), model.item_vectors(made), [said])[0]
    torch.testing.assert_close(x @ model.fusion[1], score, rtol=1e-4, atol=1e-5)


def test_padding_of_a_bag_changes_nothing(model):
    short, long = users([[2]], [[0.5]]), users([[2, 0, 0]], [[0.5, 0.0, 0.0]])
    assert torch.equal(model.user_vectors(short), model.user_vectors(long))


def test_a_bag_is_the_weighted_sum_of_its_embeddings(model):
    once, thrice = users([[2, 2]], [[0.5, 1.0]]), users([[2]], [[1.5]])
    assert torch.allclose(model.user_vectors(once), model.user_vectors(thrice), atol=1e-6)


def test_prediction_is_deterministic_and_training_is_not(model):
    u = users([[1]] * 40)
    assert torch.equal(model.user_vectors(u), model.user_vectors(u))
    model.train()
    assert not torch.equal(model.user_vectors(u), model.user_vectors(u))


def train(model, draw, steps=150):
    """BCE on batches of (users, items, labels) drawn by `draw`."""
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(steps):
        u, v, labels = draw()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(model, u, v), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_an_unseen_item_is_scored_by_its_content(model):
    rng = np.random.default_rng(0)

    def draw():
        liked, category = rng.integers(1, 6, 256), rng.integers(1, 6, 256)
        return users(liked[:, None]), items(category, rng.integers(1, 40, 256)), (liked == category).astype(np.float32)

    train(model, draw)
    scores = torch.sigmoid(logits(model, users([[1], [1], [3], [3]]), items([1, 2, 3, 2]))).tolist()  # item row 0: never seen
    assert min(scores[0], scores[2]) > 0.8 > 0.2 > max(scores[1], scores[3])


def test_the_row_of_unknown_items_is_trained_though_no_example_names_it(model):
    rng = np.random.default_rng(0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    table = f"tables.{sorted(SIZES).index('item')}"

    def draw():
        ids = rng.integers(1, 40, 64)
        return users(np.ones((64, 1))), items(np.ones(64), ids), (ids % 2).astype(np.float32)

    train(model, draw, 20)
    after = model.state_dict()[table]
    assert not torch.equal(after[0], before[table][0])
    assert torch.equal(after[45], before[table][45]), "an id that never occurs stays as it was drawn"
    known = torch.sigmoid(logits(model, users([[1], [1]]), items([1, 1], [1, 2])))
    assert known[1] < torch.sigmoid(logits(model, users([[1]]), items([1])))[0] < known[0], "unknown lies between good and bad"
