"""A learner in a version's folder, beside the weights that would serve (see `feed.models.snapshot`).

    learner.safetensors   the weights being trained and the optimiser's moments
    memory.z              reservoir, pending examples, catalogue, evidence for new ids: MessagePack, compressed
    progress.json         position, counts, guard, seed

All are in the manifest's sha256 list.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from feed.errors import BadModel
from feed.examples import Example
from feed.features.frozen import ItemFeatures
from feed.learning.growth import Growth
from feed.learning.learner import Learner, Loader, Progress, Weights
from feed.learning.memory import Catalogue, Reservoir
from feed.models import snapshot
from feed.models.two_tower import TwoTower
from feed.wire import Position

CREATED_BY = "stream_processors/learner.py"
MOMENTS, MEMORY, PROGRESS = "learner.safetensors", "memory.z", "progress.json"
WEIGHT = "w."  # before the name of a weight being trained


class Memory(Struct):
    """What of the records is kept."""

    reservoir: list[Example]
    offered: int
    pending: list[Example]
    catalogue: list[ItemFeatures]
    growth: Growth | None = None  # of a version that knew none


def save(folder: Path, learner: Learner, topic_id: str, created_at: str) -> None:
    """Write the learner, as it is now, as a version into `folder`; `created_at`: ISO 8601, UTC."""
    p = learner.progress
    manifest: dict[str, Any] = {
        "created_by": CREATED_BY,
        "created_at": created_at,
        "parent": p.parent,
        "learned_until": p.learned_until,
        "position": msgspec.to_builtins(Position(topic_id, 0, p.position)),
        "steps": p.steps,
        "examples": p.examples,
        "steps_since_parent": p.since,
        "steps_refused": p.guard.refused_ever,
        "running_loss": p.running_loss,
        "rate": learner.rate,
        "repeats": {"rule": p.repeats},
    }
    if p.guard.held:
        manifest["held"] = p.guard.held
    snapshot.save(folder, learner.weights.average, learner.space, manifest, files(learner), learner.heads, learner.examination)


def files(learner: Learner) -> dict[str, bytes]:
    """What a version's folder holds of a learner beside the weights that would serve."""
    memory = Memory(
        learner.reservoir.examples, learner.reservoir.offered, learner.pending, learner.catalogue.items(), learner.growth
    )
    live = {WEIGHT + name: weight for name, weight in learner.weights.live.state_dict().items()}
    return {
        MOMENTS: save_tensors({**live, **learner.weights.optimiser.tensors()}),
        MEMORY: zlib.compress(msgspec.msgpack.encode(memory), 1),
        PROGRESS: msgspec.json.encode(learner.progress),
    }


def load(folder: Path, load_version: Loader) -> Learner:
    """The learner that was saved into `folder`. Raises `BadModel` naming the file that is missing, corrupt or unfit."""
    saved = snapshot.load(folder)
    contents = {name: snapshot.read_checked(folder / name, saved.manifest) for name in (MOMENTS, MEMORY, PROGRESS)}
    try:
        tensors = load_tensors(contents[MOMENTS])
        memory = msgspec.msgpack.decode(zlib.decompress(contents[MEMORY]), type=Memory)
        progress = msgspec.json.decode(contents[PROGRESS], type=Progress)
        weights = _weights(saved.model, tensors)
    except (SafetensorError, zlib.error, msgspec.DecodeError, RuntimeError, KeyError, ValueError) as error:
        raise BadModel(f"{folder} holds a learner this code cannot go on from: {error!r}; {snapshot.REMEDY}") from error
    return Learner(
        weights, saved.space, progress, load_version, heads=saved.heads, examination=saved.examination,
        reservoir=Reservoir(progress.seed, memory.reservoir, memory.offered),
        catalogue=Catalogue(memory.catalogue),
        pending=memory.pending,
        growth=memory.growth,
    )  # fmt: skip


def _weights(average: TwoTower, tensors: Mapping[str, Any]) -> Weights:
    weights = Weights(average, moments={name: t for name, t in tensors.items() if not name.startswith(WEIGHT)})
    live = {name.removeprefix(WEIGHT): t for name, t in tensors.items() if name.startswith(WEIGHT)}
    weights.live.load_state_dict(live)
    return weights
