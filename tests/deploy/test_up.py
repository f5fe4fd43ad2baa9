"""Real processes of small compose files; the embedded servers run where the test is about them."""

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kafka import KafkaProducer
from kafka.errors import KafkaError

from deploy import compose
from deploy.up import ROOT, LocalSystem
from feed.errors import FeedError
from feed.settings import PREFIX, Settings

FOREVER = "import time, os; print('pid', os.getpid(), flush=True); time.sleep(600)"


def system(folder: Path, services: str, **options) -> tuple[LocalSystem, io.StringIO]:
    file = folder / "docker-compose.yml"
    file.write_text("services:\n" + textwrap.indent(textwrap.dedent(services), "  "))
    said = io.StringIO()
    return LocalSystem(folder / "state", output=said, file=file, **options), said


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def pids(said: io.StringIO) -> list[int]:
    return [int(line.split()[-1]) for line in said.getvalue().splitlines() if "| pid" in line]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_service_is_reported_and_comes_back(tmp_path):
    running, said = system(tmp_path, f"worker: {{build: ., restart: unless-stopped, command: [python, -c, {FOREVER!r}]}}")
    with running:
        running.wait_ready(20)
        until(lambda: pids(said))
        os.kill(pids(said)[0], signal.SIGKILL)
        until(lambda: len(pids(said)) == 2)
    assert "worker was killed by SIGKILL; starting it again in 0.5 s" in said.getvalue()
    assert not any(map(alive, pids(said)))


def test_the_heartbeat_of_a_killed_process_is_not_taken_for_the_new_ones(tmp_path):
    beat = "import tempfile, os; file = tempfile.gettempdir() + '/feedloop-agent.alive'; print('old', os.path.exists(file)); "
    services = f"""
        agent:
          build: .
          restart: unless-stopped
          command: [python, -c, "{beat}open(file, 'w'); {FOREVER}"]
          healthcheck: {{test: [CMD, bash, {ROOT / "deploy" / "health.sh"}, agent]}}
        """
    running, said = system(tmp_path, services)
    with running:
        running.wait_ready(20)
        os.kill(running.pids["agent"], signal.SIGKILL)
        until(lambda: said.getvalue().count("agent is ready") == 2)
    assert said.getvalue().count("old False") == 2


def test_services_wait_for_the_health_and_the_completion_of_others_and_stop_in_reverse_order(tmp_path):
    tell_the_end = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(print({0}, 'ends', flush=True))); "
    slow = tell_the_end.format("'base'") + "time.sleep(0.5); open('up', 'w'); time.sleep(600)"
    last = tell_the_end.format("'last'") + "print('last starts', flush=True); time.sleep(600)"
    once = "import os; print('seeding with base', 'up' if os.path.exists('up') else 'down')"
    running, said = system(
        tmp_path,
        f"""
        last: {{build: ., command: [python, -c, "{last}"], depends_on: {{once: {{condition: service_completed_successfully}}}}}}
        once: {{build: ., command: [python, -c, "{once}"], depends_on: {{base: {{condition: service_healthy}}}}}}
        base: {{build: ., command: [python, -c, "{slow}"], healthcheck: {{test: [CMD-SHELL, test -e up]}}}}
        """,
    )
    with running:
        running.wait_ready(20)
        until(lambda: "last starts" in said.getvalue())
    order = ["base is ready", "seeding with base up", "once has done its work", "last starts", "last ends", "base ends"]
    places = [said.getvalue().index(text) for text in order]
    assert places == sorted(places)


def test_a_failed_one_shot_is_started_again_as_its_restart_policy_says(tmp_path):
    second_time = "import os, sys; first = not os.path.exists('tried'); open('tried', 'w'); sys.exit(3 if first else 0)"
    running, said = system(tmp_path, f'once: {{build: ., restart: "on-failure:5", command: [python, -c, "{second_time}"]}}')
    with running:
        running.wait_ready(20)
    assert "once ended with status 3; starting it again" in said.getvalue()
    assert "once has done its work" in said.getvalue()


def test_what_fails_for_good_is_named_and_all_is_stopped(tmp_path):
    running, said = system(
        tmp_path,
        f"""
        worker: {{build: ., command: [python, -c, {FOREVER!r}]}}
        once: {{build: ., restart: "on-failure:1", command: [python, -c, "import sys; sys.exit(3)"]}}
        """,
    )
    with running, pytest.raises(FeedError, match="once failed for good"):
        running.wait_ready(20)
    assert not any(map(alive, pids(said)))


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path):
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); " + FOREVER
    running, said = system(tmp_path, f"deaf: {{build: ., command: [python, -c, {deaf!r}]}}")
    with running:
        until(lambda: pids(said))
        asked = time.monotonic()
    assert time.monotonic() - asked < 8
    assert not alive(pids(said)[0])


def test_a_taken_port_is_named_with_the_remedy_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        running, said = system(
            tmp_path,
            'cache: {image: "redis:7", ports: ["127.0.0.1:${CACHE_PORT:-6379}:6379"]}',
            ports={"cache": taken},
        )
        with pytest.raises(FeedError, match=f"port {taken} for cache .*CACHE_PORT={taken + 1}"), running:
            pass
    assert said.getvalue() == ""


def test_embedded_servers_stand_in_and_are_found_where_they_listen(tmp_path):
    look = "import os, redis; print('pong', redis.Redis.from_url(os.environ['FEED_REDIS']).ping(), os.environ['FEED_KAFKA'])"
    running, said = system(
        tmp_path,
        f"""
        kafka: {{image: "apache/kafka:4", ports: ["127.0.0.1:9092:9092"]}}
        redis: {{image: "redis:7", ports: ["127.0.0.1:6379:6379"]}}
        look:
          build: .
          restart: on-failure
          command: [python, -c, "{look}"]
          environment: {{FEED_KAFKA: "kafka:19092", FEED_REDIS: "redis://redis:6379/0", FEED_REGISTRY: /data/registry}}
          volumes: ["state:/data"]
          depends_on: {{redis: {{condition: service_healthy}}, kafka: {{condition: service_healthy}}}}
        """,
    )
    with running:
        running.wait_ready(30)
        assert f"pong True {running.addresses['kafka']}" in said.getvalue()
        assert redis.Redis.from_url(running.settings.redis).ping()
        assert running.settings.registry == tmp_path / "state" / "registry"
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(running.settings.redis).ping()


def test_an_app_that_keeps_sending_while_it_starts_does_not_decide_how_topics_are_made(tmp_path):
    features, health = ROOT / "stream_processors" / "features.py", ROOT / "deploy" / "health.sh"
    running, said = system(
        tmp_path,
        f"""
        kafka: {{image: "apache/kafka:4", ports: ["127.0.0.1:9092:9092"]}}
        redis: {{image: "redis:7", ports: ["127.0.0.1:6379:6379"]}}
        features:
          build: .
          command: [python, {features}]
          environment:
            {{FEED_KAFKA: "kafka:19092", FEED_REDIS: "redis://redis:6379/0", FEED_PARTITIONS: 3, FEED_SESSION_SECONDS: 2}}
          healthcheck: {{test: [CMD, bash, {health}, features]}}
          depends_on: {{redis: {{condition: service_healthy}}, kafka: {{condition: service_healthy}}}}
        """,
    )
    sent = threading.Event()

    def app():
        while not sent.is_set():
            try:
                producer = KafkaProducer(bootstrap_servers=running.addresses["kafka"], bootstrap_timeout_ms=300)
                producer.send("interactions", key=b"p1", value=b"{}").get(3)
                sent.set()
            except KafkaError:
                time.sleep(0.01)

    sender = threading.Thread(target=app)
    sender.start()
    with running:
        running.wait_ready(60)
        sender.join(10)
        until(lambda: "dead letter" in said.getvalue())  # what it sent has arrived where it belongs
    assert "partitions, not" not in said.getvalue()


def test_when_the_broker_dies_everything_starts_afresh(tmp_path):
    running, said = system(
        tmp_path,
        f"""
        kafka: {{image: "apache/kafka:4", restart: unless-stopped, ports: ["127.0.0.1:9092:9092"]}}
        worker:
          build: .
          command: [python, -c, {FOREVER!r}]
          depends_on: {{kafka: {{condition: service_healthy}}}}
        """,
    )
    with running:
        running.wait_ready(30)
        until(lambda: pids(said))
        made_of_the_log = tmp_path / "state" / "registry"
        made_of_the_log.mkdir()
        os.kill(running.pids["kafka"], signal.SIGKILL)
        until(lambda: len(pids(said)) == 2)
        assert not made_of_the_log.exists()
    assert "kafka was killed by SIGKILL, and what it held is gone: everything starts afresh" in said.getvalue()
    assert "removing" in said.getvalue()


@pytest.mark.parametrize(
    ("number", "as_started"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGINT, signal.SIG_IGN),  # by a script, in its background
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGKILL, signal.SIG_DFL),
    ],
)
def test_whatever_ends_the_program_ends_its_services(tmp_path, number, as_started):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("needs Linux")
    (tmp_path / "docker-compose.yml").write_text(f"services:\n  worker: {{build: ., command: [python, -c, {FOREVER!r}]}}\n")
    program = (
        "from pathlib import Path; from deploy.up import LocalSystem\n"
        "try:\n with LocalSystem(Path('state'), file=Path('docker-compose.yml').resolve()) as s: s.wait_ready(); s.wait()\n"
        "except KeyboardInterrupt: pass"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, as_started),
    )
    assert child.stdout
    worker = next(int(line.split()[-1]) for line in child.stdout if "| pid" in line)
    child.send_signal(number)
    assert child.wait(10) == (-9 if number == signal.SIGKILL else 0)
    child.stdout.close()
    until(lambda: not alive(worker))


def test_the_projects_own_file_can_be_run_and_hands_every_setting_on():
    services = compose.read(ROOT / "docker-compose.yml", {name: "1" for name in all_settings()})
    after_seed = {"feeds", "server", "learner", "gatekeeper", "monitor", "schedule"}
    assert {service.name for service in compose.in_order(services)[-1]} == after_seed
    for service in services.values():
        if service.image is None:
            assert set(all_settings()) == set(service.environment)
            assert (ROOT / service.command[1]).suffix == ".py"


def test_the_server_listens_where_its_port_is_published(tmp_path):
    services = compose.read(ROOT / "docker-compose.yml", {"FEED_SERVER_PORT": "8001"})
    here = compose.localized(services["server"], services, tmp_path).environment
    assert (here["FEED_SERVER_HOST"], here["FEED_SERVER_PORT"]) == ("127.0.0.1", "8001")
    assert here["FEED_KAFKA"] == "127.0.0.1:9092"
    assert here["FEED_REDIS"] == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize("ports", ["8000:8000", "0.0.0.0:8000:8000"])
def test_a_port_that_others_could_reach_is_refused(tmp_path, ports):
    with pytest.raises(compose.BadCompose):
        system(tmp_path, f'open: {{build: ., command: [python], ports: ["{ports}"]}}')


def all_settings() -> list[str]:
    return [PREFIX + name.upper() for name in Settings.model_fields]
