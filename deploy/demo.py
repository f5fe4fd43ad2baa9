"""`make demo`: the whole loop once, from an empty system to a model that has learned from its audience; stops what it started.

`python deploy/demo.py --help`
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deploy import story
from deploy.story import Watch, timeline
from deploy.twins import LIKES, TOP, Outcome, Twins
from deploy.up import LocalSystem
from feed.catalogue import Item
from feed.errors import FeedError, run
from feed.evaluation.metrics import ratio_interval
from feed.ranking.types import LEARNED, POPULAR, RANDOM

ROOT = Path(__file__).parents[1]
# With half or four in five of so few people, who come back so often, the fall was at times over before it could be told from
# noise: with four in five in one run of eight.
DRIFT_SIZE = 1.0
LEAST_EVIDENCE = 1000  # requests that a trial must have judged to show how trials go
SPAN = 10.0  # seconds of a line of the timeline, as the audience's report has them
console = Console(highlight=False)

Arms = dict[str, dict[str, list[int]]]  # arm -> user -> [shown, clicks]


def main(
    users: Annotated[int, typer.Option(help="users of the world", min=10)] = 400,
    items: Annotated[int, typer.Option(help="items of the world", min=100)] = 5000,
    interactions: Annotated[int, typer.Option(help="engagements in its history", min=1000)] = 20_000,
    seed: Annotated[int, typer.Option(help="same seed, same world", min=0)] = 0,
    seconds: Annotated[int, typer.Option(help="how long the live audience acts", min=20)] = 130,
    drift_at: Annotated[int, typer.Option(help="when the tastes of most of it drift, seconds from its start", min=5)] = 50,
    rate: Annotated[int, typer.Option(help="its events per second", min=1)] = 450,
    share: Annotated[
        float, typer.Option(help="share of users in each of the arms popular and random", min=0.01, max=0.4)
    ] = 0.1,
    trial: Annotated[
        int, typer.Option(help="requests with evidence after which a trial is given up", min=LEAST_EVIDENCE)
    ] = 1500,
) -> None:
    """Start the system, fill it, let an audience act and its tastes drift, and show what the feeds and the model did."""
    started = time.monotonic()
    environment = {
        "FEED_SEED_USERS": str(users),
        "FEED_SEED_ITEMS": str(items),
        "FEED_SEED_INTERACTIONS": str(interactions),
        "FEED_WORLD_SEED": str(seed),
        "FEED_POPULAR_SHARE": str(share),
        "FEED_RANDOM_SHARE": str(share),
        "FEED_TRIAL_REQUESTS": str(trial),
    }
    with TemporaryDirectory(prefix="feedloop-demo-") as folder:
        step("1/5  start broker and Redis; fill the system: world, features, model, feeds")
        with LocalSystem(Path(folder), environment=environment) as system:
            system.wait_ready()
            step(f"2/5  a live audience for {seconds} s; after {drift_at} s the tastes of {DRIFT_SIZE:.0%} of it drift")
            report, watch = audience(system, Path(folder), seconds, rate, drift_at)
            step("3/5  what the arms were clicked, with 95 % intervals by bootstrap over users; what was learned meanwhile")
            console.print(arms_table(report["arms"], seed))
            console.print(timeline(report, watch.happened, drift_at))
            step(f"4/5  {LIKES} likes in one category, beside a twin with the same history who does nothing")
            outcome = Twins(system.settings, seed).run()
            console.print(twins_table(outcome))
            step("5/5  the versions of the model")
            command(system, "offline/models.py", "list")
    conclude(report, watch, outcome, drift_at)
    step(f"done in {time.monotonic() - started:.0f} s; everything is stopped")


def audience(system: LocalSystem, folder: Path, seconds: int, rate: int, drift_at: int) -> tuple[dict[str, Any], Watch]:
    """Let the audience act; returns its report and what happened to the model meanwhile."""
    file = folder / "audience.json"
    with Watch(system.settings, console) as watch:
        command(
            system, "producers/simulate.py", f"--duration={seconds}", f"--rate={rate}", f"--report={file}",
            f"--drift-at={drift_at}", f"--drift-size={DRIFT_SIZE}",
        )  # fmt: skip
    report: dict[str, Any] = json.loads(file.read_text())
    return report, watch


def conclude(report: dict[str, Any], watch: Watch, outcome: Outcome, drift_at: int) -> None:
    """The demo in four lines. Raises `FeedError` naming what it is there to show and did not."""
    spans = report["timeline"]
    phases = {
        "before the drift": [span for span in spans if span["from"] + SPAN <= drift_at],
        "the 20 s after it": [span for span in spans if drift_at <= span["from"] < drift_at + 20],
        "the last 20 s": spans[-3:-1] if spans[-1]["from"] + SPAN > report["seconds"] else spans[-2:],
    }
    told = "; ".join(f"{name} {story.share(of, LEARNED)} (popular {story.share(of, POPULAR)})" for name, of in phases.items())
    console.print(f"\nshare of the best possible click-through, learned arm: {told}")
    ended = watch.kinds("promoted", "refused", "gave up")
    longest = max((story.evidence_of(h.about).get("with_evidence", 0) for h in ended), default=0)
    console.print(
        f"{len(watch.kinds('trial'))} trials, {len(ended)} ended, the longest with the evidence of {longest:,} requests; "
        f"{len(watch.kinds('alert'))} drift alerts"
    )
    before, after, twin = (outcome.share(top) for top in (outcome.before, outcome.after, outcome.twin))
    console.print(f"{outcome.category} in the top {TOP}: {before:.0%} before, {after:.0%} after the likes; twin {twin:.0%}")
    to_be_seen = {
        "the learned arm is not ahead of the popular one": _ahead(report["arms"]),
        f"no trial has ended with the evidence of {LEAST_EVIDENCE:,} requests: raise --seconds": longest >= LEAST_EVIDENCE,
        "no drift was alerted: raise --seconds": any(h.at > report["began"] + drift_at for h in watch.kinds("alert")),
        f"{LIKES} likes of {outcome.category} did not raise its share of the top {TOP} above the twin's": after > twin,
    }
    lag = lagged(report)
    if lag is not None:
        console.print(f"[bold red]{lag}[/]", soft_wrap=True)
    if unseen := [what for what, seen in to_be_seen.items() if not seen]:
        raise FeedError(
            "not seen in this run: " + "; ".join(unseen) + ("" if lag is None else ". But the feeds lagged, as said above")
        )


def lagged(report: Mapping[str, Any]) -> str | None:
    """That the feeds lagged in this run, and how far, in words; None if they did not."""
    age, late = report["feed_age"], [span["from"] for span in report["timeline"] if story.late(span)]
    if not late:
        return None
    return (
        f"feeds lagged in {len(late)} of {len(report['timeline'])} lines of the timeline: {age['older_than_5_s']:.0%} of all "
        "requests saw a feed that did not know what its user had done more than 5 s before (its age: "
        f"p50 {age['p50']:.1f} s, p95 {age['p95']:.1f} s). Shares of the best are then those of late feeds, not of the model: "
        "lower --rate, or stop other processes of this machine"
    )


def _ahead(arms: Arms) -> bool:
    learned, popular = (
        sum(clicks for _, clicks in arms[a].values()) / sum(n for n, _ in arms[a].values()) for a in (LEARNED, POPULAR)
    )
    return learned > popular


def step(text: str) -> None:
    """Announce a step."""
    console.print(f"\n[bold cyan]== {text}[/]\n")


def command(system: LocalSystem, script: str, *options: str) -> None:
    """Run one of the project's commands against the system. Raises `FeedError` if it fails."""
    status = subprocess.run([sys.executable, str(ROOT / script), *options], env=system.environment, check=False).returncode
    if status != 0:
        raise FeedError(f"{script} ended with status {status}")


def arms_table(arms: Arms, seed: int) -> Table:
    """Clicks per shown item of each arm. Raises `FeedError` for an empty arm."""
    table = Table("arm", "users", "shown", "clicks", "click-through", "95 % interval")
    for arm in (LEARNED, POPULAR, RANDOM):
        if not arms.get(arm):
            raise FeedError(f"nobody in the arm {arm} saw a feed: raise --seconds or --share")
        per_user = np.array(list(arms[arm].values()), np.float64)
        ratio, low, high = ratio_interval(per_user[:, 1], per_user[:, 0], seed=seed)
        shown, clicks = per_user.sum(axis=0)
        table.add_row(arm, str(len(per_user)), f"{shown:.0f}", f"{clicks:.0f}", f"{ratio:.2%}", f"{low:.2%} to {high:.2%}")
    return table


def twins_table(outcome: Outcome) -> Table:
    """The three tops beside each other; items of the liked category are marked."""

    def label(item: Item) -> str:
        mark = "[green]●[/]" if item.category == outcome.category else " "
        return f"{mark} {item.title}"

    table = Table("", "before", f"after {LIKES} likes of {outcome.category}", "twin, untouched")
    for place, row in enumerate(zip(outcome.before, outcome.after, outcome.twin, strict=False), 1):
        table.add_row(str(place), *map(label, row))
    return table


if __name__ == "__main__":
    run(lambda: typer.run(main))
