"""The whole loop in one process and in simulated time: feeds by a ranker, people's reactions, features, examples. No servers.

The same objects as the services run (`Ranker`, `BatchState`, `Attribution`), so a learning result needs minutes, not a cluster,
and is a function of its seeds. What differs: features and feeds are never a moment late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feed import dataset
from feed.attribution import Attribution, Marks, Pending
from feed.events import Event
from feed.examples import Example
from feed.features import BatchState, FrozenItems
from feed.models import snapshot
from feed.models.snapshot import Snapshot
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.ranking.types import LEARNED, Feed
from feed.registry import Registry
from offline import bootstrap
from producers import generate, history
from producers.audience import Audience, Served, Visit
from producers.live import served
from producers.world import World

ATTRIBUTION_SECONDS = 1800.0
STEP = 60.0  # seconds in the world between two looks at who comes
PAUSE = 600.0  # nobody comes back sooner, as in front of a running system
REFRESH = 5  # steps between two looks at the items' counts


@dataclass
class Requests:
    """What came of some requests, in order: columns for figures."""

    user: list[str] = field(default_factory=list)
    arm: list[str] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def add(self, visits: Sequence[Visit]) -> None:
        """More of them."""
        for visit in visits:
            self.user.append(visit.user_id)
            self.arm.append(visit.arm or "")
            self.expected.append(visit.expected)
            self.best.append(visit.best)


class Loop:
    """A world whose past has been folded; `step` lets people act in front of feeds made by `ranker`."""

    def __init__(self, world: World, events: Sequence[Event], seed: int, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.state = BatchState(world.items, world.users)
        self._pending: dict[str, Pending] = {}
        self._marks = Marks()
        self._offset = 0
        self.now = history.END
        self.past = self._fold(events)
        self.audience = Audience(world, [seed, 4], pause=PAUSE)
        for user_id in world.user_row:
            self.audience.remember(user_id, self.state.user(user_id)["seen"])
        self._draw = np.random.default_rng([seed, 3])
        self._steps = 0
        self.ranker: Ranker | None = None
        self.requests = Requests()
        self.visits: list[Visit] = []  # of the last step

    def serve(self, trained: Snapshot, version: str, generation: int) -> None:
        """From now on this model ranks."""
        self.ranker = Ranker(trained, version, generation, self.state.items, self.policy, self.now)

    def step(self, requests: int) -> list[Example]:
        """One step of time with about this many requests; returns the examples that are complete now."""
        assert self.ranker is not None
        self._steps += 1
        if self._steps % REFRESH == 0:
            self.ranker.refresh(self.now)
        states = [self.state.user(user_id) for user_id in self.audience.visitors(self.now, requests)]
        feeds = [self.shown(feed) for feed in self.ranker.rank(states, self.now) if feed.items] if states else []
        self.visits = self.audience.step(feeds, self.now)
        self.requests.add(self.visits)
        examples = self._fold([event for visit in self.visits for event in visit.events])
        self.now += STEP
        return examples

    def shown(self, feed: Feed) -> Served:
        """What its user sees of a feed; for worlds in which that is something else."""
        return served(feed)

    def heard(self, events: Sequence[Event]) -> Sequence[Event]:
        """What the system hears of what happened; likewise."""
        return events

    def drift(self, share: float) -> int:
        """The tastes of a share of the users change; returns of how many."""
        return len(self.world.drift(share, self._draw))

    def _fold(self, happened: Sequence[Event]) -> list[Example]:
        events = self.heard(happened)
        if not events:
            return []
        windows = Attribution(ATTRIBUTION_SECONDS, 0, self._marks, self._pending, FrozenItems(self.state.items, events[0].at))
        for event in events:
            state = self.state.user(event.user_id)
            windows.add(event, state, self._offset)
            self.state.apply(event)
            self._offset += 1
            state["position"] = {"topic_id": "loop", "partition": 0, "offset": self._offset}
        examples = windows.close()
        self._pending, self._marks = windows.waiting, windows.marks
        return examples


def seeded(seed: int, folder: Path, users: int = 1000, items: int = 5000, interactions: int = 50_000) -> None:
    """A world's past and the model trained on it: tables in `folder`/data, registry in `folder`/registry. Reused if there."""
    if (folder / "registry" / "roles" / "champion.json").exists():
        return
    generate.generate(folder / "data", users, items, interactions, seed)
    bootstrap.run(folder / "data", folder / "registry", seed=seed)


def start(seed: int, folder: Path, policy: Policy, run_seed: int = 0) -> tuple[Loop, Snapshot, str]:
    """The loop after the past in `folder` (see `seeded`), its champion's model and the version's name."""
    tables = dataset.read(folder / "data")
    events = list(dataset.events_of(tables))
    world = World(len(tables.users), len(tables.items), seed)
    champion = Registry(folder / "registry").champion()
    assert champion is not None
    return Loop(world, events, run_seed, policy), snapshot.load(champion.path), champion.version


def learned(columns: Mapping[str, Any], first: int = 0) -> dict[str, Any]:
    """The learned arm's requests from the `first` on: who came, expected clicks, and the most there could be."""
    rows = [k for k, arm in enumerate(columns["arm"]) if arm == LEARNED and k >= first]
    return {name: [columns[name][k] for k in rows] for name in ("user", "expected", "best")}
