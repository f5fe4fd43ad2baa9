"""What was decided about the model's versions: one JSON line an event, only ever appended; people and `show` read it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feed.errors import BadModel
from feed.registry.disk import sync


class Ledger:
    """The ledger in file `path`, about 200 bytes a line. Readers need no lock; of writers there must be one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[dict[str, Any]]:
        """The lines, oldest first, without one whose writer died in it. Raises `BadModel` naming a line that is no JSON."""
        entries = []
        for number, line in enumerate(self._bytes().split(b"\n")[:-1], 1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise BadModel(f"line {number} of {self._path} is not JSON: remove it") from error
        return entries

    def newest(self, event: str) -> dict[str, Any] | None:
        """The newest line of this event, found without decoding the others."""
        text = b"\n" + self._bytes()
        start = text.rfind(b'\n{"event": ' + json.dumps(event).encode() + b",")
        end = text.find(b"\n", start + 1)
        return None if start < 0 or end < 0 else dict(json.loads(text[start:end]))

    def add(self, event: str, fields: Mapping[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        line = json.dumps({"event": event, **fields}, allow_nan=False)  # the event first: `newest` looks for it there
        new = not self._path.exists()
        with self._path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self._path.parent)

    def mend(self) -> None:
        """Drop a last line whose writer died in it."""
        whole = self._bytes()
        if whole and not whole.endswith(b"\n"):
            os.truncate(self._path, whole.rfind(b"\n") + 1)

    def _bytes(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""
