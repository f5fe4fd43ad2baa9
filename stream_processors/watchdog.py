"""Ends a stream processor that stands still in silence, so that its supervisor starts it again; keeps its heartbeat file.

After a restart of the broker a worker can be left without partitions, or with one partition that is not fetched any more:
no error, no exit. The watchdog is a thread with a connection of its own, so it also sees an event loop that hangs.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog
from faust.types import TP
from kafka.errors import KafkaError

from feed.heartbeat import heartbeat_of
from feed.io.diagnosis import diagnose_kafka
from feed.io.kafka import GroupView, Log, Tail
from feed.settings import Settings
from feed.wire import Topic

log = structlog.get_logger()

STALL_SECONDS = 15.0
LOOK_SECONDS = 5  # between two looks at the broker
EXIT_STATUS = 3


class View(NamedTuple):
    """A worker's own view of its partitions."""

    assigned: frozenset[TP]
    done: Mapping[TP, int]  # acknowledged up to here, since the last rebalance
    following: Mapping[TP, int]  # delivered to the agent up to here
    progress: Mapping[str, int]  # by topic: how often its agent has acknowledged a batch or said that it works on one
    blocked_by: str | None  # the topic whose agent must take a batch before anything else is delivered
    held: frozenset[TP] = frozenset()  # kept back on purpose, which somebody has said


class Judge:
    """Compares what the broker has with what the worker has done. Times are seconds of any clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[TP, tuple[int, int, float]] = {}  # position, progress of who is waited for, since when neither moved

    def stalled(
        self,
        now: float,
        logs: Mapping[tuple[str, int], Log],
        view: View,
        holds: Callable[[TP, int], bool] = lambda tp, position: True,
    ) -> str | None:
        """What stands still, in words; None if nothing.

        A partition of this worker (of anybody, if it has none: then there is none too many) with records behind its position
        that has not moved for `seconds`. While batches wait for their agent, it is enough that this agent gets on. `holds` has
        the last word on whether there are records: an end counts what nobody is handed (markers, aborted transactions).
        """
        for tp, (first, end, committed) in ((TP(*place), log) for place, log in logs.items()):
            if tp in view.held or (view.assigned and tp not in view.assigned):
                self._seen.pop(tp, None)
                continue
            position = view.done.get(tp, max(first, committed or 0))
            delivered = view.following.get(tp, 0)
            waits_for = tp.topic if delivered > position else view.blocked_by
            progress = view.progress.get(waits_for, 0) if waits_for else 0
            *before, since = self._seen.get(tp, (-1, -1, now))
            if position >= max(end, delivered) or position != before[0] or (waits_for and progress != before[1]):
                since = now
            if now - since >= self._seconds and not holds(tp, position):
                since = now
            self._seen[tp] = position, progress, since
            if now - since >= self._seconds:
                why = "its agent is stuck" if waits_for else "not fetched" if view.assigned else "no partitions are assigned"
                return f"{tp.topic}/{tp.partition} has stood at {position} of {end} for {now - since:.0f} s: {why}"
        return None

    def forget(self) -> None:
        """Excuse everything so far: the broker was away."""
        self._seen.clear()


class Watchdog:
    """The thread around `Judge`; ends the process with `EXIT_STATUS` on a stall."""

    def __init__(self, service: str, settings: Settings, group: str, topics: Sequence[str]) -> None:
        self._at, self._group, self._topics = settings.broker, group, topics
        # a rebalance may wait for a dead member: not less than some sessions
        self._seconds = max(STALL_SECONDS, 2.5 * settings.session_seconds)
        self._heartbeat = heartbeat_of(service)
        self._judge = Judge(self._seconds)
        self._broker: GroupView | None = None
        self._tails: dict[str, Tail] = {}
        self._stop = threading.Event()
        self._view = View(frozenset(), {}, {}, {}, None)
        self._ticked = True
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch; the event loop is to be running within `STALL_SECONDS`."""
        self._heartbeat.unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        self._thread.join(1.0)  # it may be waiting for a broker that is away
        self._heartbeat.unlink(missing_ok=True)

    def tick(self, view: View) -> None:
        """To be called by the event loop every second: it lives, and this is what it has."""
        self._view, self._ticked = view, True

    def _watch(self) -> None:
        # counted, not read from a clock: a process that was frozen for a while has not hung
        now = ticked = 0
        while not self._stop.wait(1.0):
            now += 1
            if self._ticked:
                self._ticked, ticked = False, now
            if now - ticked >= self._seconds:
                self._end(f"the event loop has hung for {now - ticked} s")
            if self._view.assigned and now - ticked < LOOK_SECONDS:
                self._heartbeat.touch()
            if now % LOOK_SECONDS == 0:
                self._look(now)
        for connected in (self._broker, *self._tails.values()):
            if connected is not None:
                connected.close()

    def _look(self, now: float) -> None:
        try:
            if self._broker is None:
                self._broker = GroupView(self._at, self._group, self._topics)
            logs = self._broker.read()
        except KafkaError:  # who needs the broker says so
            self._judge.forget()
            if why := diagnose_kafka(self._at):  # nobody comes back in: settings are read at the start
                self._end(why)
            return
        if stalled := self._judge.stalled(now, logs, self._view, self._holds):
            self._end(stalled)

    def _holds(self, tp: TP, position: int) -> bool:
        tail = self._tails.setdefault(tp.topic, Tail(self._at, Topic(tp.topic)))
        return tp.partition in tail.holding({tp.partition: position})

    def _end(self, why: str) -> None:
        log.error("ending this process, to be started again", why=why)
        os._exit(EXIT_STATUS)
