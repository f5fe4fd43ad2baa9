"""Parts of the towers that are written out, because the general ones took a third of a step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DROPOUT = 0.3
SHORTEST = 1e-12


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(codes, weights)
        ctx.n = len(table)
        return F.embedding_bag(codes, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        codes, weights = ctx.saved_tensors
        live = np.flatnonzero(weights.numpy())
        items = codes.numpy().ravel()[live].astype(np.min_scalar_type(ctx.n))  # short integers are sorted by their digits
        order = np.argsort(items, kind="stable")
        begins = torch.from_numpy(np.searchsorted(items[order], np.arange(ctx.n)))
        places = torch.from_numpy(live[order])
        rows = places // codes.shape[1]
        return F.embedding_bag(rows, given[0], begins, per_sample_weights=weights.ravel()[places], mode="sum"), None, None


def pool(table: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
    """p_r = sum_k w_rk E[j_rk]: of E, float32 (n, d), by j, int64 (m, k), and w, float32 (m, k), the sums, float32 (m, d).

    The gradient of E[i] is a sum of the same kind, of w_rk dL/dp_r over the places (r, k) where j_rk = i.
    """
    pooled: Tensor = _Pool.apply(table, codes, weights)
    return pooled


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        shrink = 1.0 / x.norm(dim=1, keepdim=True).clamp_(min=SHORTEST)
        y: Tensor = x * shrink
        ctx.save_for_backward(y, shrink)
        return y

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        y, shrink = ctx.saved_tensors
        along = (given[0] * y).sum(dim=1, keepdim=True)
        gradient: Tensor = (given[0] - along * y).mul_(shrink)
        return gradient


def unit(x: Tensor) -> Tensor:
    """y = x / |x|, float32 (m, d), with the gradient (dL/dy - <dL/dy, y> y) / |x|; 0 stays 0."""
    y: Tensor = _Unit.apply(x)
    return y


def kept(x: Tensor, chance: torch.Generator) -> Tensor:
    """Factors like x: about a share DROPOUT of them 0, the others what keeps the mean 1; a byte each, as torch's take long."""
    least = round(256 * DROPOUT)
    drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=chance).view(torch.uint8)
    return (drawn[: x.numel()].view(x.shape) >= least).to(x.dtype).mul_(256 / (256 - least))
