"""A service as a process of its own, as its supervisor runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
