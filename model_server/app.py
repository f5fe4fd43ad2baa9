"""The HTTP interface.

GET /feed/{user_id}   the stored feed, without what may be shown no more; for who has none, or one of a champion that serves no
                      more, one ranked on demand (also for users never heard of); ?limit=5: its first five places
GET /health           the process answers
GET /ready            Redis is reachable and a champion is loaded
GET /metrics          counts and gauges for Prometheus

HEAD, errors and unknown query parameters: `front`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
import redis
import structlog
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BeforeValidator
from starlette.convertors import PathConvertor, register_url_convertor

from feed.catalogue import Item
from feed.errors import NoChampion
from feed.features import new_user
from feed.io.feeds import FeedStore
from feed.io.redis import TRANSIENT, FeatureStore
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.ranking.types import Feed
from feed.registry import Registry
from model_server import front
from model_server.freshness import Freshness
from model_server.front import answer, refuse
from model_server.metrics import Metrics

log = structlog.get_logger()

LOOK_SECONDS = 0.1  # how often to ask whether a refresh is due
FOLLOW_SECONDS = 0.1  # how often to look who serves
WATCH_SECONDS = 1.0  # how often to look whether the feeds served keep up with the features
UserId = Annotated[str, Path(min_length=1, max_length=128, description="a text of 1 to 128 characters")]


class AnyText(PathConvertor):
    """As `path`, which ends at a line break: an id may have one."""

    regex = "(?s:.*)"


def create_app(client: redis.Redis, registry: Registry, policy: Policy) -> FastAPI:
    """The application on this Redis and registry. The catalogue is read when it starts, and kept up to date until it stops."""
    features, feeds = FeatureStore(client), FeedStore(client)
    live = Live(registry, policy, features.refresh_items, features.now)
    freshness = Freshness(features, feeds)
    metrics = Metrics(features, live, freshness)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(again_and_again(live.refresh, LOOK_SECONDS)),
            asyncio.create_task(again_and_again(live.follow, FOLLOW_SECONDS)),
            asyncio.create_task(again_and_again(freshness.look, WATCH_SECONDS, "the feeds served cannot be watched")),
        ]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="Feedloop", lifespan=lifespan, redirect_slashes=False)  # `/feed/` is an empty id, not `/feed`
    front.install(app, metrics.seen)
    for error in TRANSIENT:
        app.add_exception_handler(error, _redis_away)
    app.add_exception_handler(NoChampion, _no_champion)

    register_url_convertor("any", AnyText())

    # plain functions: they wait for Redis and compute, so FastAPI runs them in its threads
    @app.get("/feed/{user_id:any}", response_class=Response)
    def feed(
        user_id: UserId,
        limit: Annotated[
            int | None,
            BeforeValidator(digits),
            Query(ge=1, le=policy.feed_size, description=f"a whole number of places from 1 to {policy.feed_size}"),
        ] = None,
    ) -> Response:
        """The user's feed, best item first, and how it came to be; its first `limit` places."""
        stored = feeds.read(user_id)
        if stored is not None and stored.generation >= live.generation:  # above: another process has followed sooner
            shown = tuple(item for item in stored.items if live.refresh_age is None or live.showable(item.item_id))
            if shown or live.version is None:
                freshness.served(user_id)
                metrics.served(stored)
                return answer(describe(msgspec.structs.replace(stored, items=shown), live.table.by_id, True, limit))
        found = live.rank([features.users([user_id])[0] or new_user(user_id)])[0]
        return answer(describe(found, live.table.by_id, False, limit))

    @app.get("/health", response_class=Response)
    async def health() -> Response:
        """This process answers."""
        return answer({"ok": True})

    @app.get("/ready", response_class=Response)
    def ready() -> Response:
        """Whether feeds can be had: 200, or 503 with what is missing."""
        try:
            reachable = bool(client.ping())
        except TRANSIENT:
            reachable = False
        ok = reachable and live.version is not None
        return answer({"ready": ok, "redis": reachable, "champion": live.version}, 200 if ok else 503)

    @app.get("/metrics", response_class=Response)
    def prometheus() -> Response:
        """Counts and gauges in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


async def again_and_again(
    act: Callable[[], None], seconds: float, ailing: str = "catalogue and champion cannot be refreshed"
) -> None:
    """Act until cancelled, whatever happens: stored feeds can be served meanwhile."""
    failed = ""
    while True:
        try:
            await asyncio.to_thread(act)
            failed = ""
        except Exception as error:
            if repr(error) != failed:  # once, not at each look
                log.warning(ailing, error=repr(error), exc_info=not isinstance(error, TRANSIENT))
            failed = repr(error)
        await asyncio.sleep(seconds)


def digits(number: object) -> object:
    """For pydantic alone `1_0` would be 10, too."""
    if isinstance(number, str) and not re.fullmatch("[0-9]+", number):
        raise ValueError
    return number


def describe(feed: Feed, items: Mapping[str, Item], stored: bool, limit: int | None) -> dict[str, Any]:
    """The answer: how the feed came to be, and its first places with the item's title and category (null where unknown)."""
    described = msgspec.to_builtins(msgspec.structs.replace(feed, items=feed.items[:limit]), builtin_types=())
    described["stored"] = stored
    for place, item in enumerate(described["items"]):
        known = items.get(item["item_id"])
        item["position"] = place
        item["title"] = known.title if known else None
        item["category"] = known.category if known else None
    return dict(described)


def _redis_away(request: Request, error: Exception) -> Response:
    return refuse(f"Redis does not answer: {error}", 503)


def _no_champion(request: Request, error: Exception) -> Response:
    return refuse(str(error), 503)
