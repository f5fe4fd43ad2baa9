"""What follows a look, predicted on the shared towers: one calibrated logistic head a task. The towers learn nothing from them.

    P_k(u, i) = sigmoid(a_k logit + <w_k, z> + b_k),   given that u looks at i

z holds what the logit is the sum of, number by number (u * v and co-visitation), and, where the score has them, the counts and
the age of the item prior: a head may weigh these otherwise than the score does, and needs no new fit when the fusion weights
move (`TwoTower.terms`). By maximum likelihood less RIDGE / 2 |w|² and RIDGE_LOGIT / 2 a², in units in which the logit, and z
on average over the numbers of the logit and over those of the prior, have a standard deviation of 1: a task with few events is
left with a_k logit + b_k, one with next to none with its base rate. b is free: over the rows it was fitted on a head predicts
as many events as there were.

RIDGE is larger than held-out log-loss asks for (that was least with 300). A log shows what its own ranking chose, which may
have known of tastes that no feature tells; then w learns that what is little known and was shown all the same is liked, and
ranks a whole catalogue by it. docs/decisions/0011-heads-and-objective.md has the figures.

References: Ma et al. 2018, "Entire Space Multi-Task Model" (tasks on shared embeddings, and what selection does to them); Platt
1999, "Probabilistic Outputs for Support Vector Machines" (a logit calibrated on data that it was not trained on).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from feed import kinds
from feed.events import Engagement, View, kind
from feed.features.near import SAID, Nearby, columns
from feed.models.examination import WINDOW_SECONDS
from feed.models.pairs import CHUNK, SAMPLED, Chunks, Log, Pair
from feed.models.two_tower import NEAR, OF_LOGIT, OF_PRIOR, WIDTH, TwoTower, scores
from feed.objective import TASKS, tasks

DWELL_SECONDS = 10.0  # looked at for longer: in the simulated world most who clicked, hardly anybody else
RIDGE, RIDGE_LOGIT = 10_000.0, 10.0
STEPS = 50


class Head(NamedTuple):
    """One task's numbers; `w` float32 (WIDTH,)."""

    a: float
    w: Tensor
    b: float

    def logits(self, users: Tensor, items: Tensor, near: Sequence[Nearby]) -> Tensor:
        """`users` (n, WIDTH), see `TwoTower.terms`, `items` (m, WIDTH), what each history says of them -> float32 (n, m)."""
        return scores(users * (self.a * OF_LOGIT + self.w), items, near) + self.b


Heads = Mapping[str, Head]  # by task; a task of which the log knew nothing has none


def followed(log: Log, pairs: Sequence[Pair]) -> np.ndarray:
    """What followed each pair's first engagement, that included, within `WINDOW_SECONDS`: bool (pairs, tasks)."""
    begins: dict[int, list[int]] = {}
    for n, pair in enumerate(pairs):
        begins.setdefault(pair.event, []).append(n)
    row: dict[tuple[str, str], int] = {}  # of the newest pair of a user and item: there are several where items come again
    column = {task: k for k, task in enumerate(tasks())}
    labels = np.zeros((len(pairs), len(column)), np.bool_)
    seconds = np.zeros(len(pairs))
    first = min(begins, default=0)
    for i, event in enumerate(log.events[first:], first):
        row |= {(pairs[n].user_id, pairs[n].item_id): n for n in begins.get(i, ())}
        if not isinstance(event, Engagement):
            continue
        k = row.get((event.user_id, event.item_id))
        if k is None or event.at > pairs[k].at + WINDOW_SECONDS:
            continue
        if isinstance(event, View):
            seconds[k] += (event.dwell_ms or 0) / 1000
        else:
            labels[k, column[kind(event)]] = True
    labels[:, column["dwell"]] = seconds > DWELL_SECONDS
    return labels


def products(model: TwoTower, chunks: Chunks) -> np.ndarray:
    """z of each pair of the chunks, in order; float64 (pairs, WIDTH)."""
    own = (np.arange(len(chunks))[:, None] * (CHUNK + SAMPLED) + np.arange(CHUNK)).ravel()
    with torch.no_grad():
        u, v = model.terms(chunks.users), model.item_vectors(chunks.items.take(own))
        v[:, -NEAR:] = torch.from_numpy(columns(chunks.near[:, :, 0].reshape(-1, len(SAID))))
    return np.asarray((u.double() * v.double()).numpy())


def fit(z: np.ndarray, labels: np.ndarray) -> dict[str, Head]:
    """Heads on rows `z` float64 (n, WIDTH) with what followed, bool (n, tasks); none for a task that always or never did.

    The towers must not have been trained on these rows: of those they know too well what was taken.
    """
    heads = {}
    own = OF_LOGIT.bool().numpy()
    logits = z[:, own].sum(axis=1, keepdims=True)
    logit, spread = _spread(logits), np.full(WIDTH, _spread(z[:, own]))
    spread[OF_PRIOR] = _spread(z[:, OF_PRIOR])
    x = np.concatenate([logits / logit, z / spread, np.ones((len(z), 1))], axis=1)
    middle = np.append(x[:, :-1].mean(axis=0) if len(z) else np.zeros(1 + WIDTH), 0.0)
    ridge = np.array([RIDGE_LOGIT, *[RIDGE] * WIDTH, 0.0])
    for k, task in enumerate(tasks()):
        y = labels[:, k].astype(np.float64)
        if len(y) and 0 < y.mean() < 1:
            found = _newton(x - middle, y, ridge)
            w = torch.from_numpy((found[1:-1] / spread).astype(np.float32))
            heads[task] = Head(float(np.float32(found[0] / logit)), w, float(np.float32(found[-1] - found @ middle)))
    return heads


def _spread(columns: np.ndarray) -> float:
    spread = float(np.sqrt(columns.var(axis=0).mean())) if len(columns) else 0.0
    return spread if spread > 1e-9 else 1.0


def _newton(x: np.ndarray, y: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """The weights (d,) that maximise the penalised likelihood of y (n,) in {0, 1} given x (n, d), whose last column is 1."""
    w = np.zeros(x.shape[1])
    w[-1] = np.log(y.mean() / (1 - y.mean()))
    for _ in range(STEPS):
        p = sigmoid(x @ w)
        slope = x.T @ (p - y) + ridge * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curve, slope)
        w = w - np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return w


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) in float64, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -x.astype(np.float64))))


def predicted(head: Head, z: np.ndarray) -> np.ndarray:
    """The probability of each row of `z` float64 (n, WIDTH); float64 (n,)."""
    return sigmoid(z @ (head.a * OF_LOGIT + head.w).double().numpy() + head.b)


def figures(heads: Heads, fitted: np.ndarray, z: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each head on later rows: mean `predicted`, share that `followed`, `log_loss`, and that of the base rate.

    The base rate is the share among the `fitted` ones. `fitted`, `labels`: what followed, bool (n, tasks), of the rows it was
    fitted on and of these, `z` float64 (n, WIDTH), n > 0.
    """
    found, column = {}, {task: k for k, task in enumerate(tasks())}
    for task, head in heads.items():
        y, base = labels[:, column[task]], float(fitted[:, column[task]].mean())
        p = predicted(head, z)
        found[task] = {
            "predicted": float(p.mean()),
            "followed": float(y.mean()),
            "log_loss": _log_loss(p, y),
            "log_loss_of_base_rate": _log_loss(np.full(len(y), base), y),
        }
    return found


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.clip(np.where(y, p, 1 - p), 1e-12, None)).mean())


def to_tensors(heads: Heads) -> dict[str, Tensor]:
    """The numbers by name: `click.a`, `click.w`, `click.b`, ..."""
    return {
        f"{task}.{name}": torch.as_tensor(value, dtype=torch.float32).reshape(-1)
        for task, head in heads.items()
        for name, value in head._asdict().items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Head]:
    """What `to_tensors` gave, also of kinds that FEED_KINDS names no more.

    Raises `ValueError` where they are no heads of this code.
    """
    found = {}
    own = sorted({name.partition(".")[0] for name in tensors} - set(TASKS))
    for task in (*TASKS, *(name for name in own if kinds.NAME.fullmatch(name))):
        a, w, b = (tensors.get(f"{task}.{name}") for name in ("a", "w", "b"))
        if a is None or w is None or b is None:
            continue
        if (a.shape, w.shape, b.shape) != ((1,), (WIDTH,), (1,)):
            raise ValueError(f"head {task!r} has shapes {tuple(a.shape)}, {tuple(w.shape)}, {tuple(b.shape)}")
        found[task] = Head(float(a), w, float(b))
    if strange := sorted(set(tensors) - {f"{task}.{name}" for task in found for name in ("a", "w", "b")}):
        raise ValueError(f"{', '.join(strange)} are no heads")
    return found
