"""One version's scores of examples: of their own rows, and of the whole catalogue as the log last showed it."""

from collections.abc import Sequence
from time import thread_time

import numpy as np
import torch

from feed.examples import Example, Row
from feed.features import items as item_features
from feed.features.frozen import ItemFeatures, nearby
from feed.features.near import columns
from feed.models.snapshot import Snapshot
from feed.models.two_tower import NEAR, OF_PRIOR, WIDTH
from feed.trial.catalogue import LastSeen


class Scorer:
    """Scores as the version would; one forward pass a call. `seconds`: CPU time of each call of `logits`."""

    def __init__(self, trained: Snapshot) -> None:
        self._trained = trained
        self._vectors = np.zeros((0, WIDTH), np.float32)
        self._prior = np.zeros((0, len(item_features.PRIOR)))  # as the items were when they were seen
        self._updates = 0
        self.seconds: list[float] = []

    def logits(self, examples: Sequence[Example], rows: Sequence[Row], owner: np.ndarray) -> np.ndarray:
        """float64 (n,): the logit of each of n rows for the user of example `owner[i]`."""
        began = thread_time()  # not the wall clock: another process may have had the core
        if not rows:
            return np.zeros(0)
        vectors, users = self._embed([row.item for row in rows]), self.users(examples)
        vectors[:, -NEAR:] = columns(np.array([row.near for row in rows]))
        logits = (users[owner].astype(np.float64) * vectors).sum(axis=1)
        self.seconds.append(thread_time() - began)
        return np.asarray(logits)

    def users(self, examples: Sequence[Example]) -> np.ndarray:
        """float32 (n, `WIDTH`): the examples' users."""
        with torch.no_grad():
            inputs = self._trained.space.frozen_users([example.user for example in examples])
            return np.asarray(self._trained.model.user_vectors(inputs).numpy())

    def catalogue(self, examples: Sequence[Example], catalogue: LastSeen) -> np.ndarray:
        """float64 (n, slots): the logit of every slot's item for each example's user; meaningless in empty slots.

        Of what the user's history says it knows only what `UserFeatures.near` has. Counts of an item fade since it was seen.
        """
        changed = catalogue.changed_since(self._updates)
        if len(self._vectors) < len(catalogue.items):
            grown = np.zeros((2 * len(catalogue.items), WIDTH), np.float32)
            grown[: len(self._vectors)] = self._vectors
            self._vectors = grown
            self._prior = np.pad(self._prior, ((0, len(grown) - len(self._prior)), (0, 0)))
        if len(changed):
            items = [item for slot in changed if (item := catalogue.items[slot])]
            self._vectors[changed] = self._embed(items)
            self._prior[changed] = [item.numeric[: len(item_features.PRIOR)] for item in items]
        self._updates = catalogue.updates
        vectors = self._vectors[: len(catalogue.items)].astype(np.float64)
        now = max((example.at for example in examples), default=0.0)
        faded = item_features.aged(self._prior[: len(catalogue.items)], now - catalogue.at())
        vectors[:, OF_PRIOR] = item_features.prior(faded)
        users = self.users(examples).astype(np.float64)
        logits = np.asarray(users @ vectors.T)
        for row, example in enumerate(examples):
            said = nearby(example.user.near, catalogue.slot)
            logits[row, said.rows] += columns(said.said) @ users[row, -NEAR:]
        return logits

    def _embed(self, items: Sequence[ItemFeatures]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(self._trained.model.item_vectors(self._trained.space.frozen_items(items)).numpy())
