import torch
from torch.nn.functional import cross_entropy

from feed.models.mixture.softmax import softmax_loss


def test_loss_and_gradients_are_those_of_cross_entropy():
    torch.manual_seed(7)
    u, v, bias = (
        torch.randn(300, 16, requires_grad=True),
        torch.randn(40, 16, requires_grad=True),
        torch.randn(40, requires_grad=True),
    )
    offset, target = torch.randn(300, 40), torch.randint(0, 40, (300,))
    offset[torch.arange(300), (target + 1) % 40] = -torch.inf
    loss = softmax_loss(u, v, bias, offset, target)
    loss.backward()
    ours = [w.grad.clone() for w in (u, v, bias)]
    for w in (u, v, bias):
        w.grad = None
    exact = cross_entropy(u @ v.T + bias + offset, target, reduction="sum")
    exact.backward()
    assert abs((loss - exact).item()) < 1e-2 * exact.item()
    for mine, theirs in zip(ours, (u.grad, v.grad, bias.grad), strict=True):
        assert ((mine - theirs).norm() / theirs.norm()).item() < 1e-2
