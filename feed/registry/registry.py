"""Versions, roles and the rules by which they change; `feed.registry` says what is on disk and what is promised."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feed.errors import BadModel, NotPromoted
from feed.events import utc
from feed.registry.disk import folder_aside, remove, remove_abandoned, replace_json, sync
from feed.registry.ledger import Ledger

NEWEST = 20  # versions that are kept whatever their role: five minutes of a learner that publishes every 15 seconds
TO_BE_TRIED = ".challenger"  # in a version's folder: it was published as a challenger
PUBLISHED, PROMOTED, ROLLED_BACK, TRIAL = "published", "promoted", "rolled back", "trial"


@dataclass(frozen=True)
class Champion:
    """The version that serves, how many times the champion has changed (1 = the first ever) and its folder."""

    version: str
    generation: int
    path: Path


class Registry:
    """The registry in folder `path`, which is made when first written to.

    A version is removed when 20 newer ones have been published, unless it is champion, challenger, previous, one of the two of
    the newest trial, or the newest of its maker: never more than 25 and one for each maker are kept. The ledger is not cut: a
    line is about 200 bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._versions, self._roles, self._ledger = path / "versions", path / "roles", Ledger(path / "ledger.jsonl")

    def versions(self) -> list[str]:
        """The complete versions, oldest first."""
        return sorted((p.name for p in self._versions.glob("v*") if p.name[1:].isdigit()), key=_number)

    def folder(self, version: str) -> Path:
        """Where this version is. Raises `BadModel` if it is not there (any more)."""
        if version not in (held := self.versions()):
            raise BadModel(
                f"no version {version!r} in {self._versions}; it holds: {', '.join(held) or 'none'}; "
                "restore its folder from a copy, or train anew with `python offline/bootstrap.py`"
            )
        return self._versions / version

    def champion(self) -> Champion | None:
        """Who serves; None if nobody yet. Raises `BadModel` if the role file is not what this class writes."""
        role = self._champion()
        return None if role is None else Champion(role["version"], role["generation"], self.folder(role["version"]))

    def generation(self) -> int:
        """How often the champion has changed; 0 if there is none. Raises `BadModel` as `champion` does for the role file."""
        role = self._champion()
        return role["generation"] if role else 0

    def challenger(self) -> str | None:
        """The newest version that was published as a challenger, as long as it has not become champion. Raises `BadModel`."""
        seat, role = self._seat(), self._champion()
        return None if role and role["version"] == seat else seat

    def previous(self) -> str | None:
        """Who served before the champion; None after a roll-back, and if nobody did. Raises `BadModel`."""
        role = self._champion()
        return role["previous"] if role else None

    def publish(self, write: Callable[[Path], None], *, challenger: bool = False) -> str:
        """Add a version whose files `write` puts into the empty folder it is given. Returns its name. It does not serve yet.

        `challenger`: it takes the challenger's seat. Versions that need not be kept are removed.
        """
        with folder_aside(self._versions, self._writing) as aside:
            write(aside)
            if challenger:
                (aside / TO_BE_TRIED).touch()
            for file in aside.rglob("*"):
                sync(file)
            sync(aside)
            with self._writing():
                version = f"v{self._last_number() + 1:06d}"
                aside.rename(self._versions / version)
                sync(self._versions)
                self._complete_publication(version)
                self._prune()
        return version

    def promote(self, version: str, *, generation: int | None = None, evidence: Mapping[str, Any] | None = None) -> Champion:
        """Make this version serve; `evidence` (JSON) goes into the ledger.

        `generation`: only if that generation still serves (0 = nobody does), else raises `NotPromoted`. Raises `BadModel` if
        there is no such version. May be repeated after a crash.
        """
        with self._writing():
            role = self._expect(generation, version)
            self.folder(version)
            previous = None
            if role is not None:
                previous = role["previous"] if role["version"] == version else role["version"]
            return self._change(PROMOTED, version, previous=previous, evidence=evidence)

    def roll_back(self, *, generation: int | None = None, evidence: Mapping[str, Any] | None = None) -> Champion:
        """Make the version serve that did before the champion, as a new generation; nobody is previous then.

        Raises `NotPromoted` if there is none, or as `promote`; `BadModel` if its folder is gone.
        """
        with self._writing():
            role = self._expect(generation, "the version before")
            if role is None or role["previous"] is None:
                why = "nobody serves" if role is None else f"{role['version']} is the first, or came back by a roll-back"
                raise NotPromoted(f"nothing to roll back to: {why}; take a version with `python offline/models.py promote`")
            self.folder(role["previous"])
            return self._change(ROLLED_BACK, role["previous"], previous=None, evidence=evidence, instead_of=role["version"])

    def note(self, event: str, **fields: Any) -> None:
        """Add a line to the ledger: `trial` (with champion and challenger, which are then kept), `refused`, `gave up`."""
        with self._writing():
            self._ledger.add(event, {"at": _now(), **fields})

    def ledger(self) -> list[dict[str, Any]]:
        """What happened, oldest first; a line that was being written at a crash is left out. Raises `BadModel`."""
        return self._ledger.entries()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        for folder in (self._versions, self._roles):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it does
            self._mend()
            yield

    def _expect(self, generation: int | None, version: str) -> dict[str, Any] | None:
        role = self._champion()
        serving = role["generation"] if role else 0
        if generation is not None and generation != serving:
            raise NotPromoted(f"{version} was to follow generation {generation}, but {serving} serves: compare them again")
        return role

    def _change(
        self, event: str, version: str, *, previous: str | None, evidence: Mapping[str, Any] | None, **about: Any
    ) -> Champion:
        role = {
            "event": event,
            "version": version,
            "generation": self.generation() + 1,
            "previous": previous,
            "at": _now(),
            **about,
            "evidence": dict(evidence or {}),
        }
        replace_json(self._roles / "champion.json", role)
        self._complete_change(role)
        return Champion(version, role["generation"], self._versions / version)

    def _mend(self) -> None:
        """Do what a writer that died had still to do, and remove what it left."""
        remove_abandoned(self._versions)
        self._ledger.mend()
        newest = self._ledger.newest(PUBLISHED)
        for version in self.versions():
            if newest is None or _number(version) > _number(newest["version"]):
                self._complete_publication(version)
        try:
            role = self._stated_champion()
        except BadModel:
            role = self._told_champion()
            replace_json(self._roles / "champion.json", role)
        try:
            self._stated_seat()
        except BadModel:
            self._take_seat(self._told_seat())
        try:
            done = self._read("previous")
        except BadModel:
            done = None  # it follows from the champion's file
        if role and (done is None or done.get("generation") != role["generation"]):
            self._complete_change(role)

    def _complete_publication(self, version: str) -> None:
        to_be_tried = (self._versions / version / TO_BE_TRIED).exists()
        if to_be_tried:
            self._take_seat(version)
        self._ledger.add(PUBLISHED, {"version": version, "at": _now(), "challenger": to_be_tried})

    def _complete_change(self, role: Mapping[str, Any]) -> None:
        if self._seat() == role["version"]:
            self._take_seat(None)
        told = [line["generation"] for line in map(self._ledger.newest, (PROMOTED, ROLLED_BACK)) if line]
        if role["generation"] not in told:
            self._ledger.add(role["event"], role)
        replace_json(self._roles / "previous.json", {"version": role["previous"], "generation": role["generation"]})

    def _take_seat(self, version: str | None) -> None:
        """The challenger's; None: nobody has it any more."""
        file = self._roles / "challenger.json"
        if version is not None:
            replace_json(file, {"version": version, "at": _now()})
        else:
            file.unlink()
            sync(self._roles)

    def _prune(self) -> None:
        role, trial = self._champion() or {}, self._ledger.newest(TRIAL) or {}
        newest_of = {maker: version for version in self.versions() if (maker := self._maker(version)) is not None}
        kept = {
            role.get("version"), role.get("previous"), self._seat(), trial.get("champion"), trial.get("challenger"),
            *newest_of.values(), *self.versions()[-NEWEST:],
        }  # fmt: skip
        for version in self.versions():
            if version not in kept:
                remove(self._versions / version)

    def _maker(self, version: str) -> str | None:
        """Who made it, by its manifest: a learner that publishes every 15 seconds must not push out what others made."""
        try:
            maker = json.loads((self._versions / version / "manifest.json").read_text())["created_by"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return maker if isinstance(maker, str) else None

    def _last_number(self) -> int:
        """The number of the last version ever, even if its folder was removed by hand."""
        told = self._ledger.newest(PUBLISHED)
        return max((_number(v) for v in (*self.versions()[-1:], *([told["version"]] if told else []))), default=0)

    def _champion(self) -> dict[str, Any] | None:
        """The role file's content, or where it is no role, the ledger's line of that change: a writer then puts it right."""
        try:
            return self._stated_champion()
        except BadModel:
            return self._told_champion()

    def _told_champion(self) -> dict[str, Any]:
        told = [line for line in map(self._ledger.newest, (PROMOTED, ROLLED_BACK)) if line]
        if not told:
            raise self._no_role("champion")
        return max(told, key=lambda line: int(line["generation"]))

    def _stated_champion(self) -> dict[str, Any] | None:
        role = self._read("champion")
        if role is None:
            return None
        if not isinstance(role.get("version"), str) or not isinstance(role.get("generation"), int):
            raise self._no_role("champion")
        return {"event": PROMOTED, "previous": None, **role}

    def _seat(self) -> str | None:
        """Who has the challenger's seat; where its file is no role, by the ledger: a writer then puts it right."""
        try:
            return self._stated_seat()
        except BadModel:
            return self._told_seat()

    def _told_seat(self) -> str | None:
        lines = self._ledger.entries()
        tried = [line["version"] for line in lines if line["event"] == PUBLISHED and line.get("challenger")]
        served = {line["version"] for line in lines if line["event"] in (PROMOTED, ROLLED_BACK)}
        return tried[-1] if tried and tried[-1] not in served else None

    def _stated_seat(self) -> str | None:
        seat = self._read("challenger")
        if seat is None:
            return None
        if not isinstance(seat.get("version"), str):
            raise self._no_role("challenger")
        return str(seat["version"])

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            role = json.loads((self._roles / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            role = None
        if not isinstance(role, dict) or not isinstance(role.get("version"), str | None):
            raise self._no_role(name)
        return role

    def _no_role(self, name: str) -> BadModel:
        # who asks sees this only of the champion, and only if the ledger tells of none either
        remedy = "remove it, then `python offline/models.py promote` the version that is to serve"
        return BadModel(f"{self._roles / name}.json is not a role; {remedy}")


def _number(version: str) -> int:
    return int(version[1:])


def _now() -> str:
    return utc(time.time()).isoformat()
