"""What is true of a world: click-through by the hidden probabilities, and how skewed its popularity is.

Click-through = expected clicks / shown items, over requests after the log's end, for the same users, moments and seen state:
random is the mean over everything eligible, popular is what `feed.features.ItemTable.popularity` ranks highest, best is by the
true probabilities themselves.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feed.evaluation.metrics import gini
from feed.events import POSITIVES, Engagement, Event, kind
from feed.features.counts import HALF_LIVES, OF_DAY
from producers import behaviour
from producers.audience import TOP, Audience
from producers.history import END, History

MOVIELENS_GINI = 0.629  # ratings per film of MovieLens-100K, 1,682 films (tests/producers/test_world.py measures it)
REQUESTS = 1000
SPREAD_HOURS = 24


@dataclass(frozen=True)
class Facts:
    """Expected click-through of random, popular and best feeds; Gini of engagements per item that has any."""

    random: float
    popular: float
    best: float
    gini: float
    items_engaged: int


def measure(history: History, requests: int = REQUESTS) -> Facts:
    """The facts as of the log's end, over `requests` requests of the following day."""
    audience = history.audience
    popularity = popularity_at(history.events, audience, END)
    examined = behaviour.examine(TOP)
    everything = np.arange(len(audience.world.items))
    clicks = np.zeros(3)
    hours = np.arange(requests) * SPREAD_HOURS // requests
    for at in (END + hours * behaviour.HOUR).tolist():
        (user_id,) = audience.visitors(at, 1)
        user = audience.world.user_row[user_id]
        when = audience.moment(user, at)
        there = audience.eligible(user, at)
        p = audience.probabilities(user, everything, when)
        top = np.argsort(-np.where(there, popularity, -1.0), kind="stable")[:TOP]
        clicks += p[there].mean() * examined.sum(), p[top] @ examined, audience.best(user, when)
    counts = engagements_per_item(history.events)
    random, popular, best = (clicks / (requests * TOP)).tolist()
    return Facts(random, popular, best, gini(counts), len(counts))


def popularity_at(events: Sequence[Event], audience: Audience, at: float) -> np.ndarray:
    """float64 (items,): clicks, likes, shares and comments until `at`, with the half-life of the popular arm."""
    popularity = np.zeros(len(audience.world.items))
    for event in events:
        if isinstance(event, Engagement) and kind(event) in POSITIVES:
            popularity[audience.world.item_row[event.item_id]] += 2.0 ** ((event.at - at) / float(HALF_LIVES[OF_DAY]))
    return popularity


def engagements_per_item(events: Sequence[Event]) -> np.ndarray:
    """int64 (items with any,)."""
    return np.array(list(Counter(event.item_id for event in events if isinstance(event, Engagement)).values()))
