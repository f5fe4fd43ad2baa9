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
