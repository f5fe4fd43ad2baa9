"""The audience: who comes when, what each has consumed and is tired of, and what they do with the feed they are served.

Nothing here knows Kafka, Redis or the wall clock: feeds and times come in, events come out.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from feed.events import Click, Comment, Context, Event, Hide, Impression, Like, Share, Shown, View, new_event_id, utc
from producers import behaviour
from producers.behaviour import Moment, Reaction
from producers.world import World

TOP = 10  # places of a feed that are seen
LEARNING_RATE = 0.25  # of satisfaction, per visit
PAUSE = 45.0  # seconds between two requests of one visit, at least


@dataclass(frozen=True)
class Served:
    """The top of the feed that a user is shown, and its age in seconds where that is known (`producers.freshness`)."""

    user_id: str
    items: tuple[Shown, ...]
    arm: str | None = None
    model_version: str | None = None
    age: float | None = None


@dataclass(frozen=True)
class Visit:
    """What came of one request: its events in time order, and the expected clicks of what was shown and of the best feed.

    `age`: of the feed.
    """

    user_id: str
    arm: str | None
    events: tuple[Event, ...]
    shown: int
    clicks: int
    expected: float
    best: float
    age: float | None = None


class Audience:
    """The users of a world with their memory. Same world, seed and calls, same events.

    `seen[user]` holds the rows of consumed items; `satisfaction` float64 (m,) in [0, 1]; `free` float64 (m,) the time from
    which each can come again. With `judge` off `Visit.best` is NaN, which spares a look at every item per request.
    """

    def __init__(self, world: World, seed: Sequence[int], judge: bool = True, pause: float = PAUSE) -> None:
        self.world = world
        self.pause = pause
        self._judge = judge
        self._draw = np.random.default_rng(list(seed))
        self._ids = random.Random(str(list(seed)))
        self.seen: list[set[int]] = []
        self._tired: list[tuple[np.ndarray, float]] = []
        self.satisfaction, self.free = np.zeros(0), np.zeros(0)
        self._returning: list[tuple[float, int]] = []
        self.grow()

    def grow(self) -> None:
        """Take in the users that the world has got since."""
        new = len(self.world.users) - len(self.seen)
        self.seen.extend(set() for _ in range(new))
        self._tired.extend((np.zeros(len(self.world.category_hour)), 0.0) for _ in range(new))
        self.satisfaction = np.append(self.satisfaction, np.full(new, behaviour.NEUTRAL))
        self.free = np.append(self.free, np.full(new, -np.inf))

    def remember(self, user_id: str, item_ids: Iterable[str]) -> None:
        """This user has consumed these items before."""
        rows = (self.world.item_row.get(item_id) for item_id in item_ids)
        self.seen[self.world.user_row[user_id]].update(row for row in rows if row is not None)

    def intensity(self, at: float) -> np.ndarray:
        """float64 (m,): how much each user is drawn to come now, about 1 on average over a day; 0 while busy or not there."""
        world = self.world
        hour = (at / behaviour.HOUR + world.offset) % 24
        drawn = world.activity * behaviour.rhythm(hour, world.peak) * behaviour.pull(self.satisfaction)
        return np.where((self.free <= at) & (world.joined <= at), drawn, 0.0)

    def visitors(self, at: float, n: int) -> list[str]:
        """Up to n different users who ask for a feed at `at`: first those whose visit goes on, then by intensity."""
        rows: list[int] = []
        while self._returning and self._returning[0][0] <= at and len(rows) < n:
            rows.append(heapq.heappop(self._returning)[1])
        drawn = self.intensity(at)
        drawn[[row for _, row in self._returning] + rows] = 0.0
        if more := min(n - len(rows), int((drawn > 0).sum())):
            with np.errstate(divide="ignore"):  # the first of exponential races: without replacement, in proportion
                arrivals = self._draw.standard_exponential(len(drawn)) / drawn
            rows.extend(np.argpartition(arrivals, more - 1)[:more].tolist())
        return [self.world.users[row].user_id for row in rows]

    def eligible(self, user: int, at: float) -> np.ndarray:
        """bool (items,): created by `at` and not consumed by the user in this row."""
        there = self.world.created <= at
        there[list(self.seen[user])] = False
        return there

    def probabilities(self, user: int, rows: np.ndarray, when: Moment) -> np.ndarray:
        """float64 (rows,): the true click probabilities given a look."""
        tired, since = self._tired[user]
        logits = behaviour.appeal(self.world, user, rows, when, tired * np.exp2((since - when.at) / behaviour.TIRED_HALF_LIFE))
        consumed = np.fromiter((row in self.seen[user] for row in rows), bool, len(rows)) if len(rows) <= TOP else False
        return behaviour.click_probability(logits - behaviour.CONSUMED * consumed)

    def best(self, user: int, when: Moment) -> float:
        """Expected clicks of the best feed: since places and items multiply, it is the most probable items, in order."""
        everything = np.arange(len(self.world.items))
        p = np.where(self.eligible(user, when.at), self.probabilities(user, everything, when), 0.0)
        k = min(TOP, len(p))
        return float(np.sort(np.partition(p, len(p) - k)[len(p) - k :])[::-1] @ behaviour.examine(k))

    def moment(self, user: int, at: float) -> Moment:
        """The circumstances in which the user in this row comes at `at`."""
        return behaviour.moment(self.world, user, at, self._draw)

    def step(self, feeds: Iterable[Served], at: float, latest: float = np.inf) -> list[Visit]:
        """Each of these users looks at the top of their feed at `at` (seconds since 1970); no event is later than `latest`."""
        return [self._visit(feed, at, latest) for feed in feeds]

    def _visit(self, feed: Served, at: float, latest: float) -> Visit:
        user = self.world.user_row[feed.user_id]
        when = self.moment(user, at)
        shown = feed.items[:TOP]
        rows = np.array([self.world.item_row[item.item_id] for item in shown], np.int64)
        p = self.probabilities(user, rows, when)
        best = self.best(user, when) if self._judge else np.nan
        reaction = behaviour.react(p, behaviour.taste(self.world, user, rows), self._draw)
        events, end = self._events(feed, shown, reaction, when, latest)
        self._remember_visit(user, rows, reaction, at, end)
        expected = float(p @ behaviour.examine(len(p)))
        return Visit(feed.user_id, feed.arm, tuple(events), len(shown), int(reaction.clicked.sum()), expected, best, feed.age)

    def _remember_visit(self, user: int, rows: np.ndarray, reaction: Reaction, at: float, end: float) -> None:
        looked = rows[reaction.looked]
        self.seen[user].update(looked.tolist())
        tired, since = self._tired[user]
        tired = tired * np.exp2((since - at) / behaviour.TIRED_HALF_LIFE)
        np.add.at(tired, self.world.category[looked], 1.0)
        self._tired[user] = tired, at
        self.satisfaction[user] += LEARNING_RATE * (reaction.reward - self.satisfaction[user])
        self.free[user] = end + self.pause
        if self._draw.random() < behaviour.goes_on(reaction.reward):
            heapq.heappush(self._returning, (end + self.pause + self._draw.exponential(self.pause), user))

    def _events(
        self, feed: Served, shown: tuple[Shown, ...], reaction: Reaction, when: Moment, latest: float
    ) -> tuple[list[Event], float]:
        """The request's events in time order, and when the last look ended. A view's time is when the look began."""
        request_id = new_event_id(utc(min(when.at, latest)), self._ids)
        user = self.world.users[self.world.user_row[feed.user_id]]
        context = Context(when.device, user.country, int(when.hour))
        about = {"user_id": feed.user_id, "request_id": request_id, "arm": feed.arm, "model_version": feed.model_version}

        def event(kind: type, time: float, **fields: object) -> Event:
            occurred = utc(min(time, latest))
            made: Event = kind(
                event_id=new_event_id(occurred, self._ids), occurred_at=occurred, context=context, **about, **fields
            )
            return made

        events = [event(Impression, when.at, items=shown)]
        clock = when.at + 1.0
        for k in np.flatnonzero(reaction.looked):
            item, dwell = shown[k], float(reaction.dwell[k])
            place = {"item_id": item.item_id, "position": item.position, "propensity": item.propensity, "score": item.score}
            events.append(event(View, clock, dwell_ms=round(1000 * dwell), **place))
            did = ((Click, reaction.clicked, 0.1), (Like, reaction.liked, 0.7), (Share, reaction.shared, 0.8),
                   (Comment, reaction.commented, 0.9), (Hide, reaction.hidden, 0.9))  # fmt: skip
            events.extend(event(kind, clock + when_in * dwell, **place) for kind, done, when_in in did if done[k])
            clock += dwell + 0.5
        return events, clock
