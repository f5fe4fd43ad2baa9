"""SIGINT ends what a script has started in its background, where shells start commands with SIGINT ignored."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import embedded

ROOT = Path(__file__).parents[2]
NOWHERE = {"FEED_KAFKA": "127.0.0.1:1", "FEED_REDIS": "redis://127.0.0.1:1/0"}


def background(*command: str, **settings: str) -> subprocess.Popen[str]:
    """As a job of a shell that is not interactive; what it says on either stream is read from `stdout`."""
    return subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait $!', "sh", *command],
        cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def interrupted(job: subprocess.Popen[str], once_it_says: str) -> int:
    """The status with which it ends on SIGINT."""
    assert job.stdout
    pid = int(job.stdout.readline())
    try:
        said = []
        for line in job.stdout:
            said.append(line)
            if once_it_says in line:
                break
        else:
            pytest.fail("".join(said))
        os.kill(pid, signal.SIGINT)
        job.communicate(timeout=20)
        return job.returncode
    finally:
        if job.poll() is None:
            os.kill(pid, signal.SIGKILL)
            job.communicate()


@pytest.mark.parametrize("script", ["stream_processors/features.py", "producers/simulate.py"])
def test_a_command_that_waits_for_its_servers_stops_waiting(script):
    assert interrupted(background(sys.executable, script, **NOWHERE), "waiting for") == 130


def test_a_stream_processor_ends_in_order(own_broker, redis_url, tmp_path):
    settings = {"FEED_KAFKA": own_broker, "FEED_REDIS": redis_url, "FEED_PARTITIONS": "2", "TMPDIR": str(tmp_path)}
    job = background(sys.executable, "stream_processors/features.py", **settings)
    assert interrupted(job, "partitions assigned") == 0
    assert not list(tmp_path.glob("*.alive"))


@pytest.mark.parametrize("name", ["broker", "redis"])
def test_an_embedded_server_in_the_foreground_ends(tmp_path, name):
    port = embedded.free_port()
    where = ["--dir", str(tmp_path)] if name == "redis" else []
    program = (
        "import os, sys, threading, time, feed.errors, deploy.embedded as e\n"
        "def say():\n"
        f"    while not e._accepts({port}): time.sleep(0.02)\n"
        "    print('listens', flush=True)\n"
        "if os.fork(): feed.errors.run(e.command_line)\n"  # which becomes the server
        "say()"
    )
    assert interrupted(background(sys.executable, "-c", program, name, "--port", str(port), *where), "listens") in (0, 130)
