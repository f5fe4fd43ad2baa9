"""A two-tower network for what the other columns leave unexplained; three towers with `Parts.context`.

    p_u = sum_k 0.9^k e(j_k) / sqrt(sum_k 0.9^k)                         over the user's latest 50 positives j_0, j_1, ...
    u = W2 dropout(relu(W1 [profile, p_u, log(1 + positives)] + b1)) + b2 + p_u
    v = W2'dropout(relu(W1'[category, creator, tags, c e(i)] + b1')) + b2'+ c e(i),   c = n_i / (n_i + 20)
    logit = <u / |u|, v / |v|> / 0.2 + c b_i

    loss = -log softmax(offset + logit)_i   over the items that could have been taken

with the mixture's score of the moment as the offset (less log q of items that were sampled with probability q), so that nothing
is learned twice. An item's own embedding counts as far as its n_i positives can have trained it; a new one has its content.
No embedding of the user's own: the history says more, and of everybody. With `Parts.sequence` p_u is the state of a transformer
(`sequence`). With `Parts.context` u has one term more, of the moment (`chunks.Moment`), read by embeddings of 8 numbers each:

    W2" dropout(relu(W1"[hour, weekday, pause] + b1")) + b2"

References: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (q); Yang et al.
2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks"; Friedman 2001, "Greedy Function Approximation"
(learning the residual of what is there).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feed.models.mixture.chunks import CONTEXT, HISTORY, Chunk
from feed.models.mixture.ops import kept, pool, unit
from feed.models.mixture.parts import WHOLE, Parts
from feed.models.mixture.sequence import Transformer
from feed.models.mixture.softmax import HALF, softmax_loss

VECTOR, HIDDEN, SMALL = 128, 128, 8
TEMPERATURE = 0.2
SPREAD = 0.05  # standard deviation of fresh embeddings


@dataclass(frozen=True)
class Attributes:
    """Codes from 0: `profile` int64 (users, f), `content` int64 (n, g); `tags` float32 (n, t), rows summing to 1 or 0."""

    profile: np.ndarray
    content: np.ndarray
    tags: np.ndarray


class Towers(nn.Module):
    """Both towers over the attributes' users and items; weights are drawn from torch's global generator."""

    def __init__(self, attributes: Attributes, parts: Parts = WHOLE) -> None:
        super().__init__()
        self._parts = parts
        n, tags = attributes.tags.shape
        self._profile, self._content = torch.from_numpy(attributes.profile), torch.from_numpy(attributes.content)
        self._tags = torch.from_numpy(attributes.tags)
        self.ids = nn.Parameter(torch.randn(n, VECTOR) * SPREAD)
        self.bias = nn.Parameter(torch.zeros(n))
        self.of_profile = _embeddings(attributes.profile)
        self.of_content = _embeddings(attributes.content)
        self.of_tags = nn.Parameter(torch.randn(tags, SMALL) * SPREAD)
        self.user = _layers(SMALL * len(self.of_profile) + VECTOR + 1)
        self.item = _layers(SMALL * (len(self.of_content) + 1) + VECTOR)
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        if parts.sequence:
            self.sequence = Transformer(HISTORY, VECTOR, SPREAD, self._chance)
        if parts.context:
            self.of_context = nn.ParameterList(torch.randn(size, SMALL) * SPREAD for size in CONTEXT)
            self.context = _layers(SMALL * len(CONTEXT))

    def users(self, users: Tensor, history: Tensor, weights: Tensor, positives: Tensor, moments: Tensor) -> Tensor:
        """As in `Chunk`, float32 (m, 128), each of length 1 / temperature."""
        if not self._parts.history:
            weights = torch.zeros_like(weights)
        if self._parts.sequence:
            with self._half():
                pooled = self.sequence(self.ids, history, weights > 0)
        else:
            pooled = pool(self.ids, history, weights)
        profile = [F.embedding(self._profile[users, i], table) for i, table in enumerate(self.of_profile)]
        out = self._through(self.user, torch.cat([*profile, pooled, positives[:, None]], dim=1)) + pooled
        if self._parts.context:
            context = [F.embedding(moments[:, i], table) for i, table in enumerate(self.of_context)]
            out = out + self._through(self.context, torch.cat(context, dim=1))
        return unit(out) / TEMPERATURE

    def items(self, items: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (s,), float32 (s,) from 0 to 1 -> float32 (s, 128), each of length 1, and the biases (s,)."""
        if not self._parts.ids:
            evidence = torch.zeros_like(evidence)
        own = self.ids[items] * evidence[:, None]
        content = [F.embedding(self._content[items, i], table) for i, table in enumerate(self.of_content)]
        out = self._through(self.item, torch.cat([*content, self._tags[items] @ self.of_tags, own], dim=1)) + own
        return unit(out), self.bias[items] * evidence

    def _through(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        inner, outer = layers
        with self._half():
            hidden = F.relu(inner(x))
            if self.training:
                hidden = hidden * kept(hidden, self._chance)
            out: Tensor = outer(hidden)
        return out.float()

    def _half(self) -> torch.autocast:
        return torch.autocast("cpu", HALF, enabled=self.training and HALF is torch.bfloat16)

    def loss(self, chunks: Sequence[Chunk]) -> Tensor:
        """The mean loss of the chunks' positives, scalar."""
        groups = [list(group) for _, group in groupby(chunks, key=lambda chunk: id(chunk.candidates))]
        firsts = [group[0] for group in groups]
        rows, columns = [sum(len(chunk.target) for chunk in group) for group in groups], [len(one.candidates) for one in firsts]
        u = self.users(*(_stack(chunks, name) for name in ("users", "history", "weights", "positives", "moments")))
        v, bias = self.items(_stack(firsts, "candidates"), _stack(firsts, "evidence"))
        losses = [
            softmax_loss(own_u, own_v, own_bias, _stack(group, "offset"), _stack(group, "target"))
            for group, own_u, own_v, own_bias in zip(
                groups, torch.split(u, rows), torch.split(v, columns), torch.split(bias, columns), strict=True
            )
        ]
        return torch.stack(losses).sum() / len(u)


def _embeddings(codes: np.ndarray) -> nn.ParameterList:
    sizes = codes.max(axis=0, initial=0) + 1
    return nn.ParameterList(torch.randn(int(size), SMALL) * SPREAD for size in sizes)


def _layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, VECTOR))


def _stack(chunks: Sequence[Chunk], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([getattr(chunk, name) for chunk in chunks]))
