"""Is a service of this machine or container well? Exit status 0 or 1; run as a health check, so only the standard library.

python deploy/health.py features    a stream processor: its heartbeat file is fresh
python deploy/health.py server      the model server: /health answers
"""

import os
import socket
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

STALE_SECONDS = 10.0  # a heartbeat a second, missed ten times


def heartbeat(service: str) -> str | None:
    """What is wrong with the stream processor's heartbeat; None if nothing."""
    file = Path(tempfile.gettempdir()) / f"feedloop-{service}.alive"
    try:
        age = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return f"{file} is not there yet"
    return f"last heartbeat {age:.0f} s ago" if age > STALE_SECONDS else None


def answers(port: int) -> str | None:
    """What is wrong with the model server; None if nothing."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError as error:
        return f"127.0.0.1:{port}: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"/health answers {status}"


def listens(port: int) -> str | None:
    """What is wrong with a server of another kind; None if nothing."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError as error:
        return f"127.0.0.1:{port}: {error}"
    return None


def main() -> None:
    """Check what the command line names."""
    match sys.argv[1:]:
        case ["server"]:
            wrong = answers(int(os.environ["FEED_SERVER_PORT"]))
        case ["port", number]:
            wrong = listens(int(number))
        case [service]:
            wrong = heartbeat(service)
        case _:
            wrong = "say what to check"
    if wrong:
        sys.exit(wrong)


if __name__ == "__main__":
    main()
