"""Where a service without a port shows that it lives, for `deploy/health.sh`: a file of the temporary folder, touched again and
again."""

import tempfile
from pathlib import Path


def heartbeat_of(service: str) -> Path:
    """The file of this service; `deploy/health.sh` says how fresh it must be."""
    return Path(tempfile.gettempdir()) / f"feedloop-{service}.alive"
