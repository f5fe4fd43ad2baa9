"""What happens to the model while an audience acts: verdicts and alerts, told as they come, and beside the audience's figures.

Reads the registry's ledger and the topic `alerts`; knows nothing that the system's own readers could not know.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from feed import wire
from feed.errors import FeedError
from feed.io import kafka
from feed.monitoring.alerts import decode_alert, headline
from feed.ranking.types import LEARNED, POPULAR
from feed.registry import Registry
from feed.settings import LATE_SECONDS, Settings

LOOK_SECONDS = 0.5
DRIFT = "taste drift injected"


@dataclass(frozen=True)
class Happening:
    """Something that happened, at `at` (wall clock, seconds since 1970); `kind`: the ledger's event, or `alert`."""

    at: float
    kind: str
    text: str
    about: Mapping[str, Any]


class Watch:
    """Tells verdicts and alerts as they come, inside a `with` block."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings, self._console = settings, console
        self.happened: list[Happening] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow_ledger, self._follow_alerts)]

    def __enter__(self) -> "Watch":
        self._known = len(Registry(self._settings.registry).ledger())
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)

    def kinds(self, *kinds: str) -> list[Happening]:
        """What happened of these kinds."""
        return [happening for happening in self.happened if happening.kind in kinds]

    def _follow_ledger(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            ledger = Registry(self._settings.registry).ledger()
            for entry in ledger[self._known :]:
                if entry["event"] != "published":
                    self._tell(entry["event"], verdict(entry), entry)
            self._known = len(ledger)

    def _follow_alerts(self) -> None:
        try:
            for record in kafka.follow_topic(self._settings.broker, wire.ALERTS, 0):
                if self._stop.is_set():
                    return
                if record is not None:
                    self._tell("alert", f"DRIFT ALERT {headline(decode_alert(record.value))}", {})
        except FeedError as error:
            self._console.print(f"alerts cannot be followed: {error}")

    def _tell(self, kind: str, text: str, about: Mapping[str, Any]) -> None:
        self.happened.append(Happening(time.time(), kind, text, about))
        self._console.print(f"[bold {'red' if kind == 'alert' else 'green'}]>> {text}[/]", soft_wrap=True)


def verdict(entry: Mapping[str, Any]) -> str:
    """A ledger's line in words."""
    event = entry["event"]
    if event == "trial":
        return f"trial {entry['number']}: {entry['challenger']} against {entry['champion']}"
    evidence = evidence_of(entry)
    if event in ("promoted", "rolled back"):
        return f"{entry['version']} {event}" + (f": {evidence['why']}" if "why" in evidence else "")
    return f"{entry.get('challenger', '')} {event}: {evidence.get('why', '')}"


def evidence_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a ledger's line is based on: a change of champion has it in a field of its own."""
    evidence: Mapping[str, Any] = entry.get("evidence", entry)
    return evidence


def timeline(report: Mapping[str, Any], happened: Sequence[Happening], drift_at: float) -> Table:
    """The arms' share of the best possible click-through every ten seconds, with what happened then."""
    table = Table("seconds", "learned", "popular", "what happened", title="share of the best possible click-through")
    spans = report["timeline"]
    for span, after in zip(spans, [*(s["from"] for s in spans[1:]), float("inf")], strict=True):
        notes = [f"feeds lag: p95 {span['feed_age']['p95']:.0f} s"] if late(span) else []
        notes += [DRIFT] if span["from"] <= drift_at < after else []
        notes += [h.text for h in happened if span["from"] <= h.at - report["began"] < after]
        table.add_row(f"{span['from']:.0f}", *(share([span], arm) for arm in (LEARNED, POPULAR)), "\n".join(notes))
    return table


def late(span: Mapping[str, Any]) -> bool:
    """Whether more than one request in twenty of this span saw a feed that was too old to show what the model is worth."""
    return bool(span["feed_age"]["p95"] > LATE_SECONDS)


def share_of_best(spans: Sequence[Mapping[str, Any]], arm: str) -> float:
    """Expected clicks of what was shown / of the best feeds, over these spans; NaN without requests."""
    expected, best = (sum(span[arm][k] for span in spans if arm in span) for k in (1, 2))
    return float(expected / best) if best else float("nan")


def share(spans: Sequence[Mapping[str, Any]], arm: str) -> str:
    """The same for people."""
    return f"{share_of_best(spans, arm):.1%}"
