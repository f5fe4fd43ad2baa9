"""How old the feeds are that an audience is served: whether they know what their users have done."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from feed.ranking.types import Feed
from feed.settings import LATE_SECONDS


@dataclass
class _Visit:
    """When a visit's last event was sent, and its offset as soon as that is known."""

    sent: float
    offset: int | None = None

    def acknowledged(self, offset: int) -> None:
        self.offset = offset


class Freshness:
    """A feed's age is how long ago the first visit was that it does not know; 0 if it knows all that its user has done.

    So the feed of somebody who has done nothing since does not age. Times are seconds of any one clock.
    """

    def __init__(self, topic_id: str) -> None:
        """`topic_id`: of `interactions`; a feed that was made of a profile alone knows no visit."""
        self._topic_id = topic_id
        self._unknown: defaultdict[str, deque[_Visit]] = defaultdict(deque)

    def sent(self, user_id: str, now: float) -> Callable[[int], None]:
        """A visit's last event is sent; what is returned is to be called with its offset."""
        visit = _Visit(now)
        self._unknown[user_id].append(visit)
        return visit.acknowledged

    def age(self, feed: Feed, now: float) -> float:
        """Seconds."""
        visits, at = self._unknown[feed.user_id], feed.position
        end = at.offset if at is not None and at.topic_id == self._topic_id else 0
        while visits and visits[0].offset is not None and visits[0].offset < end:
            visits.popleft()
        return now - visits[0].sent if visits else 0.0


class Ages:
    """Ages of the feeds of some requests, in tenths of seconds."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, age: float) -> None:
        """One more request."""
        self._counts[round(10 * age)] += 1

    @property
    def requests(self) -> int:
        """How many."""
        return self._counts.total()

    def quantile(self, q: float) -> float:
        """The age that at least a share `q` of the requests does not exceed; 0 without requests."""
        left = q * self.requests
        for tenths, n in sorted(self._counts.items()):
            left -= n
            if left <= 0:
                return tenths / 10
        return 0.0

    @property
    def older(self) -> float:
        """The share of requests with a feed older than `LATE_SECONDS`; 0 without requests."""
        late = sum(n for tenths, n in self._counts.items() if tenths > 10 * LATE_SECONDS)
        return late / self.requests if self.requests else 0.0

    @property
    def late(self) -> bool:
        """Whether that is more than one request in twenty."""
        return self.quantile(0.95) > LATE_SECONDS

    def __str__(self) -> str:
        return (
            f"{self.older:.1%} of {self.requests:,} requests saw a feed that did not know what its user had done more than "
            f"{LATE_SECONDS:.0f} s before (its age: p50 {self.quantile(0.5):.1f} s, p95 {self.quantile(0.95):.1f} s)"
        )
