"""The HTTP application in this process, on a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from feed.io.redis import connect
from feed.ranking.arms import Policy
from feed.registry import Registry
from model_server.app import create_app

POLICY = Policy(feed_size=20, popular_share=0.0, random_share=0.0)


def serve(url: str, path: Path, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], policy: Policy = POLICY) -> None:
    """Run `scenario(client)` against an application that has started."""

    async def run() -> None:
        app = create_app(connect(url), Registry(path), policy)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await scenario(client)

    asyncio.run(run())


async def until_ready(client: httpx.AsyncClient) -> None:
    """Wait until feeds can be had."""
    async with asyncio.timeout(20):
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.05)
