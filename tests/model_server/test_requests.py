"""Parameters, methods and ids that a request may have, and how the others are refused."""

from urllib.parse import quote

import msgspec
import pytest

from feed.io.feeds import FeedStore
from feed.io.redis import connect
from feed.ranking.types import Feed
from tests.serving import serve, until_ready

PATHS = ("/feed/3", "/health", "/ready", "/metrics", "/openapi.json")
ALLOWED = "is not a whole number of places from 1 to 20"


def error_of(answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    return answer.json()["error"]


@pytest.mark.parametrize("stored", [False, True])
def test_limit_gives_the_first_places_as_they_stand_in_the_whole_feed(filled, stored):
    url, path = filled

    async def scenario(client):
        await until_ready(client)
        whole = (await client.get("/feed/3")).json()
        if stored:
            FeedStore(connect(url)).write([msgspec.convert(whole, Feed)])
            whole["stored"] = True
        for limit in (1, 5, 20, "05"):
            found = (await client.get(f"/feed/3?limit={limit}")).json()
            assert found == {**whole, "items": whole["items"][: int(limit)], "made_at": found["made_at"]}
        assert (await client.get("/feed/3")).json()["items"] == whole["items"]

    serve(url, path, scenario)


IMPOSSIBLE = {
    "0": "'0'", "-1": "'-1'", "21": "'21'", "abc": "'abc'", "": "''", "5.5": "'5.5'", "1e1": "'1e1'", "1_0": "'1_0'",
    "%2B5": "'+5'", "0x5": "'0x5'", "%D9%A5": "'٥'", "5%0A": r"'5\n'", "nan": "'nan'", "true": "'true'", "%00": r"'\x00'",
    "%FF": "'\ufffd'", "9" * 5000: "'" + "9" * 79 + "... (5000 characters)",
}  # fmt: skip


def test_an_impossible_limit_is_named_with_what_is_allowed(filled):
    async def scenario(client):
        for given, named in IMPOSSIBLE.items():
            answer = await client.get(f"/feed/3?limit={given}")
            assert answer.status_code == 422
            assert error_of(answer) == f"limit={named} {ALLOWED}"

    serve(*filled, scenario)


def test_a_parameter_that_a_path_does_not_know_is_refused_on_every_path(filled):
    async def scenario(client):
        for path in PATHS:
            for query in ("limits=5", "Limit=5", "limit[]=5", "limit=5&offset=3", "x", "=1", "%6Cimit%20=5", "__proto__=1"):
                answer = await client.get(f"{path}?{query}")
                assert answer.status_code == 422
                assert error_of(answer).startswith("unknown query parameter '")
                assert error_of(answer).endswith("there is limit" if path == "/feed/3" else "there are none")
        assert "'limit' at /health" in error_of(await client.get("/health?limit=5"))

    serve(*filled, scenario)


def test_a_parameter_given_twice_is_refused_and_empty_queries_are_none(filled):
    async def scenario(client):
        await until_ready(client)
        answer = await client.get("/feed/3?limit=5&limit=6")
        assert answer.status_code == 422
        assert error_of(answer) == "the query parameter limit is given 2 times at /feed/{user_id}"
        for query in ("?", "?&", "?&&"):
            assert (await client.get(f"/feed/3{query}")).status_code == 200

    serve(*filled, scenario)


def test_head_answers_as_get_does_without_the_body(filled):
    async def scenario(client):
        await until_ready(client)
        for path in (
            *PATHS[:3],
            *PATHS[4:],
            "/docs",
            "/feed/3?limit=5",
            "/feed/3?limit=0",
            "/feed/",
            "/health?x=1",
            "/nothing",
        ):
            get, head = await client.get(path), await client.head(path)
            assert (head.status_code, dict(head.headers), head.content) == (get.status_code, dict(get.headers), b"")
        head = await client.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 100

    serve(*filled, scenario)


def test_an_unknown_path_is_named_with_those_there_are(filled):
    async def scenario(client):
        for path in ("/", "/feed", "/feeds/3", "/health/", "/Health", "/metrics/x", "/nothing?limit=5", "//feed/3"):
            answer = await client.get(f"http://test{path}")
            assert answer.status_code == 404
            assert error_of(answer).endswith("there are /feed/{user_id}, /health, /metrics, /ready")
            assert path.split("?")[0] in error_of(answer)

    serve(*filled, scenario)


def test_another_method_is_named_with_those_there_are(filled):
    async def scenario(client):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"):
            for path in ("/feed/3", "/health", "/feed/3?x=1"):
                answer = await client.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
                assert error_of(answer).startswith(f"'{method}' is not possible at /")

    serve(*filled, scenario)


IDS = [
    "a?limit=5", "a/b", "/", "//", "a/", "/a", ".", "..", "../health", "a/../../health", "a#b", "a&b=c", "%", "%41", "a%2Fb",
    "a;b", "+", " ", "a b ", "a\nb", "\r\n", "\t", "\x00", "\x7f", "日本", "🙂", "\ufffd", "e\u0301", '"', "\\", "{user_id}",
    "feed:1:meta", "x" * 128, "é" * 128,
]  # fmt: skip


def test_any_text_can_be_an_id(filled):
    async def scenario(client):
        await until_ready(client)
        for user in IDS:
            escaped = quote(user, safe="").replace(".", "%2E")  # clients take `.` and `..` for steps in the path
            answer = await client.get(f"/feed/{escaped}?limit=2")
            assert (answer.status_code, answer.json().get("user_id")) == (200, user)
            assert len(answer.json()["items"]) == 2

    serve(*filled, scenario)


def test_an_impossible_id_is_named_with_what_is_allowed(filled):
    wrong = {"": "''", "x" * 129: "'xxxxx", "%0A" * 129: r"'\n\n", "é" * 129: "'ééé", "%2F" * 129: "'////"}

    async def scenario(client):
        for user, named in wrong.items():
            answer = await client.get(f"/feed/{user}?limit=5")
            assert answer.status_code == 422
            assert error_of(answer).startswith(f"user_id={named}")
            assert error_of(answer).endswith("is not a text of 1 to 128 characters")
            assert len(error_of(answer)) < 250

    serve(*filled, scenario)


def test_bytes_that_are_no_text_are_no_id(filled):
    async def scenario(client):
        for user in ("%FF", "%C3", "a%80b", "%ED%A0%80", "%F5%80%80%80"):
            answer = await client.get(f"/feed/{user}")
            assert answer.status_code == 400
            assert "is not UTF-8" in error_of(answer)

    serve(*filled, scenario)


def test_several_things_wrong_are_all_named(filled):
    async def scenario(client):
        answer = await client.get(f"/feed/{'x' * 129}?limit=0")
        assert "user_id=" in error_of(answer)
        assert f"limit='0' {ALLOWED}" in error_of(answer)

    serve(*filled, scenario)


def test_a_feed_in_redis_that_cannot_be_read_is_ranked_anew(filled):
    url, path = filled
    connect(url).set("feed:3:meta", b"{broken")

    async def scenario(client):
        await until_ready(client)
        answer = await client.get("/feed/3")
        assert answer.status_code == 200
        assert not answer.json()["stored"]
        assert len(answer.json()["items"]) == 20

    serve(url, path, scenario)


def test_a_failure_of_the_server_is_json_too(filled, monkeypatch):
    def fail(store, user_id):
        raise AssertionError(user_id)

    async def scenario(client):
        await until_ready(client)
        monkeypatch.setattr(FeedStore, "read", fail)
        answer = await client.get("/feed/3")
        assert answer.status_code == 500
        assert error_of(answer) == "this server has failed: its log says why"

    serve(*filled, scenario)
