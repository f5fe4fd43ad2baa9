"""The schedule: what runs without anybody asking, and what alerts ask for. One job at a time, each in a process of its own.

    daily at 2 AM            rank everybody (offline/rank.py), then look at the served feeds (offline/monitor.py)
    degraded, or an alert    re-train: offline/export.py of the newest days, then offline/bootstrap.py: one more challenger

How far `alerts` has been acted on stands in schedule.json beside the registry; it is written when a re-train has succeeded, or
has failed `TRIES` times, so that a restart forgets none that was asked for.

`python offline/schedule.py`; `--now rank|monitor|retrain` runs one job and ends.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Annotated, Literal

import msgspec
import structlog
import typer
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from kafka.errors import KafkaError

from feed import errors, logs, settings, wire
from feed.errors import FeedError, Unreadable
from feed.heartbeat import heartbeat_of
from feed.io import kafka
from feed.monitoring.alerts import Alert, decode_alert
from feed.registry.disk import replace_json
from feed.settings import Settings
from feed.wire import Position
from offline.monitor import REPORT

Job = Literal["rank", "monitor", "retrain"]
JOBS: tuple[Job, ...] = ("rank", "monitor", "retrain")
HOUR = 2  # of the machine's local time
LATE_SECONDS = 3600  # a nightly run that was missed by no more than this is made up for
COOLING = 600.0  # seconds of the wall clock between the end of a re-train and the next
TRIES = 3  # of one re-train that fails, `COOLING` apart
DAYS = 14.0  # of event time that a re-train learns from
NICE = 10
ALERTS_SECONDS = 15.0  # between two looks at the alerts
TICK = 0.5
SAVED = "schedule.json"
ROOT = Path(__file__).parents[1]
log = structlog.get_logger()


class Agenda:
    """What is wanted and what is due; pure. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._wanted: dict[Job, str] = {}
        self._rested_from = float("-inf")  # the end of the last re-train
        self._failed = 0  # re-trains, one after the other

    def want(self, job: Job, why: str) -> None:
        """Ask for a job; one that is wanted already is not run twice."""
        self._wanted.setdefault(job, why)

    def next(self, now: float) -> tuple[Job, str] | None:
        """The job that is due and why; it is then no longer wanted. A re-train waits until `COOLING` after the one before."""
        for job in JOBS:
            if job in self._wanted and (job != "retrain" or now >= self._rested_from + COOLING):
                return job, self._wanted.pop(job)
        return None

    def done(self, job: Job, why: str, well: bool, now: float) -> bool:
        """This job has ended, `well` or not; a re-train that failed is wanted again, `TRIES` times at most. False: given up."""
        if job != "retrain":
            return True
        self._rested_from = now
        self._failed = 0 if well else self._failed + 1
        if 0 < self._failed < TRIES:
            self.want(job, why)
        given_up = self._failed == TRIES
        self._failed %= TRIES
        return not given_up

    @property
    def waiting(self) -> dict[Job, str]:
        """What is wanted and why."""
        return dict(self._wanted)


def commands(job: Job, aside: Path) -> list[list[str]]:
    """The command lines of a job, one after the other; `aside`: a folder for what is needed in between."""
    offline = ROOT / "offline"
    if job == "retrain":
        data = str(aside / "data")
        return [
            [sys.executable, str(offline / "export.py"), "--out", data, "--days", f"{DAYS:g}"],
            [sys.executable, str(offline / "bootstrap.py"), "--data", data],
        ]
    return [[sys.executable, str(offline / f"{job}.py")]]


def asked(records: Iterator[kafka.Record], offset: int) -> tuple[list[Alert], int]:
    """The alerts among `records` from `offset` on that ask for a re-train, and the next offset."""
    found: list[Alert] = []
    for record in records:
        if record.offset < offset:
            continue
        offset = record.offset + 1
        try:
            alert = decode_alert(record.value)
        except Unreadable as error:
            log.error("unreadable alert", offset=record.offset, reason=str(error))
            continue
        if alert.retrain:
            found.append(alert)
    return found, offset


class Followed:
    """The place in `alerts` up to which they have been acted on, kept in a file."""

    def __init__(self, file: Path, topic_id: str) -> None:
        self._file, self._topic_id = file, topic_id
        self.offset = 0
        if file.exists():
            try:
                saved = msgspec.json.decode(file.read_bytes(), type=Position)
                self.offset = saved.offset if saved.topic_id == topic_id else 0  # another log begins at its beginning
            except msgspec.DecodeError as error:
                raise FeedError(f"{file} is not a position in a log ({error}): remove it, alerts are then read anew") from error

    def save(self, offset: int) -> None:
        """Everything before `offset` has been acted on."""
        if offset != self.offset:
            self.offset = offset
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_json(self._file, msgspec.structs.asdict(Position(self._topic_id, 0, offset)))


class Runner:
    """Runs jobs as processes of lower priority, and calls `meanwhile` twice a second while one runs."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, job: Job, why: str) -> bool:
        """Run all of a job's commands; False if one failed (what it says goes where this process's own words go)."""
        began = time.monotonic()
        log.info("job begins", job=job, why=why)
        aside = Path(tempfile.mkdtemp(prefix="feedloop-"))
        try:
            for command in commands(job, aside):
                status = self._one(command)
                if status:
                    log.error("job failed", job=job, command=" ".join(command[1:]), status=status)
                    return False
        finally:
            self.stop()
            shutil.rmtree(aside, ignore_errors=True)
        log.info("job done", job=job, seconds=round(time.monotonic() - began, 1))
        return True

    def _one(self, command: list[str]) -> int:
        self._running = subprocess.Popen(["nice", "-n", str(NICE), *command], cwd=Path.cwd())
        while (status := self._running.poll()) is None:
            self._meanwhile()
            time.sleep(TICK)
        self._running = None
        return status

    def stop(self) -> None:
        """End the process that runs, if one does."""
        if self._running is not None:
            self._running.terminate()
            self._running.wait()


class Schedule:
    """The service: waits for the hour and for alerts, and runs what is due."""

    def __init__(self, configuration: Settings, topic_id: str) -> None:
        self._broker, self._folder = configuration.broker, configuration.registry.parent
        self._agenda, self._nightly = Agenda(), SimpleQueue[str]()
        self._followed = Followed(self._folder / SAVED, topic_id)
        self._read = self._followed.offset  # alerts up to here are known, if not acted on yet
        self._heartbeat = heartbeat_of("schedule")
        self._runner = Runner(self._heartbeat.touch)
        self._looked = float("-inf")
        self._daily, self._scheduler = CronTrigger(hour=HOUR), BackgroundScheduler()
        self._scheduler.add_job(
            self._nightly.put, self._daily, [f"daily at {HOUR} AM"], coalesce=True, misfire_grace_time=LATE_SECONDS
        )

    def follow(self) -> None:
        """Run what is due until the process is told to stop."""
        self._scheduler.start()
        log.info("schedule begins", alerts_from=self._followed.offset)
        self._say_next()
        try:
            while True:
                self._heartbeat.touch()
                self.step(time.monotonic())
                time.sleep(TICK)
        finally:
            self._scheduler.shutdown(wait=False)
            self._heartbeat.unlink(missing_ok=True)

    def step(self, now: float) -> None:
        """Look at what is asked for, and run one job if one is due; `now`: seconds of the monotonic clock."""
        if not self._nightly.empty():
            self._agenda.want("rank", self._nightly.get())
        if now >= self._looked + ALERTS_SECONDS:
            self._look()
            self._looked = time.monotonic()
        if (due := self._agenda.next(now)) is not None:
            job, why = due
            well = self._runner.run(job, why)
            if not self._agenda.done(job, why, well, time.monotonic()):
                remedy = "see its own lines above, then `python offline/schedule.py --now retrain`"
                log.error("the re-train is given up", why=why, tries=TRIES, remedy=remedy)
            self._after(job, well)
            self._say_next()
        if "retrain" not in self._agenda.waiting:
            self._followed.save(self._read)

    def _after(self, job: Job, well: bool) -> None:
        if job == "rank":
            self._agenda.want("monitor", "after the full ranking")
        if job == "monitor" and well and (why := degraded(self._folder / REPORT)) is not None:
            self._agenda.want("retrain", why)

    def _look(self) -> None:
        """Alerts that came meanwhile."""
        try:
            found, self._read = asked(kafka.read_topic(self._broker, wire.ALERTS), self._read)
        except (KafkaError, FeedError) as error:
            log.warning("alerts not read, trying again", error=str(error) or repr(error))
            return
        for alert in found:
            self._agenda.want("retrain", f"alert {alert.alert_id}")
            log.info("an alert asks for a re-train", alert=alert.alert_id)

    def _say_next(self) -> None:
        at = self._daily.get_next_fire_time(None, datetime.now(self._daily.timezone))
        log.info("waiting", next_full_ranking=str(at), wanted=self._agenda.waiting or None)


def degraded(report: Path) -> str | None:
    """Why the report of `offline/monitor.py` says that the feeds have degraded; None if it does not."""
    found = json.loads(report.read_text())
    return str(found["why"]) if found["degraded"] else None


def main(
    now: Annotated[str | None, typer.Option(help="run this job now and end: rank, monitor or retrain")] = None,
) -> None:
    """Full ranking and monitor daily at 2 AM; re-train when the feeds have degraded or an alert asks."""
    configuration = settings.load()
    logs.setup(configuration, "schedule")
    signal.signal(signal.SIGTERM, _stop)
    if now is not None:
        job = next((job for job in JOBS if job == now), None)
        if job is None:
            raise FeedError(f"--now {now}: no such job; there are {', '.join(JOBS)}")
        sys.exit(0 if Runner(lambda: None).run(job, "--now") else 1)
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    Schedule(configuration, topic_ids[wire.ALERTS.name]).follow()


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    errors.run(lambda: typer.run(main))
