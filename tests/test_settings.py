import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from feed import settings
from feed.errors import BadSetting

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env`, no variables."""
    monkeypatch.chdir(tmp_path)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(settings.PREFIX + name.upper(), raising=False)


def test_without_any_setting_the_defaults_hold() -> None:
    assert settings.load().kafka == "127.0.0.1:9092"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FEED_FEED_SIZE=20\nFEED_EXPLORE_EVERY=0\nOTHER=1\n")
    monkeypatch.setenv("FEED_FEED_SIZE", "30")
    assert (settings.load().feed_size, settings.load().explore_every) == (30, 0)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_setting_is_refused_by_name(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "file":
        (tmp_path / ".env").write_text("FEED_KAFKAA=x\n")
    else:
        monkeypatch.setenv("FEED_KAFKAA", "x")
    with pytest.raises(BadSetting, match=r"FEED_KAFKAA.*docs/settings\.md.*FEED_KAFKA,"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEED_PARTITIONS", "0"),
        ("FEED_PARTITIONS", "eight"),
        ("FEED_FEED_SIZE", "501"),
        ("FEED_POPULAR_SHARE", "1.5"),
        ("FEED_LOG_LEVEL", "loud"),
        ("FEED_SERVER_PORT", "70000"),
        ("FEED_FUTURE_SECONDS", "-1"),
        ("FEED_FUTURE_SECONDS", "nan"),
        ("FEED_IDLE_SECONDS", "inf"),
        ("FEED_SNAPSHOT_SECONDS", "1e300"),
        ("FEED_ATTRIBUTION_SECONDS", "0"),
    ],
)
def test_an_impossible_value_is_refused_with_name_and_value(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"{name}='{value}'"):
        settings.load()


def test_arms_that_take_more_than_everybody_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_POPULAR_SHARE", "0.6")
    monkeypatch.setenv("FEED_RANDOM_SHARE", "0.6")
    with pytest.raises(
        BadSetting, match=r"^impossible setting: FEED_POPULAR_SHARE=0.6 and FEED_RANDOM_SHARE=0.6 exceed 1 together$"
    ):
        settings.load()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load().feed_size = 3  # type: ignore[misc]


def allowed(field: FieldInfo) -> str:
    """The numbers that a setting can be, as the page says it; empty for one that is no number."""
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("ge", "gt", "le") if hasattr(one, name)}
    if not bounds:
        return ""
    least = f"{bounds['ge']:,}" if "ge" in bounds else f"more than {bounds['gt']:,}"
    return f"{least} to {int(bounds['le']):,}"


def test_the_page_lists_every_setting_with_its_default_and_what_it_can_be() -> None:
    rows = {
        cells[1].strip(" `"): (cells[2].strip(" `"), cells[3].strip())
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `FEED_") and (cells := line.split("|"))
    }
    expected = {
        settings.PREFIX + name.upper(): (
            f"{default:g}" if isinstance(default := field.default, float) else str(default),
            allowed(field),
        )
        for name, field in settings.Settings.model_fields.items()
    }
    assert rows == expected


@pytest.mark.parametrize(
    ("servers", "remedy"),
    [
        ("SASL_SSL://broker:9093", "FEED_KAFKA=broker:9093 and FEED_KAFKA_SECURITY=SASL_SSL"),
        ("kafka://broker:9092/", "FEED_KAFKA=broker:9092"),
        ("", "a server is missing"),
        ("127.0.0.1:abc", "no possible port"),
        ("127.0.0.1:0", "no possible port"),
        ("127.0.0.1:70000", "no possible port"),
        ("127.0.0.1:", "no possible port"),
        ("127.0.0.1:-1", "no possible port"),
        ("127.0.0.1:٩٠٩٢", "no possible port"),
        ("a:9092, b:9092", "without spaces"),
        ("a:9092,", "a server is missing"),
        (",a:9092", "a server is missing"),
        ("9092", "is no server"),
        ("a:9092;b:9092", "is no server"),
        ("user:hunter2@broker:9092", "FEED_KAFKA_PASSWORD"),
        ("SASL_SSL://user:hunter2@broker:9093", "FEED_KAFKA_PASSWORD"),
        ("::1:9092", "is no server"),
    ],
)
def test_impossible_servers_are_refused_with_the_remedy(servers: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_KAFKA", servers)
    with pytest.raises(BadSetting, match=f"FEED_KAFKA=.*{re.escape(remedy)}") as error:
        settings.load()
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("servers", ["broker", "broker:1", "a.b-c_d:65535,10.0.0.1:9092", "[::1]:9092", "[fe80::1]"])
def test_possible_servers_are_taken_as_they_are(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_KAFKA", servers)
    assert settings.load().broker.servers == servers


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"SECURITY": "SASL_SSL"}, "set FEED_KAFKA_USER and FEED_KAFKA_PASSWORD, or set it to SSL"),
        ({"SECURITY": "SASL_PLAINTEXT", "USER": "me"}, "set FEED_KAFKA_USER and FEED_KAFKA_PASSWORD"),
        ({"PASSWORD": "hunter2"}, "given to nobody with FEED_KAFKA_SECURITY=PLAINTEXT"),
        ({"USER": "me", "PASSWORD": "hunter2", "SECURITY": "SSL"}, "given to nobody with FEED_KAFKA_SECURITY=SSL"),
        ({"SECURITY": "sasl"}, "FEED_KAFKA_SECURITY='sasl': Input should be 'PLAINTEXT', 'SSL'"),
        ({"MECHANISM": "GSSAPI"}, "FEED_KAFKA_MECHANISM='GSSAPI'"),
        ({"CA": "/nowhere.pem", "SECURITY": "SSL"}, "FEED_KAFKA_CA=/nowhere.pem: No such file"),
        ({"CA": "/nowhere.pem"}, "FEED_KAFKA_CA is not used"),
    ],
)
def test_what_does_not_sign_in_is_refused(given: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"FEED_KAFKA_{name}", value)
    with pytest.raises(BadSetting, match=re.escape(remedy)) as error:
        settings.load()
    assert "hunter2" not in str(error.value)


def test_passwords_are_in_no_print_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FEED_REDIS": "rediss://me:hunter2@redis:6380/0", "FEED_KAFKA_SECURITY": "SASL_SSL", "FEED_KAFKA_USER": "me",
        "FEED_KAFKA_PASSWORD": "hunter2", "FEED_KAFKA_MECHANISM": "SCRAM-SHA-512",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    loaded = settings.load()
    assert loaded.broker.password.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{loaded} {loaded!r} {loaded.broker} {loaded.broker!r}"
    monkeypatch.setenv("FEED_REDIS", "redis://me:hunter2@redis:abc/0")
    with pytest.raises(BadSetting, match=r"FEED_REDIS='redis://\*\*\*@redis:abc/0'.*no possible port") as error:
        settings.load()
    assert "hunter2" not in str(error.value)
