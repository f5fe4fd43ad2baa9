"""Write a simulated world and its past in the data format: `python producers/generate.py --out DIR`.

Beside the three tables it writes `world.json`, which says which world it is, so that `simulate.py` can find it again.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feed import dataset
from feed.errors import run
from feed.events import Impression
from producers import history
from producers.world import World

console = Console(highlight=False)


def generate(out: Path, users: int, items: int, interactions: int, seed: int) -> None:
    """Write the tables and `world.json` into `out`, made if it is not there; say so if the world is too small for that many."""
    world = World(users, items, seed)
    with console.status("people look at feeds") as status:
        log = history.make(world, interactions, lambda n: status.update(f"people look at feeds: {n:,} of {interactions:,}"))
        status.update("writing")
        dataset.write(dataset.from_events(log.events, world.items, world.users), out)
    description = world.description | {"interactions": interactions}
    (out / dataset.WORLD_FILE).write_text(json.dumps(description, indent=2) + "\n")
    requests = sum(isinstance(event, Impression) for event in log.events)
    engagements = len(log.events) - requests
    console.print(f"{out}: {users:,} users, {items:,} items, {engagements:,} interactions after {requests:,} requests")
    if engagements < interactions:
        console.print(
            f"[yellow]fewer interactions than the {interactions:,} asked for:[/] these people had no time or no items left for "
            "more; take more --users or --items, or fewer --interactions",
            soft_wrap=True,
        )


def main(
    out: Annotated[Path, typer.Option(help="folder to write users, items, interactions and world.json into")],
    users: Annotated[int, typer.Option(min=1)] = 1000,
    items: Annotated[int, typer.Option(min=1)] = 5000,
    interactions: Annotated[int, typer.Option(min=1, help="engagements; what was shown comes on top")] = 50_000,
    seed: Annotated[int, typer.Option(min=0, help="same seed and sizes, same world")] = 0,
) -> None:
    """Write a simulated world and four weeks of its past in the data format."""
    generate(out, users, items, interactions, seed)


if __name__ == "__main__":
    run(lambda: typer.run(main))
