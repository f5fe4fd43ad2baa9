"""Which rows train and which are scored: a global split in time."""

from dataclasses import dataclass

import numpy as np

from feed.errors import BadData
from feed.evaluation.rows import Rows
from feed.events import utc

TUNE, TEST = 0.7, 0.8  # shares of the events


@dataclass(frozen=True)
class Slice:
    """Rows before `start` train, those from `start` to before `end` are scored."""

    name: str
    start: int
    end: int


def slices(rows: Rows, tune_from: float | None = None, test_from: float | None = None) -> tuple[Slice, Slice]:
    """(tuning, test): by shares of the events, or from times (seconds since 1970). Raises `BadData` for an empty slice."""
    tune, test = _at(rows, tune_from, TUNE), _at(rows, test_from, TEST)
    parts = Slice("tuning", tune, test), Slice("test", test, len(rows))
    for part in parts:
        if not 0 < part.start < part.end:
            raise BadData(
                f"the {part.name} slice would be rows {part.start} to {part.end} of {len(rows)}, from "
                f"{utc(rows.at[min(part.start, len(rows) - 1)]).isoformat()}: rows are needed before it and in it; "
                "take a longer log, or other times for --tune-from and --test-from"
            )
    return parts


def _at(rows: Rows, time: float | None, share: float) -> int:
    if time is not None:
        return int(np.searchsorted(rows.at, time))
    begins = np.flatnonzero(rows.opens)
    return int(begins[int(share * len(begins))])
