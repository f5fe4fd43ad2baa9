from functools import partial

import numpy as np
import pytest
import torch

from feed.catalogue import Item
from feed.events import Click, View, utc
from feed.features import FeatureSpace
from feed.models import train as training
from feed.models.adam import Adam
from feed.models.pairs import ChunkCollector, Log, pairs_of, replay
from feed.models.train import train

START = 1_700_000_000.0


@pytest.fixture(scope="module")
def frozen():
    """40 users look at items of four categories and click on one of them, each user on his own: a checker board."""
    draw = np.random.default_rng(0)
    items = [Item(item_id=f"i{i}", category=f"c{i % 4}") for i in range(200)]
    events = []
    for n in range(3000):
        user, item = int(draw.integers(40)), int(draw.integers(200))
        kind = Click if user % 4 == item % 4 else View
        about = {"event_id": f"e{n}", "user_id": f"u{user}", "item_id": f"i{item}"}
        events.append(kind(**about, occurred_at=utc(START + n)))
    log = Log(items, [], events)
    for _, state in replay(log, [len(events)]):
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    collector = ChunkCollector(space, [], pairs_of(log), np.random.default_rng(0))
    for stop, before in replay(log, collector.stops):
        collector.look(stop, before)
    return space, collector.chunks(), state


def run(frozen, judge=lambda model: 0.0, epochs=2, seed=0):
    space, chunks, _ = frozen
    return train(space, chunks, judge, epochs=epochs, seed=seed)


def test_a_user_gets_the_category_he_clicks_on(frozen):
    space, _, state = frozen
    model = run(frozen, epochs=12).model
    users = [state.users[f"u{u}"] for u in range(40)]
    with torch.no_grad():
        u = model.user_vectors(space.user_inputs(users, state.now))
        v = model.item_vectors(space.item_inputs(state.items, None, state.now))
    best = (u @ v.T).argsort(dim=1, descending=True)[:, :10]
    category = torch.from_numpy(state.items.category)[best] - 1
    assert (category == torch.arange(40)[:, None] % 4).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights(frozen):
    one, two, other = run(frozen), run(frozen), run(frozen, seed=1)
    same = [torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


def test_training_stops_after_two_epochs_without_a_better_one_and_keeps_the_best(frozen):
    verdicts = iter([0.5, 0.4, 0.7, 0.6, 0.6, 0.9])
    weights = []

    def judge(model):
        weights.append(next(model.parameters()).detach().clone())
        return next(verdicts)

    trained = run(frozen, judge, epochs=6)
    assert (trained.epoch, trained.judgements) == (3, (0.5, 0.4, 0.7, 0.6, 0.6))
    assert torch.equal(next(trained.model.parameters()), weights[2])
    assert not trained.model.training


def test_progress_is_told_up_to_the_last_step(frozen):
    space, chunks, _ = frozen
    told = []
    train(space, chunks, lambda model: 0.0, epochs=2, seed=0, stepped=lambda step, steps: told.append((step, steps)))
    assert told == [(step, told[-1][1]) for step in range(1, told[-1][1] + 1)]


def test_adam_is_torchs_adam():
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    steps = [(ours, partial(Adam([ours]).step, training.RATE)), (theirs, torch.optim.Adam([theirs], training.RATE).step)]
    for _ in range(20):
        for weight, step in steps:
            (weight.square().sum() + weight.sin().sum()).backward()
            step()
            weight.grad = None
    assert torch.allclose(ours, theirs, atol=1e-7)
