"""A service as a process of its own, as its supervisor runs it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` gives as soon as it is true. Raises `AssertionError` after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:.0f} s"
        time.sleep(0.05)
    return found


@contextmanager
def service(script: str, log: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`script`, from the project's root, with these settings; what it says is appended to `log`. Told to stop at the end."""
    environment = {**os.environ, **settings, "TMPDIR": str(log.parent)}
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, str(ROOT / script)], env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
