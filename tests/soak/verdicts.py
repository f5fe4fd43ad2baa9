"""What is true of a ledger whatever was killed when; each verdict computed again from the log by a fresh gatekeeper."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feed.errors import BadModel
from feed.io.kafka import Record
from feed.registry import Registry
from feed.trial import history
from offline.gatekeeper import Gatekeeper

NOT_OF_THE_LOG = ("at", "latency_ratio")
Line = dict[str, Any]


class Archive:
    """Keeps the versions that the ledger names, which the registry removes after a while."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry, self._folder = registry, folder
        folder.mkdir()

    def look(self) -> None:
        """Copy what is there and not yet kept."""
        for line in self._registry.ledger():
            if line["event"] in (history.TRIAL, history.WATCH, history.PROMOTED):
                for version in {line.get("champion"), line.get("challenger"), line.get("version")} - {None}:
                    self._keep(version)

    def folder(self, version: str) -> Path:
        """Where the copy is."""
        return self._folder / version

    def _keep(self, version: str) -> None:
        if self.folder(version).exists():
            return
        aside = self._folder / "aside"
        try:
            shutil.copytree(self._registry.folder(version), aside)
        except (BadModel, OSError) as error:
            raise AssertionError(f"{version} was removed although the ledger had just named it") from error
        aside.rename(self.folder(version))


def opened_once_decided_once(lines: Sequence[Line]) -> dict[int, Line]:
    """The line that ended each trial, by its number; raises `AssertionError` if the ledger tells of any other order.

    Trials are numbered from 1 and opened once each, for a challenger that was on no other; none is opened before the one before
    has ended, by one line; generations rise by one.
    """
    trials = [line for line in lines if line["event"] == history.TRIAL]
    assert [line["number"] for line in trials] == list(range(1, len(trials) + 1))
    assert max(Counter(line["challenger"] for line in trials).values()) == 1
    generations = [line["generation"] for line in lines if line["event"] in (history.PROMOTED, history.ROLLED_BACK)]
    assert generations == list(range(1, len(generations) + 1))
    published = [line["version"] for line in lines if line["event"] == "published"]
    assert published == sorted(set(published))
    ended: dict[int, Line] = {}
    running: int | None = None
    for line in lines:
        if line["event"] == history.TRIAL:
            assert running is None, f"trial {line['number']} was opened while {running} went on"
            running = line["number"]
        elif (number := _ends(line)) is not None:
            assert number == running, f"{line} ends trial {number} while {running} goes on"
            ended[number], running = line, None
    return ended


def _ends(line: Line) -> int | None:
    if line["event"] in (history.REFUSED, history.GAVE_UP, history.VOID):
        return line.get("number")
    return line["evidence"].get("number") if line["event"] == history.PROMOTED else None


def pairs(lines: Sequence[Line], ended: dict[int, Line]) -> list[tuple[Line, Line]]:
    """Each line that opened a trial or a watch with the one that decided it; void ones were not decided."""
    found = [(line, ended[line["number"]]) for line in lines if line["event"] == history.TRIAL and line["number"] in ended]
    for line in lines:
        if line["event"] == history.WATCH:
            found += [(line, end) for end in lines if _decides(end, line["generation"])]
    return [(opened, end) for opened, end in found if end["event"] != history.VOID]


def _decides(line: Line, generation: int) -> bool:
    if line["event"] == history.STANDS:
        return bool(line["generation"] == generation)
    return line["event"] == history.ROLLED_BACK and line["generation"] == generation + 1 and "decision" in line["evidence"]


def again(opened: Line, log: Sequence[Record], limit: int, archive: Archive, folder: Path) -> Line:
    """What a gatekeeper decides that knows nothing but this line, its two versions and the log."""
    for name in ("versions", "roles"):
        (folder / name).mkdir(parents=True)
    for version in (opened["champion"], opened["challenger"]):
        shutil.copytree(archive.folder(version), folder / "versions" / version)
    previous = opened["challenger"] if opened["event"] == history.WATCH else None
    role = {"version": opened["champion"], "generation": opened["generation"], "previous": previous, "at": "", "evidence": {}}
    (folder / "roles" / "champion.json").write_text(json.dumps({"event": history.PROMOTED, **role}))
    (folder / "ledger.jsonl").write_text(json.dumps(opened) + "\n")
    registry = Registry(folder)
    keeper, size = Gatekeeper(registry, opened["topic_id"], limit, _nothing), 0
    for record in log[keeper.start :]:
        keeper.see(record)
        if (now := (folder / "ledger.jsonl").stat().st_size) != size:
            size = now
            for line in registry.ledger():
                if _ends(line) == opened.get("number", -1) or _decides(line, opened["generation"]):
                    shutil.rmtree(folder)
                    return line
    raise AssertionError(f"read to its end, the log decides nothing about {opened}")


def _nothing(command: object) -> None:
    raise AssertionError(f"nobody asked for {command}")


def said(line: Line) -> Line:
    """What a line says that is a function of the log."""
    evidence = {k: v for k, v in line.get("evidence", {}).items() if k not in NOT_OF_THE_LOG}
    return {k: v for k, v in line.items() if k not in NOT_OF_THE_LOG} | {"evidence": evidence}
