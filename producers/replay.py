"""Publish a log in the data format, keeping its times: `python producers/replay.py DIR --speed 3600`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from feed import dataset, logs, settings, wire
from feed.errors import BadSetting, run
from feed.io import kafka, publish
from feed.io.redis import claim_topics, connect
from feed.settings import Settings

console = Console()


def replay(configuration: Settings, data: Path, speed: float, context: tuple[str, ...], progress: publish.Progress) -> str:
    """Publish the log in `data` and return what was acknowledged, in words."""
    log = dataset.read(data, context, configuration.future_seconds)
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    client = connect(configuration.redis)
    claim_topics(client, topic_ids)
    description = publish.describe(data, log)
    done = publish.publish_log(configuration.broker, client, topic_ids, log, description, speed, progress)
    before = f" ({done.events_before:,} were there before)" if done.events_before else ""
    return f"acknowledged: {done.users:,} users, {done.items:,} items, {done.events:,} events{before}"


def main(
    data: Annotated[
        Path, typer.Argument(help="folder with items, interactions and, if known, users, each as .parquet or .csv")
    ],
    speed: Annotated[str, typer.Option(help="seconds of the log per second; max: as fast as possible")] = "max",
    context: Annotated[list[str] | None, typer.Option(help="a further column of the interactions to send along")] = None,
) -> None:
    """Publish a log in the project's data format, in time order. Stopped half-way, it goes on there when started again."""
    configuration = settings.load()
    logs.setup(configuration, "replay")
    reached = (0, 0)
    with Progress(TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("events", total=None, visible=False)

        def progress(done: int, total: int) -> None:
            nonlocal reached
            reached = (done, total)
            bars.update(bar, completed=done, total=total, visible=True)

        try:
            outcome, status = replay(configuration, data, _speed(speed), tuple(context or ()), progress), 0
        except KeyboardInterrupt:
            outcome = f"stopped: {reached[0]:,} of {reached[1]:,} events are acknowledged; started again, it goes on there"
            status = 130
    console.print(outcome, highlight=False, soft_wrap=True)
    raise typer.Exit(status)


def _speed(given: str) -> float:
    if given == "max":
        return 0.0
    try:
        speed = float(given)
    except ValueError:
        speed = -1.0
    if not 0 <= speed < float("inf"):
        raise BadSetting(f"--speed {given!r}: seconds of the log per second are needed, like 60, or max")
    return speed


if __name__ == "__main__":
    run(lambda: typer.run(main))
