"""The items as the log of examples last showed them: what a full ranking is made of, without any other source."""

from collections.abc import Iterable

import numpy as np

from feed.examples import Example
from feed.features.frozen import ItemFeatures

LOOKBACK = 20_000  # examples: an item that none of them shows is forgotten
BOUND = 50_000  # items; more, and those seen longest ago are forgotten


class LastSeen:
    """Items in slots 0 ... `len(items)` - 1; `changed` (a count of updates) says since when a slot is as it is.

    What it holds is a function of the last `LOOKBACK` examples, so that a reader which starts that far back has the same.
    """

    def __init__(self) -> None:
        self.items: list[ItemFeatures | None] = []
        self.slot: dict[str, int] = {}  # in the order in which they were last seen
        self.updates = 0
        self._changed = np.zeros(0, np.int64)
        self._seen = np.zeros(0, np.int64)
        self._at = np.zeros(0)
        self._there = np.zeros(0, bool)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.slot)

    def add(self, examples: Iterable[Example], number: int) -> None:
        """See these examples; `number` is that of the last one, counted as the log counts."""
        self.updates += 1
        for example in examples:
            for row in example.rows:
                self._put(row.item, number, example.at)
        while self.slot:
            oldest, slot = next(iter(self.slot.items()))
            if self._seen[slot] > number - LOOKBACK and len(self.slot) <= BOUND:
                break
            del self.slot[oldest]
            self.items[slot] = None
            self._there[slot] = False
            self._free.append(slot)

    def changed_since(self, updates: int) -> np.ndarray:
        """int64: the filled slots that changed after the update of this number."""
        return np.flatnonzero((self._changed > updates) & self._there)

    def there(self) -> np.ndarray:
        """bool (slots,), the caller's own: which slots hold an item."""
        return self._there[: len(self.items)].copy()

    def at(self) -> np.ndarray:
        """float64 (slots,): when each item was last seen, seconds since 1970."""
        return self._at[: len(self.items)]

    def _put(self, item: ItemFeatures, number: int, at: float) -> None:
        slot = self.slot.pop(item.item_id, None)
        if slot is None:
            slot = self._free.pop() if self._free else self._grow()
        self.slot[item.item_id] = slot
        self._seen[slot], self._at[slot], self._there[slot] = number, at, True
        if self.items[slot] != item:
            self.items[slot] = item
            self._changed[slot] = self.updates

    def _grow(self) -> int:
        self.items.append(None)
        if len(self.items) > len(self._seen):
            more = np.zeros(max(1024, len(self._seen)), np.int64)
            self._seen, self._changed = np.concatenate([self._seen, more]), np.concatenate([self._changed, more])
            self._at = np.concatenate([self._at, more.astype(np.float64)])
            self._there = np.concatenate([self._there, more.astype(bool)])
        return len(self.items) - 1
