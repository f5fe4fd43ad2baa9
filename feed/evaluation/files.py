"""A run's folder: `recs.csv` (what was recommended), `targets.csv` (what it was worth, for comparing), `report.json`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from feed.errors import BadData
from feed.evaluation.ranking import NAMES, Ranking
from feed.evaluation.rows import Log

KEYS = {"progressive": "event_id", "static": "user_id"}
SAME = ("data", "protocol", "slice", "positive", "repeats", "window_seconds", "rows")


def fingerprint(interactions: pd.DataFrame) -> str:
    """8 hex digits that tell logs apart: who did what when, and in which order rows of one instant stand, for models of order
    learn it. Rows of different instants may stand in any order."""
    columns = ["user_id", "item_id", "event", "occurred_at"]
    rows = interactions[columns].sort_values("occurred_at", kind="stable")
    return hashlib.sha256(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes()).hexdigest()[:8]


def write(folder: Path, ranking: Ranking, log: Log, about: dict[str, Any]) -> None:
    """Write all three; `about` is the report, whose "run" names the protocol."""
    folder.mkdir(parents=True, exist_ok=True)
    key = KEYS[about["run"]["protocol"]]
    names = ranking.key if key == "event_id" else log.user_ids[ranking.key]
    query, place = np.nonzero(ranking.items >= 0)
    recs = {
        key: names[query],
        "item_id": log.item_ids[ranking.items[query, place]],
        "score": ranking.scores[query, place],
        "rank": place + 1,
    }
    pd.DataFrame(recs).to_csv(folder / "recs.csv", index=False, float_format="%.7g")
    targets = {"key": names, "user": log.user_ids[ranking.user], **ranking.values}
    pd.DataFrame(targets).to_csv(folder / "targets.csv", index=False)
    (folder / "report.json").write_text(json.dumps(about, indent=1) + "\n")


def read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """(report, targets) of a run. Raises `BadData` where they are not, or not readable."""
    try:
        report = json.loads((folder / "report.json").read_text())
        targets = pd.read_csv(folder / "targets.csv", dtype={"key": "str", "user": "str"}, keep_default_na=False,
                              na_values={name: [""] for name in NAMES})  # fmt: skip
        return {"run": report["run"], "figures": report["figures"]}, targets[["key", "user", *NAMES]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{folder}: no readable run in it ({error}); give the --out of an earlier run") from error


def pair(a: Path, b: Path) -> tuple[Ranking, Ranking, dict[str, Any], dict[str, Any]]:
    """Both runs' targets in one order, and what the runs were. Raises `BadData` if they did not rank the same targets."""
    (of_a, left), (of_b, right) = read(a), read(b)
    for name in SAME:
        if of_a["run"].get(name) != of_b["run"].get(name):
            raise BadData(
                f"{a} and {b} cannot be compared: {name} is {of_a['run'].get(name)!r} and {of_b['run'].get(name)!r}; "
                "run both on the same log and slice"
            )
    both = left.merge(right, on=["key", "user"], suffixes=("_a", "_b"))
    if len(both) != len(left) or len(both) != len(right):
        raise BadData(
            f"{a} and {b} cannot be compared: they ranked {len(left)} and {len(right)} targets, {len(both)} in common"
        )
    return _ranking(both, "_a"), _ranking(both, "_b"), of_a["run"], of_b["run"]


def _ranking(table: pd.DataFrame, suffix: str) -> Ranking:
    user, key = pd.factorize(table["user"])[0], np.arange(len(table))
    values = {name: table[f"{name}{suffix}"].to_numpy(np.float64) for name in NAMES}
    none = np.zeros((len(table), 0))
    return Ranking(key, user, np.zeros(len(table), np.int64), none, none, values)
