"""What is known of one user: the items seen, those met and those liked, in order, each once."""

LIKED, MET, SEEN = 50, 50, 1000  # latest items kept


class History:
    """Item codes by the latest event: `seen` of any kind, `met` in an engagement, `liked` in a positive."""

    def __init__(self) -> None:
        self.positives = 0
        self.last: float | None = None  # time of the newest event, seconds since 1970
        self._liked: dict[int, None] = {}
        self._met: dict[int, None] = {}
        self._seen: dict[int, None] = {}

    def like(self, item: int) -> None:
        """A positive."""
        self.positives += 1
        _to_end(self._liked, item, LIKED)

    def meet(self, item: int) -> None:
        """An engagement of any kind."""
        _to_end(self._met, item, MET)

    def see(self, item: int, at: float) -> None:
        """An event of any kind, an impression too, at `at` (seconds since 1970)."""
        self.last = at if self.last is None else max(self.last, at)
        _to_end(self._seen, item, SEEN)

    def seen(self) -> list[int]:
        """The latest first."""
        return list(reversed(self._seen))

    def liked(self) -> list[int]:
        """The latest first."""
        return list(reversed(self._liked))

    def met(self) -> list[int]:
        """The latest first."""
        return list(reversed(self._met))


def _to_end(order: dict[int, None], item: int, bound: int) -> None:
    order.pop(item, None)
    order[item] = None
    if len(order) > bound:
        del order[next(iter(order))]
