"""The two-tower as a column: trained on a log's chunks, judged in time, and learning on from what comes.

Training holds out the latest tenth, finds the epoch that explains it best, and trains anew on all. Where no epoch explains it
better than the other columns alone, there is no two-tower: its column is 0. Online, each new chunk is learned with
three of the past, drawn from a reservoir; alone it would make the model forget.

Reference: Vitter 1985, "Random Sampling with a Reservoir".
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from feed.models.adam import Adam
from feed.models.mixture.chunks import Chunk, Person, evidence, rows
from feed.models.mixture.parts import WHOLE, Parts
from feed.models.mixture.tower import VECTOR, Attributes, Towers

BATCH = 16  # chunks a step
RATE, RATE_ONLINE = 2e-3, 5e-4
EPOCHS = 6
HELD = 10  # the latest tenth
FEWEST = 2 * HELD  # chunks that can be split
RESERVOIR = 256  # chunks
REPLAYED = 3  # with each new chunk
STALE = 0.01  # an item's vector is computed again when its evidence has moved so far


class Residual:
    """What the towers add to a score of the n items that `attributes` tells of; nothing until `fit`."""

    def __init__(self, attributes: Attributes, seed: int, parts: Parts = WHOLE) -> None:
        self._attributes, self._seed, self._parts = attributes, seed, parts
        self._rng = np.random.default_rng(seed)
        self._evidence = np.zeros(len(attributes.tags), np.float32)
        self._towers: Towers | None = None
        self._reservoir: list[Chunk] = []
        self._offered = 0

    def fit(self, chunks: Sequence[Chunk]) -> int:
        """Train on chunks in the order of time; the number of epochs, 0 where the towers explain nothing."""
        split = len(chunks) - len(chunks) // HELD
        epochs = self._best(chunks[:split], chunks[split:]) if len(chunks) >= FEWEST else 0
        for chunk in chunks:
            self._offer(chunk)
        if epochs:
            self._start()
            for _ in range(epochs):
                self._epoch(chunks)
            self._settle()
        return epochs

    def learn(self, chunk: Chunk) -> None:
        """One step on the chunk and some of the past."""
        if self._towers is not None:
            replays = REPLAYED if self._reservoir and self._parts.replay else 0
            picked = self._rng.integers(0, max(len(self._reservoir), 1), replays)
            self._step([chunk, *(self._reservoir[i] for i in picked)], RATE_ONLINE)
            self._settle()
        self._offer(chunk)

    @torch.no_grad()
    def column(self, person: Person, counts: np.ndarray) -> np.ndarray:
        """float32 (n,): the logits for the person, where items have so many positives, `counts` (n,)."""
        if self._towers is None:
            return np.zeros(len(counts), np.float32)
        known = evidence(counts)
        if len(moved := np.flatnonzero(np.abs(known - self._evidence) > STALE)):
            self._refresh(moved, known)
        u = self._towers.users(*(torch.from_numpy(part) for part in rows([person])))
        logits: np.ndarray = (self._vectors @ u[0] + self._bias).numpy()
        return logits

    _vectors: Tensor  # float32 (n, 128) and (n,) for `_evidence`
    _bias: Tensor

    def _best(self, chunks: Sequence[Chunk], held: Sequence[Chunk]) -> int:
        """The number of epochs on `chunks` after which `held` is explained best."""
        self._start()
        losses = [without(held)]
        for _ in range(EPOCHS):
            self._epoch(chunks)
            losses.append(self._judge(held))
            if losses[-1] > min(losses):
                break
        self._towers = None
        return int(np.argmin(losses))

    def _start(self) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self._seed)
            self._towers = Towers(self._attributes, self._parts)
        self._adam = Adam(self._towers.parameters())

    def _epoch(self, chunks: Sequence[Chunk]) -> None:
        for which in np.array_split(self._rng.permutation(len(chunks)), max(1, len(chunks) // BATCH)):
            self._step([chunks[i] for i in which], RATE)

    def _step(self, chunks: Sequence[Chunk], rate: float) -> None:
        assert self._towers is not None
        self._towers.train()
        self._towers.loss(chunks).backward()  # type: ignore[no-untyped-call]
        self._adam.step(rate)

    @torch.no_grad()
    def _judge(self, chunks: Sequence[Chunk]) -> float:
        assert self._towers is not None
        self._towers.eval()
        return float(np.mean([float(self._towers.loss([chunk])) for chunk in chunks]))

    @torch.no_grad()
    def _settle(self) -> None:
        assert self._towers is not None
        n = len(self._attributes.tags)
        self._vectors, self._bias = torch.empty(n, VECTOR), torch.empty(n)
        self._refresh(np.arange(n), self._evidence)

    @torch.no_grad()
    def _refresh(self, items: np.ndarray, known: np.ndarray) -> None:
        assert self._towers is not None
        self._evidence[items] = known[items]
        which = torch.from_numpy(items)
        self._vectors[which], self._bias[which] = self._towers.eval().items(which, torch.from_numpy(known[items]))

    def _offer(self, chunk: Chunk) -> None:
        self._offered += 1
        if len(self._reservoir) < RESERVOIR:
            self._reservoir.append(chunk)
        elif (place := int(self._rng.integers(0, self._offered))) < RESERVOIR:
            self._reservoir[place] = chunk


def without(chunks: Sequence[Chunk]) -> float:
    """The mean loss of the chunks' offsets alone."""
    losses = []
    for chunk in chunks:
        offset = torch.from_numpy(chunk.offset).float()
        losses.append(float(torch.nn.functional.cross_entropy(offset, torch.from_numpy(chunk.target))))
    return float(np.mean(losses))
