"""A small causal transformer over what a user liked, in place of the pooled history of `tower`.

    x_k = e(j_k) + q_k                     for the item j_k liked k steps back, with a learned q for each of 50 places
    x_k <- x_k + W_O [head_1, head_2]      head = sum over l >= k of softmax_l(<W_Q y_k, W_K y_l> / sqrt(64)) W_V y_l
    x_k <- x_k + W_2 relu(W_1 z_k + b_1) + b_2
    s_u = norm(x_0)

with y_k = norm(x_k) before the heads and z_k = norm(x_k) after them, each norm a layer norm of its own. A place sees itself and
what came before it, l >= k; s_u, the state at the latest item, stands where p_u does without a transformer. Of the last block
no other state is computed, as nothing would read it. Dropout follows the embeddings, the heads and each layer.
References: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation"; Xiong et al. 2020, "On Layer Normalization in
the Transformer Architecture" (the norm in front).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feed.models.mixture.ops import kept, pool

BLOCKS, HEADS = 1, 2  # with two blocks a step took three times as long


class Transformer(nn.Module):
    """The blocks over places of `width` numbers; weights are drawn from torch's global generator, dropout from `chance`."""

    def __init__(self, places: int, width: int, spread: float, chance: torch.Generator) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(places, width) * spread)
        self.blocks = nn.ModuleList(_Block(width, chance) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, spread)  # a state begins as long as an item's embedding
        self._chance = chance

    def forward(self, table: Tensor, history: Tensor, live: Tensor) -> Tensor:
        """Rows of `table` float32 (n, width) by `history` int64 (m, k), the latest first, where `live`, bool (m, k), is true.

        float32 (m, width): the states at the latest items, 0 of a history with nothing in it.
        """
        m, k = history.shape
        x = pool(table, history.reshape(-1, 1), live.reshape(-1, 1).float()).view(m, k, -1) + self.places[:k]
        if self.training:
            x = x * kept(x, self._chance)
        for block in self.blocks[:-1]:
            x = block(x, live, k)
        state = self.norm(self.blocks[-1](x, live, 1)[:, 0].float())
        return torch.where(live[:, :1], state, 0.0)


class _Block(nn.Module):
    def __init__(self, width: int, chance: torch.Generator) -> None:
        super().__init__()
        self.before_heads, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self._chance = chance

    def forward(self, x: Tensor, live: Tensor, latest: int) -> Tensor:
        """(m, k, width) -> (m, latest, width): the states at so many latest places."""
        k = x.shape[1]
        y = self.before_heads(x)
        key, value = self.key_value(y).view(*y.shape[:2], 2 * HEADS, -1).transpose(1, 2).chunk(2, dim=1)
        query = self.query(y[:, :latest]).view(len(x), latest, HEADS, -1).transpose(1, 2)
        further = torch.ones(latest, k, dtype=torch.bool).triu(1) & live[:, None, None, :]
        seen = further | torch.eye(latest, k, dtype=torch.bool)  # a place always sees itself, so that there is something to see
        scores = (query @ key.transpose(2, 3)).float() / query.shape[3] ** 0.5
        heads = scores.masked_fill(~seen, -torch.inf).softmax(dim=3).to(value.dtype) @ value
        x = x[:, :latest] + self._dropped(self.out(heads.transpose(1, 2).flatten(2)))
        return x + self._dropped(self.outer(self._dropped(F.relu(self.inner(self.before_layers(x))))))

    def _dropped(self, x: Tensor) -> Tensor:
        return x * kept(x, self._chance) if self.training else x
