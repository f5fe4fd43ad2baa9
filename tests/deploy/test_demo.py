"""How the demo ends: what it says, and which of the things that it is there to show it missed."""

import io

import pytest
from rich.console import Console

from deploy import demo
from deploy.story import Happening, Watch
from deploy.twins import Outcome
from feed.catalogue import Item
from feed.errors import FeedError
from feed.settings import Settings

BEGAN, DRIFT_AT = 1000.0, 20
AHEAD = {"learned": {"a": [100, 9], "b": [100, 3]}, "popular": {"c": [100, 5]}, "random": {"d": [100, 1]}}
BEHIND = AHEAD | {"popular": {"c": [100, 7]}}
ENDED = Happening(BEGAN + 15, "gave up", "v2 gave up", {"with_evidence": 1000})
PROMOTED = Happening(BEGAN + 15, "promoted", "v2 promoted", {"evidence": {"with_evidence": 1200}})
TOO_SOON = Happening(BEGAN + 15, "gave up", "v2 gave up", {"with_evidence": 999})
OPENED = Happening(BEGAN + 5, "trial", "trial 1", {})
ALERT = Happening(BEGAN + 31, "alert", "DRIFT ALERT", {})
EARLY_ALERT = Happening(BEGAN + 12, "alert", "DRIFT ALERT", {})
HAPPENED = (OPENED, ENDED, ALERT)


def top(*categories: str) -> list[Item]:
    return [Item(item_id=k, category=category) for k, category in enumerate(categories)]


FRESH = {"requests": 90, "p50": 0.0, "p95": 1.2, "older_than_5_s": 0.01}
LATE = {"requests": 90, "p50": 0.4, "p95": 31.2, "older_than_5_s": 0.41}
LIKED = Outcome("art", before=top("news", "art"), after=top("art", "art"), twin=top("news", "art"))
NOT_LIKED = Outcome("art", before=top("news", "art"), after=top("news", "art"), twin=top("news", "art"))


def span(start: float, learned: float, popular: float) -> dict[str, object]:
    """Of the best possible click-through in ten seconds."""
    return {"from": start, "learned": [10, learned, 1.0], "popular": [10, popular, 1.0], "feed_age": FRESH}


SPANS = [span(10.0 * k, learned, 0.25) for k, learned in enumerate((0.6, 0.8, 0.1, 0.3, 0.5, 0.9))]


@pytest.fixture
def said(monkeypatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(demo, "console", Console(file=shown, width=200))
    return shown


def conclude(arms=AHEAD, happened=HAPPENED, outcome=LIKED, seconds=60.0, spans=SPANS, late=0) -> None:
    """`late`: in so many spans, the first ones, the feeds lagged."""
    spans = [*({**span, "feed_age": LATE} for span in spans[:late]), *spans[late:]]
    watch = Watch(Settings(), Console(file=io.StringIO()))
    watch.happened = list(happened)
    report = {"arms": arms, "timeline": spans, "began": BEGAN, "seconds": seconds, "feed_age": LATE if late else FRESH}
    demo.conclude(report, watch, outcome, DRIFT_AT)


def missed(**run) -> list[str]:
    with pytest.raises(FeedError, match="not seen in this run: ") as error:
        conclude(**run)
    return str(error.value).removeprefix("not seen in this run: ").split("; ")


def test_a_run_that_showed_everything_ends_well_with_its_figures(said):
    conclude()
    text = said.getvalue()
    assert "before the drift 70.0% (popular 25.0%); the 20 s after it 20.0% (popular 25.0%); the last 20 s 70.0%" in text
    assert "1 trials, 1 ended, the longest with the evidence of 1,000 requests; 1 drift alerts" in text
    assert "art in the top 10: 50% before, 100% after the likes; twin 50%" in text
    assert "lag" not in text


def test_a_promotion_is_a_trial_that_ended_too(said):
    conclude(happened=(OPENED, TOO_SOON, PROMOTED, ALERT))
    assert "1 trials, 2 ended, the longest with the evidence of 1,200 requests" in said.getvalue()


def test_the_last_20_s_leave_out_a_span_that_was_cut_short(said):
    conclude(spans=[*SPANS, span(60.0, 0.0, 0.0)], seconds=64.0)
    assert "the last 20 s 70.0% (popular 25.0%)" in said.getvalue()


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"arms": BEHIND}, "the learned arm is not ahead of the popular one"),
        ({"happened": (OPENED, ALERT)}, "no trial has ended with the evidence of 1,000 requests: raise --seconds"),
        ({"happened": (OPENED, TOO_SOON, ALERT)}, "no trial has ended with the evidence of 1,000 requests: raise --seconds"),
        ({"happened": (OPENED, ENDED)}, "no drift was alerted: raise --seconds"),
        ({"happened": (OPENED, ENDED, EARLY_ALERT)}, "no drift was alerted: raise --seconds"),
        ({"outcome": NOT_LIKED}, "10 likes of art did not raise its share of the top 10 above the twin's"),
    ],
)
def test_a_run_that_missed_one_thing_says_which_and_what_to_change(said, run, says):
    assert missed(**run) == [says]
    assert "share of the best possible click-through" in said.getvalue()  # the figures are shown all the same


def test_a_run_with_late_feeds_says_that_its_figures_are_not_the_models(said):
    conclude(late=2)
    text = said.getvalue()
    assert "feeds lagged in 2 of 6 lines of the timeline: 41% of all requests saw a feed" in text
    assert "p50 0.4 s, p95 31.2 s" in text
    assert "lower --rate" in text


def test_what_a_run_with_late_feeds_missed_is_not_blamed_on_the_model(said):
    [missing] = missed(arms=BEHIND, late=1)
    assert missing == "the learned arm is not ahead of the popular one. But the feeds lagged, as said above"
    assert "feeds lagged in 1 of 6 lines" in said.getvalue()


def test_a_run_that_missed_everything_names_all_of_it(said):
    assert len(missed(arms=BEHIND, happened=(), outcome=NOT_LIKED)) == 4


@pytest.mark.parametrize(
    ("popular", "ahead"),
    [
        ({"c": [100, 5]}, True),
        ({"c": [100, 7]}, False),
        ({"c": [100, 6]}, False),  # a tie is no lead
        ({"c": [10, 1], "d": [190, 9]}, True),  # all clicks over all items: 5 %, not the mean of 10 % and 4.7 %
    ],
)
def test_the_learned_arm_is_ahead_if_more_of_all_that_it_showed_was_clicked(popular, ahead):
    assert demo._ahead(AHEAD | {"popular": popular}) is ahead
