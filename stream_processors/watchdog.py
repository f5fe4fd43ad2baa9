"""Ends a stream processor that stands still in silence, so that its supervisor starts it again; keeps its heartbeat file.

After a restart of the broker a worker can be left without partitions, or with one partition that is not fetched any more:
no error, no exit. The watchdog is a thread with a connection of its own, so it also sees an event loop that hangs.
"""

import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog
from faust.types import TP
from kafka.errors import KafkaError

from feed.io.kafka import GroupView, Log
from feed.settings import Settings

log = structlog.get_logger()

STALL_SECONDS = 15.0
LOOK_SECONDS = 5.0  # between two looks at the broker
EXIT_STATUS = 3


class View(NamedTuple):
    """A worker's own view of its partitions."""

    assigned: frozenset[TP]
    done: Mapping[TP, int]  # acknowledged up to here, since the last rebalance
    following: Mapping[TP, int]  # delivered to the agent up to here
    progress: Mapping[str, float]  # by topic: when its agent last acknowledged a batch or said that it works on one
    blocked_by: str | None  # the topic whose agent must take a batch before anything else is delivered


class Judge:
    """Compares what the broker has with what the worker has done. Times are monotonic seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[TP, tuple[int, float]] = {}  # position, and since when there is no excuse for it

    def stalled(self, now: float, logs: Mapping[tuple[str, int], Log], view: View) -> str | None:
        """What stands still, in words; None if nothing.

        A partition of this worker (of anybody, if it has none: then there is none too many) with records behind its position
        that has not moved for `seconds`. While batches wait for their agent, the agent's last sign of life counts.
        """
        for tp, (first, end, committed) in ((TP(*place), state) for place, state in logs.items()):
            if view.assigned and tp not in view.assigned:
                self._since.pop(tp, None)
                continue
            position = view.done.get(tp, max(first, committed or 0))
            before, since = self._since.get(tp, (-1, now))
            waits_for = tp.topic if view.following.get(tp, 0) > position else view.blocked_by
            if position != before or position >= max(end, view.following.get(tp, 0)):
                since = now
            elif waits_for is not None:
                since = max(since, view.progress.get(waits_for, since))
            self._since[tp] = position, since
            if now - since >= self._seconds:
                why = (
                    "no partitions are assigned" if not view.assigned else "its agent is stuck" if waits_for else "not fetched"
                )
                return f"{tp.topic}/{tp.partition} has stood at {position} of {end} for {now - since:.0f} s: {why}"
        return None

    def forget(self) -> None:
        """Excuse everything so far: the broker was away."""
        self._since.clear()


class Watchdog:
    """The thread around `Judge`; ends the process with `EXIT_STATUS` on a stall."""

    def __init__(self, service: str, settings: Settings, group: str, topics: Sequence[str]) -> None:
        self._servers, self._group, self._topics = settings.kafka, group, topics
        # a rebalance may wait for a dead member: not less than some sessions
        self._seconds = max(STALL_SECONDS, 2.5 * settings.session_seconds)
        self._heartbeat = Path(tempfile.gettempdir()) / f"feedloop-{service}.alive"
        self._judge = Judge(self._seconds)
        self._broker: GroupView | None = None
        self._stop = threading.Event()
        self._latest = time.monotonic(), View(frozenset(), {}, {}, {}, None)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch; the event loop is to be running within `STALL_SECONDS`."""
        self._heartbeat.unlink(missing_ok=True)
        self.tick(self._latest[1])
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        self._thread.join()
        self._heartbeat.unlink(missing_ok=True)

    def tick(self, view: View) -> None:
        """To be called by the event loop every second: it lives, and this is what it has."""
        self._latest = time.monotonic(), view

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(1.0):
            now, (ticked, view) = time.monotonic(), self._latest
            if now - ticked >= self._seconds:
                self._end(f"the event loop has hung for {now - ticked:.0f} s")
            if view.assigned and now - ticked < LOOK_SECONDS:
                self._heartbeat.touch()
            if now - looked >= LOOK_SECONDS:
                self._look(view)
                looked = time.monotonic()
        if self._broker is not None:
            self._broker.close()

    def _look(self, view: View) -> None:
        try:
            if self._broker is None:
                self._broker = GroupView(self._servers, self._group, self._topics)
            logs = self._broker.read()
        except KafkaError:  # who needs the broker says so
            self._judge.forget()
            return
        if stalled := self._judge.stalled(time.monotonic(), logs, view):
            self._end(stalled)

    def _end(self, why: str) -> None:
        log.error("ending this process, to be started again", why=why)
        os._exit(EXIT_STATUS)
