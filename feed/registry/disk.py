"""Files and folders that are whole or absent, whatever instant their writer is killed at."""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

ASIDE = ".aside-"  # folders that are being written or removed


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of files, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_json(file: Path, content: Mapping[str, Any]) -> None:
    """Make this the file's content: at no instant is there another than the old or the new one."""
    text = json.dumps(content, allow_nan=False) + "\n"
    aside = file.with_suffix(".aside")
    aside.write_text(text)
    sync(aside)
    aside.rename(file)
    sync(file.parent)


@contextmanager
def folder_aside(parent: Path, locked: Callable[[], AbstractContextManager[None]]) -> Iterator[Path]:
    """An empty folder in `parent`, for its user to fill and rename; what is not renamed is removed.

    It is locked as long as its writer lives, so `remove_abandoned` leaves it alone; `locked`: what keeps others from calling
    that while the folder is made.
    """
    with locked():
        aside = parent / f"{ASIDE}{uuid.uuid4().hex}"
        aside.mkdir()
        descriptor = os.open(aside, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield aside
    finally:
        os.close(descriptor)
        shutil.rmtree(aside, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a folder at once, then its content."""
    aside = folder.with_name(f"{ASIDE}{uuid.uuid4().hex}")
    folder.rename(aside)
    shutil.rmtree(aside)


def remove_abandoned(parent: Path) -> None:
    """Remove what writers left that died."""
    for aside in parent.glob(f"{ASIDE}*"):
        try:
            descriptor = os.open(aside, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its writer gave it up at this moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(aside, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
