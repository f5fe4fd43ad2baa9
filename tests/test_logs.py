import json
import logging

import pytest
import structlog

from feed import logs
from feed.settings import Settings

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def test_in_json_every_line_is_an_object_that_names_the_service_also_for_third_parties(capfd):
    logs.setup(Settings(log_format="json"), "features")
    structlog.get_logger().info("batch applied", records=3)
    logging.getLogger("uvicorn.error").warning("slow %s", "client")
    ours, theirs = map(json.loads, capfd.readouterr().err.splitlines())
    assert (ours["service"], ours["event"], ours["records"], ours["level"]) == ("features", "batch applied", 3, "info")
    assert (theirs["service"], theirs["event"], theirs["logger"]) == ("features", "slow client", "uvicorn.error")


def test_on_a_console_a_line_is_text_and_coloured_only_when_asked(capfd, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    logs.setup(Settings(log_format="console"), "features")
    structlog.get_logger().info("batch applied", records=3)
    plain = capfd.readouterr().err
    assert "batch applied" in plain
    assert "records=3" in plain
    assert "\x1b" not in plain
    structlog.reset_defaults()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    logs.setup(Settings(log_format="console"), "features")
    structlog.get_logger().info("batch applied")
    assert "\x1b" in capfd.readouterr().err


def test_chatty_clients_are_heard_from_warning_on_and_once_in_ten_seconds(capfd):
    logs.setup(Settings(log_format="json"), "features")
    chatty = logging.getLogger("aiokafka.conn")
    chatty.info("joined")
    for node in range(5):
        chatty.error("node %s not reachable", node)
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["node 0 not reachable"]


def test_what_was_silenced_is_said_again_later():
    now = 0.0
    sparse = logs.Sparse(("aiokafka",), lambda: now)
    record = logging.LogRecord("aiokafka.conn", logging.ERROR, "", 0, "node %s not reachable", (1,), None)
    assert sparse.filter(record)
    assert not sparse.filter(record)
    now = logs.REPEAT_SECONDS
    assert sparse.filter(record)
