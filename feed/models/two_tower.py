"""The served model: a two-tower, the item prior and co-visitation, added with weights of the user's segment s.

    score = a_s logit + p_s . prior_i + c_s . near_ui,    logit = <u, v> + (w + w_s) . near_ui

with prior_i the item's decayed counts and its age (`feed.features.items.prior`), near_ui what the user's history says of the
item (`feed.features.near`), of which the logit reads the first form only. The logit is trained as a whole, so that the towers
learn what co-visitation leaves unexplained; the fusion weights a, p and c come after it and move nothing in it
(`feed.models.fusion`); until then the score is the logit. In the towers users and items become 64 numbers:

    x_u = numeric ++ e(categorical) ++ pooled bags          x_i likewise
    u = W2 dropout(relu(W1 x_u + b1)) + b2 + sum over pooled bags of (1 + 10 g) bag
    v = W2'dropout(relu(W1'x_i + b1'))+ b2'+ sum over e(category), e(creator), e(item), pooled tags of (1 + 10 g') part
    pooled bag = sum_k weight_k e(id_k)

Each vocabulary has one table for both towers, so what a user likes and what an item is meet in one embedding. The sums on the
right are residual paths: without them a log of a few thousand positives teaches little but popularity. g, one number a part,
0 at first, says how much a part counts: when the world changes, what was done lately must soon count more than what was done
last month, and the factor 10 lets a step move that as far as it moves ten weights.
Vectors hold what a score needs of each side, `WIDTH` numbers: a user's a u, p and a (w + w_s) + c, an item's v, its prior and
zeros, so that their dot product lacks only what co-visitation says of the pair, which `scores` adds.

References: Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations"; Yi et al. 2019, "Sampling-Bias-Corrected
Neural Modeling for Large Corpus Item Recommendations"; Volkovs et al. 2017, "DropoutNet", for the dropped ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feed.features import Inputs, InputSpec
from feed.features import items as item_features
from feed.features import near as near_features
from feed.features.near import Nearby, columns
from feed.features.space import SEGMENTS

HIDDEN = 128
VECTOR = 64
NEAR = near_features.COLUMNS
NEAR_OF_LOGIT = near_features.TAKEN_BESIDE
PRIOR = len(item_features.PRIOR) + 1
WIDTH = VECTOR + PRIOR + NEAR
OF_PRIOR = slice(VECTOR, VECTOR + PRIOR)  # places in a vector
OF_LOGIT = torch.zeros(WIDTH)  # 1 where the logit's numbers are
OF_LOGIT[:VECTOR] = OF_LOGIT[WIDTH - NEAR : WIDTH - NEAR + NEAR_OF_LOGIT] = 1.0
FUSED = 1 + PRIOR + NEAR  # the logit, the item prior, what the history says
MIX = 3.0  # a step moves a weight of co-visitation as far as three others
SMALL = 8  # width of the tables that only one tower reads
DROPOUT = 0.3
GATE = 10.0
ID_DROPOUT = 0.1  # share of ids read as unknown while training, so that row 0 learns what to expect of anything unseen
# Standard deviation of fresh embeddings. With 64 numbers a token meets itself with 64 * 0.2^2 = 2.6 and any other with about
# 0 +- 0.3: a liking for a category that few people have shown speaks for that category from the start. Most single items and
# creators have too little evidence to outgrow a draw that large; theirs is noise, so it is small. Two worlds: with 0.2 for all
# the first ten places were clicked at 0.140 and 0.146, with 0.1 for all at 0.146 and 0.148, so at 0.151 and 0.158; ten likes of
# one category raised its share of the top ten for 97-98 % of users, for 91-97 % with 0.1 for all.
SPREAD = 0.2
SPREAD_OF = {"item": 0.05, "creator": 0.05}


class TwoTower(nn.Module):
    """Vectors of users and items, `WIDTH` numbers each, for the given columns.

    `fusion` float32 (3, `FUSED`): a, p and c of each segment; `fusion_squares` (4, `FUSED`): how much has moved them, see
    `feed.learning.fusion`.

    `sizes` gives each vocabulary's rows, row 0 (unknown) included. `training` mode drops ids and hidden units at random;
    `eval()` is deterministic. Weights are drawn from torch's global generator.
    """

    def __init__(self, user_spec: InputSpec, item_spec: InputSpec, sizes: Mapping[str, int]) -> None:
        super().__init__()
        shared = {vocabulary for _, vocabulary in user_spec.bags}
        widths = {name: VECTOR if name in shared else SMALL for name in sorted(sizes)}
        self._tables = {name: i for i, name in enumerate(widths)}  # by number: names of modules must not contain dots
        self.tables = nn.ParameterList(
            torch.randn(sizes[name], width) * SPREAD_OF.get(name, SPREAD) for name, width in widths.items()
        )
        self.user_tower = Tower(user_spec, widths)
        self.item_tower = Tower(item_spec, widths)
        self.mix = nn.Parameter(torch.zeros(1 + len(SEGMENTS), NEAR_OF_LOGIT))
        self.fusion: Tensor
        self.register_buffer("fusion", logit_alone())
        self.fusion_squares: Tensor
        self.register_buffer("fusion_squares", torch.ones(1 + len(SEGMENTS), FUSED))

    @property
    def fused(self) -> bool:
        """Whether the score is more than the logit."""
        return not torch.equal(self.fusion, logit_alone())

    def user_vectors(self, users: Inputs) -> Tensor:
        """`users` of n rows -> float32 (n, WIDTH)."""
        return fuse(self.user_logits(users), F.embedding(torch.from_numpy(users.segment), self.fusion))

    def terms(self, users: Inputs) -> Tensor:
        """As `user_vectors`, for the sum of the logit and of the unweighted prior, if the score has it: float32 (n, WIDTH)."""
        weights = torch.zeros(FUSED)
        weights[0], weights[1:-NEAR] = 1.0, float(self.fused)
        return fuse(self.user_logits(users), weights.expand(len(users), FUSED))

    def item_vectors(self, items: Inputs) -> Tensor:
        """`items` of n rows -> float32 (n, WIDTH)."""
        return F.pad(torch.cat([self.item_logits(items), torch.from_numpy(items.prior)], dim=1), (0, NEAR))

    def user_logits(self, users: Inputs) -> Tensor:
        """What the logit needs of the users: float32 (n, VECTOR + NEAR_OF_LOGIT), u and w + w_s."""
        weights = MIX * (self.mix[0] + F.embedding(torch.from_numpy(users.segment), self.mix[1:]))
        return torch.cat([self._vectors(self.user_tower, users), weights], dim=1)

    def item_logits(self, items: Inputs) -> Tensor:
        """What the logit needs of the items: float32 (n, 64), v."""
        return self._vectors(self.item_tower, items)

    def _vectors(self, tower: "Tower", inputs: Inputs) -> Tensor:
        ids = torch.from_numpy(inputs.categorical)
        if self.training:
            ids = ids.masked_fill(torch.rand(ids.shape) < ID_DROPOUT, 0)
        embedded = [F.embedding(ids[:, i], self.table(vocabulary)) for i, (_, vocabulary) in enumerate(tower.spec.categorical)]
        for name, vocabulary in tower.spec.bags:
            bag, weights = torch.from_numpy(inputs.bag_ids[name]), torch.from_numpy(inputs.bag_weights[name])
            embedded.append(F.embedding_bag(bag, self.table(vocabulary), per_sample_weights=weights, mode="sum"))
        vectors: Tensor = tower(torch.from_numpy(inputs.numeric), embedded)
        return vectors

    def table(self, vocabulary: str) -> Tensor:
        """Its embeddings, float32 (rows, 64 or 8); the same object for good, also when it has grown."""
        table: Tensor = self.tables[self._tables[vocabulary]]
        return table

    @torch.no_grad()
    def enter(self, vocabulary: str, rows: Sequence[int], fresh: Tensor) -> None:
        """Tokens of a vocabulary take these k rows, float32 (k, width): others' rows, or the next ones after the last."""
        table = self.table(vocabulary)
        missing = max(rows) + 1 - len(table)
        if missing > 0:
            table.data = F.pad(table, (0, 0, 0, missing))
        table[list(rows)] = fresh


def scores(users: Tensor, items: Tensor, near: Sequence[Nearby]) -> Tensor:
    """Of n users and m items: vectors (n, WIDTH) and (m, WIDTH), and what each user's history says of items -> float32 (n, m).

    `near` numbers the items as `items` does; what is beyond them is left out.
    """
    logits = users @ items.T
    for row, said in enumerate(near):
        k = int(np.searchsorted(said.rows, len(items)))
        logits[row, said.rows[:k]] += torch.from_numpy(columns(said.said[:k])) @ users[row, -NEAR:]
    return logits


def fuse(users: Tensor, fusion: Tensor) -> Tensor:
    """What the logit needs of n users, as `user_logits`, with fusion weights of each, (n, FUSED) -> vectors (n, WIDTH)."""
    a, p, c = fusion[:, :1], fusion[:, 1:-NEAR], fusion[:, -NEAR:]
    return torch.cat([a * users[:, :VECTOR], p, F.pad(a * users[:, VECTOR:], (0, NEAR - NEAR_OF_LOGIT)) + c], dim=1)


def score_columns(user: Tensor, items: Tensor, prior: Tensor, near: Tensor) -> Tensor:
    """What the fusion weights weigh, float32 (m, FUSED), for one user and m items.

    `user` (VECTOR + NEAR_OF_LOGIT,) as `user_logits`, `items` (m, VECTOR) as `item_logits`, `prior` (m, PRIOR), and `near`
    (m, NEAR), the columns of `feed.features.near`.
    """
    logits = items @ user[:VECTOR] + near[:, :NEAR_OF_LOGIT] @ user[VECTOR:]
    return torch.cat([logits[:, None], prior, near], dim=1)


def near_logits(users: Tensor, near: Tensor) -> Tensor:
    """What co-visitation adds: `users` as `user_logits`, `near` (..., m, NEAR_OF_LOGIT) the first form -> (..., m)."""
    return (users[..., None, VECTOR:] * near).sum(dim=-1)


def logit_alone() -> Tensor:
    """The fusion weights, float32 (3, FUSED), by which the score is the logit."""
    return F.pad(torch.ones(len(SEGMENTS), 1), (0, FUSED - 1))


class Tower(nn.Module):
    """Linear 128, ReLU, dropout, Linear 64, plus the gated residual sum of the embeddings that are 64 wide."""

    def __init__(self, spec: InputSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.spec = spec
        width = len(spec.numeric) + sum(widths[vocabulary] for _, vocabulary in (*spec.categorical, *spec.bags))
        self.gates = nn.Parameter(torch.zeros(len(spec.categorical) + len(spec.bags)))
        self.layers = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, VECTOR))

    def forward(self, numeric: Tensor, embedded: list[Tensor]) -> Tensor:
        """float32 (n, F) and (n, width) for each categorical column and bag -> float32 (n, 64)."""
        out: Tensor = self.layers(torch.cat([numeric, *embedded], dim=1))
        for vector, gate in zip(embedded, self.gates, strict=True):
            if vector.shape[1] == VECTOR:
                out = out + (1.0 + GATE * gate) * vector
        return out
