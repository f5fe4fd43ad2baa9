"""A live audience: sees its feeds, reacts, and sends what it did. `python producers/simulate.py --help`.

With no options it joins the world that the system was seeded with. Ctrl-C stops it; what was sent is then acknowledged.
"""

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from feed import logs, settings
from feed.errors import run
from feed.io.feeds import FeedStore
from feed.io.kafka import Sender
from feed.io.redis import FeatureStore, connect, read_catalogue, read_topics
from feed.wire import INTERACTIONS
from producers import facts, history
from producers.figures import SPAN, Figures
from producers.live import Live, find_world
from producers.world import World

TICK = 0.05  # seconds
SCREEN_SECONDS, LINE_SECONDS = 0.5, 5.0
LAG_REMEDY = (
    "The system does not keep up here, and no model can help that: lower --rate, stop other processes, or look whether broker, "
    "features agent and feeds agent run"
)
DESCRIBED_PER_USER = 50  # engagements in the history that --describe looks at, for each user
console = Console(highlight=False)


def simulate(
    live: Live,
    rate: float,
    duration: float | None,
    arrivals: tuple[float, float],
    drift: tuple[float, float] | None,
    tick: Callable[[Figures, float], bool],
) -> Figures:
    """Act until `duration` seconds have passed or `tick(figures, seconds)`, called after every step, says False.

    `rate`: events per second; `arrivals`: new users and items per minute; `drift`: (seconds from the start, share of users).
    Returns the figures of what was sent, acknowledged or not yet.
    """
    figures, began = Figures(), time.monotonic()
    budget, arrived, before = 0.0, [0, 0], 0.0
    while (seconds := time.monotonic() - began) < (duration or float("inf")):
        budget = min(budget + rate * (seconds - before), rate)  # what could not be done in a second is not made up for
        before = seconds
        if drift is not None and seconds >= drift[0]:
            moved = live.drift(drift[1])
            console.print(f"{seconds:.0f} s: the tastes of {moved:,} users have drifted")
            drift = None
        due = [int(per_minute * seconds / 60) for per_minute in arrivals]
        live.arrive(due[0] - arrived[0], due[1] - arrived[1])
        arrived = due
        visits = live.act(budget)
        budget -= sum(len(visit.events) for visit in visits)
        figures.add(visits, seconds)
        if not tick(figures, seconds):
            break
        time.sleep(max(0.0, TICK - (time.monotonic() - began - seconds)))
    return figures


class Display:
    """Live figures: a table on a terminal, elsewhere a line now and then."""

    def __init__(self, sender: Sender, live: Live) -> None:
        self._sender, self._live = sender, live
        self._span = 0
        self._screen = Screen(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next, self._last = 0.0, (0.0, 0)
        self.stopping = False

    def context(self) -> Screen | nullcontext[None]:
        """What the audience acts in."""
        return nullcontext() if self._screen is None else self._screen

    def tick(self, figures: Figures, seconds: float) -> bool:
        """Show the figures if it is time to; False when somebody wants it to stop."""
        if seconds >= self._next:
            then, acked_then = self._last
            acked = self._sender.acked
            title = self._title(acked, (acked - acked_then) / (seconds - then) if seconds > then else 0.0)
            self._last = seconds, acked
            if self._screen is None:
                self._next = seconds + LINE_SECONDS
                console.print(f"{seconds:4.0f} s: {title}: {figures.line()}", soft_wrap=True)
            else:
                self._next = seconds + SCREEN_SECONDS
                self._screen.update(figures.table(title), refresh=True)
        self._say_late(figures, int(seconds // SPAN))
        return not self.stopping

    def _say_late(self, figures: Figures, span: int) -> None:
        """Say it if feeds were late in the ten seconds that are over."""
        if span > self._span:
            if (ages := figures.span_ages[self._span]).late:
                console.print(f"[bold red]feeds lag[/]: {ages}, in the last {SPAN:.0f} s. {LAG_REMEDY}", soft_wrap=True)
            self._span = span

    def _title(self, acked: int, rate: float) -> str:
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(self._live.clock.now()))
        return f"{at} in the world, {acked:,} events acknowledged, {rate:,.0f}/s"

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """On the first signal finish in order, on the second at once."""
        self.stopping = True
        signal.signal(signum, signal.default_int_handler)


def describe(users: int, items: int, seed: int) -> Table:
    """The world's facts as a table; needs nothing but this process."""
    log = history.make(World(users, items, seed), DESCRIBED_PER_USER * users)
    found = facts.measure(log)
    table = Table("fact", title=f"world of {users:,} users, {items:,} items, seed {seed}", title_justify="left")
    table.add_column("value", justify="right")
    for name, share in (("random", found.random), ("popular", found.popular), ("best possible", found.best)):
        table.add_row(f"click-through of {name} feeds", f"{share:.2%}")
    table.add_row("popular / random", f"{found.popular / found.random:.2f}")
    table.add_row("best possible / popular", f"{found.best / found.popular:.2f}")
    table.add_row(f"Gini of engagements per item ({found.items_engaged:,} items with any)", f"{found.gini:.3f}")
    table.add_row("the same of MovieLens-100K (1,682 films)", f"{facts.MOVIELENS_GINI:.3f}")
    return table


def main(
    users: Annotated[int | None, typer.Option(min=1, help="users of the world; default: the seeded world's")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="items of the world; default: the seeded world's")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="events per second")] = 100.0,
    duration: Annotated[float | None, typer.Option(min=0.1, help="seconds; default: until Ctrl-C")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same world; default: the seeded world's")] = None,
    drift_at: Annotated[float | None, typer.Option(min=0, help="seconds from the start at which tastes drift")] = None,
    drift_size: Annotated[float, typer.Option(min=0, max=1, help="share of users whose tastes drift")] = 0.5,
    new_users_per_minute: Annotated[float, typer.Option(min=0)] = 0.0,
    new_items_per_minute: Annotated[float, typer.Option(min=0)] = 0.0,
    time_scale: Annotated[float, typer.Option(min=1, help="seconds in the world per second")] = 600.0,
    bootstrap_servers: Annotated[str | None, typer.Option(help="Kafka, host:port; default: FEED_KAFKA")] = None,
    report: Annotated[Path | None, typer.Option(help="write the final figures, user by user, to this JSON file")] = None,
    described: Annotated[bool, typer.Option("--describe", help="print the world's facts and stop; needs no broker")] = False,
) -> None:
    """A simulated audience looks at the feeds it is served and reacts."""
    if described:
        console.print(describe(users or 1000, items or 5000, seed or 0))
        return
    configuration = settings.load()
    logs.setup(configuration, "simulate")
    client = connect(configuration.redis)
    world = find_world(read_catalogue(client), users, items, seed)
    store = FeatureStore(client)
    broker = replace(configuration.broker, servers=bootstrap_servers) if bootstrap_servers else configuration.broker
    with Sender(broker) as sender:
        live = Live(world, store, FeedStore(client), sender, time_scale, read_topics(client).get(INTERACTIONS.name, ""))
        display = Display(sender, live)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, display.stop)
        drift = None if drift_at is None else (drift_at, drift_size)
        arrivals = (new_users_per_minute, new_items_per_minute)
        began = time.monotonic()
        with display.context():
            figures = simulate(live, rate, duration, arrivals, drift, display.tick)
        try:
            sender.flush()
        finally:  # also if some were not acknowledged, which is then said
            acked, seconds = sender.acked, time.monotonic() - began
            console.print(figures.table(f"{acked:,} events acknowledged in {seconds:.1f} s, {acked / seconds:,.0f}/s"))
            console.print(f"{figures.ages}{f'. {LAG_REMEDY}' if figures.ages.late else ''}", soft_wrap=True)
            if report is not None:
                figures.write(report, acked, seconds)


if __name__ == "__main__":
    run(lambda: typer.run(main))
