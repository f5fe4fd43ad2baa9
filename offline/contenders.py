"""The two versions of a trial: from when on neither has learned, whether they can be compared, and how far it is."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from feed.errors import BadModel
from feed.learning.state import CREATED_BY
from feed.models import snapshot
from feed.registry import Registry
from feed.repeats import Repeats
from feed.trial import Comparison, Scorer, Verdict, history

log = structlog.get_logger()

CHUNK = 64  # offsets scored together: a second of a busy log
LEAST_STEPS = 16  # of the learner since it began from a champion: before, there is nothing to try
PROGRESS = 1000  # requests with evidence between two lines of progress


@dataclass
class Running:
    """A trial or a watch: the ledger's line that opened it, how far it is, and whether its champion shows items again."""

    opened: history.Line
    comparison: Comparison
    repeats: bool = False
    told: int = 0

    @property
    def name(self) -> str:
        """For people."""
        versus = f"{self.opened['challenger']} against {self.opened['champion']}"
        return f"trial {self.opened['number']}: {versus}" if "number" in self.opened else f"watch: {versus}"


class Contenders:
    """The registry's versions as a trial needs them; `topic_id`: of the log that is read."""

    def __init__(self, registry: Registry, topic_id: str) -> None:
        self._registry, self._topic_id = registry, topic_id

    def next(self, champion: str, previous: str | None, tried: Collection[str], since: int) -> str | None:
        """Whom to try next: what others than the learner made comes first, since the learner publishes all the time.

        Of the learner's versions the newest, once it has taken `LEAST_STEPS` steps of its own and learned from the log beyond
        offset `since`.
        """
        for version in reversed(self._registry.versions()):
            if version in (champion, previous) or version in tried or _number(version) < _number(champion):
                continue
            if not self.learners(version):
                return version
        newest = self._registry.challenger()
        return newest if newest is not None and newest not in tried and self._has_learned(newest, since) else None

    def _has_learned(self, version: str, since: int) -> bool:
        try:
            manifest = snapshot.read_manifest(self._registry.folder(version))
        except BadModel:
            return True  # for `unfit` to say
        if manifest.get("held"):
            return True
        position = manifest.get("position") or {}
        here = position.get("topic_id") == self._topic_id
        return manifest.get("steps_since_parent", LEAST_STEPS) >= LEAST_STEPS and (not here or position["offset"] >= since)

    def unfit(self, challenger: str) -> str | None:
        """Why it is not even tried."""
        try:
            manifest = snapshot.load(self._registry.folder(challenger)).manifest
        except BadModel as error:
            return f"cannot be read: {error}"
        return f"{history.HELD} by the guard: {manifest['held']}" if manifest.get("held") else None

    def evidence_from(self, versions: Sequence[str], read: int) -> dict[str, Any]:
        """From which offset (the first of a chunk, at least `read`) and after which event time neither has learned."""
        offset, after = read, 0.0
        for version in versions:
            try:
                manifest = snapshot.read_manifest(self._registry.folder(version))
            except BadModel:
                continue
            after = max(after, manifest.get("learned_until") or 0.0)
            position = manifest.get("position") or {}
            if position.get("topic_id") == self._topic_id:
                offset = max(offset, position["offset"])
        return {"topic_id": self._topic_id, "from_offset": offset + -offset % CHUNK, "after": after}

    def running(self, opened: history.Line) -> Running | None:
        """The comparison that this line opened, at its beginning; None, which is said, if a version cannot be read."""
        try:
            champion, challenger = (snapshot.load(self._registry.folder(opened[role])) for role in ("champion", "challenger"))
            repeats = Repeats.of_version(champion.manifest).ever
        except BadModel as error:
            log.error("cannot compare", reason=str(error), champion=opened["champion"], challenger=opened["challenger"])
            return None
        return Running(opened, Comparison(Scorer(champion), Scorer(challenger), opened["alpha"]), repeats)

    def learners(self, version: str) -> bool:
        """Whether the learner made this version; one that is gone does not serve, so it does not matter."""
        try:
            return bool(snapshot.read_manifest(self._registry.folder(version)).get("created_by") == CREATED_BY)
        except BadModel:
            return True


def _number(version: str) -> int:
    return int(version[1:])


def names(trial: history.Line) -> dict[str, Any]:
    """Which trial, in every line about it."""
    return {name: trial[name] for name in ("number", "champion", "challenger")}


def headline(verdict: Verdict) -> dict[str, Any]:
    """The figures that fit on a line of the log; the ledger has all."""
    return {name: verdict.figures[name] for name in ("with_evidence", "users", "clicks", "difference")}


def progress(running: Running) -> None:
    """Say how far it is, every thousand requests."""
    comparison = running.comparison
    if comparison.evidence >= running.told + PROGRESS:
        running.told = comparison.evidence - comparison.evidence % PROGRESS
        low, high = comparison.interval()
        log.info(
            f"{running.name}: {comparison.tested.mean:+.4f} ({low:+.4f} to {high:+.4f})",
            requests=comparison.requests, with_evidence=comparison.evidence, clicks=comparison.clicks,
        )  # fmt: skip
