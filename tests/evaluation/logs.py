"""Small logs in the data format, whose answers are known."""

import numpy as np
import pandas as pd

from feed.dataset import Dataset
from feed.evaluation.rows import Log, load

START = pd.Timestamp("2025-01-01", tz="UTC")
POSITIVE = ("click", "like", "share", "comment")
WINDOW = 1800.0


def dataset(rows, items=None, users=None):
    """`rows`: (user, item, kind, seconds after the start)."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "event", "at"])
    table["occurred_at"] = START + pd.to_timedelta(table.pop("at"), unit="s")
    items = pd.DataFrame({"item_id": sorted(set(table["item_id"]))}) if items is None else pd.DataFrame(items)
    users = pd.DataFrame({"user_id": sorted(set(table["user_id"]))}) if users is None else pd.DataFrame(users)
    return Dataset(users, items, table)


def log(rows, items=None, seed=0, repeats=False) -> Log:
    return load(dataset(rows, items), POSITIVE, WINDOW, seed, repeats)


def two_camps(users=40, items=20, events=12, seed=0):
    """Users of two camps, each of whom clicks only what its half of the items holds, in turn."""
    rng = np.random.default_rng(seed)
    half = items // 2
    order = {user: (user % 2) * half + rng.permutation(half) for user in range(users)}
    return [
        (f"u{user}", f"i{order[user][step]}", "click", 3600.0 * (step * users + user))
        for step in range(min(events, half))
        for user in range(users)
    ]
