"""Trained versions on disk, which of them serves, and what was decided about them.

    versions/v000001/       one version, complete or absent: written aside, synced, renamed
    roles/champion.json     who serves, since which generation, who served before and why it changed
    roles/challenger.json   the newest version that was published to be tried
    roles/previous.json     who served before the champion; written last, so it also says which change is complete
    ledger.jsonl            one line an event, for people and for `show`

Each role file is replaced whole and read without a lock; writers hold one file lock. `champion.json` is the truth: it *is* the
ledger's line of the change and names who served before. So a change has happened exactly when that file is renamed; whatever
a writer had still to do when it died (take the seat from the challenger, the ledger's line, `previous.json`), the next writer
does first. In the same way a version exists when its folder is renamed, and a file in it says whether it takes the
challenger's seat. The generation grows at every change of the champion, a roll-back included, so that a feed made by an
earlier champion can be told from a later one's.

After a roll-back there is no previous version until the next promotion: else two versions that each do worse than the other
on some day would take turns, by themselves, for ever.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feed.errors import BadModel, NotPromoted
from feed.events import utc

NEWEST = 20  # versions that are kept whatever their role: five minutes of a learner that publishes every 15 seconds
ASIDE = ".writing-"  # folders that are being written or removed
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

    A version is removed when 20 newer ones have been published, unless it is champion, challenger, previous, or one of the two
    of the newest trial: never more than 25 are kept. The ledger is not cut: a line is about 200 bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._versions, self._roles, self._ledger = path / "versions", path / "roles", path / "ledger.jsonl"

    def versions(self) -> list[str]:
        """The complete versions, oldest first."""
        return sorted((p.name for p in self._versions.glob("v*")), key=lambda name: (len(name), name))

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
        seat, role = self._read("challenger"), self._champion()
        return None if seat is None or (role and role["version"] == seat["version"]) else seat["version"]

    def previous(self) -> str | None:
        """Who served before the champion; None after a roll-back, and if nobody did. Raises `BadModel`."""
        role = self._champion()
        return role["previous"] if role else None

    def publish(self, write: Callable[[Path], None], *, challenger: bool = False) -> str:
        """Add a version whose files `write` puts into the empty folder it is given. Returns its name. It does not serve yet.

        `challenger`: it takes the challenger's seat. Versions that need not be kept are removed.
        """
        with self._aside() as aside:
            write(aside)
            if challenger:
                (aside / TO_BE_TRIED).touch()
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            with self._writing():
                version = f"v{self._last_number() + 1:06d}"
                aside.rename(self._versions / version)
                _sync(self._versions)
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
            self._note({"event": event, "at": _now(), **fields})

    def ledger(self) -> list[dict[str, Any]]:
        """What happened, oldest first; a line that was being written at a crash is left out. Raises `BadModel`."""
        text = self._ledger.read_text() if self._ledger.exists() else ""
        try:
            return [json.loads(line) for line in text.split("\n")[:-1]]
        except ValueError as error:
            raise BadModel(f"{self._ledger} has a line that is not JSON ({error}): remove it") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        for folder in (self._versions, self._roles):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it does
            self._mend()
            yield

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """An empty folder beside the versions, locked while its writer lives; the registry's lock is not held meanwhile."""
        aside = self._versions / f"{ASIDE}{uuid.uuid4().hex}"
        with self._writing():
            aside.mkdir()
            mine = os.open(aside, os.O_RDONLY)
            fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            yield aside
        finally:
            os.close(mine)
            shutil.rmtree(aside, ignore_errors=True)  # still there only if it did not become a version

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
        self._replace("champion", role)
        self._complete_change(role)
        return Champion(version, role["generation"], self._versions / version)

    def _mend(self) -> None:
        """Do what a writer that died had still to do, and remove what it left."""
        for aside in self._versions.glob(f"{ASIDE}*"):
            if _abandoned(aside):
                shutil.rmtree(aside, ignore_errors=True)
        whole = self._ledger.read_bytes() if self._ledger.exists() else b""
        if whole and not whole.endswith(b"\n"):
            os.truncate(self._ledger, whole.rfind(b"\n") + 1)
        newest = self._newest(PUBLISHED)
        for version in self.versions():
            if newest is None or _number(version) > _number(newest["version"]):
                self._complete_publication(version)
        role, done = self._champion(), self._read("previous")
        if role and (done is None or done.get("generation") != role["generation"]):
            self._complete_change(role)

    def _complete_publication(self, version: str) -> None:
        to_be_tried = (self._versions / version / TO_BE_TRIED).exists()
        if to_be_tried:
            self._replace("challenger", {"version": version, "at": _now()})
        self._note({"event": PUBLISHED, "version": version, "at": _now(), "challenger": to_be_tried})

    def _complete_change(self, role: Mapping[str, Any]) -> None:
        seat = self._read("challenger")
        if seat and seat["version"] == role["version"]:
            (self._roles / "challenger.json").unlink()
            _sync(self._roles)
        told = [line["generation"] for line in map(self._newest, (PROMOTED, ROLLED_BACK)) if line]
        if role["generation"] not in told:
            self._note(role)
        self._replace("previous", {"version": role["previous"], "generation": role["generation"]})

    def _prune(self) -> None:
        role, seat, trial = self._champion() or {}, self._read("challenger") or {}, self._newest(TRIAL) or {}
        kept = {
            role.get("version"), role.get("previous"), seat.get("version"), trial.get("champion"), trial.get("challenger"),
            *self.versions()[-NEWEST:],
        }  # fmt: skip
        for version in self.versions():
            if version not in kept:
                aside = self._versions / f"{ASIDE}{uuid.uuid4().hex}"
                (self._versions / version).rename(aside)  # a version is complete or absent
                shutil.rmtree(aside)

    def _last_number(self) -> int:
        """The number of the last version ever, even if its folder was removed by hand."""
        told = self._newest(PUBLISHED)
        return max((_number(v) for v in (*self.versions()[-1:], *([told["version"]] if told else []))), default=0)

    def _champion(self) -> dict[str, Any] | None:
        role = self._read("champion")
        if role is not None and not isinstance(role.get("generation"), int):
            raise self._no_role("champion")
        return None if role is None else {"event": PROMOTED, "previous": None, **role}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            role = json.loads((self._roles / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            role = None
        if not isinstance(role, dict) or not isinstance(role.get("version"), str | (type(None) if name == "previous" else str)):
            raise self._no_role(name)
        return role

    def _no_role(self, name: str) -> BadModel:
        remedy = f"write the last line of kind `promoted` or `rolled back` of {self._ledger} into it"
        return BadModel(f"{self._roles / name}.json is not a role; {remedy if name == 'champion' else 'remove it'}")

    def _replace(self, name: str, role: Mapping[str, Any]) -> None:
        aside = self._roles / f"{name}.writing"
        aside.write_text(json.dumps(role, allow_nan=False) + "\n")
        _sync(aside)
        aside.rename(self._roles / f"{name}.json")
        _sync(self._roles)

    def _note(self, entry: Mapping[str, Any]) -> None:
        with self._ledger.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _newest(self, event: str) -> dict[str, Any] | None:
        """The ledger's newest line of this event, found without reading the others."""
        text = b"\n" + (self._ledger.read_bytes() if self._ledger.exists() else b"")
        start = text.rfind(b'\n{"event": ' + json.dumps(event).encode())
        return None if start < 0 else dict(json.loads(text[start : text.index(b"\n", start + 1)]))


def _number(version: str) -> int:
    return int(version[1:])


def _abandoned(aside: Path) -> bool:
    """Whether nobody is writing this folder."""
    try:
        descriptor = os.open(aside, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _now() -> str:
    return utc(time.time()).isoformat()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
