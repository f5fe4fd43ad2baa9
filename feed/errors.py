"""One base class for everything a user of Feedloop can get wrong; each message names the offender and the remedy."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


class FeedError(Exception):
    """Base of all errors this project raises on purpose; commands print its message and exit with status 2."""


class Unreadable(FeedError):
    """Bytes that are not a valid message; they go to `dead-letters` with this reason."""


class BadData(FeedError):
    """A table of the data format with a missing, misspelt or impossible column or value."""


class BadSetting(FeedError):
    """An unknown or impossible setting."""


class Refused(FeedError):
    """A server that is there, and does not let this process in or cannot be used by it; waiting does not help."""


class NotArrived(FeedError):
    """Less has arrived in the features than was published."""


class OtherCatalogue(FeedError):
    """The state holds users and items of another world or log than the one being published."""


class OtherLog(FeedError):
    """The state was computed from a topic that is not there any more (recreated, or another broker's)."""


class Lost(FeedError):
    """Keys of Redis are missing that were there, or hold what cannot be read: the state is to be computed anew from the log."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"keys in Redis are missing or cannot be read: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}")
        self.keys = keys


class BadModel(FeedError):
    """Weights that are corrupt, or that were trained on other features than those at hand."""


class NoChampion(FeedError):
    """Nothing has been trained yet, so nothing can be ranked by a model."""


class NotPromoted(FeedError):
    """Another version was promoted in the meantime."""


def last_line(error: BaseException) -> str:
    """What was raised and where, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


def run(command: Callable[[], None]) -> None:
    """Run a process's `main`: a `FeedError` or an unusable file ends it with a message and status 2, SIGINT with 130."""
    obey_interrupts()
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"error: {error.filename}: {error.strerror}; choose another path, or mend this one\n")
        sys.exit(2)
    except FeedError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def obey_interrupts() -> None:
    """Let SIGINT end this process where it was started with SIGINT ignored, as scripts' shells start their background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
