import pytest

from feed.monitoring import drift
from feed.monitoring.alerts import decode_alert, headline
from feed.monitoring.drift import BUDGET, QUIET, SEGMENTS_OF_A_REQUEST, SHARE, UNIT, DriftMonitor, deltas
from feed.monitoring.figures import FEATURES
from feed.wire import encode
from tests.monitoring.streams import START, STEP, stream

CHANGE = 3000


def watch(examples, monitor=None):
    monitor = monitor or DriftMonitor()
    return [alert for example in examples for alert in monitor.see(example)]


def falls(k, example):
    return 0.3 if k < CHANGE else 0.2


def test_nothing_is_told_of_a_steady_world():
    assert watch(stream(5000, lambda k, example: 0.3)) == []


def test_a_fall_of_a_third_is_told_once_within_two_thousand_requests():
    (alert,) = watch(stream(5000, falls))
    assert alert.segment == "everybody"
    assert alert.kind in ("clicks", "error")
    assert CHANGE < alert.sequence < CHANGE + 2000
    assert alert.since == pytest.approx(START + STEP * CHANGE, abs=200 * STEP)
    assert alert.at == START + STEP * alert.sequence
    assert alert.retrain


def test_a_rise_is_never_told():
    assert watch(stream(5000, lambda k, example: 0.2 if k < CHANGE else 0.35)) == []


def test_a_fall_that_the_popular_arm_shows_as_well_is_no_drift():
    def watched(popular_after):
        return watch(
            stream(
                5500,
                lambda k, example: 0.35 if k < CHANGE else 0.25,
                popular=lambda k: 0.5 if k < CHANGE else popular_after,
                popular_every=2,
            )
        )

    (alone,) = watched(popular_after=0.5)
    assert alone.popular_after == pytest.approx(alone.popular_before, rel=0.1)
    assert watched(popular_after=0.36) == []


def test_a_fall_in_one_country_is_told_of_that_country():
    def rate(k, example):
        return 0.05 if k >= CHANGE and example.user.profile["country"] == "BR" else 0.3

    found = watch(stream(5000, rate))
    assert [alert.segment for alert in found] == ["country=BR"]


def test_an_alert_of_everybody_names_the_segment_that_fell_furthest():
    def rate(k, example):
        return 0.02 if k >= CHANGE and example.user.profile["country"] == "DE" else 0.3

    (alert,) = watch(stream(5000, rate))
    assert alert.segment == "everybody"
    assert any(label.endswith(" of country=DE") for label in alert.also)
    (alike,) = watch(stream(5000, falls))
    assert not any("country" in label for label in alike.also)


def test_a_shift_of_an_input_is_told_as_such_and_asks_for_no_retrain():
    (alert,) = watch(stream(5000, lambda k, example: 0.3, user_dwell=lambda k: 5.0 if k < CHANGE else 9.0))
    assert (alert.kind, alert.figure, alert.segment) == ("features", "user average_dwell_seconds", "everybody")
    assert alert.before == pytest.approx(5.0, abs=0.2)
    assert alert.after == pytest.approx(9.0, abs=0.2)
    assert not alert.retrain


def test_less_dwell_alone_is_told_as_dwell():
    (alert,) = watch(stream(5000, lambda k, example: 0.3, dwell=lambda k: 2.0 if k < CHANGE else 1.0))
    assert (alert.kind, alert.segment) == ("dwell", "everybody")
    assert alert.after == pytest.approx(alert.before / 2, rel=0.1)


@pytest.mark.parametrize("popular", [True, False])
def test_feeds_that_fade_by_less_than_a_fifth_are_no_drift(monkeypatch, popular):
    def fading():
        examples = stream(9000, lambda k, example: 0.3 if k < CHANGE else 0.255)
        return watch(example for example in examples if popular or example.arm == "learned")

    assert fading() == []
    monkeypatch.setattr(drift, "FADE", 0.0)
    assert len(fading()) >= 1


def test_copies_and_other_arms_do_not_count():
    examples = list(stream(4000, falls))
    twice = [copy for example in examples for copy in (example, example)]
    assert watch(twice) == watch(examples)


def test_a_promotion_resets_the_error_detectors():
    monitor = DriftMonitor()
    watch(stream(CHANGE, lambda k, example: 0.3), monitor)
    error = monitor._detectors["error", None, "everybody"]
    assert len(error._values) > 1000
    later = list(stream(CHANGE + 400, lambda k, example: 0.3, version=lambda k: "v000001" if k < CHANGE else "v000002"))
    watch(later[CHANGE:], monitor)
    assert len(error._values) == 0  # and the new version's calibration is not fitted yet
    assert len(monitor._detectors["clicks", None, "everybody"]._values) > 1000


def test_a_few_old_feeds_after_a_promotion_do_not_reset_again():
    monitor = DriftMonitor()
    mixed = stream(4000, lambda k, example: 0.3, version=lambda k: "v000001" if k < 1000 or k % 7 == 0 else "v000002")
    watch(mixed, monitor)
    assert monitor._version == "v000002"
    assert len(monitor._detectors["error", None, "everybody"]._values) > 1500


def test_an_alert_that_was_told_elsewhere_is_followed_by_silence():
    monitor = DriftMonitor()
    examples = list(stream(CHANGE + QUIET, falls))
    (alert,) = watch(examples)
    assert watch(examples[: alert.sequence - 200], monitor) == []
    monitor.told(alert.kind)
    assert watch(examples[alert.sequence - 200 :], monitor) == []


def test_the_deltas_share_out_the_budget():
    each = deltas()
    looks = UNIT / 32
    spent = looks * (
        4 * each["everybody"]
        + 4 * SEGMENTS_OF_A_REQUEST * each["segments"]
        + 4 * len(FEATURES) * each["features"]  # everybody, platform, country, new or old
    )
    assert sum(SHARE.values()) == pytest.approx(1)
    assert spent == pytest.approx(BUDGET)


def test_an_alert_survives_the_topic_and_reads_as_a_sentence():
    (alert,) = watch(stream(5000, falls))
    assert decode_alert(encode(alert)) == alert
    assert "of everybody" in headline(alert)
    assert "since 2025-06-1" in headline(alert)
