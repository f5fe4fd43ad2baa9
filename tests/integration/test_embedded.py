"""The embedded servers start, answer, stop, and do not outlive who started them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from deploy import embedded
from feed import wire
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


def sends(address):
    """As in the wild: a new producer until one gets through."""
    while True:
        try:
            producer = KafkaProducer(bootstrap_servers=address, reconnect_backoff_ms=5, bootstrap_timeout_ms=300)
            return producer.send("interactions", key=b"p1", value=b"{}").get(5)
        except KafkaError:
            time.sleep(0.01)


def sends_with_librdkafka(address):
    producer = Producer(
        {"bootstrap.servers": address, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 5, "log_level": 0}
    )
    producer.produce("users", b"{}", b"p1")
    while producer.flush(1):
        pass


def reads(address):
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "g",
            "reconnect.backoff.ms": 5,
            "reconnect.backoff.max.ms": 5,
            "log_level": 0,
        }
    )
    consumer.subscribe(["feature-updates"])
    while not consumer.list_topics("feature-updates", 5).brokers:
        pass
    consumer.close()


def looks(address):
    admin = AdminClient(
        {"bootstrap.servers": address, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 5, "log_level": 0}
    )
    while True:
        try:
            return admin.list_topics("training-examples", 5)
        except KafkaException:
            time.sleep(0.01)


def asks(address):
    while True:
        try:
            return KafkaConsumer("items", bootstrap_servers=address, bootstrap_timeout_ms=300).partitions_for_topic("items")
        except KafkaError:
            time.sleep(0.01)


def test_in_the_foreground_the_topics_are_made_before_the_fastest_app_reaches_the_broker():
    port = embedded.free_port()
    address = f"{embedded.HOST}:{port}"
    apps = [threading.Thread(target=app, args=[address]) for app in (sends, sends_with_librdkafka, reads, looks, asks) * 2]
    for app in apps:
        app.start()
    command = [sys.executable, "-m", "deploy.embedded", "broker", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"FEED_PARTITIONS": "3"}) as process:
        try:
            for app in apps:
                app.join(30)
            assert not any(app.is_alive() for app in apps)
            admin = KafkaAdminClient(bootstrap_servers=address)
            made = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
            admin.close()
        finally:
            process.terminate()
        assert process.wait(10) == 0
    assert made == {topic.name: topic.partitions or 3 for topic in wire.TOPICS}
