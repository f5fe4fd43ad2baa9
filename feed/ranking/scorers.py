"""What candidates are worth: each scorer gives float columns, (n,) for everybody or (users, n)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from feed.errors import BadModel
from feed.features import Inputs, UserState
from feed.features.near import Nearby
from feed.features.user import CATEGORIES
from feed.models.snapshot import Snapshot
from feed.models.two_tower import scores
from feed.objective import Objective
from feed.ranking.index import Index

FRESH_SECONDS = 2 * 86_400.0


def user_vectors(snapshot: Snapshot, inputs: Inputs) -> Tensor:
    """The model's vectors of users with these inputs, float32 (users, WIDTH). Raises `BadModel` if they are not finite."""
    with torch.inference_mode():
        users = snapshot.model.user_vectors(inputs)
    if not bool(torch.isfinite(users).all()):
        raise BadModel("the model's user vectors are not finite: train anew with `python offline/bootstrap.py`")
    return users


def logits(users: Tensor, items: Tensor, near: Sequence[Nearby]) -> np.ndarray:
    """The model's scores, float32 (users, n), of users' and items' vectors and what each history says of the items."""
    with torch.inference_mode():
        return np.asarray(scores(users, items, near).numpy())


def value(snapshot: Snapshot, inputs: Inputs, items: Tensor, near: Sequence[Nearby], objective: Objective) -> np.ndarray:
    """sum_k weight_k P_k of these users for items (n, WIDTH), float32 (users, n); there is a head for each weight."""
    with torch.inference_mode():
        users, total = snapshot.model.terms(inputs), torch.zeros(len(inputs), len(items))
        for task, weight in objective.weights:
            total.add_(snapshot.heads[task].logits(users, items, near).sigmoid_(), alpha=weight)
        return np.asarray(total.numpy())


def log_popularity(popularity: np.ndarray) -> np.ndarray:
    """log of each item's share of all positives, (n,): log((c + 1) / sum (c + 1)), so that nothing taken lately is as little
    popular as anything can be."""
    return np.asarray(np.log((popularity + 1) / (popularity + 1).sum()))


def popularity(index: Index, rows: np.ndarray) -> np.ndarray:
    """Clicks, likes, shares and comments, decayed with a half-life of one day. (n,)."""
    return np.asarray(index.popularity[rows])


def freshness(index: Index, rows: np.ndarray, now: float) -> np.ndarray:
    """2^(-age / 2 days) of each item beside the newest one there is at `now`; undated ones are as old as the oldest. (n,)."""
    created = index.created[rows]
    there = np.isfinite(created) & (created <= now)
    if not there.any():
        return np.ones(len(rows))
    created = np.where(np.isfinite(created), created, created[there].min())
    return np.asarray(np.exp2(-np.maximum(created[there].max() - created, 0.0) / FRESH_SECONDS))


def liking(index: Index, states: Sequence[UserState], now: float) -> np.ndarray:
    """How much of each category the user has taken lately, at least 0; float64 (users, codes of `Index.category`)."""
    codes = {name: code for code, name in enumerate(index.table.categories)}
    liked = np.zeros((len(states), len(codes)))
    for user, state in enumerate(states):
        for name, weight in CATEGORIES.weights(state["categories"], now):
            if weight > 0 and name in codes:
                liked[user, codes[name]] = weight
    return liked
