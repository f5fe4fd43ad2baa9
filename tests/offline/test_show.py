import pytest
from typer.testing import CliRunner

from feed.errors import FeedError
from feed.events import utc
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.ranking.types import Feed, FeedItem
from feed.wire import Position
from offline import show
from tests.small import NOW, item, position, world


@pytest.fixture
def command(redis_url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEED_REDIS", redis_url)
    change = Change(Position("L", 0, 1), users=world(3, 3).users, items={"7": item(7)})
    assert FeatureStore(connect(redis_url)).apply(change, 0, "U", 0).done
    return lambda *arguments: CliRunner().invoke(show.app, arguments)


FEED = Feed(
    generation=3, position=position(88), user_id="42", request_id="abc", arm="learned", model_version="v000002",
    made_at=utc(NOW), items=(FeedItem("7", 0.91234, 1.0, "model"), FeedItem("unheard of", None, 0.01, "explore")),
)  # fmt: skip


def test_a_feed_is_shown_with_its_items_names_and_how_it_came_to_be(command, redis_url):
    FeedStore(connect(redis_url)).write([FEED])
    lines = command("feed", "42").stdout.splitlines()
    assert lines[0].startswith("user 42: arm learned, model v000002 (generation 3), ranked by logit, made ")
    assert "at 2025-06-15 15:06:40 UTC, up to offset 88 of partition 0, request abc" in lines[0]
    assert lines[1:] == ["1\t7\tTitle 7\tc2\t0.9123\tmodel", "2\tunheard of\t\t\t\texplore"]
    assert command("feed", "42", "--top", "1").stdout.splitlines()[1:] == lines[1:2]


@pytest.mark.parametrize(("user", "says"), [("1", "is the feeds agent running"), ("77", "no such user has acted yet")])
def test_without_a_feed_the_error_says_why(command, user, says):
    error = command("feed", user).exception
    assert isinstance(error, FeedError)
    assert says in str(error)


def test_ages_read_well():
    assert [show.ago(s) for s in (0.25, 119, 7200, 86400 * 3)] == ["0.2 s", "119.0 s", "2 h", "3 days"]
