"""What `benchmarks.parts` leaves out is not there, and its tables say what its runs say."""

import numpy as np
import pytest
import torch

from benchmarks import parts
from benchmarks.parts import PARTS, WHOLE, MultiTask, Narrowed
from feed.models.pairs import CHUNK, SAMPLED, Chunks
from feed.models.two_tower import NEAR
from tests.small import NOW, snapshot, world


@pytest.fixture(scope="module")
def there():
    state = world()
    return snapshot(state).space, state


def vectors(name, there):
    space, state = there
    narrowed = Narrowed.of(space, PARTS[name])
    users = [state.user(str(k)) for k in range(5)]
    return narrowed.user_inputs(users, NOW), narrowed.item_inputs(state.items, None, NOW)


def test_the_whole_is_what_is_served(there):
    space, state = there
    users, items = vectors(WHOLE, there)
    wanted = space.user_inputs([state.user(str(k)) for k in range(5)], NOW)
    assert all(np.array_equal(users.bag_weights[bag], wanted.bag_weights[bag]) for bag in wanted.bag_weights)
    assert np.array_equal(items.categorical, space.item_inputs(state.items, None, NOW).categorical)


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("without history", {"recent"}),
        ("without ids", {"recent"}),
        ("without affinities", {"categories", "creators", "tags", "lately_categories", "lately_tags"}),
    ],
)
def test_bags_that_are_left_out_are_empty_and_no_others(name, empty, there):
    users, _ = vectors(name, there)
    whole, _ = vectors(WHOLE, there)
    for bag, weights in users.bag_weights.items():
        assert np.array_equal(weights, 0 * weights if bag in empty else whole.bag_weights[bag])


def test_items_lose_what_is_left_out_and_nothing_else(there):
    space, _ = there
    column = [name for _, name in space.item_spec.categorical].index("item")
    _, whole = vectors(WHOLE, there)
    _, items = vectors("without ids", there)
    others = [k for k in range(whole.categorical.shape[1]) if k != column]
    assert not items.categorical[:, column].any()
    assert np.array_equal(items.categorical[:, others], whole.categorical[:, others])
    assert np.array_equal(items.numeric, whole.numeric)
    _, items = vectors("without content", there)
    assert not items.categorical[:, others].any()
    assert not items.bag_weights["tags"].any()
    assert np.array_equal(items.categorical[:, column], whole.categorical[:, column])
    _, items = vectors("without counts", there)
    assert not items.numeric.any()
    assert np.array_equal(items.categorical, whole.categorical)


def test_the_towers_descend_the_loss_of_the_tasks(there):
    space, state = there
    rng = np.random.default_rng(0)
    users = space.user_inputs([state.user(str(int(k))) for k in rng.integers(20, size=CHUNK)], NOW)
    items = space.item_inputs(state.items, rng.integers(120, size=CHUNK + SAMPLED), NOW)
    positive = rng.random((1, CHUNK)) < 0.5
    near = np.zeros((1, CHUNK, 1 + SAMPLED, NEAR), np.float16)
    chunks = Chunks(users, items, positive, np.ones((1, CHUNK, SAMPLED), bool), near)
    labels = np.repeat(positive[..., None], len(parts.TASKS), axis=2)
    torch.manual_seed(0)
    model = MultiTask(space.user_spec, space.item_spec, space.sizes)
    loss = parts.tasks_loss(labels, 0.5)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = loss(model, chunks, np.arange(1)).item()
    for _ in range(30):
        optimiser.zero_grad()
        loss(model, chunks, np.arange(1)).backward()
        optimiser.step()
    assert loss(model, chunks, np.arange(1)).item() < 0.5 * before
    assert all(table.grad is not None for table in model.user_tower.parameters())


def run(row, expected, seed=0, training=0, **figures):
    columns = {"user": ["a", "b"], "expected": expected, "best": [1.0, 1.0]}
    return {"row": row, "seed": seed, "training": training, "commit": "c0ffee", "figures": figures, **columns}


def test_a_part_is_compared_in_the_worlds_and_trainings_that_both_have():
    figures = {"auc": 0.8, "auc_looked_at": 0.6, "ndcg_at_10": 0.05}
    whole = [run(WHOLE, [0.6, 0.6], **figures), run(WHOLE, [0.8, 0.8], seed=1, **figures)]
    less = [run("without ids", [0.5, 0.5], **figures)]
    lines = parts.tables({"runs": [*whole, *less]})["parts"].splitlines()
    assert "2 worlds, 1 trainings each" in lines[0]
    assert lines[-2].startswith(f"| {WHOLE} | 70.0% (2) |")
    assert lines[-1] == "| without ids | 50.0% (1) | -10.0 (-10.0 – -10.0); 0 of 1 | 0.800 | 0.600 | 0.050 |"
