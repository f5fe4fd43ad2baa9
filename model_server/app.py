"""The HTTP interface.

GET /feed/{user_id}   the stored feed, without what may be shown no more; for who has none, or one of a champion that serves no
                      more, one ranked on demand (also for users never heard of)
GET /health           the process answers
GET /ready            Redis is reachable and a champion is loaded
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
import orjson
import redis
import structlog
from fastapi import FastAPI, Path, Request
from fastapi.responses import Response
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

log = structlog.get_logger()

LOOK_SECONDS = 0.1  # how often to ask whether a refresh is due
FOLLOW_SECONDS = 0.1  # how often to look who serves
UserId = Annotated[str, Path(min_length=1, max_length=128, description="the user's id")]


class AnyText(PathConvertor):
    """As `path`, which ends at a line break: an id may have one."""

    regex = "(?s:.*)"


def create_app(client: redis.Redis, registry: Registry, policy: Policy) -> FastAPI:
    """The application on this Redis and registry. The catalogue is read when it starts, and kept up to date until it stops."""
    features, feeds = FeatureStore(client), FeedStore(client)
    live = Live(registry, policy, features.refresh_items, features.now)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(again_and_again(live.refresh, LOOK_SECONDS)),
            asyncio.create_task(again_and_again(live.follow, FOLLOW_SECONDS)),
        ]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="Feedloop", lifespan=lifespan)
    for error in TRANSIENT:
        app.add_exception_handler(error, _redis_away)
    app.add_exception_handler(NoChampion, _no_champion)

    register_url_convertor("any", AnyText())

    # plain functions: they wait for Redis and compute, so FastAPI runs them in its threads
    @app.get("/feed/{user_id:any}", response_class=Response)
    def feed(user_id: UserId) -> Response:
        """The user's feed, best item first, and how it came to be."""
        stored = feeds.read(user_id)
        if stored is not None and stored.generation >= live.generation:  # above: another process has followed sooner
            shown = tuple(item for item in stored.items if not live.filled or live.showable(item.item_id))
            if shown or live.version is None:
                return answer(describe(msgspec.structs.replace(stored, items=shown), live.table.by_id, True))
        found = live.rank([features.users([user_id])[0] or new_user(user_id)])[0]
        return answer(describe(found, live.table.by_id, False))

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

    return app


async def again_and_again(act: Callable[[], None], seconds: float) -> None:
    """Follow catalogue or champion until cancelled, whatever happens: stored feeds can be served meanwhile."""
    failed = ""
    while True:
        try:
            await asyncio.to_thread(act)
            failed = ""
        except Exception as error:
            if repr(error) != failed:  # once, not at each look
                log.warning(
                    "catalogue and champion cannot be refreshed", error=repr(error), exc_info=not isinstance(error, TRANSIENT)
                )
            failed = repr(error)
        await asyncio.sleep(seconds)


def describe(feed: Feed, items: Mapping[str, Item], stored: bool) -> dict[str, Any]:
    """The answer: how the feed came to be, and each place with the item's title and category (null where unknown)."""
    described = msgspec.to_builtins(feed, builtin_types=())
    described["stored"] = stored
    for place, item in enumerate(described["items"]):
        known = items.get(item["item_id"])
        item["position"] = place
        item["title"] = known.title if known else None
        item["category"] = known.category if known else None
    return dict(described)


def answer(content: object, status: int = 200) -> Response:
    """JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def _redis_away(request: Request, error: Exception) -> Response:
    return answer({"error": f"Redis does not answer: {error}"}, 503)


def _no_champion(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 503)
