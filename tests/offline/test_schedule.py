import json
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from apscheduler.triggers.cron import CronTrigger

from deploy import embedded
from feed import wire
from feed.errors import FeedError
from feed.io import kafka
from feed.monitoring.alerts import Alert
from feed.settings import Settings
from feed.wire import Position
from offline import schedule
from offline.schedule import (
    ALERTS_SECONDS,
    COOLING,
    DAYS,
    HOUR,
    TRIES,
    Agenda,
    Followed,
    Runner,
    Schedule,
    asked,
    commands,
    degraded,
)


def alert(sequence: int, retrain: bool = True) -> Alert:
    return Alert(
        alert_id=f"clicks:everybody:0:{sequence}", kind="clicks", segment="everybody", at=1.75e9, since=1.74e9, before=0.3,
        after=0.2, requests=100, source=0, sequence=sequence, retrain=retrain,
    )  # fmt: skip


def record(offset: int, value: bytes) -> kafka.Record:
    return kafka.Record("alerts", 0, offset, b"clicks", value)


def test_nothing_is_due_that_nobody_wants():
    assert Agenda().next(0.0) is None


def test_jobs_run_one_at_a_time_ranking_first_and_once_however_often_asked_for():
    agenda = Agenda()
    for job in ("retrain", "monitor", "rank", "retrain"):
        agenda.want(job, f"why {job}")
    assert [agenda.next(0.0) for _ in range(4)] == [
        ("rank", "why rank"), ("monitor", "why monitor"), ("retrain", "why retrain"), None,
    ]  # fmt: skip


def test_a_retrain_waits_until_the_one_before_has_cooled_and_is_not_forgotten():
    agenda = Agenda()
    agenda.want("retrain", "first")
    assert agenda.next(0.0) == ("retrain", "first")
    agenda.done("retrain", "first", True, 100.0)
    agenda.want("retrain", "second")
    agenda.want("rank", "2 AM")
    assert agenda.next(100.0) == ("rank", "2 AM")
    assert agenda.next(100.0 + COOLING - 1) is None
    assert agenda.waiting == {"retrain": "second"}
    assert agenda.next(100.0 + COOLING) == ("retrain", "second")


def test_a_retrain_that_fails_is_tried_again_after_cooling_a_few_times_and_then_given_up():
    agenda, now = Agenda(), 0.0
    agenda.want("retrain", "an alert")
    for attempt in range(1, TRIES + 1):
        assert agenda.next(now) == ("retrain", "an alert")
        assert agenda.done("retrain", "an alert", False, now) == (attempt < TRIES)
        assert agenda.next(now + COOLING - 1) is None
        now += COOLING
    assert agenda.next(now) is None
    agenda.want("retrain", "another alert")  # it has all its tries
    assert agenda.next(now) == ("retrain", "another alert")
    assert agenda.done("retrain", "another alert", False, now)
    assert agenda.next(now + COOLING) == ("retrain", "another alert")
    assert agenda.done("retrain", "another alert", True, now + COOLING)
    assert agenda.waiting == {}


def test_an_alert_counts_as_acted_on_only_when_its_retrain_has_succeeded_or_is_given_up(tmp_path: Path, monkeypatch):
    status = iter([1, 0])
    monkeypatch.setattr(schedule, "commands", lambda job, aside: [[sys.executable, "-c", f"raise SystemExit({next(status)})"]])
    monkeypatch.setattr(schedule, "COOLING", 0.0)
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as server:
        topic_id = kafka.ensure_topics(server.address, 1, wire.TOPICS)[wire.ALERTS.name]
        with kafka.Sender(server.address) as sender:
            sender.send(wire.ALERTS, "clicks", alert(1))
        one = Schedule(Settings(kafka=server.address, registry=tmp_path / "registry"), topic_id)
        one.step(0.0)
        assert not (tmp_path / schedule.SAVED).exists()
        one.step(time.monotonic() + 1)
    assert Followed(tmp_path / schedule.SAVED, topic_id).offset == 1


def test_a_retrain_is_an_export_of_the_newest_days_and_a_bootstrap_on_it(tmp_path: Path):
    export, bootstrap = commands("retrain", tmp_path)
    assert export[1:] == [str(schedule.ROOT / "offline/export.py"), "--out", str(tmp_path / "data"), "--days", f"{DAYS:g}"]
    assert bootstrap[1:] == [str(schedule.ROOT / "offline/bootstrap.py"), "--data", str(tmp_path / "data")]
    assert all(Path(command[1]).exists() for job in schedule.JOBS for command in commands(job, tmp_path))


def test_only_alerts_from_the_offset_on_that_ask_for_a_retrain_count():
    records = [record(k, wire.encode(alert(k, retrain=k % 2 == 0))) for k in range(5)]
    found, offset = asked(iter([*records, record(5, b"not an alert")]), 2)
    assert [one.sequence for one in found] == [2, 4]
    assert offset == 6


def test_the_place_in_the_alerts_survives_a_restart_but_not_another_log(tmp_path: Path):
    file = tmp_path / "schedule.json"
    Followed(file, "A").save(7)
    assert Followed(file, "A").offset == 7
    assert Followed(file, "B").offset == 0
    file.write_text("{")
    with pytest.raises(FeedError, match="remove it"):
        Followed(file, "A")


def test_the_monitors_report_decides(tmp_path: Path):
    report = tmp_path / "monitor.json"
    report.write_text(json.dumps({"degraded": True, "why": "much worse"}))
    assert degraded(report) == "much worse"
    report.write_text(json.dumps({"degraded": False, "why": None}))
    assert degraded(report) is None


def test_the_daily_hour_is_two_in_the_morning():
    before = datetime(2026, 3, 4, 1, 30).astimezone()
    assert CronTrigger(hour=HOUR).get_next_fire_time(None, before).strftime("%d %H:%M") == "04 02:00"


def test_a_job_runs_with_low_priority_in_a_folder_that_is_removed_and_its_failure_is_told(tmp_path: Path, monkeypatch):
    def lines(job, aside):
        (aside / "data").mkdir()
        code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'said')!r}).write_text(f'{{os.nice(0)}} {aside}')"
        return [[sys.executable, "-c", code], [sys.executable, "-c", f"import sys; sys.exit({int(job == 'rank')})"]]

    monkeypatch.setattr(schedule, "commands", lines)
    beats: list[None] = []
    runner = Runner(lambda: beats.append(None))
    assert runner.run("monitor", "a test")
    nice, aside = (tmp_path / "said").read_text().split()
    assert int(nice) >= schedule.NICE
    assert not Path(aside).exists()
    assert beats
    assert not runner.run("rank", "a test")


def test_an_alert_runs_one_retrain_and_a_degraded_night_another_after_ranking_and_monitor(tmp_path: Path, monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr(schedule, "commands", lambda job, aside: ran.append(job) or [[sys.executable, "-c", ""]])
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as server:
        topic_id = kafka.ensure_topics(server.address, 1, wire.TOPICS)[wire.ALERTS.name]
        configuration = Settings(kafka=server.address, registry=tmp_path / "registry")
        with kafka.Sender(server.address) as sender:
            sender.send(wire.ALERTS, "features", alert(1, retrain=False))
            sender.send(wire.ALERTS, "clicks", alert(2))
        one = Schedule(configuration, topic_id)
        one.step(0.0)
        one.step(ALERTS_SECONDS)
        assert ran == ["retrain"]
        again = Schedule(configuration, topic_id)
        again.step(0.0)
        assert ran == ["retrain"]
        (tmp_path / schedule.REPORT).write_text(json.dumps({"degraded": True, "why": "much worse"}))
        again._nightly.put("daily at 2 AM")
        for _ in range(4):
            again.step(0.0)
        assert ran == ["retrain", "rank", "monitor", "retrain"]
    saved = json.loads((tmp_path / schedule.SAVED).read_text())
    assert saved == {"topic_id": topic_id, "partition": 0, "offset": 2}
    assert Position(**saved).offset == 2
