"""Logs: one line an event, coloured on a terminal, JSON elsewhere; what third parties log goes through the same renderer.

Each process calls `setup` once, in its own `main`, and then `structlog.get_logger()` wherever it has something to say.
"""

import logging
import os
import sys
import time
from collections.abc import Callable

import stamina
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from feed.settings import Settings

QUIET = ("aiokafka", "kafka")  # at info they tell every join, commit and reconnect
REPEAT_SECONDS = 10.0


def setup(settings: Settings, service: str) -> None:
    """Send everything that is logged in this process to stderr, in the settings' format and from their level on."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _plain,
        structlog.processors.StackInfoRenderer(),
    ]
    shared += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)] if console else _machine(service)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(console)],
            foreign_pre_chain=shared,
        )
    )
    handler.addFilter(Sparse(QUIET))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)  # on a busy machine it warns of its own slowness
    stamina.instrumentation.set_on_retry_hooks([])  # whoever waits says itself what for
    logging.captureWarnings(True)


class Sparse(logging.Filter):
    """Lets a message of the named loggers through once in ten seconds: in an outage aiokafka logs ten lines a second."""

    def __init__(self, names: tuple[str, ...], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._names, self._clock = names, clock
        self._next: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was said a moment ago."""
        if record.name.split(".", 1)[0] not in self._names:
            return True
        key, now = (record.name, str(record.msg)), self._clock()
        if now < self._next.get(key, -1.0):
            return False
        if len(self._next) > 1000:  # messages that are not templates must not add up
            self._next.clear()
        self._next[key] = now + REPEAT_SECONDS
        return True


def _plain(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn says everything twice
    return event


def _machine(service: str) -> list[Processor]:
    def name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.add_logger_name,
        structlog.processors.format_exc_info,
        name,
    ]


def _renderer(console: bool) -> Processor:
    if not console:
        return structlog.processors.JSONRenderer(default=str)
    # `make up` reads through a pipe and prints to a terminal: it says so by FORCE_COLOR
    colours = "NO_COLOR" not in os.environ and (sys.stderr.isatty() or "FORCE_COLOR" in os.environ)
    return structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0, pad_level=True
    )
