"""What is kept of earlier records: some examples to learn again, and the items as they were last seen.

Every example is offered to the reservoir. Once it is full, one in `1 / ENTERS` enters and takes the place of one drawn by
chance, so what is in it was seen n examples ago with probability falling as exp(-n ENTERS / RESERVOIR): an old preference is
replayed for some ten thousand examples and then forgotten, as it must be when the world has changed.

Reference: Aggarwal 2006, "On Biased Reservoir Sampling in the Presence of Stream Evolution", algorithm 3.1.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import structlog

from feed.examples import Example
from feed.features.frozen import ItemFeatures
from feed.features.space import VOCABULARY_OF_BAG
from feed.learning.loss import Prepared

log = structlog.get_logger()

RESERVOIR = 1_000  # examples, about 6 KB each
ENTERS = 0.1
CATALOGUE = 20_000  # items


class Reservoir:
    """At most `RESERVOIR` examples; what they are to a model is worked out once, when first drawn."""

    def __init__(self, seed: int, examples: Iterable[Example] = (), offered: int = 0) -> None:
        self._seed = seed
        self.examples = list(examples)
        self._prepared: dict[int, Prepared] = {}  # by place
        self.offered = offered

    def offer(self, example: Example) -> None:
        """The next example in order."""
        rng = np.random.default_rng([self._seed, 1, self.offered])
        self.offered += 1
        if len(self.examples) < RESERVOIR:
            self.examples.append(example)
        elif rng.random() < ENTERS:
            place = int(rng.integers(RESERVOIR))
            self.examples[place] = example
            self._prepared.pop(place, None)

    def draw(self, n: int, rng: np.random.Generator, read: Callable[[Example], Prepared]) -> list[Prepared]:
        """At most `n` different ones, as `read` prepares them; it must read an example the same way until `reread`."""
        places = rng.permutation(len(self.examples))[:n].tolist()
        for place in places:
            if place not in self._prepared:
                try:
                    self._prepared[place] = read(self.examples[place])
                except Exception as error:
                    log.error(
                        "an example of the reservoir is passed over", example=self.examples[place].example_id, exc_info=error
                    )
        return [self._prepared[place] for place in places if place in self._prepared]

    def reread(self, changed: Mapping[str, Collection[str]] | None = None) -> None:
        """They will be read otherwise from now on, in these tokens, by vocabulary; None: in anything."""
        if changed is None:
            self._prepared.clear()
        else:
            self._prepared = {k: one for k, one in self._prepared.items() if not _names(self.examples[k], changed)}


def _names(example: Example, tokens: Mapping[str, Collection[str]]) -> bool:
    """Whether anything of an example is one of these, by vocabulary."""
    none: Collection[str] = ()
    item, creator, category, tag = (tokens.get(name, none) for name in ("item", "creator", "category", "tag"))
    for row in example.rows:
        of = row.item
        if of.item_id in item or of.creator_id in creator or of.category in category or any(t in tag for t in of.tags):
            return True
    bags = ((example.user.bags[bag], tokens.get(name)) for bag, name in VOCABULARY_OF_BAG.items())
    return any(token in mine for bag, mine in bags if mine for token, _ in bag)


class Catalogue:
    """The `CATALOGUE` items seen last, as they were then."""

    def __init__(self, items: Iterable[ItemFeatures] = ()) -> None:
        self._items = {item.item_id: item for item in items}

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[ItemFeatures]:
        """All of them, the one seen longest ago first."""
        return list(self._items.values())

    def add(self, example: Example) -> None:
        """The items of one more example."""
        for row in example.rows:
            self._items.pop(row.item.item_id, None)  # so that it comes last
            self._items[row.item.item_id] = row.item
        while len(self._items) > CATALOGUE:
            del self._items[next(iter(self._items))]

    def draw(self, n: int, rng: np.random.Generator) -> list[ItemFeatures]:
        """At most `n` different ones, uniformly."""
        items = self.items()
        return [items[k] for k in rng.permutation(len(items))[:n].tolist()]
