"""Servers that are there but cannot be used are named, with the remedy and without a password, instead of being waited for."""

import json
import os
import re
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import structlog.testing
from pydantic import SecretStr

from deploy import embedded
from feed import wire
from feed.address import Broker, masked
from feed.errors import BadSetting, Refused
from feed.io import diagnosis, kafka
from feed.io.redis import connect, must_answer
from tests.integration.service import service
from tests.io.fronts import CERTIFICATE, listening, tls_before

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
pytestmark = pytest.mark.timeout(60)  # who waits for ever fails here


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(diagnosis, "ANSWER_SECONDS", 0.5)


@contextmanager
def redis_server(folder, *options):
    port = embedded.free_port()
    command = [*embedded._redis_command(port, folder), *options]
    with embedded._start("redis", port, folder, command, embedded._accepts):
        yield port


def refused(url):
    """How `connect` refuses: at once, and without a password in what it says."""
    with structlog.testing.capture_logs() as lines, pytest.raises(Refused) as error:
        connect(url)
    assert "hunter2" not in str(error.value) + json.dumps(lines)
    return str(error.value)


def test_a_wrong_password_none_and_one_too_many_are_named(tmp_path, redis_url):
    with redis_server(tmp_path, "--requirepass", "right") as port:
        assert "invalid username-password pair" in refused(f"redis://:hunter2@127.0.0.1:{port}/0")
        assert "invalid username-password pair" in refused(f"redis://somebody:hunter2@127.0.0.1:{port}/0")
        assert "asks for a password: set FEED_REDIS=redis://:password@" in refused(f"redis://127.0.0.1:{port}/0")
        assert connect(f"redis://:right@127.0.0.1:{port}/0").ping()
    assert connect(redis_url.replace("redis://", "redis://:hunter2@")).ping()  # who asks for none takes any


def test_a_user_who_may_not_do_what_is_needed_is_named(tmp_path):
    users = ["reader on >right ~* +@read +ping +info", "writer on >right ~* &* +@all -@dangerous"]
    users += ["elsewhere on >right ~other:* +@all", "off off >right ~* +@all"]
    with redis_server(tmp_path, *(word for user in users for word in ("--user", *user.split()))) as port:
        for user in ("reader", "elsewhere"):
            assert re.search(r"does not let this user .* \+@all ~\*", refused(f"redis://{user}:right@127.0.0.1:{port}/0"))
        assert "user is disabled" in refused(f"redis://off:right@127.0.0.1:{port}/0")
        assert connect(f"redis://writer:right@127.0.0.1:{port}/0").ping()  # INFO is not needed


def test_a_replica_and_a_node_of_a_cluster_are_named(tmp_path):
    why = "is a replica, which cannot be written to: point FEED_REDIS at its primary"
    with redis_server(tmp_path / "a") as primary, redis_server(tmp_path / "b", "--replicaof", HOST, str(primary)) as port:
        assert why in refused(f"redis://127.0.0.1:{port}/0")
    with redis_server(tmp_path / "c", "--cluster-enabled", "yes") as port:
        assert "Redis Cluster" in refused(f"redis://127.0.0.1:{port}/0")


def test_tls_where_there_is_none_and_none_where_there_is_are_named(tmp_path, redis_url, monkeypatch):
    port = int(redis_url.split(":")[-1].split("/")[0])
    assert "speaks no TLS: write redis:// in FEED_REDIS" in refused(f"rediss://:hunter2@127.0.0.1:{port}/0")
    with tls_before(port) as front:
        assert "speaks TLS: write rediss:// in FEED_REDIS" in refused(f"redis://127.0.0.1:{front}/0")
        assert "certificate that is not accepted: self-signed" in refused(f"rediss://:hunter2@127.0.0.1:{front}/0")
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert connect(f"rediss://127.0.0.1:{front}/0").ping()


def test_what_is_no_redis_and_a_database_that_is_not_there_are_named(redis_url):
    with listening(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "cannot be used: Protocol Error" in refused(f"redis://127.0.0.1:{port}/0")
    assert "DB index is out of range" in refused(redis_url.replace("/0", "/99"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "begins with redis://"), ("127.0.0.1:6379", "begins with redis://"), ("http://127.0.0.1:6379", "begins with redis://"),
        ("redis://127.0.0.1:abc/0", "no possible port"), ("redis://127.0.0.1:70000/0", "no possible port"),
        ("redis://127.0.0.1:0/0", "no possible port"), ("redis://:hunter2@host:63 79/0", "no spaces"),
        ("redis://:hunter2/x@host:6379/0", "percent-encoded"), ("redis://:hunter2#x@host:6379/0", "percent-encoded"),
        ("redis://host:6379/zero", "database"), ("redis://::1:6379/0", "brackets"),
        ("redis://host:6379/0?nothing=1", "nothing"),
    ],
)  # fmt: skip
def test_an_impossible_redis_url_is_refused_without_its_password(url, why):
    with pytest.raises(BadSetting, match=why) as error:
        connect(url.replace("host", "127.0.0.1") if "?" in url else url)
    assert "hunter2" not in str(error.value)


def test_while_redis_is_away_the_password_is_in_no_line():
    url = f"redis://user:hunter2@127.0.0.1:{embedded.free_port()}/0"
    program = (
        "from feed import logs, settings; logs.setup(settings.Settings(), 'x'); from feed.io.redis import connect; "
        f"connect({url!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in range(3)]
        process.kill()
    assert all("waiting for Redis" in line and "refused" in line for line in lines)
    assert "hunter2" not in "".join(lines)
    with pytest.raises(Exception, match=r"Redis at redis://\*\*\*@127") as error, must_answer(url):
        redis.Redis.from_url(url).ping()
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("redis://:hunter2@h:1/0", "redis://***@h:1/0"), ("rediss://u:hunter2@h", "rediss://***@h"),
        ("redis://u:a@hunter2@h", "redis://***@h"), ("redis://h:1/0?password=hunter2&db=1", "redis://h:1/0?password=***&db=1"),
        (":hunter2@h:1", "***@h:1"), ("h:1,i:2", "h:1,i:2"), ("redis://h:1/0", "redis://h:1/0"), ("", ""),
    ],
)  # fmt: skip
def test_nothing_that_may_be_a_password_is_printed(text, printed):
    assert masked(text) == printed


# ---- Kafka. A listener that asks for a password is made here; what Apache Kafka says was compared by hand.


def frame(connection):
    size = int.from_bytes(read(connection, 4), "big")
    return read(connection, size)


def read(connection, n):
    found = b""
    while len(found) < n:
        part = connection.recv(n - len(found))
        if not part:
            raise ConnectionError
        found += part
    return found


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def sasl_listener(connection):
    """As Kafka's: it tells its versions, shakes hands, and hangs up on whoever has not signed in, or cannot."""
    while True:
        request = frame(connection)
        key, version, number = struct.unpack(">hhi", request[:8])
        if key == 18:
            if version > 0:  # unsupported: with version 0 it is told what there is
                body = struct.pack(">hi", 35, 1) + struct.pack(">hhh", 18, 0, 0)
            else:
                keys = [(18, 0, 0), (17, 0, 1), (36, 0, 1), (3, 0, 12)]
                body = struct.pack(">hi", 0, len(keys)) + b"".join(struct.pack(">hhh", *k) for k in keys)
        elif key == 17:
            body = struct.pack(">hi", 0, 2) + text("PLAIN") + text("SCRAM-SHA-512")
        elif key == 36:
            body = struct.pack(">h", 58) + text("Invalid username or password") + struct.pack(">i", 0)
        else:
            return
        connection.sendall(struct.pack(">ii", 4 + len(body), number) + body)
        if key == 36:
            return


def kafka_refused(broker):
    with structlog.testing.capture_logs() as lines, pytest.raises(Refused) as error:
        kafka.ensure_topics(broker, 2, wire.TOPICS)
    assert "hunter2" not in str(error.value) + json.dumps(lines)
    return str(error.value)


def signing_in(port, **options):
    given = {"security": "SASL_PLAINTEXT", "user": "feed", "password": SecretStr("hunter2")} | options
    return Broker(f"127.0.0.1:{port}", **given)


def test_a_kafka_that_asks_for_a_password_is_named(broker):
    with listening(sasl_listener) as port:
        why = "asks for a user and a password: set FEED_KAFKA_SECURITY=SASL_PLAINTEXT,"
        assert why in kafka_refused(f"127.0.0.1:{port}")
        assert "refuses the password of user 'feed': Invalid username" in kafka_refused(signing_in(port))
        assert "does not know SCRAM-SHA-256: set FEED_KAFKA_MECHANISM to what it has, PLAIN, SCRAM-SHA-512" in kafka_refused(
            signing_in(port, mechanism="SCRAM-SHA-256")
        )


def test_tls_of_kafka_where_there_is_none_and_none_where_there_is_are_named(broker):
    port = int(broker.split(":")[1])
    assert f"{broker} speaks no TLS: set FEED_KAFKA_SECURITY=PLAINTEXT" in kafka_refused(Broker(broker, "SSL"))
    with tls_before(port) as front:
        assert "speaks TLS: set FEED_KAFKA_SECURITY=SASL_SSL or SSL" in kafka_refused(f"127.0.0.1:{front}")
        assert "speaks TLS: set FEED_KAFKA_SECURITY=SASL_SSL" in kafka_refused(signing_in(front))
        untrusted = kafka_refused(Broker(f"127.0.0.1:{front}", "SSL"))
        assert re.search(r"certificate that is not accepted: self-signed.* FEED_KAFKA_CA", untrusted)


def test_another_server_in_kafkas_place_is_named(redis_url):
    place = redis_url.removeprefix("redis://").removesuffix("/0")
    with listening(lambda connection: (connection.recv(1), connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))) as port:
        assert "is no Kafka: it answers with b'HTTP'" in kafka_refused(f"127.0.0.1:{port}")
    assert f"{place} is no Kafka, but a Redis" in kafka_refused(place)


def test_everything_speaks_tls_to_kafka_where_it_is_set(tmp_path):
    """Topics, sending and reading over TLS, with the file that says whom to trust."""
    inner, front = embedded.free_ports(2)
    command = embedded._broker_command(inner, front)
    broker = Broker(f"localhost:{front}", "SSL", ca=CERTIFICATE)
    with embedded._start("broker", inner, tmp_path, command, embedded._accepts), tls_before(inner, front):
        kafka.ensure_topics(broker, 2, wire.TOPICS)
        with kafka.Sender(broker) as sender:
            sender.send_raw("interactions", 1, b"k", b"v")
        assert [record.value for record in kafka.read_topic(broker, wire.INTERACTIONS)] == [b"v"]
        tail = kafka.Tail(broker, wire.INTERACTIONS)
        assert (tail.ended({0: 0, 1: 0}), tail.holding({0: 0, 1: 0})) == ({0}, {1})
        tail.close()


def test_no_production_code_gives_a_client_the_servers_without_what_is_needed_to_sign_in():
    """`configuration.kafka` has no user, no password and no TLS: `configuration.broker` has."""
    for folder in ("stream_processors", "offline", "producers", "model_server", "deploy", "feed"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "settings.py":
                found = re.findall(r"\b(?:configuration|settings|self\._settings|system\.settings)\.kafka\b", file.read_text())
                assert len(found) <= (file.name == "transport.py"), f"{file}: {found}"  # Faust has its own way to sign in


@pytest.mark.parametrize("setting", ["redis", "kafka"])
def test_a_service_that_is_refused_ends_with_status_2_and_the_reason(setting, tmp_path, own_broker):
    with redis_server(tmp_path, "--requirepass", "right") as port:
        settings = {"FEED_KAFKA": own_broker, "FEED_REDIS": f"redis://:hunter2@127.0.0.1:{port}/0", "FEED_LOG_FORMAT": "json"}
        if setting == "kafka":
            settings |= {"FEED_KAFKA_SECURITY": "SASL_SSL", "FEED_KAFKA_USER": "feed", "FEED_KAFKA_PASSWORD": "hunter2"}
        done = subprocess.run(
            [sys.executable, ROOT / "stream_processors" / "features.py"], env=os.environ | settings, capture_output=True,
            text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "hunter2" not in done.stderr + done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: Redis at" if setting == "redis" else "error: Kafka at")


def test_a_password_that_is_changed_while_a_service_runs_ends_it_with_the_reason(tmp_path, own_broker):
    """A new process reads its settings anew, so its supervisor can bring it back; this one could only wait for ever."""
    kafka.ensure_topics(own_broker, 2, wire.TOPICS)
    with redis_server(tmp_path, "--requirepass", "hunter2") as port:
        url, log = f"redis://:hunter2@127.0.0.1:{port}/0", tmp_path / "log"
        settings = {"FEED_KAFKA": own_broker, "FEED_REDIS": url, "FEED_PARTITIONS": "2", "FEED_SESSION_SECONDS": "2"}
        with service("stream_processors/features.py", log, settings) as process, kafka.Sender(own_broker) as sender:
            sender.send_raw("items", 0, b"k", b"{}")
            while "dead letter" not in log.read_text():  # it is at work
                assert process.poll() is None
                time.sleep(0.05)
            client = redis.Redis.from_url(url)
            client.config_set("requirepass", "other")
            client.client_kill_filter(_type="normal", skipme=True)
            sender.send_raw("items", 0, b"k", b"{}")
            assert process.wait(30) == 1
            client.close()
    assert "Redis does not let this process in: invalid username-password pair" in log.read_text()
    assert "hunter2" not in log.read_text()
