"""Adam whose embedding rows move only when something was learned of them.

    t_r += 1;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  w -= rate * m / (1 - b1^t_r) / (sqrt(v / (1 - b2^t_r)) + eps)

for the rows r of a table whose gradient is not zero; all other weights are one such row. Plain Adam goes on moving a row by its
momentum, for a hundred steps after it was last seen, and `t` counts from the start, so that the first step of a row seen late
would be three times too long.

Reference: Kingma and Ba 2015, "Adam", algorithm 1; rows as in "lazy" Adam, with a clock of their own.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

B1, B2, EPS = 0.9, 0.999, 1e-8


class RowAdam:
    """Moves `tables` (n, d) row by row and `others` whole; `state` goes on from what `tensors` gave.

    Raises `KeyError` or `ValueError` if `state` is of other weights.
    """

    def __init__(self, tables: Iterable[Tensor], others: Iterable[Tensor], state: Mapping[str, Tensor] | None = None) -> None:
        self._parts = [_Part(w, w.shape[0]) for w in tables] + [_Part(w, 1) for w in others]
        for i, part in enumerate(self._parts):
            if state is not None:
                part.restore(state, f".{i}")

    def norm(self) -> float:
        """The Euclidean norm of all gradients together."""
        squares = [torch.sum(part.w.grad.double() ** 2) for part in self._parts if part.w.grad is not None]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    def step(self, rate: float) -> None:
        """Apply the gradients and clear them."""
        for part in self._parts:
            part.step(rate)

    def skip(self) -> None:
        """Clear the gradients and move nothing."""
        for part in self._parts:
            part.w.grad = None

    def enter(self, table: Tensor, rows: Sequence[int]) -> None:
        """Of these rows of one of the tables, which may have grown, nothing is known any more."""
        next(part for part in self._parts if part.w is table).enter(rows)

    def tensors(self) -> dict[str, Tensor]:
        """All that steps have left: m, v and t of each weight, by its number."""
        return {name + f".{i}": tensor for i, part in enumerate(self._parts) for name, tensor in part.state().items()}


class _Part:
    """One weight as `rows` rows, with its m, v (rows, d) and t (rows, 1)."""

    def __init__(self, w: Tensor, rows: int) -> None:
        self.w, self._rows = w, rows
        self._m, self._v = torch.zeros(rows, w.numel() // rows), torch.zeros(rows, w.numel() // rows)
        self._t = torch.zeros(rows, 1)

    def state(self) -> dict[str, Tensor]:
        return {"m": self._m, "v": self._v, "t": self._t}

    def enter(self, rows: Sequence[int]) -> None:
        missing, self._rows = len(self.w) - self._rows, len(self.w)
        self._m, self._v, self._t = (pad(old, (0, 0, 0, missing)) for old in (self._m, self._v, self._t))
        for of in (self._m, self._v, self._t):
            of[list(rows)] = 0

    def restore(self, state: Mapping[str, Tensor], suffix: str) -> None:
        for name, mine in self.state().items():
            if state[name + suffix].shape != mine.shape:
                raise ValueError(f"{name}{suffix} has shape {tuple(state[name + suffix].shape)}, not {tuple(mine.shape)}")
            mine.copy_(state[name + suffix])

    @torch.no_grad()
    def step(self, rate: float) -> None:
        if self.w.grad is None:
            return
        w, g = self.w.view(self._rows, -1), self.w.grad.view(self._rows, -1)
        r = g.ne(0).any(dim=1).nonzero().squeeze(1) if self._rows > 1 else torch.zeros(1, dtype=torch.int64)
        g, t = g[r], self._t[r] + 1
        m, v = self._m[r].lerp_(g, 1 - B1), self._v[r].mul_(B2).addcmul_(g, g, value=1 - B2)
        w[r] -= rate * (m / (1 - B1**t)) / ((v / (1 - B2**t)).sqrt_() + EPS)
        self._m[r], self._v[r], self._t[r] = m, v, t
        self.w.grad = None
