"""The demo's story: verdicts in words, and the audience's figures beside what happened."""

import io

import pytest
from rich.console import Console

from deploy import story
from deploy.story import Happening, Watch
from feed.registry import Registry
from feed.settings import Settings


def test_every_kind_of_ledger_line_is_told_with_its_reason():
    trial = {"event": "trial", "number": 3, "champion": "v1", "challenger": "v7"}
    gave_up = {"event": "gave up", "number": 3, "challenger": "v7", "why": "nothing shown after 1500 requests"}
    promoted = {"event": "promoted", "version": "v7", "generation": 2, "evidence": {"why": "better by the test"}}
    by_hand = {"event": "promoted", "version": "v7", "generation": 2}
    assert story.verdict(trial) == "trial 3: v7 against v1"
    assert story.verdict(gave_up) == "v7 gave up: nothing shown after 1500 requests"
    assert story.verdict(promoted) == "v7 promoted: better by the test"
    assert story.verdict(by_hand) == "v7 promoted"


def test_the_timeline_puts_what_happened_beside_the_ten_seconds_in_which_it_did():
    spans = [
        {"from": 0.0, "learned": [3, 1.0, 2.0], "popular": [1, 0.3, 1.0], "feed_age": {"p95": 4.9}},
        {"from": 10.0, "learned": [3, 0.5, 2.0], "popular": [0, 0.0, 0.0], "feed_age": {"p95": 12.3}},
    ]
    report = {"began": 1000.0, "timeline": spans}
    happened = [Happening(1003.0, "trial", "trial 1", {}), Happening(1012.0, "alert", "DRIFT ALERT", {})]
    table = story.timeline(report, happened, drift_at=10)
    shown = io.StringIO()
    Console(file=shown, width=120).print(table)
    first, second = [line for line in shown.getvalue().splitlines() if line.startswith("│")][:2]
    assert "50.0%" in first
    assert "30.0%" in first
    assert "trial 1" in first
    assert "lag" not in first
    assert "25.0%" in second
    assert "feeds lag: p95 12 s" in second
    assert story.DRIFT in shown.getvalue()
    assert story.share_of_best(spans, "learned") == pytest.approx(1.5 / 4.0)


def test_what_the_ledger_gains_is_told_as_it_comes(tmp_path, broker):
    registry = Registry(tmp_path)
    registry.note("refused", challenger="v0", why="before anybody watched")
    said = io.StringIO()
    with Watch(Settings(kafka=broker, registry=tmp_path), Console(file=said, width=120)) as watch:
        registry.note("refused", challenger="v1", why="not finite")
        for _ in range(200):
            if watch.happened:
                break
            watch._stop.wait(0.05)
    assert [h.text for h in watch.kinds("refused")] == ["v1 refused: not finite"]
    assert "v1 refused: not finite" in said.getvalue()
