"""What /metrics tells, read by Prometheus' own parser."""

import asyncio

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy import embedded
from feed.io.feeds import FeedStore
from feed.io.redis import connect
from feed.ranking.types import Feed
from tests.serving import serve, until_ready
from tests.small import fill, promote, snapshot, world


async def read(client) -> dict[tuple[str, ...], float]:
    """(name, label values...) -> value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        found |= {(sample.name.removeprefix("feedloop_"), *sample.labels.values()): sample.value for sample in family.samples}
    return found


def test_requests_are_counted_by_path_template_and_status(filled):
    async def scenario(client):
        await until_ready(client)
        for path in (
            "/feed/1",
            "/feed/2?limit=3",
            "/feed/a%2Fb",
            "/feed/1?limit=0",
            "/feed/1?x",
            "/feed/",
            "/no",
            "/no/no?x=1",
        ):
            await client.get(path)
        await client.head("/feed/1")
        await client.post("/feed/1")
        found = await read(client)
        counted = {key[1:]: n for key, n in found.items() if key[0] == "http_requests_total" and key[1] != "/ready"}
        assert counted == {
            ("/feed/{user_id}", "200"): 4,
            ("/feed/{user_id}", "422"): 3,
            ("/feed/{user_id}", "405"): 1,
            ("unknown", "404"): 2,
        }
        assert found["http_request_seconds_count", "/feed/{user_id}"] == 8
        assert 0 < found["http_request_seconds_sum", "/feed/{user_id}"] < 60

    serve(*filled, scenario)


def test_the_champion_the_refresh_and_redis_are_told(redis_url, tmp_path):
    async def scenario(client):
        found = await read(client)
        assert (found["champion_generation",], found["redis_up",]) == (0, 1)
        assert not [key for key in found if key[0] == "champion_info"]
        fill(redis_url, world(users=5, items=60))
        promote(tmp_path, snapshot(world(users=5, items=60)))
        await until_ready(client)
        found = await read(client)
        assert (found["champion_generation",], found["champion_info", "v000001"]) == (1, 1)
        assert 0 <= found["catalogue_refresh_age_seconds",] < 20

    serve(redis_url, tmp_path, scenario)


def test_the_age_of_stored_feeds_is_told_as_they_are_served(filled):
    url, path = filled

    async def scenario(client):
        await until_ready(client)
        feed = (await client.get("/feed/1")).json()
        assert (await read(client))["stored_feed_age_seconds_count",] == 0
        FeedStore(connect(url)).write([msgspec.convert({**feed, "made_at": "2020-01-01T00:00:00Z"}, Feed)])
        await client.get("/feed/1")
        found = await read(client)
        assert found["stored_feed_age_seconds_count",] == 1
        assert found["stored_feed_age_seconds_sum",] > 86400 * 365
        assert found["stored_feeds_behind_seconds",] == 0

    serve(url, path, scenario)


def test_a_feeds_agent_that_has_stopped_shows(filled):
    """The stored feed stays at its position while the features go on."""
    url, path = filled
    client_of_redis = connect(url)

    async def scenario(client):
        await until_ready(client)
        feed = (await client.get("/feed/1")).json()
        behind = {**feed, "position": {**feed["position"], "offset": feed["position"]["offset"] - 1}}
        FeedStore(client_of_redis).write([msgspec.convert(behind, Feed)])
        await client.get("/feed/1")
        async with asyncio.timeout(20):
            while (await read(client))["stored_feeds_behind_seconds",] < 1:
                await asyncio.sleep(0.1)

    serve(url, path, scenario)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({}, {}),
        ({"features.set_aside": 3, "feeds.set_aside": 1}, {("features", "set_aside"): 3, ("feeds", "set_aside"): 1}),
        ({"features.dead_letters": 2**53}, {("features", "dead_letters"): 2**53}),
        ({"learner.a.b": 2, "alone": 4, "": 1}, {("learner", "a.b"): 2, ("alone", ""): 4, ("", ""): 1}),
        ({'x.say "hi"\n\\ 日本': 5}, {("x", 'say "hi"\n\\ 日本'): 5}),
        ({"features.set_aside": 3, "x.broken": "many", "x.y": "-", "x.z": ""}, {("features", "set_aside"): 3}),
    ],
)
def test_what_other_processes_count_in_redis_is_handed_on(filled, held, told):
    url, path = filled
    if held:
        connect(url).hset("counters", mapping=held)

    async def scenario(client):
        assert {key[1:]: n for key, n in (await read(client)).items() if key[0] == "events_total"} == told

    serve(url, path, scenario)


def test_without_redis_it_is_said_and_the_rest_is_told(tmp_path):
    promote(tmp_path, snapshot(world(users=5, items=60)))
    server = embedded.start_redis(embedded.free_port(), tmp_path)
    url = f"redis://{server.address}/0"
    fill(url, world(users=5, items=60))
    connect(url).hset("counters", "features.set_aside", 3)

    async def scenario(client):
        await until_ready(client)
        assert (await read(client))["redis_up",] == 1
        server.stop()
        found = await read(client)
        assert (found["redis_up",], found["champion_generation",]) == (0, 1)
        assert not [key for key in found if key[0] == "events_total"]
        age = found["catalogue_refresh_age_seconds",]
        async with asyncio.timeout(20):
            while (await read(client))["catalogue_refresh_age_seconds",] < age + 1:
                await asyncio.sleep(0.1)

    try:
        serve(url, tmp_path, scenario)
    finally:
        server.stop()
