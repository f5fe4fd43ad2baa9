"""One trained version as a folder that is written once: what the weights are, for which features, and how good.

    weights.safetensors   the model's parameters
    features.json         the feature space they were trained on
    heads.safetensors     the heads of what follows a look (see `feed.models.heads`); not in a version that has none
    examination.json      how often each place is looked at (see `feed.models.examination`); only where no view says so
    manifest.json         what it is: fingerprint, sha256 of every other file, and what the trainer says (span, figures, ...)

A trainer that goes on from a version puts what it needs for that beside these (see `feed.learning.state`).

Nothing is unpickled. The folder becomes visible by a rename (see `feed.registry`), so a complete manifest means all is there.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from feed.errors import BadModel
from feed.events import own_kinds
from feed.features import FeatureSpace
from feed.features import items as item_features
from feed.features import user as user_features
from feed.models import heads as task_heads
from feed.models.examination import Examination
from feed.models.heads import Heads
from feed.models.two_tower import TwoTower

log = structlog.get_logger()

WEIGHTS, FEATURES, MANIFEST = "weights.safetensors", "features.json", "manifest.json"
HEADS, EXAMINATION = "heads.safetensors", "examination.json"
TRAIN = "train anew with `python offline/bootstrap.py`"
REMEDY = f"restore the folder from a copy, or {TRAIN}"


@dataclass(frozen=True)
class Snapshot:
    """A model in evaluation mode, the features it reads, what is written about it, and its heads if it has any.

    `examination`: None if views say what was looked at.
    """

    model: TwoTower
    space: FeatureSpace
    manifest: Mapping[str, Any]
    heads: Heads = field(default_factory=dict)
    examination: Examination | None = None

    def require_finite(self) -> None:
        """Raises `BadModel` naming the weights that are NaN or infinite: such a model can score nothing."""
        everything = {**self.model.state_dict(), **task_heads.to_tensors(self.heads)}
        bad = [name for name, weights in everything.items() if not bool(torch.isfinite(weights.float()).all())]
        if bad:
            raise BadModel(f"weights that are not finite ({', '.join(bad)}) cannot rank: choose another version, or {TRAIN}")


def save(
    path: Path,
    model: TwoTower,
    space: FeatureSpace,
    manifest: Mapping[str, Any],
    extra: Mapping[str, bytes] | None = None,
    heads: Heads | None = None,
    examination: Examination | None = None,
) -> None:
    """Write the folder `path`, which must exist; `manifest` is JSON and gains `fingerprint`, `sha256` and, where the setting
    FEED_KINDS names some, `kinds`.

    `extra`: further files by name, for `read_checked`.
    """
    contents = {WEIGHTS: save_tensors(model.state_dict()), FEATURES: space.to_json(), **(extra or {})}
    if heads:
        contents[HEADS] = save_tensors(task_heads.to_tensors(heads))
    if examination:
        contents[EXAMINATION] = examination.to_json()
    for name, content in contents.items():
        (path / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    complete = {**manifest, "fingerprint": space.fingerprint, "sha256": sums}
    if own := own_kinds():
        complete["kinds"] = own
    (path / MANIFEST).write_text(json.dumps(complete, indent=2, allow_nan=False) + "\n")


def load(path: Path) -> Snapshot:
    """The version in folder `path`. Raises `BadModel` naming the file that is missing, corrupt or unfit, and a remedy.

    One that was trained with other kinds of events can serve, since it reads the same columns. A warning says so.
    """
    manifest = read_manifest(path)
    if (trained_with := str(manifest.get("kinds", ""))) != (own := own_kinds()):
        log.warning(
            f"the version was trained with other kinds of events than FEED_KINDS names: it serves; to learn from all, {TRAIN}",
            version=path.name, trained_with=trained_with, kinds=own,
        )  # fmt: skip
    contents = {name: read_checked(path / name, manifest) for name in (WEIGHTS, FEATURES)}
    try:
        space = FeatureSpace.from_json(contents[FEATURES])
    except BadModel as error:
        raise BadModel(f"{path / FEATURES} cannot be read by this code: {error}; choose another version, or {TRAIN}") from error
    if space.fingerprint != manifest.get("fingerprint"):
        raise BadModel(
            f"{path / FEATURES} has fingerprint {space.fingerprint[:12]}, {MANIFEST} says "
            f"{str(manifest.get('fingerprint'))[:12]}: these weights were trained on other features; {REMEDY}"
        )
    _check_code(path / FEATURES, space)
    model = TwoTower(space.user_spec, space.item_spec, space.sizes)
    try:
        model.load_state_dict(load_tensors(contents[WEIGHTS]))
    except (SafetensorError, RuntimeError) as error:
        raise BadModel(f"{path / WEIGHTS} does not fit this code's model: {error}; {REMEDY}") from error
    return Snapshot(model.eval(), space, manifest, _heads(path, manifest), _examination(path, manifest))


def _heads(path: Path, manifest: Mapping[str, Any]) -> Heads:
    if HEADS not in manifest.get("sha256", {}):
        return {}
    try:
        return task_heads.from_tensors(load_tensors(read_checked(path / HEADS, manifest)))
    except (SafetensorError, ValueError) as error:
        raise BadModel(f"{path / HEADS} does not fit this code's heads: {error}; {REMEDY}") from error


def _examination(path: Path, manifest: Mapping[str, Any]) -> Examination | None:
    if EXAMINATION not in manifest.get("sha256", {}):
        return None
    try:
        return Examination.from_json(read_checked(path / EXAMINATION, manifest))
    except ValueError as error:
        raise BadModel(f"{path / EXAMINATION} says nothing of who looks: {error}; {REMEDY}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """What is written about the version in folder `path`. Raises `BadModel`."""
    try:
        manifest = json.loads(_read(path / MANIFEST))
    except ValueError as error:
        raise BadModel(f"{path / MANIFEST} is not JSON: {error}; {REMEDY}") from error
    if not isinstance(manifest, dict):
        raise BadModel(f"{path / MANIFEST} is not a JSON object; {REMEDY}")
    return manifest


def read_checked(file: Path, manifest: Mapping[str, Any]) -> bytes:
    """The content of one of a version's files. Raises `BadModel` if it is missing or is not what was saved."""
    content = _read(file)
    if hashlib.sha256(content).hexdigest() != manifest.get("sha256", {}).get(file.name):
        raise BadModel(f"{file} is corrupt: its sha256 is not the one in {MANIFEST}; {REMEDY}")
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadModel(f"{file} cannot be read ({error.strerror}); {REMEDY}") from error


def _check_code(file: Path, space: FeatureSpace) -> None:
    """The stored columns begin with exactly the features this code computes."""
    for stored, computed in (
        (space.user_spec.numeric, user_features.NUMERIC),
        (space.item_spec.numeric, item_features.TOWER),
    ):
        if stored[: len(computed)] != tuple(computed):
            raise BadModel(f"{file} lists other features than this code computes: {set(stored) ^ set(computed)}; {REMEDY}")
