"""The embedded servers start, answer, stop, and do not outlive who started them."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from deploy import embedded
from feed.errors import FeedError

START = {"broker": embedded.start_broker, "redis": embedded.start_redis}
SETTING = {"broker": "FEED_KAFKA", "redis": "FEED_REDIS"}


def refused(port):
    """Nobody listens; waits a moment for who is just ending."""
    for _ in range(500):
        try:
            socket.create_connection((embedded.HOST, port), 1).close()
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("name", START)
def test_it_listens_when_started_and_is_gone_when_stopped(tmp_path, name):
    with START[name](embedded.free_port(), tmp_path) as server:
        socket.create_connection((embedded.HOST, server.port), 1).close()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    assert refused(server.port)
    with START[name](server.port, tmp_path):
        pass  # the port can be used again at once


@pytest.mark.parametrize("name", START)
def test_a_taken_port_is_named_with_how_to_change_it(tmp_path, name):
    with socket.create_server((embedded.HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FeedError, match=rf"port {port} .*{SETTING[name]}="):
            START[name](port, tmp_path)


@pytest.mark.parametrize("name", START)
def test_it_ends_with_a_killed_parent(tmp_path, name):
    port = embedded.free_port()
    program = (
        "import pathlib, sys, time; from deploy import embedded; "
        f"embedded.start_{name}({port}, pathlib.Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.kill()
    assert refused(port)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", START)
def test_in_the_foreground_a_signal_ends_it(tmp_path, name, how):
    port = embedded.free_port()
    where = ["--dir", str(tmp_path)] if name == "redis" else []
    command = [sys.executable, "-m", "deploy.embedded", name, "--port", str(port), *where]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex((embedded.HOST, port)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        process.wait(10)
    assert refused(port)


def test_the_command_refuses_a_taken_port_with_status_2():
    with socket.create_server((embedded.HOST, 0)) as other:
        command = [sys.executable, "-m", "deploy.embedded", "broker", "--port", str(other.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: port ")
