"""A small causal transformer over what a user liked, in order: what comes next?"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from feed.errors import BadSetting
from feed.evaluation.baselines.liked import liked_of
from feed.evaluation.rows import Catalogue, Rows

LENGTH = 50
HEADS = 2
BATCH = 32  # sequences
SAMPLED = 4096  # items of a larger catalogue drawn for a batch


class Net(nn.Module):
    """Item codes (b, t), 0 = none, latest last -> (b, t, width), each position from those up to it."""

    def __init__(self, items: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, width, padding_idx=0)
        self._places = nn.Embedding(LENGTH, width)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self._places.weight, std=0.02)
        self._dropout = nn.Dropout(dropout)
        self._blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self._norm = nn.LayerNorm(width)

    def forward(self, codes: Tensor) -> Tensor:
        """float32 (b, t, width)."""
        t = codes.shape[1]
        x = self._dropout(self.items(codes) * self.items.embedding_dim**0.5 + self._places.weight[:t])
        later = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
        for block in self._blocks:
            x = block(x, src_mask=later)
        out: Tensor = self._norm(x)
        return out


class SasRec:
    """score(i) = x_t . e_i with x_t the net's output at the latest like; cross-entropy over the catalogue at every position.

    Reference: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", ICDM; the full softmax in place of one
    negative after Klenitskiy and Vasilev 2023, "Turning Dross Into Gold Loss", RecSys.
    """

    def __init__(
        self, epochs: int = 30, dropout: float = 0.5, width: int = 64, layers: int = 2, rate: float = 1e-3, seed: int = 0
    ) -> None:
        if width % HEADS:
            raise BadSetting(f"--set width={width}: sasrec has {HEADS} heads, which share its width: give it an even one")
        self._epochs, self._dropout, self._width = epochs, dropout, width
        self._layers, self._rate, self._seed = layers, rate, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Train on the sequences of positives among the rows."""
        torch.manual_seed(self._seed)
        rng = np.random.default_rng(self._seed)
        self._m = catalogue.n_items
        self._liked = liked_of(rows)
        self._net = Net(self._m, self._width, self._layers, self._dropout)
        optimiser = torch.optim.Adam(self._net.parameters(), self._rate)
        sequences = [items + 1 for _, items in self._liked.users() if len(items) > 1]
        for _ in range(self._epochs):
            windows = _windows(sequences, rng)
            for begin in range(0, len(windows), BATCH):
                batch = torch.as_tensor(windows[begin : begin + BATCH])
                optimiser.zero_grad()
                self._loss(batch, rng).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        self._net.eval()

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (m,); all 0 without a like."""
        liked = self._liked.of(user)[-LENGTH:]
        if not len(liked):
            return np.zeros(self._m, np.float32)
        with torch.no_grad():
            x = self._net(torch.as_tensor(liked[None] + 1))[0, -1]
            return np.asarray((self._net.items.weight[1:] @ x).numpy())

    def observe(self, k: int, rows: Rows) -> None:
        """A positive joins its user's history."""
        self._liked.observe(k, rows)

    def learn(self, k: int, rows: Rows) -> None:
        """The net stays as it was fitted."""

    def _loss(self, batch: Tensor, rng: np.random.Generator) -> Tensor:
        inputs, wanted = batch[:, :-1], batch[:, 1:]
        x = self._net(inputs)[wanted > 0]
        targets = wanted[wanted > 0]
        if self._m <= SAMPLED:
            return cross_entropy(x @ self._net.items.weight[1:].T, targets - 1)
        drawn = torch.as_tensor(rng.integers(1, self._m + 1, size=SAMPLED))
        own = (x * self._net.items(targets)).sum(dim=1, keepdim=True)
        # each drawn item stands for m / SAMPLED of them
        others = x @ self._net.items(drawn).T + float(np.log(self._m / SAMPLED))
        others = others.masked_fill(drawn == targets[:, None], -torch.inf)
        return cross_entropy(torch.cat([own, others], dim=1), torch.zeros(len(targets), dtype=torch.long))


def _windows(sequences: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """int64 (w, LENGTH + 1): the sequences cut in pieces at a random place, padded with 0 behind, shuffled."""
    pieces = []
    for sequence in sequences:
        offset = int(rng.integers(0, LENGTH)) if len(sequence) > LENGTH + 1 else 0
        begins = [0, *range(offset, len(sequence) - 1, LENGTH)] if offset else range(0, len(sequence) - 1, LENGTH)
        for begin, end in zip(begins, [*list(begins)[1:], len(sequence)], strict=True):
            piece = sequence[begin : end + 1][: LENGTH + 1]
            pieces.append(np.pad(piece, (0, LENGTH + 1 - len(piece))))
    return np.array(pieces, np.int64).reshape(-1, LENGTH + 1)[rng.permutation(len(pieces))]
