import numpy as np
import pytest

from feed.monitoring.change import Change, Detector


def run(values, **about) -> list[tuple[int, Change]]:
    detector = Detector(**{"delta": 1e-5, "worse": -1, "least": 0.12} | about)
    found = ((k, detector.update(float(value), float(k))) for k, value in enumerate(values))
    return [(k, change) for k, change in found if change is not None]


def steps(*parts: tuple[int, float], seed=0) -> np.ndarray:
    """Normal noise of deviation 1 around these means."""
    return np.random.default_rng(seed).normal(np.repeat([mean for _, mean in parts], [n for n, _ in parts]), 1.0)


def test_a_fall_is_found_once_soon_and_where_it_is():
    ((k, change),) = run(steps((3000, 10.0), (3000, 9.4)))
    assert 3000 < k < 3600
    assert change.since == pytest.approx(3000, abs=60)
    assert change.before == pytest.approx(10.0, abs=0.06)
    assert change.after == pytest.approx(9.4, abs=0.15)
    assert change.values == k + 1 - change.since


def test_a_steady_figure_is_never_found():
    assert not any(run(steps((20_000, 5.0), seed=seed), worse=0) for seed in range(5))


def test_only_the_worse_direction_is_told():
    values = steps((2000, 10.0), (2000, 11.0))
    assert run(values, worse=-1) == []
    assert len(run(values, worse=1)) == len(run(values, worse=0)) == 1


def test_a_fall_after_an_improvement_is_measured_against_the_improved():
    ((_, change),) = run(steps((2000, 10.0), (2000, 11.0), (2000, 10.0)))
    assert change.before == pytest.approx(11.0, abs=0.1)


def test_a_small_change_is_taken_in_silently():
    values = steps((10_000, 10.0), (10_000, 9.8))
    assert run(values, least=0.5) == []
    assert len(run(values, least=0.1)) == 1
    assert run(values, least=0.1, relative=0.1) == []


def test_after_a_reset_what_was_before_does_not_count():
    detector = Detector(1e-5, -1, 0.12)
    before, after = steps((2000, 10.0)), steps((2000, 5.0), seed=1)
    assert not any(detector.update(float(value), 0.0) for value in before)
    detector.reset()
    assert not any(detector.update(float(value), 0.0) for value in after)


def test_a_constant_figure_is_no_division_by_zero():
    assert run([0.0] * 1000) == []
