"""Adam: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; w -= rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).

Written out, because `torch.optim` imports torch's compiler: 4 seconds for these lines.

Reference: Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

B1, B2, EPS = 0.9, 0.999, 1e-8


class Adam:
    """Moves `weights` by their gradients."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._parts = [(w, torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
        self._steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply the gradients and clear them."""
        self._steps += 1
        for w, m, v in self._parts:
            if w.grad is None:
                continue
            m.lerp_(w.grad, 1 - B1)
            v.mul_(B2).addcmul_(w.grad, w.grad, value=1 - B2)
            w.addcdiv_(m, v.div(1 - B2**self._steps).sqrt_().add_(EPS), value=-rate / (1 - B1**self._steps))
            w.grad = None
