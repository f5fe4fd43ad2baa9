"""The HTTP interface on a real Redis."""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import pytest
import torch

from deploy import embedded
from feed.catalogue import Item
from feed.errors import BadSetting
from feed.events import utc
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.models.heads import Head
from feed.models.two_tower import WIDTH
from feed.objective import Objective
from feed.ranking.arms import Policy
from feed.ranking.live import Live, load
from feed.ranking.types import Feed
from feed.registry import Registry
from model_server import main
from tests.serving import POLICY, serve, until_ready
from tests.small import NOW, fill, item, position, promote, snapshot, world

ROOT = Path(__file__).parents[2]


def test_without_a_stored_feed_a_known_user_is_ranked_on_demand(filled):
    async def scenario(client):
        await until_ready(client)
        answer = (await client.get("/feed/3")).json()
        assert (answer["user_id"], answer["stored"], answer["arm"]) == ("3", False, "learned")
        assert (answer["model_version"], answer["generation"]) == ("v000001", 1)
        assert answer["position"] == {"topic_id": "L", "partition": 0, "offset": 3}
        assert [place["position"] for place in answer["items"]] == list(range(20))
        assert not {place["item_id"] for place in answer["items"]} & {"3", "4", "5"}
        for place in answer["items"]:
            k = int(place["item_id"])
            assert (place["title"], place["category"]) == (f"Title {k}", f"c{k % 5}")
            assert 0 < place["score"] < 1
            assert place["source"] in ("model", "explore")
        assert (await client.get("/feed/3")).json()["items"] == answer["items"]

    serve(*filled, scenario)


def test_with_a_table_of_weights_the_server_the_stream_and_the_batch_rank_alike(redis_url, tmp_path):
    state = world(users=5, items=60)
    fill(redis_url, state)
    torch.manual_seed(0)
    heads = {task: Head(0.3, 0.5 * torch.randn(WIDTH), -2.0) for task in ("click", "hide")}
    champion = promote(tmp_path, dataclasses.replace(snapshot(state), heads=heads))
    policy = dataclasses.replace(POLICY, objective=Objective.parse("click=1 hide=-3"), popularity_correction=0.02)
    features = FeatureStore(connect(redis_url))
    users = [str(u) for u in range(5)]
    table, states = features.load_items(), features.users(users)
    batch, by_logit = (load(champion, table, by, features.now()).rank(states, features.now()) for by in (policy, POLICY))
    assert [f.items for f in batch] != [f.items for f in by_logit]
    live = Live(Registry(tmp_path), policy, FeatureStore(connect(redis_url)).refresh_items, features.now)
    live.refresh()

    def told(feed):
        return [(i.item_id, pytest.approx(i.score, rel=1e-5), pytest.approx(i.propensity), i.source) for i in feed.items]

    async def scenario(client):
        await until_ready(client)
        for user, feed in zip(users, batch, strict=True):
            answer = (await client.get(f"/feed/{user}")).json()
            assert (answer["stored"], answer["ranked_by"]) == (False, "click=1 hide=-3 - 0.02 log popularity")
            assert [(i["item_id"], i["score"], i["propensity"], i["source"]) for i in answer["items"]] == told(feed)

    serve(redis_url, tmp_path, scenario, policy)
    for streamed, feed in zip(live.rank(states), batch, strict=True):
        assert [(i.item_id, i.score, i.propensity, i.source) for i in streamed.items] == told(feed)


def test_a_stored_feed_is_answered_as_it_is_stored(filled):
    url, path = filled
    store = FeedStore(connect(url))

    async def scenario(client):
        await until_ready(client)
        first = (await client.get("/feed/1")).json()
        changed = {**first, "generation": 7, "items": first["items"][:3], "model_version": "of yesterday"}
        store.write([msgspec.convert(changed, Feed)])
        answer = (await client.get("/feed/1")).json()
        assert (answer["stored"], answer["generation"], answer["model_version"]) == (True, 7, "of yesterday")
        assert answer["items"] == first["items"][:3]

    serve(url, path, scenario)


def test_no_answer_has_what_was_withdrawn_even_if_the_stored_feed_still_has_it(filled):
    url, path = filled
    client = connect(url)
    store, features = FeedStore(client), FeatureStore(client)

    async def scenario(client_of_server):
        await until_ready(client_of_server)
        first = (await client_of_server.get("/feed/1")).json()
        store.write([msgspec.convert(first, Feed)])
        held = client.get("feed:1:meta")
        ids = [place["item_id"] for place in first["items"]]
        removed, away, old, *rest = ids
        change = Change(
            position(2),
            items={
                removed: None,
                away: Item(item_id=away, available=False),
                old: Item(item_id=old, expires_at=utc(NOW)),
            },
        )
        assert features.apply(change, 1, "U", 0).done
        async with asyncio.timeout(30.0):
            while True:
                answer = (await client_of_server.get("/feed/1")).json()
                found = [place["item_id"] for place in answer["items"]]
                if not {removed, away, old} & set(found):
                    break
                await asyncio.sleep(0.02)
        assert (answer["stored"], found) == (True, rest)
        assert [place["position"] for place in answer["items"]] == list(range(len(rest)))
        assert client.get("feed:1:meta") == held  # nobody but the feeds agent has a reason to change it
        everything = {i: None for i in map(str, range(60)) if i != "59"}
        assert features.apply(Change(position(3), items=everything), 2, "U", 0).done
        async with asyncio.timeout(30.0):
            while (answer := (await client_of_server.get("/feed/1")).json())["stored"]:
                await asyncio.sleep(0.02)
        assert [place["item_id"] for place in answer["items"]] == ["59"]  # ranked anew rather than empty

    serve(url, path, scenario)


def test_after_a_roll_back_nobody_is_served_a_feed_of_the_version_that_was_rolled_back(filled):
    url, path = filled
    store, registry, users = FeedStore(connect(url)), Registry(path), [str(u) for u in range(5)]

    async def versions(client):
        answers = [(await client.get(f"/feed/{user}")).json() for user in users]
        return {(answer["model_version"], answer["generation"], answer["stored"]) for answer in answers}, answers

    async def until_served(client, generation):
        async with asyncio.timeout(20):
            while (await client.get("/feed/nobody")).json()["generation"] != generation:
                await asyncio.sleep(0.02)

    async def scenario(client):
        await until_ready(client)
        _, first = await versions(client)
        promote(path, snapshot(world(users=5, items=60), seed=1))
        await until_served(client, 2)
        found, second = await versions(client)
        assert found == {("v000002", 2, False)}
        for answer in second:
            answer.pop("stored")
        store.write([msgspec.convert(answer, Feed) for answer in second])
        assert (await versions(client))[0] == {("v000002", 2, True)}
        registry.roll_back()
        await until_served(client, 3)
        found, third = await versions(client)
        assert found == {("v000001", 3, False)}
        assert [a["items"] for a in third] == [a["items"] for a in first]
        assert [a["items"] for a in third] != [a["items"] for a in second]

    serve(url, path, scenario)


@pytest.mark.parametrize("policy", [POLICY, Policy(20, 1.0, 0.0), Policy(20, 0.0, 1.0)])
def test_users_never_heard_of_get_a_full_feed_and_leave_nothing_behind(filled, policy):
    url, path = filled
    keys = set(connect(url).keys())

    async def scenario(client):
        await until_ready(client)
        for user in ("nobody", "日本", "a b", "a/b", "a\nb", "3\n"):
            answer = await client.get(f"/feed/{quote(user)}")
            assert (answer.status_code, answer.json()["user_id"]) == (200, user)
            assert len(answer.json()["items"]) == 20
            assert answer.json()["position"] is None

    serve(url, path, scenario, policy)
    assert set(connect(url).keys()) == keys


def test_a_new_item_can_be_ranked_within_a_second_of_being_published(filled):
    url, path = filled

    async def scenario(client):
        await until_ready(client)
        change = Change(position(2), items={"777": item(777)}, newest=NOW)
        assert FeatureStore(connect(url)).apply(change, 1, "U", 0).done
        async with asyncio.timeout(30.0):
            while "777" not in {place["item_id"] for place in (await client.get("/feed/nobody")).json()["items"]}:
                await asyncio.sleep(0.02)

    serve(url, path, scenario, Policy(100, 0.0, 0.0))


def test_before_there_is_a_champion_it_is_alive_but_not_ready_and_says_how_to_get_one(redis_url, tmp_path):
    async def scenario(client):
        assert (await client.get("/health")).json() == {"ok": True}
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "redis": True, "champion": None})
        answer = await client.get("/feed/42")
        assert answer.status_code == 503
        assert "bootstrap.py" in answer.json()["error"]
        fill(redis_url, world(users=5, items=60))
        promote(tmp_path, snapshot(world(users=5, items=60)))
        await until_ready(client)
        assert (await client.get("/feed/42")).status_code == 200

    serve(redis_url, tmp_path, scenario)


def test_an_impossible_user_id_is_refused(filled):
    async def scenario(client):
        for user in ("", "x" * 129, "%0A" * 129):
            assert (await client.get(f"/feed/{user}")).status_code == 422

    serve(*filled, scenario)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])  # which a script's shell has its background jobs ignore
def test_the_process_serves_until_it_is_told_to_stop(filled, how):
    url, path = filled
    port = embedded.free_port()
    environment = {**os.environ, "FEED_REDIS": url, "FEED_REGISTRY": str(path), "FEED_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "model_server/main.py"],
        cwd=ROOT,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        transport = httpx.HTTPTransport(retries=8)  # the pauses between them double: half a minute in all
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/health").json() == {"ok": True}
        assert raw(port, "HEAD /health") == ("HTTP/1.1 200 OK", b"")
        assert raw(port, "HEAD /nothing") == ("HTTP/1.1 404 Not Found", b"")
        process.send_signal(how)
        assert process.wait(20) == 0
    finally:
        process.kill()


def raw(port, request):
    """The first line of the answer, and everything behind its headers."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), body


def test_a_taken_port_is_named_with_the_setting_that_changes_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=rf"port {port} on 127\.0\.0\.1 is taken.*FEED_SERVER_PORT"):
            main.listen("127.0.0.1", port)
    main.listen("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_an_impossible_address_is_named_with_its_settings(host):
    with pytest.raises(BadSetting, match=r"cannot listen on .*FEED_SERVER_HOST"):
        main.listen(host, 8000)


def test_while_redis_is_away_it_says_so_and_afterwards_goes_on(tmp_path):
    port = embedded.free_port()

    async def scenario(client):
        await until_ready(client)
        server.stop()
        ready, answer = await client.get("/ready"), await client.get("/feed/1")
        assert (ready.status_code, ready.json()["redis"], ready.json()["champion"]) == (503, False, "v000001")
        assert answer.status_code == 503
        assert answer.json()["error"].startswith("Redis does not answer")
        assert (await client.get("/health")).status_code == 200
        with embedded.start_redis(port, tmp_path):
            await until_ready(client)

    promote(tmp_path, snapshot(world(users=5, items=60)))
    server = embedded.start_redis(port, tmp_path)
    try:
        fill(f"redis://{server.address}/0", world(users=5, items=60))
        serve(f"redis://{server.address}/0", tmp_path, scenario)
    finally:
        server.stop()
