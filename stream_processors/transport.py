"""Faust in whole batches: an agent gets consecutive records of one partition at once, and says itself when they are done.

    app = make_app("features", settings)
    consume(app, INTERACTIONS, agent.apply)     # async def apply(batch: Batch) -> None
    run(app)

What an agent keeps with its effects is the truth: it skips what it has, and what it lacks is rewound to. The committed offset
only says where to look again. `stream_processors.batches` says what a batch is and what is promised of it.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from signal import Signals
from typing import Any, cast

import faust
import structlog
from faust.types import TP
from faust.types.auth import CredentialsT
from mode.supervisors import CrashingSupervisor

from feed.address import Broker
from feed.errors import Refused
from feed.io import kafka
from feed.io.diagnosis import redis_refusal
from feed.settings import Settings
from feed.wire import Topic
from stream_processors.batches import Batch, BatchTopic, Consumer, Transport, quiet
from stream_processors.watchdog import Watchdog

__all__ = ["App", "Batch", "Consumer", "assigned", "batch_topic", "consume", "consumer", "every", "make_app", "persist", "run"]

log = structlog.get_logger()

RETRY_SECONDS = 0.3  # before a batch is tried again
QUEUED_BATCHES = 8  # of one topic that wait for its agent
BATCH_RECORDS = 2_000  # in one fetch
STOP_SECONDS = 5.0  # between a signal and the end


class App(faust.App):
    """A Faust app that knows its settings and leaves no folders behind."""

    logger = quiet

    def __init__(self, name: str, settings: Settings) -> None:
        self.service_name, self.settings, self.consumed = name, settings, list[str]()
        session = settings.session_seconds
        super().__init__(
            f"feedloop-{name}",
            broker=[f"kafka://{server}" for server in settings.kafka.split(",")],
            broker_credentials=_credentials(settings.broker),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=session,
            broker_heartbeat_interval=session / 4,
            broker_rebalance_timeout=max(10.0, session),
            broker_request_timeout=max(90.0, session),
            broker_max_poll_records=BATCH_RECORDS,
            broker_commit_interval=1.0,
            stream_wait_empty=False,
            agent_supervisor=CrashingSupervisor,  # a failed agent ends the process; its supervisor starts it again
        )
        self.transport = Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Nothing is kept on disk."""


class Worker(faust.Worker):
    """Runs an app in the foreground; stdout, logging, process title and exit stay this project's own."""

    def __init__(self, app: App) -> None:
        super().__init__(app, quiet=True, redirect_stdouts=False, override_logging=False)
        self.spinner = None
        self._deadline = threading.Timer(STOP_SECONDS, self._end)
        self._deadline.daemon = True

    def run(self) -> None:
        """Run until a signal says to stop. Raises `SystemExit` if the app crashes."""
        try:
            self.execute_from_commandline()
        except SystemExit as end:
            if end.code:
                raise
        finally:
            self._deadline.cancel()

    def _schedule_shutdown(self, signal: Signals) -> None:
        if not self._signal_stop_time:
            self._deadline.start()
        super()._schedule_shutdown(signal)

    def _end(self) -> None:
        # while the broker is away Faust does not come to an end; a position is kept with each effect, so nothing is lost
        log.warning("not stopped in time, ending at once", seconds=STOP_SECONDS)
        os._exit(0)

    def _setproctitle(self, info: str, *, ident: str = "") -> None:
        pass


def make_app(name: str, settings: Settings) -> App:
    """The app of the service `name`, which is its consumer group too. Connects nowhere yet."""
    for chatty in ("faust", "mode"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return App(name, settings)


def batch_topic(app: App, topic: Topic) -> BatchTopic:
    """`topic`, delivered as batches of raw records (`.offset`, `.key`, `.value`: bytes or None)."""
    app.consumed.append(topic.name)
    return BatchTopic(
        app,
        topics=[topic.name],
        maxsize=QUEUED_BATCHES,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )


def consume(app: App, topic: Topic, apply: Callable[[Batch], Awaitable[None]]) -> None:
    """Give each batch of `topic` to `apply`, one after the other; `apply` acknowledges it when its effects are kept."""

    async def agent(stream: Any) -> None:
        async for batch in stream:
            if not batch.stale:
                await apply(batch)

    app.agent(batch_topic(app, topic), name=f"{app.service_name}.{topic.name}")(agent)


async def persist(batch: Batch, attempt: Callable[[], Awaitable[bool]], errors: tuple[type[Exception], ...]) -> None:
    """Call `attempt` until it says True or the batch is stale; after one of `errors` wait a moment.

    What is waited for is said once, and the watchdog is told that it is: a server that is away is no stall. Raises `Refused`
    where waiting does not help: a password that does not hold any more.
    """
    said = ""
    while not batch.stale:
        try:
            if await attempt():
                return
        except errors as error:
            # settings are read at the start: only a new process can have the new password
            if why := redis_refusal(error):
                raise Refused(f"Redis {why}") from error
            if repr(error) != said:
                log.warning(
                    "trying again", partition=str(batch.tp), records=len(batch.records), error=str(error) or repr(error)
                )
            said = repr(error)
            batch.touch()
            await asyncio.sleep(RETRY_SECONDS)


def every(app: App, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Call `act` again and again while the app runs, `seconds` apart."""

    async def again() -> None:  # not a Faust timer: that one complains of work which takes longer than its interval
        while not app.should_stop:
            await act()
            await app.sleep(seconds)

    app.task(again)


def assigned(app: App) -> list[TP]:
    """The partitions that this worker owns at the moment."""
    return sorted(consumer(app).assigned)


def run(app: App) -> None:
    """Run `app` in the foreground until SIGTERM or SIGINT; waits for the broker first.

    Raises `Refused` if the broker cannot be used, `SystemExit` with status 1 if it crashed. The watchdog ends the process
    itself, with status 3.
    """
    kafka.wait_for_broker(app.settings.broker)
    watchdog = Watchdog(app.service_name, app.settings, app.conf.id, app.consumed)

    async def tick() -> None:
        watchdog.tick(consumer(app).view())

    every(app, 1.0, tick)
    watchdog.start()
    try:
        Worker(app).run()
    finally:
        watchdog.stop()


def _credentials(broker: Broker) -> CredentialsT | None:
    tls = broker.tls()
    if broker.authenticated:
        return faust.SASLCredentials(
            username=broker.user,
            password=broker.password.get_secret_value(),
            mechanism=broker.mechanism,
            ssl_context=tls,
        )
    return faust.SSLCredentials(tls) if tls else None


def consumer(app: App) -> Consumer:
    """What fetches for this app, and delivers."""
    return cast(Consumer, app.consumer)
