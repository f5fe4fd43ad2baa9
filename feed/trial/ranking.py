"""What else must hold of a winner: it ranks no worse, and its lists are no narrower, than the champion's."""

from collections.abc import Sequence

import numpy as np

from feed.evaluation.metrics import auc
from feed.examples import Example
from feed.features.frozen import ItemFeatures
from feed.trial.catalogue import LastSeen
from feed.trial.sequence import Clustered

TOP = 10


class Paired:
    """Two figures a request, one of each model, and their difference (challenger minus champion), clustered by user."""

    def __init__(self) -> None:
        self.difference = Clustered()
        self.champion = 0.0
        self.any_differs = False

    def add(self, user: str, champion: float, challenger: float) -> None:
        """One more request."""
        self.difference.add(user, challenger - champion)
        self.champion += champion
        self.any_differs |= challenger != champion

    @property
    def worse(self) -> bool:
        """The challenger's mean is lower by more than one standard error."""
        return self.difference.mean < -self.difference.error

    def figures(self) -> dict[str, float]:
        """JSON."""
        n = self.difference.n
        mean = self.champion / n if n else 0.0
        return {
            "requests": n,
            "champion": round(mean, 6),
            "challenger": round(mean + self.difference.mean, 6),
            "difference": round(self.difference.mean, 6),
            "error": round(self.difference.error, 6),
        }


class Lists:
    """What one model would show: the items of its top ten lists, and how many categories a list has."""

    def __init__(self) -> None:
        self.items: set[str] = set()
        self.categories = Clustered()

    def add(self, user: str, top: Sequence[ItemFeatures]) -> None:
        """One more list, of this user."""
        self.items.update(item.item_id for item in top)
        self.categories.add(user, len({item.category for item in top}))

    def figures(self) -> dict[str, float]:
        """JSON: different items in all lists, mean number of categories in one with its standard error, how many lists."""
        mean, error = self.categories.mean, self.categories.error
        return {
            "items": len(self.items),
            "categories": round(mean, 3),
            "error": round(error, 3),
            "lists": self.categories.n,
        }


def allowed(example: Example, catalogue: LastSeen) -> np.ndarray:
    """bool (slots,): the catalogue's items without those of the user's history."""
    there = catalogue.there()
    history = [catalogue.slot[item_id] for item_id, _ in example.user.bags["recent"] if item_id in catalogue.slot]
    there[history] = False
    return there


def reciprocal_rank(own: float, item_id: str, scores: np.ndarray, allowed: np.ndarray, catalogue: LastSeen) -> float:
    """1 / rank of an item among the `allowed` others; `scores`, `allowed` (slots,); a tie is half a rank.

    An item of the catalogue is scored as the others are, which lack what a history says beyond its strongest (see
    `feed.features.frozen`): a logit that has it would favour the model that makes more of it. Else its logit is `own`.
    """
    others = allowed.copy()
    if (slot := catalogue.slot.get(item_id)) is not None:
        others[slot] = False
        own = float(scores[slot])
    rivals = scores[others]
    return 1.0 / (1.0 + float((rivals > own).sum()) + 0.5 * float((rivals == own).sum()))


def top(scores: np.ndarray, allowed: np.ndarray, catalogue: LastSeen) -> list[ItemFeatures]:
    """The allowed items with the highest scores."""
    slots = np.flatnonzero(allowed)
    best = slots[np.argsort(-scores[slots], kind="stable")[:TOP]]
    return [item for slot in best if (item := catalogue.items[slot])]


def request_auc(scores: np.ndarray, clicked: np.ndarray) -> float | None:
    """The AUC within one request; None unless it has both a clicked row and another."""
    return auc(scores, clicked) if clicked.any() and not clicked.all() else None
