"""Look at the versions of the model and change by hand which one serves.

`python offline/models.py list | show VERSION | promote VERSION | rollback`
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feed import errors, logs, settings
from feed.errors import BadModel, FeedError
from feed.events import utc
from feed.models import snapshot
from feed.registry import Champion, Registry

BY_HAND = {"by": "by hand"}
COLUMNS = ("version", "role", "made by", "parent", "learned until", "created", "held")

log = structlog.get_logger()

app = typer.Typer(
    add_completion=False, help="Versions of the model: which there are, and which one serves.", no_args_is_help=True
)
Version = Annotated[str, typer.Argument(help="such as v000012; `list` shows them")]


@app.command("list")
def list_versions() -> None:
    """Every version that is kept, oldest first."""
    registry = _registry()
    if not (versions := registry.versions()):
        print("No version yet: train one with `python offline/bootstrap.py`.")
        return
    roles = roles_of(registry)
    lines = [(version, roles.get(version, ""), *_about(registry, version)) for version in versions]
    if (console := Console()).is_terminal:
        table = Table(*COLUMNS)
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)
    else:  # for other programs: one line a version, columns apart by tabs
        for line in (COLUMNS, *lines):
            print("\t".join(" ".join(text.split()) for text in line))


@app.command()
def show(version: Version) -> None:
    """A version's manifest, and the ledger's lines that name it."""
    registry = _registry()
    print(json.dumps(snapshot.read_manifest(registry.folder(version)), indent=2, ensure_ascii=False))
    for line in registry.ledger():
        if names(line, version):
            print(json.dumps(line, ensure_ascii=False))


@app.command()
def promote(version: Version) -> None:
    """Make a version serve at once, without a trial; the ledger says that it was done by hand."""
    registry = _registry()
    generation, champion = registry.generation(), _champion(registry)
    snapshot.load(registry.folder(version)).require_finite()
    if champion is not None and champion.version == version:
        raise FeedError(f"{version} serves already, as generation {champion.generation}")
    _say(registry.promote(version, generation=generation, evidence=BY_HAND))


@app.command()
def rollback() -> None:
    """Make the version serve again that did before the champion."""
    registry = _registry()
    generation, previous = registry.generation(), registry.previous()
    if previous is not None:
        snapshot.load(registry.folder(previous)).require_finite()
    _say(registry.roll_back(generation=generation, evidence=BY_HAND))


def roles_of(registry: Registry) -> dict[str, str]:
    """The role of each version that has one."""
    champion = _champion(registry)
    held = {registry.previous(): "previous", registry.challenger(): "challenger"}
    if champion is not None:
        held[champion.version] = f"champion (generation {champion.generation})"
    return {version: role for version, role in held.items() if version is not None}


def names(line: Mapping[str, Any], version: str) -> bool:
    """Whether this line of the ledger is about the version."""
    return version in (line.get(field) for field in ("version", "previous", "instead_of", "champion", "challenger"))


def _champion(registry: Registry) -> Champion | None:
    """The champion; one whose folder is gone is said and does not keep another from being promoted."""
    try:
        return registry.champion()
    except BadModel as error:
        log.warning("the champion cannot serve", error=str(error))
        return None


def _about(registry: Registry, version: str) -> tuple[str, ...]:
    try:
        manifest = snapshot.read_manifest(registry.folder(version))
    except BadModel:
        return "", "", "", "", "its manifest cannot be read"
    until = manifest.get("learned_until")
    return (
        str(manifest.get("created_by", "")),
        str(manifest.get("parent") or ""),
        "" if until is None else utc(until).isoformat(sep=" ", timespec="seconds"),
        str(manifest.get("created_at", ""))[:19].replace("T", " "),
        str(manifest.get("held") or ""),
    )


def _registry() -> Registry:
    configuration = settings.load()
    logs.setup(configuration, "models")
    return Registry(configuration.registry)


def _say(champion: Champion) -> None:
    print(f"{champion.version} serves, generation {champion.generation}.")


if __name__ == "__main__":
    errors.run(app)
