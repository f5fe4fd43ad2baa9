"""The model server's process: `python model_server/main.py`."""

import errno
import signal
import socket

import torch
import uvicorn

from feed import errors, logs, settings
from feed.errors import BadSetting
from feed.io.redis import connect
from feed.ranking.arms import Policy
from feed.registry import Registry
from model_server.app import create_app


def main() -> None:
    """Serve until told to stop."""
    configuration = settings.load()
    logs.setup(configuration, "server")
    torch.set_num_threads(1)  # spinning threads would slow down everything else on the machine
    listener = listen(configuration.server_host, configuration.server_port)
    app = create_app(connect(configuration.redis), Registry(configuration.registry), Policy.of(configuration))
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after it has stopped: told to stop is no failure
        signal.signal(number, signal.SIG_IGN)
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket on this address. Raises `BadSetting` naming the port and the setting if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadSetting(f"port {port} on {host} is taken: stop what listens there, or set FEED_SERVER_PORT") from error
        raise BadSetting(
            f"cannot listen on {host}:{port} ({error.strerror}): set FEED_SERVER_HOST and FEED_SERVER_PORT"
        ) from error


if __name__ == "__main__":
    errors.run(main)
