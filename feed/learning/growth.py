"""Ids that come while the learner learns: which get a row of their own, and whose rows they take.

A token of the vocabularies in `EVIDENCE` that has no row is a candidate, and each positive row of a new example that names it
is evidence. With enough it enters after the step: at the next row while its vocabulary has fewer than `VOCABULARY_BOUND`, then
at the row of the token that new examples' rows named longest ago, but of none that this step named: what has died stays only
until its row is wanted, what is living is not driven out. All is a function of the examples and the number of the step.

A row begins as a bootstrap draws it, not as what row 0 has learned. A person who likes a creator and that creator's items meet
in the row, so a draw of its own ranks them together from the first moment; rows that begin alike must be driven apart first.
At the real rates, after 75 steps in which 24 creators came, pairs of an item liked and one not, of creators new and living,
were put right by 0.62, 0.57 and 0.59 (three seeds) with draws, 0.51, 0.50 and 0.52 with row 0, 0.50 each without growth.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from msgspec import Struct

from feed.examples import Example
from feed.features import FeatureSpace
from feed.features.frozen import ItemFeatures
from feed.features.space import ITEM_EVIDENCE, TAGS_OF_ITEM, VOCABULARY_BOUND

# Positives before there is a row. Of a creator, category or tag as many as of an item: with fewer a row is hardly more than how
# it was drawn, and who publishes without being liked must not drive out others.
EVIDENCE = {"item": ITEM_EVIDENCE, "creator": ITEM_EVIDENCE, "category": ITEM_EVIDENCE, "tag": ITEM_EVIDENCE}
CANDIDATES = 10_000  # a vocabulary; beyond that the one whose last positive was longest ago is forgotten

Entered = Mapping[str, Mapping[str, int]]  # by vocabulary: tokens and the rows they take


class Growth(Struct):
    """By vocabulary: `candidates`, positives by token, the one whose last was longest ago first; `named`, the step that named
    each row last.
    """

    candidates: dict[str, dict[str, int]]
    named: dict[str, list[int]]

    @classmethod
    def begin(cls, space: FeatureSpace, step: int) -> "Growth":
        """Before this step; all rows count as named then."""
        return cls({name: {} for name in EVIDENCE}, {name: [step] * space.sizes[name] for name in EVIDENCE})

    def see(self, new: Iterable[Example], space: FeatureSpace, step: int) -> None:
        """The new examples of a step."""
        for example in new:
            for k, row in enumerate(example.rows):
                positive = row.positive and (k == 0 or not example.organic)
                for vocabulary, token in _tokens(row.item):
                    if place := space.row(vocabulary, token):
                        self.named[vocabulary][place] = step
                    elif positive:
                        _count(self.candidates[vocabulary], token)

    def admit(self, step: int) -> Entered:
        """Who enters after this step, and where; vocabularies that nobody enters are not in it."""
        found = {name: self._enter(name, step) for name in EVIDENCE}
        return {name: rows for name, rows in found.items() if rows}

    def _enter(self, vocabulary: str, step: int) -> dict[str, int]:
        candidates, named = self.candidates[vocabulary], self.named[vocabulary]
        ready = [token for token, positives in candidates.items() if positives >= EVIDENCE[vocabulary]]
        if not ready:
            return {}
        free = range(len(named), VOCABULARY_BOUND + 1)
        expired = sorted((at, row) for row, at in enumerate(named) if row and at < step) if len(free) < len(ready) else []
        rows = dict(zip(ready, chain(free, (row for _, row in expired)), strict=False))  # who finds no row waits
        named += [step] * len(free[: len(ready)])
        for token, row in rows.items():
            del candidates[token]
            named[row] = step
        return rows


def changes(entered: Entered, before: FeatureSpace) -> dict[str, frozenset[str]]:
    """By vocabulary: the tokens whose rows are not what they were, those that lost theirs included."""
    return {
        name: frozenset(rows) | {token for row in rows.values() if (token := before.token(name, row)) is not None}
        for name, rows in entered.items()
    }


def _count(candidates: dict[str, int], token: str) -> None:
    candidates[token] = candidates.pop(token, 0) + 1
    if len(candidates) > CANDIDATES:
        del candidates[next(iter(candidates))]


def _tokens(item: ItemFeatures) -> Iterator[tuple[str, str]]:
    yield "item", item.item_id
    if item.creator_id is not None:
        yield "creator", item.creator_id
    if item.category is not None:
        yield "category", item.category
    for tag in item.tags[:TAGS_OF_ITEM]:
        yield "tag", tag
