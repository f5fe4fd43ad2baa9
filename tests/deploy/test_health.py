"""The health checks, as the compose file has them: without Python, and only a process that gets on passes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy import compose, embedded
from deploy.up import ROOT

SERVICES = compose.read(ROOT / "docker-compose.yml", {})
BEATING = "import time; from feed.heartbeat import heartbeat_of\nwhile True: heartbeat_of('agent').touch(); time.sleep(0.1)"
ANSWERS = "import http.server as h; {0}; h.HTTPServer(('127.0.0.1', {1}), H).serve_forever()"
HANDLER = "H = type('H', (h.BaseHTTPRequestHandler,), dict(do_GET=lambda s: s.send_response_only({0}) or s.end_headers()))"


def check(*command: str, **environment: str) -> str | None:
    """What the check says is wrong; None if nothing."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr or "wrong"


def health(what: str, **environment: str) -> str | None:
    return check("bash", "deploy/health.sh", what, **environment)


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def until_well(what: str, **environment: str) -> None:
    deadline = time.monotonic() + 20
    while health(what, **environment) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_check_starts_a_python_or_a_jvm():
    for service in SERVICES.values():
        assert service.check[:1] in (("bash",), ("sh",), ()), service.name
        assert (service.name == "seed") == (not service.check)


@pytest.mark.parametrize(("age", "well"), [(0, True), (8, True), (12, False), (86_400, False)])
def test_a_heartbeat_counts_for_ten_seconds(tmp_path, age, well):
    file = tmp_path / "feedloop-features.alive"
    file.touch()
    os.utime(file, (time.time() - age,) * 2)
    wrong = health("features", TMPDIR=str(tmp_path))
    assert wrong is None if well else f"last heartbeat {age}" in wrong


def test_a_heartbeat_that_is_not_there_is_none_nor_is_anothers(tmp_path):
    (tmp_path / "feedloop-feeds.alive").touch()
    assert "is not there yet" in health("features", TMPDIR=str(tmp_path))
    assert health("", TMPDIR=str(tmp_path)) == "say what to check\n"


def test_the_heartbeat_is_found_where_a_process_of_this_folder_leaves_it(tmp_path):
    """And one that hangs leaves none any more: seen at once by setting the file's clock on, not by waiting."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    with process(sys.executable, "-c", BEATING, TMPDIR=str(folder)) as running:
        until_well("agent", TMPDIR=str(folder))
        running.send_signal(signal.SIGSTOP)
        os.waitpid(running.pid, os.WUNTRACED)
        file = folder / "feedloop-agent.alive"
        os.utime(file, (file.stat().st_atime, time.time() - 11.5))
        assert "last heartbeat" in health("agent", TMPDIR=str(folder))
        running.send_signal(signal.SIGCONT)
        until_well("agent", TMPDIR=str(folder))


def test_the_server_is_well_if_its_health_answers_200_and_not_while_it_hangs():
    port = embedded.free_port()
    with process(sys.executable, "-c", ANSWERS.format(HANDLER.format(200), port)) as running:
        until_well("server", FEED_SERVER_PORT=str(port))
        running.send_signal(signal.SIGSTOP)
        assert "does not answer" in health("server", FEED_SERVER_PORT=str(port))
        running.send_signal(signal.SIGCONT)
        until_well("server", FEED_SERVER_PORT=str(port))
    assert "refused" in health("server", FEED_SERVER_PORT=str(port))


def test_the_server_is_not_well_if_its_health_answers_an_error():
    port = embedded.free_port()
    with process(sys.executable, "-c", ANSWERS.format(HANDLER.format(500), port)):
        while "refused" in (wrong := health("server", FEED_SERVER_PORT=str(port))):
            time.sleep(0.05)
        assert wrong.startswith("/health answers 500 Internal Server Error")


def test_the_brokers_check_asks_it_something_and_wants_an_answer(broker):
    command = [part.replace("19092", broker.split(":")[1]) for part in SERVICES["kafka"].check]
    assert check(*command) is None
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = str(deaf.getsockname()[1])
        command = [part.replace("19092", port).replace("-t 5", "-t 1") for part in SERVICES["kafka"].check]
        assert check(*command) is not None
    assert "refused" in check(*command)
