"""Trained versions on disk and which of them serves.

    versions/v000001/      one version, complete or absent: written aside, synced, renamed
    roles/champion.json    who serves: version, generation, who served before; replaced whole
    ledger.jsonl           one line a publication or promotion, for people to read

The role file is the truth and is read without a lock. Writers hold one file lock. Whatever instant a process dies at, there is
one complete champion (or none yet); the next writer removes leftovers and adds the ledger's missing lines. The generation
grows at every promotion, so that a feed made by an earlier champion can be told from a later one's.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feed.errors import BadModel, NotPromoted
from feed.events import utc

TEMPORARY = ".writing"


@dataclass(frozen=True)
class Champion:
    """The version that serves, the number of its promotion (1 = the first ever) and its folder."""

    version: str
    generation: int
    path: Path


class Registry:
    """The registry in folder `path`, which is made when first written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._versions, self._role, self._ledger = path / "versions", path / "roles" / "champion.json", path / "ledger.jsonl"

    def versions(self) -> list[str]:
        """The complete versions, oldest first."""
        return sorted((p.name for p in self._versions.glob("v*")), key=lambda name: (len(name), name))

    def folder(self, version: str) -> Path:
        """Where this version is. Raises `BadModel` if it is not there."""
        if version not in self.versions():
            raise BadModel(
                f"no version {version!r} in {self._versions}; it holds: {', '.join(self.versions()) or 'none'}; "
                "restore its folder from a copy, or train anew with `python offline/bootstrap.py`"
            )
        return self._versions / version

    def champion(self) -> Champion | None:
        """Who serves; None if nobody yet. Raises `BadModel` if the role file is not what this class writes."""
        role = self._read_role()
        return None if role is None else Champion(role["version"], role["generation"], self.folder(role["version"]))

    def generation(self) -> int:
        """How many times a champion was made; 0 if there is none. Raises `BadModel` as `champion` does for the role file."""
        role = self._read_role()
        return role["generation"] if role else 0

    def publish(self, write: Callable[[Path], None]) -> str:
        """Add a version whose files `write` puts into the empty folder it is given. Returns its name. It does not serve yet."""
        with self._writing():
            aside = self._versions / TEMPORARY
            aside.mkdir()
            write(aside)
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            last = self.versions()[-1:]
            version = f"v{int(last[0][1:]) + 1 if last else 1:06d}"
            aside.rename(self._versions / version)
            _sync(self._versions)
            self._note({"event": "published", "version": version, "at": _now()})
            return version

    def promote(self, version: str, generation: int | None = None) -> Champion:
        """Make this version serve.

        `generation`: only if that generation still serves (0 = nobody does), else raises `NotPromoted`. Raises `BadModel` if
        there is no such version. May be repeated after a crash.
        """
        with self._writing():
            path = self.folder(version)
            role = self._read_role()
            serving = role["generation"] if role else 0
            if generation is not None and generation != serving:
                raise NotPromoted(f"{version} was to follow generation {generation}, but {serving} serves: compare them again")
            new = {
                "version": version,
                "generation": serving + 1,
                "previous": role["version"] if role else None,
                "at": _now(),
            }
            self._replace_role(new)
            self._note({"event": "promoted", **new})
            return Champion(version, serving + 1, path)

    def ledger(self) -> list[dict[str, Any]]:
        """What was published and promoted, oldest first; a line that was being written at a crash is left out."""
        text = self._ledger.read_text() if self._ledger.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        for folder in (self._versions, self._role.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it does
            shutil.rmtree(self._versions / TEMPORARY, ignore_errors=True)
            self._mend_ledger()
            yield

    def _read_role(self) -> dict[str, Any] | None:
        if not self._role.exists():
            return None
        try:
            role = json.loads(self._role.read_text())
            if isinstance(role["version"], str) and isinstance(role["generation"], int):
                return dict(role)
        except (ValueError, KeyError, TypeError):
            pass
        raise BadModel(f"{self._role} is not a role; write the last line of kind `promoted` of {self._ledger} into it")

    def _replace_role(self, role: dict[str, Any]) -> None:
        aside = self._role.with_suffix(TEMPORARY)
        aside.write_text(json.dumps(role) + "\n")
        _sync(aside)
        aside.rename(self._role)
        _sync(self._role.parent)

    def _note(self, entry: dict[str, Any]) -> None:
        with self._ledger.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _mend_ledger(self) -> None:
        """Drop a torn last line and add what the disk says happened, but no line says."""
        whole = self._ledger.read_bytes() if self._ledger.exists() else b""
        if not whole.endswith(b"\n"):
            os.truncate(self._ledger, whole.rfind(b"\n") + 1) if whole else None
        entries = self.ledger()
        published = {entry["version"] for entry in entries if entry["event"] == "published"}
        for version in self.versions():
            if version not in published:
                self._note({"event": "published", "version": version, "at": _now()})
        role = self._read_role()
        if role and role["generation"] not in {entry.get("generation") for entry in entries}:
            self._note({"event": "promoted", **role})


def _now() -> str:
    return utc(time.time()).isoformat()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
