import torch
from torch.nn.functional import embedding_bag, normalize

from feed.models.mixture.ops import DROPOUT, kept, pool, unit


def _gradient(of, x, along):
    x = x.clone().requires_grad_()
    y = of(x)
    y.backward(along)
    return y.detach(), x.grad


def test_a_pool_and_its_gradient_are_those_of_an_embedding_bag():
    torch.manual_seed(1)
    for n in (7, 300):  # codes of one byte and of two
        table, codes, weights = torch.randn(n, 5), torch.randint(0, n, (20, 6)), torch.rand(20, 6)
        weights[3], weights[4, 2:] = 0.0, 0.0  # nothing in a row, and padding
        along = torch.randn(20, 5)
        ours = _gradient(lambda x: pool(x, codes, weights), table, along)  # noqa: B023
        theirs = _gradient(lambda x: embedding_bag(codes, x, per_sample_weights=weights, mode="sum"), table, along)  # noqa: B023
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


def test_a_unit_and_its_gradient_are_those_of_normalize():
    torch.manual_seed(2)
    x, along = torch.randn(9, 4), torch.randn(9, 4)
    for mine, other in zip(_gradient(unit, x, along), _gradient(lambda x: normalize(x, dim=1), x, along), strict=True):
        torch.testing.assert_close(mine, other)
    assert not unit(torch.zeros(1, 4)).any()


def test_what_is_kept_has_the_share_that_is_asked_for_in_every_column_and_a_mean_of_1():
    factors = kept(torch.zeros(4000, 16), torch.Generator().manual_seed(3))
    assert ((factors == 0).float().mean(dim=0) - DROPOUT).abs().max() < 0.04
    assert abs(float(factors.mean()) - 1) < 0.01


def test_what_is_kept_follows_from_the_generator():
    drawn = [kept(torch.zeros(5, 3), torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
