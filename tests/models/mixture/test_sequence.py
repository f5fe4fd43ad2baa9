import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from feed.models.adam import Adam
from feed.models.mixture.chunks import Builder, Person
from feed.models.mixture.parts import Parts
from feed.models.mixture.sequence import Transformer
from feed.models.mixture.tower import Attributes, Towers

ITEMS, WIDTH = 30, 16


@pytest.fixture
def transformer():
    torch.manual_seed(1)
    return Transformer(8, WIDTH, 1.0, torch.Generator().manual_seed(1)).eval()


@pytest.fixture
def table():
    return torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(2))


def _of(*items):
    return torch.tensor([items]), torch.ones(1, len(items), dtype=torch.bool)


def test_the_order_of_a_history_matters(transformer, table):
    states = [transformer(table, *_of(*items)) for items in ((3, 5, 7), (3, 7, 5), (5, 3, 7))]
    assert (states[0] - states[1]).abs().max() > 0.01
    assert (states[0] - states[2]).abs().max() > 0.01


def test_what_stands_behind_a_history_does_not_matter(transformer, table):
    alone = transformer(table, *_of(3, 5))
    for behind in (0, 9):
        history, live = _of(3, 5, behind, behind)
        live[:, 2:] = False
        torch.testing.assert_close(transformer(table, history, live), alone)


def test_nobody_without_a_history_has_a_state(transformer, table):
    history, live = _of(0, 0)
    assert not transformer(table, history, ~live).any()


def test_a_place_does_not_see_what_came_after_it(transformer):
    block, live = transformer.blocks[0], torch.ones(1, 5, dtype=torch.bool)
    x = torch.randn(1, 5, WIDTH)
    later = x.clone()
    later[:, :2] = torch.randn(2, WIDTH)  # the two latest
    moved = (block(x, live, 5) - block(later, live, 5)).abs().amax(dim=2)[0]
    assert moved[2:].max() < 1e-5
    assert moved[:2].min() > 0.01
    earlier = x.clone()
    earlier[:, 4] = torch.randn(WIDTH)
    assert (block(x, live, 5) - block(earlier, live, 5)).abs().amax(dim=2).min() > 1e-4


def test_the_latest_state_does_not_depend_on_which_others_are_computed(transformer):
    block, live = transformer.blocks[0], torch.ones(3, 5, dtype=torch.bool)
    live[1, 2:] = False
    x = torch.randn(3, 5, WIDTH)
    torch.testing.assert_close(block(x, live, 1), block(x, live, 5)[:, :1])


def test_what_follows_from_an_order_is_learned():
    """The next item is the one after the item before the latest, in the order of codes."""
    torch.manual_seed(3)
    table = torch.nn.Parameter(torch.randn(ITEMS, WIDTH))
    transformer = Transformer(4, WIDTH, 1.0, torch.Generator().manual_seed(3))
    adam, live = Adam([table, *transformer.parameters()]), torch.ones(128, 4, dtype=torch.bool)
    for _ in range(300):
        history = torch.rand(128, ITEMS).topk(4, dim=1).indices
        cross_entropy(transformer(table, history, live) @ table.T, (history[:, 1] + 1) % ITEMS).backward()
        adam.step(1e-2)
    history = torch.rand(128, ITEMS).topk(4, dim=1).indices
    best = (transformer.eval()(table, history, live) @ table.T).argmax(dim=1)
    assert (best == (history[:, 1] + 1) % ITEMS).float().mean() > 0.8


def test_a_loss_follows_from_the_seed_alone():
    builder, counts, chunk = Builder(ITEMS, np.random.default_rng(4)), np.full(ITEMS, 1000), None
    while chunk is None:
        chunk = builder.add(Person(0, [1, 2, 3], 3), 4, np.zeros(ITEMS), np.ones(ITEMS, bool), counts)
    empty = np.zeros((ITEMS, 0), np.int64)
    losses = []
    for drawn_between in (5, 6):
        torch.manual_seed(1)
        towers = Towers(Attributes(np.zeros((1, 0), np.int64), empty, empty.astype(np.float32)), Parts(sequence=True))
        torch.manual_seed(drawn_between)
        losses.append([towers.loss([chunk]).item() for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]  # dropout is drawn anew
