"""How good are the feeds that are served? Figures by day and model version, and whether they have degraded.

    training-examples ─► what was shown and what followed ─┐
    Redis ─► catalogue, feeds as they stand ───────────────┴─► table, monitor.json beside the registry ─► schedule.py

`python offline/monitor.py`
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import typer
from rich.console import Console
from rich.table import Table

from feed import errors, logs, settings, wire
from feed.address import Broker
from feed.errors import Unreadable
from feed.events import utc
from feed.examples import Example, decode_record
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect, must_answer
from feed.monitoring.served import Day, Served, degraded
from feed.ranking.types import LEARNED, POPULAR, RANDOM
from feed.settings import Settings

REPORT = "monitor.json"
USERS_AT_ONCE = 1000
SHOWN_DAYS = 7  # in the table; the file has all
log = structlog.get_logger()


@dataclass(frozen=True)
class Standing:
    """The feeds as they stand in Redis: share of the users that have one, and the age of a feed in seconds of the wall clock
    since it was made (median and 95 % quantile; None without any)."""

    users: int
    with_feeds: float
    age_median: float | None
    age_p95: float | None


def run(configuration: Settings, output: Path) -> str | None:
    """Print the figures and write them to `output`; returns why they count as degraded, or None.

    Raises `FeedError` if the topic is not there.
    """
    client = connect(configuration.redis)
    table = FeatureStore(client).load_items()
    served = Served()
    for example in examples(configuration.broker):
        served.add(example)
    days = served.days(int(table.known.sum()))
    why = degraded(days)
    now = standing(FeatureStore(client), FeedStore(client), time.time())
    report = {
        "made_at": utc(time.time()).isoformat(),
        "until": utc(served.newest).isoformat() if served.newest else None,
        "degraded": why is not None,
        "why": why,
        "feeds": asdict(now),
        "days": [asdict(day) for day in days],
    }
    write(output, report)
    console = Console()
    console.print(figures(days))
    console.print(said(now), highlight=False, soft_wrap=True)
    console.print(f"degraded: {why}" if why else "not degraded", highlight=False, soft_wrap=True)
    return why


def examples(broker: Broker) -> Iterator[Example]:
    """All examples of the log; records that cannot be read are counted and left out."""
    unreadable = 0
    for record in kafka.read_topic(broker, wire.TRAINING_EXAMPLES):
        try:
            found = decode_record(record.value)
        except Unreadable:
            unreadable += 1
            continue
        if isinstance(found, Example):
            yield found
    if unreadable:
        log.warning("unreadable records left out", topic=wire.TRAINING_EXAMPLES.name, records=unreadable)


def standing(features: FeatureStore, feeds: FeedStore, now: float) -> Standing:
    """The feeds of everybody of whom Redis knows anything; `now`: wall clock, seconds since 1970."""
    ids = sorted(features.all_user_ids())
    ages: list[float] = []
    for start in range(0, len(ids), USERS_AT_ONCE):
        found = feeds.read_many(ids[start : start + USERS_AT_ONCE])
        ages += [now - feed.made_at.timestamp() for feed in found if feed is not None]
    median, p95 = np.quantile(ages, (0.5, 0.95)).tolist() if ages else (None, None)
    return Standing(len(ids), len(ages) / max(len(ids), 1), median, p95)


def write(output: Path, report: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    aside = output.with_name(f".{output.name}.writing")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps(report, indent=2) + "\n")
    aside.replace(output)


def figures(days: list[Day]) -> Table:
    """The newest days as a table."""
    table = Table(
        title="Feeds as served: click-through with 95 % interval over users; learned arm otherwise", title_justify="left"
    )
    for name in (
        "day",
        "version",
        LEARNED,
        POPULAR,
        RANDOM,
        "engagement",
        "dwell",
        "score gap",
        "coverage",
        "diversity",
        "age",
    ):
        table.add_column(name, justify="left" if name in ("day", "version") else "right")
    newest = sorted({day.day for day in days})[-SHOWN_DAYS:]
    for day in days:
        if day.day in newest:
            rates = (day.click_through.get(arm) for arm in (LEARNED, POPULAR, RANDOM))
            gap = "" if day.calibration_gap is None else f"{day.calibration_gap:+.3f}"
            table.add_row(
                day.day, day.version, *("" if r is None else f"{r.value:.4f} ({r.low:.4f} – {r.high:.4f})" for r in rates),
                f"{day.engagement:.4f}", f"{day.dwell_seconds:.1f} s", gap, f"{day.coverage:.1%}", f"{day.diversity:.1%}",
                f"{day.age_hours:.0f} h", end_section=day.version == "all",
            )  # fmt: skip
    return table


def said(now: Standing) -> str:
    """The standing feeds in a sentence."""
    age = f", made {now.age_median:.0f} s ago in the median (95 %: {now.age_p95:.0f} s)" if now.age_median is not None else ""
    return f"{now.with_feeds:.1%} of {now.users:,} users have a feed{age}"


def main(
    output: Annotated[Path | None, typer.Option(help=f"where {REPORT} goes; without it, beside the registry's folder")] = None,
) -> None:
    """Figures of the served feeds by day and model version; says whether they have degraded."""
    configuration = settings.load()
    logs.setup(configuration, "quality")
    with must_answer(configuration.redis):
        run(configuration, output or configuration.registry.parent / REPORT)


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
