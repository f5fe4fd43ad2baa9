"""How long an event takes to change features, its user's feed and the published weights: figures into var/latency.json.

    click ──────► user:{id} counts it ──────► feed:{id}:meta is made of that state
    impression ─► (its window closes) ─► its example in training-examples ─► a published version whose position is behind it

The whole local system on free ports, every service of docker-compose.yml in a process of its own, with a simulated audience
beside it at `--rate` events a second. Times run from the call that sends, so they hold the sender's own wait for a batch
(50 ms), and end when a reader that looks every few milliseconds has seen it. Windows close by event time, of which 600 seconds
pass in one, so a publication is timed from where the example is in the log.

`python -m benchmarks.latency`; about three minutes.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import typer

from deploy.up import LocalSystem
from feed import wire
from feed.errors import BadModel, FeedError, run
from feed.events import Click, Impression, Shown, new_event_id, utc
from feed.features import UserState
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect
from feed.learning.state import CREATED_BY
from feed.models import snapshot
from feed.registry import Registry
from feed.settings import Settings

ROOT = Path(__file__).parents[1]
OUT = ROOT / "var" / "latency.json"
NAME = "probe"  # before the number of a probing user or request; the world's ids are whole numbers
USERS = 16  # that probe in turn
LOOK_SECONDS = 0.003  # between two looks at Redis
REGISTRY_SECONDS = 0.05
EVERY = 8  # probes between two impressions
PATIENCE = 120.0

T = TypeVar("T")


@dataclass
class Watch:
    """When which probing impression's example was in the log, and which offset was published when; on threads of its own."""

    settings: Settings
    examples: dict[str, tuple[float, int]] = field(default_factory=dict)  # request -> when, offset
    published: list[tuple[float, int]] = field(default_factory=list)  # when, next offset not learned from
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Watch until `stop` is set."""
        for work in (self._examples, self._versions):
            threading.Thread(target=work, daemon=True).start()

    def _examples(self) -> None:
        ours = f'"example_id":"{NAME}-'.encode()
        for record in kafka.follow_topic(self.settings.broker, wire.TRAINING_EXAMPLES, 0):
            if self.stop.is_set():
                return
            if record is not None and record.value is not None and ours in record.value:
                request = msgspec.json.decode(record.value)["example_id"]
                self.examples.setdefault(request, (time.monotonic(), record.offset))

    def _versions(self) -> None:
        registry, known = Registry(self.settings.registry), set[str]()
        while not self.stop.wait(REGISTRY_SECONDS):
            for version in set(registry.versions()) - known:
                known.add(version)
                try:
                    manifest = snapshot.read_manifest(registry.folder(version))
                except BadModel:
                    continue  # removed meanwhile
                if manifest.get("created_by") == CREATED_BY:
                    self.published.append((time.monotonic(), manifest["position"]["offset"]))

    def publication(self, request: str) -> tuple[float, float] | None:
        """When the example was in the log and when a version was there that had taken it in; None as long as there is none."""
        if request not in self.examples:
            return None
        at, offset = self.examples[request]
        return next(((at, when) for when, position in sorted(self.published) if position > offset), None)


class Prober:
    """Users of its own, who do something now and then."""

    def __init__(self, settings: Settings) -> None:
        client = connect(settings.redis)
        self._store, self._feeds, self._sender = FeatureStore(client), FeedStore(client), kafka.Sender(settings.broker)
        self._items = sorted(self._store.load_items().by_id)
        self._draw = random.Random(0)
        self._done = dict.fromkeys((f"{NAME}-{k}" for k in range(USERS)), 0)

    def click(self, k: int) -> tuple[float, float]:
        """Seconds until the state of the user whose turn it is holds a new click, and until their feed follows from it."""
        user = f"{NAME}-{k % USERS}"
        self._done[user] += 1
        at = utc(self._store.now())
        item = self._draw.choice(self._items)
        event = Click(event_id=new_event_id(at, self._draw), user_id=user, item_id=item, occurred_at=at)
        began = time.monotonic()
        self._sender.send(wire.INTERACTIONS, user, event)
        state = until(lambda: self._counted(user), "a click in a user's features")
        feature = time.monotonic() - began
        offset = state["position"]["offset"]
        until(lambda: self._followed(user, offset), "a feed made of a user's newest features")
        return feature, time.monotonic() - began

    def look(self, k: int) -> tuple[str, float]:
        """One impression; returns its request's name, and when it was sent."""
        at, request = utc(self._store.now()), f"{NAME}-{k}"
        shown = tuple(Shown(item_id, place) for place, item_id in enumerate(self._draw.sample(self._items, 10)))
        user = f"{NAME}-{k % USERS}"
        event = Impression(event_id=new_event_id(at, self._draw), user_id=user, occurred_at=at, request_id=request, items=shown)
        began = time.monotonic()
        self._sender.send(wire.INTERACTIONS, user, event)
        return request, began

    def close(self) -> None:
        """Close the connection to the broker."""
        self._sender.close()

    def pause(self) -> None:
        """Long enough not to fall into step with anybody's batches."""
        time.sleep(self._draw.uniform(0.05, 0.45))

    def _counted(self, user: str) -> UserState | None:
        state = self._store.users([user])[0]
        return state if state is not None and state["features"]["total_interactions"] >= self._done[user] else None

    def _followed(self, user: str, offset: int) -> bool:
        feed = self._feeds.read(user)
        return feed is not None and feed.position is not None and feed.position.offset >= offset


def until(condition: Callable[[], T | None], what: str, seconds: float = LOOK_SECONDS) -> T:
    """The first true answer. Raises `FeedError` naming `what` did not come."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise FeedError(f"{what} did not come within {PATIENCE:.0f} s: see the services' lines above")
        time.sleep(seconds)
    return found


def measure(settings: Settings, probes: int) -> dict[str, Any]:
    """Probe a system under load; everything in seconds."""
    watch, prober = Watch(settings), Prober(settings)
    watch.start()
    try:
        until(lambda: watch.published, "a first version of the learner's", REGISTRY_SECONDS)
        clicks, looks = [], {}
        for k in range(probes):
            clicks.append(prober.click(k))
            if k % EVERY == 0:
                request, began = prober.look(k)
                looks[request] = began
            prober.pause()
        until(lambda: all(watch.publication(request) for request in looks), "the version of the last probe", REGISTRY_SECONDS)
        told = {request: watch.publication(request) for request in looks}
    finally:
        watch.stop.set()
        prober.close()
    joined = [(looks[request], *times) for request, times in told.items() if times]
    return {
        "event to feature": quantiles([feature for feature, _ in clicks]),
        "event to that user's feed": quantiles([feed for _, feed in clicks]),
        "impression to its example": quantiles([example - began for began, example, _ in joined]),
        "example to published version": quantiles([published - example for _, example, published in joined]),
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """How many, p50, p95 and the largest."""
    p50, p95, largest = np.quantile(seconds, (0.5, 0.95, 1.0)).round(3).tolist()
    return {"n": len(seconds), "p50": p50, "p95": p95, "max": largest}


def main(
    rate: Annotated[float, typer.Option(min=1, help="events a second of the audience beside")] = 500.0,
    probes: Annotated[int, typer.Option(min=8, help="clicks; an eighth as many impressions")] = 120,
    users: Annotated[int, typer.Option(min=100, help="users of the world")] = 1000,
    items: Annotated[int, typer.Option(min=100, help="items of the world")] = 5000,
    interactions: Annotated[int, typer.Option(min=1000, help="engagements in its history")] = 50_000,
) -> None:
    """Start everything, let an audience act, probe, and write the figures."""
    environment = {"FEED_SEED_USERS": str(users), "FEED_SEED_ITEMS": str(items), "FEED_SEED_INTERACTIONS": str(interactions)}
    with tempfile.TemporaryDirectory(prefix="feedloop-latency-") as folder:
        report = Path(folder) / "audience.json"
        with LocalSystem(Path(folder) / "state", environment=environment) as system:
            system.wait_ready()
            command = [sys.executable, str(ROOT / "producers" / "simulate.py"), f"--rate={rate}", f"--report={report}"]
            audience = subprocess.Popen(command, env=system.environment)
            try:
                figures = measure(system.settings, probes)
            finally:
                audience.send_signal(signal.SIGTERM)
                audience.wait()
            settings = system.settings
        acted = json.loads(report.read_text())
    about = {
        "events_per_second": round(acted["events_acknowledged"] / acted["seconds"], 1),
        "wanted_events_per_second": rate,
        "audience_seconds": acted["seconds"],
        "users": users, "items": items, "cores": os.cpu_count(),
        "snapshot_seconds": settings.snapshot_seconds, "attribution_seconds": settings.attribution_seconds,
    }  # fmt: skip
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"about": about, "seconds": figures}, indent=2) + "\n")
    print(json.dumps({"about": about, "seconds": figures}, indent=2))


if __name__ == "__main__":
    run(lambda: typer.run(main))
