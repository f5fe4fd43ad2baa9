"""The data format: `users`, `items` and `interactions`, one parquet or csv file each in one folder (docs/event-schema.md).

    folder ◄── read, write ──► Dataset (three checked tables) ◄── items_of, users_of, events_of, from_events ──► feed.events

`schema` knows the columns and refuses what does not fit them; `files` knows parquet and csv; `convert` knows the
types of `feed.events` and `feed.catalogue`.
"""

from feed.dataset.convert import events_of, from_events, items_of, users_of
from feed.dataset.files import WORLD_FILE, Format, read, write
from feed.dataset.schema import Dataset

__all__ = ["WORLD_FILE", "Dataset", "Format", "events_of", "from_events", "items_of", "read", "users_of", "write"]
