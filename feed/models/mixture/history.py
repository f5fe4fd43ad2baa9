"""What is known of one user: the items met and those liked, in order, each once."""

from collections.abc import Iterable

LIKED = 50  # latest items kept
MET = 1000


class History:
    """Two orders of item codes: `met`, by the latest engagement of any kind, and `liked`, by the latest positive."""

    def __init__(self) -> None:
        self.positives = 0
        self._liked: dict[int, None] = {}
        self._met: dict[int, None] = {}

    def like(self, item: int) -> None:
        """A positive."""
        self.positives += 1
        _to_end(self._liked, item, LIKED)

    def meet(self, item: int) -> None:
        """An engagement of any kind."""
        _to_end(self._met, item, MET)

    def has_met(self, item: int) -> bool:
        """Whether the item is among the latest met."""
        return item in self._met

    def liked(self, most: int = LIKED) -> list[int]:
        """The latest first."""
        return _latest(self._liked, most)

    def met(self, most: int = MET) -> list[int]:
        """The latest first."""
        return _latest(self._met, most)


def _to_end(order: dict[int, None], item: int, bound: int) -> None:
    order.pop(item, None)
    order[item] = None
    if len(order) > bound:
        del order[next(iter(order))]


def _latest(order: dict[int, None], most: int) -> list[int]:
    items: Iterable[int] = reversed(order)
    return [item for item, _ in zip(items, range(most), strict=False)]
