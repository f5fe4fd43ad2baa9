"""The two-tower that issue trackers are full of: ids and features, random negatives, binary cross-entropy, no history."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from feed.evaluation.rows import Catalogue, Rows

NEGATIVES = 4
BATCH = 512
WIDTH = 64


class Tower(nn.Module):
    """Codes (n, columns), each with an embedding of its own, 0 = missing -> (n, 64)."""

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        tables = [nn.Embedding(size, width, padding_idx=0) for size in sizes]
        for table in tables:
            nn.init.zeros_(table.weight)
            nn.init.normal_(table.weight[1:], std=0.05)  # ids that were never trained are to say little
        self._embeddings = nn.ModuleList(tables)
        self._out = nn.Sequential(nn.Linear(width * len(sizes), 128), nn.ReLU(), nn.Linear(128, WIDTH))

    def forward(self, codes: Tensor) -> Tensor:
        """float32 (n, 64)."""
        parts = [embedding(codes[:, i]) for i, embedding in enumerate(self._embeddings)]
        out: Tensor = self._out(torch.cat(parts, dim=1))
        return out


class NaiveTwoTower:
    """score = u . v; loss = -log sigmoid(u . v+) - sum over 4 items drawn at random of log sigmoid(-u . v-).

    Reference: He et al. 2017, "Neural Collaborative Filtering", WWW (the loss and its negatives).
    """

    def __init__(self, rate: float = 1e-3, epochs: int = 5, width: int = 32, online_rate: float = 1e-3, seed: int = 0) -> None:
        self._rate, self._epochs, self._width, self._online_rate, self._seed = rate, epochs, width, online_rate, seed

    def fit(self, rows: Rows, catalogue: Catalogue) -> None:
        """Train on the positives among the rows."""
        torch.manual_seed(self._seed)
        self._rng = np.random.default_rng(self._seed)
        users = np.column_stack([np.arange(catalogue.n_users) + 1, catalogue.user_features])
        items = np.column_stack([np.arange(catalogue.n_items) + 1, catalogue.category, catalogue.creator])
        self._user_codes, self._item_codes = torch.as_tensor(users).long(), torch.as_tensor(items).long()
        self._towers = nn.ModuleList(Tower((codes.max(axis=0) + 1).tolist(), self._width) for codes in (users, items))
        self._optimiser = torch.optim.Adam(self._towers.parameters(), self._rate)
        liked = np.flatnonzero(rows.positive)
        for _ in range(self._epochs):
            order = self._rng.permutation(liked)
            for begin in range(0, len(order), BATCH):
                self._step(rows.user[order[begin : begin + BATCH]], rows.item[order[begin : begin + BATCH]])
        for group in self._optimiser.param_groups:
            group["lr"] = self._online_rate
        self._vectors: Tensor | None = None

    def scores(self, user: int, at: float) -> np.ndarray:
        """float32 (m,)."""
        with torch.no_grad():
            if self._vectors is None:
                self._vectors = self._towers[1](self._item_codes)
            return np.asarray((self._vectors @ self._towers[0](self._user_codes[user : user + 1])[0]).numpy())

    def observe(self, k: int, rows: Rows) -> None:
        """There is no state."""

    def freeze(self, k: int, rows: Rows) -> None:
        """Its inputs are ids, which do not change."""

    def learn(self, k: int, rows: Rows) -> None:
        """One step of Adam on one positive."""
        self._step(rows.user[k : k + 1], rows.item[k : k + 1])
        self._vectors = None

    def _step(self, users: np.ndarray, items: np.ndarray) -> None:
        drawn = self._rng.integers(len(self._item_codes), size=(len(items), NEGATIVES))
        candidates = torch.as_tensor(np.column_stack([items, drawn])).long()
        u = self._towers[0](self._user_codes[torch.as_tensor(users).long()])
        v = self._towers[1](self._item_codes[candidates.reshape(-1)]).reshape(*candidates.shape, -1)
        logits = (v @ u[:, :, None])[..., 0]
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1.0
        self._optimiser.zero_grad()
        binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
