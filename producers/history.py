"""The log of the world's past: what people did while feeds were made without a model, by chance in known proportions.

Every place of a feed is drawn from a mixture over what the user has not consumed, without replacement:

    P(item) = 0.12 / n  +  0.23 * picked / sum  +  0.4 * popular / sum  +  0.25 * followed / sum
    picked = exp(5 quality) 2^(-age / 7 days)    editors, who know good work when they see it
    popular = (0.05 + positives)^1.25            clicks, likes, shares and comments with a half-life of 3 days
    followed = exp(2 taste)                      creators and topics that the user follows

The logged propensity is P(item) over what is left at that place, so the log can be weighted back to any other policy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from feed.events import POSITIVES, Engagement, Event, Shown, kind
from producers import behaviour
from producers.audience import TOP, Audience, Served
from producers.world import DAY, EPOCH, HISTORY_DAYS, World

CHANCE, PICKED, POPULAR, FOLLOWED = 0.12, 0.23, 0.4, 0.25
PICKED_POWER, PICKED_HALF_LIFE = 5.0, 7 * DAY
POPULAR_POWER, POPULAR_START, POPULAR_HALF_LIFE = 1.25, 0.05, 3 * DAY
FOLLOWED_POWER = 2.0
STEP = 300.0  # seconds
END = EPOCH + HISTORY_DAYS * DAY


@dataclass(frozen=True)
class History:
    """The events in time order, and the audience as it is afterwards."""

    events: list[Event]
    audience: Audience


def make(world: World, interactions: int, progress: Callable[[int], None] | None = None) -> History:
    """Let the world's people act from the epoch on until they have left this many engagements, spread over the log's days.

    There are fewer if people have consumed all there is.
    `progress` is called with how many engagements there are so far.
    """
    audience = Audience(world, [world.seed, 1], judge=False)
    policy = Policy(audience)
    events: list[Event] = []
    done = 0
    for at, target in _schedule(audience, interactions):
        policy.fade(at)
        while done < target:
            feeds = (policy.feed(user_id, at) for user_id in audience.visitors(at, 1 + (target - done) // TOP))
            before = len(events)
            for feed in feeds:  # made one by one, each after what came of the one before
                if not feed.items:
                    continue  # has consumed everything
                (visit,) = audience.step([feed], at)
                kept = visit.events[: 1 + interactions - done]  # after the impression, as many as are still wanted
                policy.count(kept)
                events.extend(kept)
                done += len(kept) - 1
                if done == interactions:
                    break
            if len(events) == before:
                break  # everybody is busy
        if progress:
            progress(done)
    events.sort(key=lambda event: event.occurred_at)
    return History(events, audience)


def _schedule(audience: Audience, interactions: int) -> Iterator[tuple[float, int]]:
    """(time, engagements there should be by then), following the day's rhythm."""
    times = EPOCH + STEP * np.arange(HISTORY_DAYS * DAY / STEP)
    day = np.array([audience.intensity(at).sum() for at in times[: int(DAY / STEP)]])
    share = np.cumsum(np.tile(day, HISTORY_DAYS)) / (day.sum() * HISTORY_DAYS)
    yield from zip(times.tolist(), np.round(share * interactions).astype(int).tolist(), strict=True)
    yield END, interactions


class Policy:
    """How feeds were made then; keeps each item's popularity."""

    def __init__(self, audience: Audience) -> None:
        self._audience, self._world = audience, audience.world
        self._positives = np.zeros(len(self._world.items))
        self._draw = np.random.default_rng([self._world.seed, 2])
        self._followed: dict[int, np.ndarray] = {}  # by user, over all items
        self._popular = self._positives
        self._good = np.exp(PICKED_POWER * self._world.quality)

    def fade(self, at: float) -> None:
        """One step later."""
        self._positives *= 2.0 ** (-STEP / POPULAR_HALF_LIFE)
        self._popular = (POPULAR_START + self._positives) ** POPULAR_POWER
        self._picked = self._good * np.exp2((self._world.created - at) / PICKED_HALF_LIFE)

    def count(self, events: tuple[Event, ...]) -> None:
        """These happened."""
        for event in events:
            if isinstance(event, Engagement) and kind(event) in POSITIVES:
                self._positives[self._world.item_row[event.item_id]] += 1

    def feed(self, user_id: str, at: float) -> Served:
        """Ten items, drawn place by place; fewer if fewer are left."""
        user = self._world.user_row[user_id]
        there = self._audience.eligible(user, at)
        if not there.any():
            return Served(user_id, ())
        if user not in self._followed:
            everything = np.arange(len(self._world.items))
            self._followed[user] = np.exp(FOLLOWED_POWER * behaviour.taste(self._world, user, everything))
        parts = ((PICKED, self._picked), (POPULAR, self._popular), (FOLLOWED, self._followed[user]))
        mask = there.astype(np.float64)
        p = np.full(len(mask), CHANCE / mask.sum())
        for share, weights in parts:
            p += (share / (weights @ mask)) * weights
        p *= mask
        k = min(TOP, int(there.sum()))
        with np.errstate(divide="ignore"):  # the first of exponential races are draws without replacement
            arrivals = self._draw.standard_exponential(len(p)) / p
        chosen = np.argpartition(arrivals, k - 1)[:k]
        chosen = chosen[np.argsort(arrivals[chosen])]
        left = 1.0 - np.concatenate([[0.0], np.cumsum(p[chosen])[:-1]])
        propensity = np.clip(p[chosen] / left, 1e-12, 1.0)
        shown = zip(chosen.tolist(), propensity.tolist(), strict=True)
        return Served(
            user_id,
            tuple(
                Shown(self._world.items[row].item_id, place, propensity=value, source="mixture")
                for place, (row, value) in enumerate(shown)
            ),
        )
